/* What becomes of descriptors while they are in use: closed, duplicated, used anew, inherited. */
#include "descriptors.h"

#include <sys/eventfd.h>

static atomic_int finished;

struct reader {
  int fd;
  ssize_t result;
  char c[8];
  atomic_int begun, done;
};

/* Asks for more than it gets, so that it is known that no more is there. */
static void read_one(void *arg) {
  struct reader *r = arg;
  atomic_store(&r->begun, 1);
  r->result = gort_read(r->fd, r->c, sizeof r->c);
  atomic_store(&r->done, 1);
}

/* It waits, as far as can be seen. */
static void start_reader(bool thread, struct reader *r) {
  start_on(thread, read_one, r);
  SLEEP_UNTIL(atomic_load(&r->begun));
  gort_sleep(3 * MILLISECOND);
  CHECK(!atomic_load(&r->done));
}

static void await_reader(struct reader *r, ssize_t result) {
  SLEEP_UNTIL(atomic_load(&r->done));
  CHECK(r->result == result);
}

static void read_byte(int from, int to, char c) {
  struct reader r = {.fd = from};
  start_reader(false, &r);
  CHECK(write(to, &c, 1) == 1);
  await_reader(&r, 1);
  CHECK(r.c[0] == c);
}

/* Gives a descriptor the number of another one that is closed. */
static void replace(int closed, int *fd) {
  CHECK(close(closed) == 0);
  CHECK(dup2(*fd, closed) == closed);
  CHECK(close(*fd) == 0);
  *fd = closed;
}

/* --- gort_close ----------------------------------------------------------------------------- */

enum { CROWD = 20, CROWD_THREADS = 3 };

enum how { READS, WRITES, POLLS };

struct waiting {
  enum how how;
  int fd;
  int64_t deadline;
  atomic_int *begun, *done;
};

static ssize_t wait_as(const struct waiting *w) {
  char c = 0;
  if (w->how == READS)
    return gort_read_until(w->fd, &c, 1, w->deadline);
  if (w->how == WRITES)
    return gort_write_until(w->fd, &c, 1, w->deadline);
  return gort_poll(w->fd, POLLPRI, w->deadline);
}

static void wait_until_closed(void *arg) {
  struct waiting *w = arg;
  atomic_fetch_add(w->begun, 1);
  CHECK(wait_as(w) == -ECANCELED);
  CHECK(wait_as(w) == -EBADF);
  atomic_fetch_add(w->done, 1);
}

static void wake_all_by_closing(int kind, bool nonblocking) {
  int empty[2], full[2];
  atomic_int begun = 0, done = 0;
  struct waiting w[CROWD];
  make_pair(kind, nonblocking, empty);
  make_full_pair(kind, nonblocking, full);
  for (int i = 0; i < CROWD; i++) {
    enum how how = (enum how)(i % 3);
    int64_t deadline = i % 2 ? from_now((int64_t)3600000 * MILLISECOND) : -1;
    w[i] = (struct waiting){how, how == WRITES ? full[1] : empty[0], deadline, &begun, &done};
    start_on(i < CROWD_THREADS, wait_until_closed, &w[i]);
  }
  SLEEP_UNTIL(atomic_load(&begun) == CROWD);
  gort_sleep(5 * MILLISECOND);
  CHECK(atomic_load(&done) == 0);
  CHECK(gort_close(empty[0]) == 0 && gort_close(full[1]) == 0);
  CHECK(gort_close(empty[0]) == -EBADF);
  SLEEP_UNTIL(atomic_load(&done) == CROWD);
  close(empty[1]);
  close(full[0]);
}

static void wake_all_kinds(void *unused) {
  (void)unused;
  for (int kind = 0; kind < KINDS; kind++) {
    wake_all_by_closing(kind, false);
    wake_all_by_closing(kind, true);
  }
}

static void test_close_wakes_who_waits(void **state) {
  (void)state;
  everywhere(wake_all_kinds, NULL);
}

/* What it was duplicated to goes on, and nothing more is heard of the number. */
static void close_one_of_two(void *unused) {
  (void)unused;
  for (int kind = 0; kind < KINDS; kind++) {
    int fd[2], other[2];
    make_pair(kind, false, fd);
    int same = dup(fd[0]);
    struct reader one = {.fd = fd[0]}, two = {.fd = same};
    start_reader(false, &one);
    start_reader(false, &two);
    make_pair(kind, false, other);
    CHECK(gort_close(fd[0]) == 0);
    await_reader(&one, -ECANCELED);
    CHECK(dup2(other[0], fd[0]) == fd[0] && close(other[0]) == 0);
    other[0] = fd[0];
    struct reader three = {.fd = fd[0]};
    start_reader(false, &three);
    CHECK(write(fd[1], "a", 1) == 1);
    await_reader(&two, 1);
    gort_sleep(3 * MILLISECOND);
    CHECK(!atomic_load(&three.done));
    CHECK(write(other[1], "b", 1) == 1);
    await_reader(&three, 1);
    CHECK(two.c[0] == 'a' && three.c[0] == 'b');
    close(fd[1]);
    close_pair(other);
    close(same);
  }
}

static void test_close_of_a_duplicate(void **state) {
  (void)state;
  everywhere(close_one_of_two, NULL);
}

/* At every moment of a read: before, between its attempt and its wait, while it waits, and after.
 */
struct race {
  int fd;
  atomic_int go, done;
  bool thread;
};

static void read_in_race(void *arg) {
  struct race *r = arg;
  char c;
  while (!atomic_load(&r->go))
    gort_yield();
  ssize_t n = gort_read(r->fd, &c, 1);
  CHECK(n == -ECANCELED || n == -EBADF);
  atomic_store(&r->done, 1);
}

static void race_to_close(void *thread) {
  struct rng rng = seeded_rng(7);
  for (int i = 0; i < 3000 / SLOWNESS; i++) {
    int fd[2];
    make_pair((int)rng_below(&rng, KINDS), false, fd);
    struct race r = {.fd = fd[0]};
    start_on(thread != NULL && i % 10 == 0, read_in_race, &r);
    atomic_store(&r.go, 1);
    for (volatile size_t spins = rng_below(&rng, 3000); spins > 0;)
      spins--;
    CHECK(gort_close(fd[0]) == 0);
    SLEEP_UNTIL(atomic_load(&r.done));
    close(fd[1]);
  }
}

static void test_close_at_any_moment(void **state) {
  (void)state;
  in_goroutine(race_to_close, NULL);
  in_thread(race_to_close, &finished);
}

/* Whoever opens something gets the lowest number that is free: this one, as soon as it is closed.
 * Then it can be waited for, and nothing happens to it. */
struct thief {
  int silent, number;
  atomic_int begun, stop, done;
};

static void take_number(void *arg) {
  struct thief *t = arg;
  int fd = -1;
  atomic_store(&t->begun, 1);
  while (fd != t->number && !atomic_load(&t->stop)) {
    if (fd >= 0)
      close(fd);
    fd = dup(t->silent);
  }
  SLEEP_UNTIL(atomic_load(&t->stop));
  close(fd);
  atomic_store(&t->done, 1);
}

static void close_beside_a_thief(void *unused) {
  (void)unused;
  int silent[2];
  pipe_pair(silent);
  for (int i = 0; i < 200 / SLOWNESS; i++) {
    int fd[2];
    make_pair(i % 2 ? UNIX : PIPE, false, fd);
    struct reader r = {.fd = fd[0]};
    struct thief t = {.silent = silent[0], .number = fd[0]};
    start_reader(false, &r);
    start_on(true, take_number, &t);
    SLEEP_UNTIL(atomic_load(&t.begun));
    CHECK(gort_close(fd[0]) == 0);
    await_reader(&r, -ECANCELED);
    atomic_store(&t.stop, 1);
    SLEEP_UNTIL(atomic_load(&t.done));
    close(fd[1]);
  }
  close_pair(silent);
}

static void test_close_of_a_number_that_is_taken_at_once(void **state) {
  (void)state;
  if (UNDER_TSAN) /* for which a number that is used anew is a race */
    skip();
  everywhere(close_beside_a_thief, NULL);
}

/* --- Numbers that are used anew ------------------------------------------------------------- */

/* close(2) says nothing to the runtime. It was known to the poller, and now it is another one. */
static void reuse_number(int kind, int next, bool thread) {
  int fd[2], other[2];
  make_pair(kind, false, fd);
  read_byte(fd[0], fd[1], 'a');
  make_pair(next, false, other);
  replace(fd[0], &other[0]);
  struct reader r = {.fd = fd[0]};
  start_reader(thread, &r);
  CHECK(write(other[1], "b", 1) == 1);
  await_reader(&r, 1);
  CHECK(r.c[0] == 'b');
  close(fd[1]);
  close_pair(other);
}

static void reuse_numbers(void *unused) {
  (void)unused;
  for (int kind = 0; kind < KINDS; kind++)
    for (int next = 0; next < KINDS; next++) {
      reuse_number(kind, next, false);
      reuse_number(kind, next, true);
    }
}

static void test_a_number_is_used_anew(void **state) {
  (void)state;
  everywhere(reuse_numbers, NULL);
}

static atomic_int stop_working, workers;

static void work(void *unused) {
  (void)unused;
  atomic_fetch_add(&workers, 1);
  while (!atomic_load(&stop_working))
    gort_yield();
  atomic_fetch_sub(&workers, 1);
}

/* While no thread runs out of work. */
static void test_a_number_is_used_anew_among_work(void **state) {
  (void)state;
  atomic_store(&stop_working, 0);
  for (int i = 0; i < 8; i++)
    gort_go(work, NULL);
  reuse_numbers(NULL);
  atomic_store(&stop_working, 1);
  WAIT_UNTIL(atomic_load(&workers) == 0);
}

/* Closed, and still open as another number, which the poller goes on to report as this one. */
static void reuse_number_of_duplicate(void *unused) {
  (void)unused;
  int fd[2], other[2];
  unix_pair(fd);
  read_byte(fd[0], fd[1], 'a');
  int same = dup(fd[0]);
  unix_pair(other);
  replace(fd[0], &other[0]);
  struct reader r = {.fd = fd[0]};
  start_reader(false, &r);
  for (int i = 0; i < 10; i++)
    CHECK(write(fd[1], "x", 1) == 1);
  gort_sleep(3 * MILLISECOND);
  CHECK(!atomic_load(&r.done));
  char c;
  CHECK(gort_read(same, &c, 1) == 1 && c == 'x');
  CHECK(write(other[1], "b", 1) == 1);
  await_reader(&r, 1);
  CHECK(r.c[0] == 'b');
  close(fd[1]);
  close_pair(other);
  close(same);
}

/* A file was read in part; it must be read whole, whatever the number was. */
static void reuse_number_for_file(void *unused) {
  (void)unused;
  enum { SIZE = 1 << 20 };
  int fd[2];
  pipe_pair(fd);
  read_byte(fd[0], fd[1], 'a');
  char name[] = "/tmp/gort-test-XXXXXX", *data = gort_alloc_noscan(SIZE);
  int file = mkstemp(name);
  CHECK(unlink(name) == 0 && gort_write(file, data, SIZE) == SIZE && fsync(file) == 0);
  CHECK(lseek(file, 0, SEEK_SET) == 0);
  CHECK(posix_fadvise(file, SIZE / 2, SIZE / 2, POSIX_FADV_DONTNEED) == 0);
  replace(fd[0], &file);
  CHECK(gort_read(fd[0], data, SIZE) == SIZE);
  CHECK(gort_read(fd[0], data, SIZE) == 0);
  CHECK(gort_poll(fd[0], POLLIN, -1) == 0);
  close_pair(fd);
}

/* Closed while nobody waits, and not opened anew. */
static void reuse_nothing(void *unused) {
  (void)unused;
  int fd[2];
  char c;
  tcp_pair(fd);
  read_byte(fd[0], fd[1], 'a');
  close(fd[0]);
  CHECK(gort_read(fd[0], &c, 1) == -EBADF);
  CHECK(gort_write(fd[0], &c, 1) == -EBADF);
  CHECK(gort_poll(fd[0], POLLIN, -1) == -EBADF);
  close(fd[1]);
}

static void test_other_uses_of_a_number(void **state) {
  (void)state;
  everywhere(reuse_number_of_duplicate, NULL);
  everywhere(reuse_number_for_file, NULL);
  everywhere(reuse_nothing, NULL);
}

/* --- Flags ---------------------------------------------------------------------------------- */

struct flags {
  int status, descriptor;
  struct timeval send, receive;
};

static struct flags flags_of(int fd) {
  struct flags f = {.status = fcntl(fd, F_GETFL), .descriptor = fcntl(fd, F_GETFD)};
  socklen_t len = sizeof f.send;
  (void)!getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &f.send, &len);
  (void)!getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &f.receive, &len);
  return f;
}

static void use_all_calls(int fd[2]) {
  char c = 'x';
  CHECK(gort_poll(fd[1], POLLOUT, -1) == 0);
  read_byte(fd[0], fd[1], 'a');
  CHECK(gort_read_until(fd[0], &c, 1, from_now(MILLISECOND)) == -ETIMEDOUT);
  CHECK(gort_poll(fd[0], POLLIN, from_now(MILLISECOND)) == -ETIMEDOUT);
  CHECK(gort_write(fd[1], &c, 1) == 1);
  CHECK(gort_read(fd[0], &c, 1) == 1);
}

static void test_flags_stay(void **state) {
  (void)state;
  for (int kind = 0; kind < KINDS; kind++)
    for (int i = 0; i < 2; i++) {
      int fd[2];
      make_pair(kind, i, fd);
      struct flags before[] = {flags_of(fd[0]), flags_of(fd[1])};
      use_all_calls(fd);
      struct flags after[] = {flags_of(fd[0]), flags_of(fd[1])};
      assert_memory_equal(before, after, sizeof before);
      close_pair(fd);
    }
}

/* --- Deadlocks ------------------------------------------------------------------------------ */

/* A process that writes to the descriptor when some time has passed. */
static void write_from_outside(int fd) {
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid != 0)
    return;
  usleep(300000);
  _exit(write(fd, "x", 1) != 1);
}

static void wait_for_outside(void *fd) {
  char c;
  CHECK(gort_read(*(int *)fd, &c, 1) == 1);
}

CASE(main_waits_for_a_descriptor) {
  int fd[2];
  pipe_pair(fd);
  write_from_outside(fd[1]);
  gort_main(wait_for_outside, fd);
}

static void wait_and_tell(void *arg) {
  void **to = arg;
  wait_for_outside(to[0]);
  gort_send(to[1], NULL);
}

static void wait_for_who_waits(void *fd) {
  void **to = gort_alloc(2 * sizeof *to);
  to[0] = fd;
  to[1] = gort_chan_new(0, 0);
  gort_go(wait_and_tell, to);
  CHECK(gort_recv(to[1], NULL));
}

CASE(another_waits_for_a_descriptor) {
  int fd[2];
  pipe_pair(fd);
  write_from_outside(fd[1]);
  gort_main(wait_for_who_waits, fd);
}

/* The poller is there, and nobody waits in it any more. */
static void wait_for_nobody(void *fd) {
  wait_for_who_waits(fd);
  gort_recv(gort_chan_new(0, 0), NULL);
}

CASE(nobody_waits_any_more) {
  int fd[2];
  pipe_pair(fd);
  write_from_outside(fd[1]);
  gort_main(wait_for_nobody, fd);
}

static void test_who_waits_for_a_descriptor_is_not_dead(void **state) {
  (void)state;
  expect_quiet(main_waits_for_a_descriptor);
  expect_quiet(another_waits_for_a_descriptor);
  if (!UNDER_TSAN && !UNDER_QEMU)
    expect_death("fatal error: all goroutines are asleep - deadlock!", nobody_waits_any_more);
}

/* --- The watch ------------------------------------------------------------------------------ */

static void sleep_long(void *unused) {
  (void)unused;
  gort_sleep((int64_t)3600000 * MILLISECOND);
}

/* It sleeps on its note until somebody's deadline, when there comes to be a poller. */
static void wait_beside_a_sleeper(bool thread) {
  int fd[2];
  gort_init();
  gort_go(sleep_long, NULL);
  for (int i = 0; i < 20; i++)
    nap();
  pipe_pair(fd);
  struct reader r = {.fd = fd[0]};
  start_reader(thread, &r);
  CHECK(write(fd[1], "x", 1) == 1);
  await_reader(&r, 1);
}
CASE(goroutine_beside_a_sleeper) { wait_beside_a_sleeper(false); }
CASE(thread_beside_a_sleeper) { wait_beside_a_sleeper(true); }

/* No goroutine was ever made, so the runtime has no thread yet. */
CASE(threads_alone) {
  int fd[2];
  gort_init();
  pipe_pair(fd);
  struct reader r = {.fd = fd[0]};
  start_reader(true, &r);
  CHECK(write(fd[1], "x", 1) == 1);
  await_reader(&r, 1);
  char c;
  CHECK(gort_read_until(fd[0], &c, 1, from_now(20 * MILLISECOND)) == -ETIMEDOUT);
}

/* A deadline that is nearer than what the watch waits for in the poller. */
static void sleep_beside_a_reader(void *unused) {
  (void)unused;
  int fd[2];
  pipe_pair(fd);
  struct reader r = {.fd = fd[0]};
  start_reader(false, &r);
  gort_sleep(20 * MILLISECOND);
  for (int i = 0; i < 100; i++)
    gort_sleep(MILLISECOND / 10);
  CHECK(write(fd[1], "x", 1) == 1);
  await_reader(&r, 1);
  close_pair(fd);
}
CASE(sleeping_beside_a_reader) { gort_main(sleep_beside_a_reader, NULL); }

static void test_somebody_watches(void **state) {
  (void)state;
  expect_quiet(goroutine_beside_a_sleeper);
  expect_quiet(thread_beside_a_sleeper);
  expect_quiet(threads_alone);
  expect_quiet(sleeping_beside_a_reader);
  expect_quiet_in(sleeping_beside_a_reader, ENV("GORTMAXPROCS=1"));
}

/* --- Forks ---------------------------------------------------------------------------------- */

static void use_descriptors(void) {
  for (int kind = 0; kind < KINDS; kind++) {
    int fd[2];
    make_pair(kind, false, fd);
    for (int i = 0; i < 20; i++)
      read_byte(fd[0], fd[1], 'a');
    close_pair(fd);
  }
}

/* The child has a poller of its own, and the parent keeps his. */
static void fork_among_readers(void *unused) {
  (void)unused;
  int fd[2];
  pipe_pair(fd);
  use_descriptors();
  struct reader r = {.fd = fd[0]};
  start_reader(false, &r);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    use_descriptors();
    _exit(0);
  }
  use_descriptors();
  await_child(pid);
  CHECK(!atomic_load(&r.done));
  CHECK(write(fd[1], "x", 1) == 1);
  await_reader(&r, 1);
  close_pair(fd);
}

static void test_a_child_of_fork(void **state) {
  (void)state;
  if (UNDER_TSAN || UNDER_QEMU)
    return;
  for (int i = 0; i < 3; i++)
    everywhere(fork_among_readers, NULL);
}

/* --- Limits --------------------------------------------------------------------------------- */

/* No descriptor is left for the poller. */
static void run_out_of_descriptors(void *unused) {
  (void)unused;
  int fd[2];
  char c;
  struct rlimit all, few;
  pipe_pair(fd);
  CHECK(getrlimit(RLIMIT_NOFILE, &all) == 0);
  few = all;
  few.rlim_cur = (rlim_t)fd[1] + 1;
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
  CHECK(gort_read(fd[0], &c, 1) == -EMFILE);
  CHECK(gort_poll(fd[0], POLLIN, -1) == -EMFILE);
  CHECK(gort_write(fd[1], "x", 1) == 1 && gort_read(fd[0], &c, 1) == 1);
  few.rlim_cur++;
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
  CHECK(gort_read(fd[0], &c, 1) == -EMFILE);
  few.rlim_cur++;
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
  CHECK(gort_read_until(fd[0], &c, 1, from_now(MILLISECOND)) == -ETIMEDOUT);
  CHECK(setrlimit(RLIMIT_NOFILE, &all) == 0);
  read_byte(fd[0], fd[1], 'a');
}
CASE(out_of_descriptors) { gort_main(run_out_of_descriptors, NULL); }

static void test_out_of_descriptors(void **state) {
  (void)state;
  expect_quiet(out_of_descriptors);
}

static int lowest_free_number(int fd) {
  int next = dup(fd);
  close(next);
  return next;
}

/* A program that closes descriptors which are not its own is told, by the next who waits or by a
 * thread that waits already: then there is no telling what the call returns meanwhile. */
static void close_everything(void *unused) {
  (void)unused;
  int fd[2];
  char c;
  pipe_pair(fd);
  for (int before = lowest_free_number(fd[0]); lowest_free_number(fd[0]) == before;)
    (void)gort_read_until(fd[0], &c, 1, from_now(MILLISECOND));
  for (int i = 3; i < 1000; i++) /* however many it has inherited */
    close(i);
  pipe_pair(fd);
  for (;;) {
    (void)gort_read_until(fd[0], &c, 1, from_now(MILLISECOND));
    gort_sleep(MILLISECOND);
  }
}
CASE(everything_closed) { gort_main(close_everything, NULL); }

static void test_the_runtimes_descriptors_are_closed(void **state) {
  (void)state;
  expect_throw_of("descriptor", CASE_NAME(everything_closed), "");
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_close_wakes_who_waits),
      cmocka_unit_test(test_close_of_a_duplicate),
      cmocka_unit_test(test_close_at_any_moment),
      cmocka_unit_test(test_close_of_a_number_that_is_taken_at_once),
      cmocka_unit_test(test_a_number_is_used_anew),
      cmocka_unit_test(test_a_number_is_used_anew_among_work),
      cmocka_unit_test(test_other_uses_of_a_number),
      cmocka_unit_test(test_flags_stay),
      cmocka_unit_test(test_who_waits_for_a_descriptor_is_not_dead),
      cmocka_unit_test(test_somebody_watches),
      cmocka_unit_test(test_a_child_of_fork),
      cmocka_unit_test(test_out_of_descriptors),
      cmocka_unit_test(test_the_runtimes_descriptors_are_closed),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
