/* How many system calls it takes to make sure of registrations that were trusted. */
#include "descriptors.h"

#include "base/atomic.h"

#include <sys/epoll.h>
#include <sys/syscall.h>

enum { N = 450, PASS = 10 * MILLISECOND, A_PASS_TAKES = 16 };

static atomic_int calls, heard, ended;
static atomic_bool over;

/* In place of the C library's. */
int epoll_ctl(int poller, int op, int fd, struct epoll_event *event) {
  atomic_fetch_add(&calls, 1);
  return (int)syscall(SYS_epoll_ctl, poller, op, fd, event);
}

static void listen_to(void *fd) {
  char c;
  while (gort_read((int)(intptr_t)fd, &c, 1) == 1)
    atomic_fetch_add(&heard, 1);
  atomic_fetch_add(&ended, 1);
}

/* So that no thread runs out of work. */
static void be_busy(void *unused) {
  (void)unused;
  while (!atomic_load(&over))
    gort_yield();
  atomic_fetch_add(&ended, 1);
}

/* All have waited, were reported, and wait again, on trust. */
static void start(int pairs[N][2]) {
  gort_go(be_busy, NULL);
  for (int i = 0; i < N; i++) {
    unix_pair(pairs[i]);
    gort_go(listen_to, (void *)(intptr_t)pairs[i][0]);
  }
  SLEEP_UNTIL(atomic_load(&calls) >= N);
  for (int i = 0; i < N; i++)
    CHECK(write(pairs[i][1], "a", 1) == 1);
  SLEEP_UNTIL(atomic_load(&heard) == N);
}

static void end(int pairs[N][2]) {
  for (int i = 0; i < N; i++)
    close(pairs[i][1]);
  SLEEP_UNTIL(atomic_load(&ended) == N);
  atomic_store(&over, true);
  SLEEP_UNTIL(atomic_load(&ended) == N + 1);
  for (int i = 0; i < N; i++)
    close(pairs[i][0]);
}

/* A few at a time, though all are quiet; and all of them in the end. */
static void test_many_that_wait_on_trust(void **state) {
  (void)state;
  static int pairs[N][2];
  int procs = gort_max_procs(1);
  start(pairs);
  int64_t begin = gort_nanotime();
  int before = atomic_load(&calls);
  gort_sleep(8 * PASS);
  int some = atomic_load(&calls) - before;
  assert_true(some <= (2 + (gort_nanotime() - begin) / PASS) * A_PASS_TAKES);
  SLEEP_UNTIL(atomic_load(&calls) >= 2 * N);
  end(pairs);
  gort_max_procs(procs);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_many_that_wait_on_trust)};
  CHECK_MAIN(argc, argv, tests, gort_init());
}
