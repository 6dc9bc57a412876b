/* How many goroutines run at the same time, which thread they run on, and calls that block it. */
#include "check.h"

#include <sched.h>
#include <sys/syscall.h>

static atomic_int counter, finished;

static void start_count(void) {
  atomic_store(&counter, 0);
  atomic_store(&finished, 0);
}

static void count(void *unused) {
  (void)unused;
  atomic_fetch_add(&counter, 1);
}

/* --- How many at the same time -------------------------------------------------------------- */

/* With two processors, two that never call the runtime run at the same time. */
static atomic_int ball;

static void play(void *me) {
  for (int i = 0; i < 500; i++) {
    while (atomic_load(&ball) != (int)(uintptr_t)me)
      continue;
    atomic_store(&ball, !(uintptr_t)me);
  }
  atomic_fetch_add(&finished, 1);
}

static void play_on_two(void *unused) {
  (void)unused;
  gort_go(play, (void *)(uintptr_t)0);
  gort_go(play, (void *)(uintptr_t)1);
  while (atomic_load(&finished) < 2)
    gort_sleep(1000000);
}
CASE(at_the_same_time) { gort_main(play_on_two, NULL); }

static void test_two_run_at_the_same_time(void **state) {
  (void)state;
  expect_quiet_in(at_the_same_time, ENV("GORTMAXPROCS=3"));
}

static void test_max_procs(void **state) {
  (void)state;
  int before = gort_max_procs(0);
  assert_true(before >= 1);
  assert_int_equal(gort_max_procs(3), before);
  assert_int_equal(gort_max_procs(-5), 3);
  assert_int_equal(gort_max_procs(1), 3);
  start_count();
  for (int i = 0; i < 100; i++)
    gort_go(count, NULL);
  WAIT_UNTIL(atomic_load(&counter) == 100);
  assert_int_equal(gort_max_procs(before), 1);
  assert_int_equal(gort_max_procs(0), before);
}

enum { TREE = 5461 }; /* nodes of a tree of degree 4 and depth 6 */

static void grow_tree(void *depth) {
  uintptr_t d = (uintptr_t)depth;
  atomic_fetch_add(&counter, 1);
  for (int i = 0; i < 4 && d > 0; i++)
    gort_go(grow_tree, (void *)(d - 1));
}

static void change_max_procs(void *unused) {
  (void)unused;
  for (int i = 0; i < 50; i++)
    gort_max_procs(1 + i % 7);
  atomic_fetch_add(&finished, 1);
}

static void test_max_procs_changes_under_load(void **state) {
  (void)state;
  int before = gort_max_procs(0);
  start_count();
  gort_go(grow_tree, (void *)(uintptr_t)6);
  gort_go(change_max_procs, NULL);
  gort_go(change_max_procs, NULL);
  change_max_procs(NULL);
  WAIT_UNTIL(atomic_load(&counter) == TREE && atomic_load(&finished) == 3);
  gort_max_procs(before);
}

static void test_default_max_procs(void **state) {
  (void)state;
  if (getenv("GORTMAXPROCS"))
    skip();
  cpu_set_t allowed;
  assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  assert_int_equal(gort_max_procs(0), CPU_COUNT(&allowed));
}

/* --- Threads -------------------------------------------------------------------------------- */

static void stay_on_my_thread(void *unused) {
  (void)unused;
  gort_lock_thread();
  gort_lock_thread();
  long me = syscall(SYS_gettid);
  gort_unlock_thread();
  for (int i = 0; i < 50; i++) {
    gort_yield();
    gort_sleep(10000);
    if (syscall(SYS_gettid) != me)
      atomic_fetch_add(&counter, 1);
  }
  gort_unlock_thread();
  atomic_fetch_add(&finished, 1);
}

static void end_locked(void *unused) {
  (void)unused;
  gort_lock_thread();
  gort_sleep(1000);
  atomic_fetch_add(&finished, 1);
}

static void test_lock_thread(void **state) {
  (void)state;
  start_count();
  for (int i = 0; i < 30; i++)
    gort_go(stay_on_my_thread, NULL);
  for (int i = 0; i < 30; i++)
    gort_go(end_locked, NULL);
  WAIT_UNTIL(atomic_load(&finished) == 60);
  assert_int_equal(atomic_load(&counter), 0);
}

static atomic_long locked_thread;

static void end_locked_by_goexit(void *unused) {
  (void)unused;
  gort_lock_thread();
  gort_lock_thread();
  gort_unlock_thread();
  atomic_store(&locked_thread, syscall(SYS_gettid));
  gort_goexit();
}

static void test_a_thread_ends_with_its_goroutine(void **state) {
  (void)state;
  for (int i = 0; i < 10; i++) {
    char path[64];
    atomic_store(&locked_thread, 0);
    gort_go(end_locked_by_goexit, NULL);
    WAIT_UNTIL(atomic_load(&locked_thread));
    snprintf(path, sizeof path, "/proc/self/task/%ld", atomic_load(&locked_thread));
    WAIT_UNTIL(access(path, F_OK) != 0);
  }
}

static int pipe_ends[2];

/* It is blocked until the outermost exit, whether it has been blocked further meanwhile or not. */
static void read_blocking(void *nested) {
  char c;
  gort_block_enter();
  gort_block_enter();
  if (!nested)
    gort_block_exit();
  ssize_t got = read(pipe_ends[0], &c, 1);
  if (nested)
    gort_block_exit();
  gort_block_exit();
  CHECK(got == 1);
  atomic_fetch_add(&finished, 1);
}

/* On one processor: a goroutine in a blocking call gives it up. */
static void block_on_one(void *unused) {
  (void)unused;
  CHECK(pipe(pipe_ends) == 0);
  for (int i = 0; i < 10; i++)
    gort_go(read_blocking, i % 2 ? &finished : NULL);
  for (int i = 0; i < 20; i++)
    gort_yield();
  gort_gc();
  CHECK(atomic_load(&finished) == 0);
  CHECK(write(pipe_ends[1], "0123456789", 10) == 10);
  while (atomic_load(&finished) < 10)
    gort_sleep(100000);
}
CASE(blocking_on_one) { gort_main(block_on_one, NULL); }

static void test_a_blocking_call_holds_up_nobody(void **state) {
  (void)state;
  expect_quiet_in(blocking_on_one, ENV("GORTMAXPROCS=1"));
}

CASE(leaving_without_entering) {
  gort_init();
  gort_block_enter();
  gort_block_exit();
  gort_block_exit();
}

static void test_leaving_without_entering_throws(void **state) {
  (void)state;
  expect_throw_of("gort_block_exit: ", CASE_NAME(leaving_without_entering), "");
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_default_max_procs),
      cmocka_unit_test(test_two_run_at_the_same_time),
      cmocka_unit_test(test_max_procs),
      cmocka_unit_test(test_max_procs_changes_under_load),
      cmocka_unit_test(test_lock_thread),
      cmocka_unit_test(test_a_thread_ends_with_its_goroutine),
      cmocka_unit_test(test_a_blocking_call_holds_up_nobody),
      cmocka_unit_test(test_leaving_without_entering_throws),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
