/* Goroutines: identity, giving way, sleeping, ending. */
#include "check.h"

static atomic_int counter, finished;

static void count(void *unused) {
  (void)unused;
  atomic_fetch_add(&counter, 1);
}

static void start_count(void) {
  atomic_store(&counter, 0);
  atomic_store(&finished, 0);
}

/* --- Running -------------------------------------------------------------------------------- */

static void test_all_run_once(void **state) {
  (void)state;
  enum { N = 20000 };
  start_count();
  for (int i = 0; i < N; i++)
    gort_go(count, NULL);
  WAIT_UNTIL(atomic_load(&counter) >= N);
  gort_gc();
  assert_int_equal(atomic_load(&counter), N);
}

/* Goroutines start others, as a tree. */
static void grow_tree(void *depth) {
  uintptr_t d = (uintptr_t)depth;
  atomic_fetch_add(&counter, 1);
  for (int i = 0; i < 4 && d > 0; i++)
    gort_go(grow_tree, (void *)(d - 1));
}

static void test_a_tree_of_goroutines(void **state) {
  (void)state;
  start_count();
  gort_go(grow_tree, (void *)(uintptr_t)6);
  WAIT_UNTIL(atomic_load(&counter) == 5461);
}

static void check_argument(void *arg) {
  if (arg == &counter)
    atomic_fetch_add(&counter, 1);
}

static void test_the_argument_arrives(void **state) {
  (void)state;
  start_count();
  gort_go(check_argument, &counter);
  gort_go_stack(check_argument, &counter, 0);
  gort_go_stack(check_argument, &counter, 100000);
  WAIT_UNTIL(atomic_load(&counter) == 3);
}

CASE(go_nothing) {
  gort_init();
  gort_go(NULL, NULL);
}
CASE(go_nothing_on_a_stack) {
  gort_init();
  gort_go_stack(NULL, NULL, 0);
}

static void test_a_goroutine_needs_a_function(void **state) {
  (void)state;
  expect_death("fatal error: gort_go: fn is nil", go_nothing);
  expect_death("fatal error: gort_go_stack: fn is nil", go_nothing_on_a_stack);
}

/* --- Ids ------------------------------------------------------------------------------------ */

enum { IDS = 2000 };
static atomic_ullong ids[IDS];

static void note_id(void *unused) {
  (void)unused;
  uint64_t id = gort_id();
  gort_yield();
  gort_sleep(1000);
  if (gort_id() != id)
    id = 0;
  atomic_store(&ids[atomic_fetch_add(&counter, 1)], id);
  atomic_fetch_add(&finished, 1);
}

static void start_noting(void *n) {
  for (uintptr_t i = 0; i < (uintptr_t)n; i++)
    gort_go(note_id, NULL);
}

static int by_id(const void *a, const void *b) {
  unsigned long long x = atomic_load((const atomic_ullong *)a),
                     y = atomic_load((const atomic_ullong *)b);
  return (x > y) - (x < y);
}

/* Whoever starts them: a thread, or goroutines on several processors. */
static void test_ids_are_unique_and_not_0(void **state) {
  (void)state;
  start_count();
  start_noting((void *)(uintptr_t)(IDS / 2));
  for (int i = 0; i < 5; i++)
    gort_go(start_noting, (void *)(uintptr_t)(IDS / 10));
  WAIT_UNTIL(atomic_load(&finished) == IDS);
  qsort(ids, IDS, sizeof ids[0], by_id);
  assert_int_not_equal(atomic_load(&ids[0]), 0);
  for (int i = 1; i < IDS; i++)
    assert_int_not_equal(atomic_load(&ids[i]), atomic_load(&ids[i - 1]));
}

static void test_a_thread_has_id_0(void **state) {
  (void)state;
  assert_int_equal(gort_id(), 0);
}

static void main_id(void *unused) {
  (void)unused;
  CHECK(gort_id() == 1);
  start_count();
  for (int i = 0; i < 100; i++)
    gort_go(note_id, NULL);
  while (atomic_load(&finished) < 100)
    gort_yield();
  for (int i = 0; i < 100; i++)
    CHECK(atomic_load(&ids[i]) > 1);
  CHECK(gort_id() == 1);
}
CASE(ids_in_main) { gort_main(main_id, NULL); }

/* A program with its own main has no goroutine 1. */
static void not_one(void *unused) {
  (void)unused;
  CHECK(gort_id() != 1);
}
CASE(ids_without_main) {
  gort_init();
  in_goroutine(not_one, NULL);
}

static void test_mains_id_is_1(void **state) {
  (void)state;
  expect_quiet(ids_in_main);
  expect_quiet(ids_without_main);
}

/* --- How many ------------------------------------------------------------------------------- */

static atomic_int release_them;

static void wait_for_release(void *unused) {
  (void)unused;
  atomic_fetch_add(&counter, 1);
  while (!atomic_load(&release_them))
    gort_sleep(100000);
  atomic_fetch_add(&finished, 1);
}

static void nothing(void *p) { (void)p; }

/* Whatever has the runtime do something in the background. */
static void use_helpers(void) {
  int fd[2];
  char c;
  gort_set_finalizer_fn(gort_alloc(40), nothing);
  gort_gc();
  gort_drain(-1);
  gort_timer_start(INT64_C(3600000000000), 1, nothing, NULL);
  gort_recv(gort_after(1000), NULL);
  CHECK(pipe(fd) == 0);
  CHECK(gort_read_until(fd[0], &c, 1, gort_nanotime() + 1000000) == -ETIMEDOUT);
  CHECK(gort_close(fd[0]) == 0 && gort_close(fd[1]) == 0);
}

static void count_goroutines(void *unused) {
  (void)unused;
  CHECK(gort_num_goroutines() == 1);
  use_helpers();
  CHECK(gort_num_goroutines() == 1);
  for (int i = 0; i < 100; i++)
    gort_go(wait_for_release, NULL);
  CHECK(gort_num_goroutines() == 101);
  while (atomic_load(&counter) < 100)
    gort_yield();
  CHECK(gort_num_goroutines() == 101);
  atomic_store(&release_them, 1);
  while (gort_num_goroutines() > 1)
    gort_sleep(100000);
  CHECK(atomic_load(&finished) == 100);
}
CASE(goroutines_counted) { gort_main(count_goroutines, NULL); }

static void test_the_runtimes_own_are_not_counted(void **state) {
  (void)state;
  expect_quiet(goroutines_counted);
}

/* --- Giving way ----------------------------------------------------------------------------- */

static atomic_int turn;

static void take_turns(void *me) {
  for (int i = 0; i < 1000; i++) {
    while (atomic_load(&turn) != (int)(uintptr_t)me)
      gort_yield();
    atomic_store(&turn, !(uintptr_t)me);
  }
  atomic_fetch_add(&finished, 1);
}

/* On one processor two that wait for each other come on only if yielding lets others run. */
static void yield_on_one(void *unused) {
  (void)unused;
  CHECK(gort_max_procs(0) == 1);
  gort_go(take_turns, (void *)(uintptr_t)0);
  gort_go(take_turns, (void *)(uintptr_t)1);
  while (atomic_load(&finished) < 2)
    gort_yield();
}
CASE(yielding) { gort_main(yield_on_one, NULL); }

static void allocate_until_released(void *unused) {
  (void)unused;
  while (!atomic_load(&release_them))
    gort_alloc(40);
  atomic_fetch_add(&finished, 1);
}

static void release_all(void *unused) {
  (void)unused;
  atomic_store(&release_them, 1);
}

static void new_until_released(void *unused) {
  (void)unused;
  while (!atomic_load(&release_them))
    gort_keep_alive(gort_new(uint64_t));
  atomic_fetch_add(&finished, 1);
}

static void allocate_on_one(void *unused) {
  (void)unused;
  gort_go(allocate_until_released, NULL);
  gort_go(new_until_released, NULL);
  gort_yield();
  gort_go(release_all, NULL);
  while (atomic_load(&finished) < 2)
    gort_sleep(1000000);
}
CASE(giving_way_by_allocating) { gort_main(allocate_on_one, NULL); }

static void test_giving_way(void **state) {
  (void)state;
  expect_quiet_in(yielding, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(giving_way_by_allocating, ENV("GORTMAXPROCS=1"));
}

/* --- Sleeping ------------------------------------------------------------------------------- */

static const int64_t naps[] = {1, 1000, 50000, 1000000, 3000000, 20000000};
static atomic_int woke_early;

static void sleep_each(void *unused) {
  (void)unused;
  for (size_t i = 0; i < COUNT_OF(naps); i++) {
    int64_t before = gort_nanotime();
    gort_sleep(naps[i]);
    if (gort_nanotime() - before < naps[i])
      atomic_fetch_add(&woke_early, 1);
  }
  atomic_fetch_add(&finished, 1);
}

static void test_sleep_is_never_early(void **state) {
  (void)state;
  start_count();
  for (int i = 0; i < 200; i++)
    gort_go(sleep_each, NULL);
  for (int i = 0; i < 3; i++)
    assert_int_equal(gort_thread_start(sleep_each, NULL), 0);
  sleep_each(NULL);
  WAIT_UNTIL(atomic_load(&finished) == 204);
  assert_int_equal(atomic_load(&woke_early), 0);
}

static void sleep_not_at_all(void *unused) {
  (void)unused;
  gort_sleep(0);
  gort_sleep(-1);
  gort_sleep(INT64_MIN);
}

static void test_sleeping_0_or_less_returns_at_once(void **state) {
  (void)state;
  sleep_not_at_all(NULL);
  in_goroutine(sleep_not_at_all, NULL);
}

static void sleep_for_good(void *unused) {
  (void)unused;
  gort_sleep(INT64_MAX);
  atomic_store(&woke_early, 1);
}

/* A deadline beyond all time must not overflow into the past. */
static void test_the_longest_sleep(void **state) {
  (void)state;
  for (int i = 0; i < 20; i++)
    gort_go(sleep_for_good, NULL);
  for (int i = 0; i < 20; i++)
    nap();
  assert_int_equal(atomic_load(&woke_early), 0);
}

static void test_nanotime_is_the_monotonic_clock(void **state) {
  (void)state;
  for (int i = 0; i < 1000; i++) {
    int64_t before = monotonic_ns(), now = gort_nanotime(), after = monotonic_ns();
    assert_true(before <= now && now <= after);
  }
}

/* --- Ending --------------------------------------------------------------------------------- */

static void end_here(void *unused) {
  (void)unused;
  atomic_fetch_add(&finished, 1);
  gort_goexit();
}

static void (*volatile ender)(void *) = end_here;

static NOINLINE void end_in_a_call(void *depth) {
  uintptr_t d = (uintptr_t)depth;
  if (d == 0)
    ender(NULL);
  else
    end_in_a_call((void *)(d - 1));
  atomic_fetch_add(&counter, 1);
}

static void test_goexit_ends_the_goroutine(void **state) {
  (void)state;
  start_count();
  for (uintptr_t i = 0; i < 1000; i++)
    gort_go(end_in_a_call, (void *)(i % 20));
  WAIT_UNTIL(atomic_load(&finished) == 1000);
  gort_gc();
  assert_int_equal(atomic_load(&counter), 0);
}

static void finish_later(void *unused) {
  (void)unused;
  gort_sleep(20000000);
  dprintf(STDOUT_FILENO, "done");
  exit(0);
}

static void leave_main_to_others(void *unused) {
  (void)unused;
  gort_go(finish_later, NULL);
  gort_goexit();
}
CASE(main_goes_first) { gort_main(leave_main_to_others, NULL); }

static void leave_main(void *unused) {
  (void)unused;
  gort_goexit();
}
CASE(nobody_is_left) { gort_main(leave_main, NULL); }

static void leave_main_to_one_that_ends(void *unused) {
  (void)unused;
  gort_go(count, NULL);
  gort_goexit();
}
CASE(nobody_is_left_later) { gort_main(leave_main_to_one_that_ends, NULL); }

/* Threads that the program has started, in whatever way, may still come. Threads of the runtime's
 * making that pthread_exit has ended do not stand for them. */
static void exit_thread(void *unused) {
  (void)unused;
  pthread_exit(NULL);
}

static void *come_later(void *unused) {
  (void)unused;
  for (int i = 0; i < 100; i++)
    nap();
  CHECK(gort_thread_attach());
  exit(0);
}

static void leave_main_to_a_strange_thread(void *unused) {
  (void)unused;
  pthread_t thread;
  for (int i = 0; i < 5; i++)
    CHECK(gort_thread_start(exit_thread, NULL) == 0);
  gort_sleep(50000000);
  CHECK(pthread_create(&thread, NULL, come_later, NULL) == 0);
  gort_goexit();
}
CASE(somebody_may_come) { gort_main(leave_main_to_a_strange_thread, NULL); }

static void test_goexit_in_main(void **state) {
  (void)state;
  if (!UNDER_ASAN) /* it takes frames that pthread_exit has left for live ones */
    expect_quiet(somebody_may_come);
  assert_string_equal(expect_quiet(main_goes_first)->out, "done");
  const char *text = "fatal error: no goroutines (main called gort_goexit) - deadlock!";
  if (UNDER_QEMU)
    return;
  expect_death(text, nobody_is_left);
  expect_death(text, nobody_is_left_later);
}

/* A thread of the program's own, attached or not, could still bring work. */
static void *end_later(void *unused) {
  (void)unused;
  usleep(150000);
  dprintf(STDERR_FILENO, "the thread has ended\n");
  return NULL;
}
static void end_later_attached(void *unused) { end_later(unused); }

static void leave_main_to_a_thread(void *attached) {
  pthread_t t;
  if (attached)
    CHECK(gort_thread_start(end_later_attached, NULL) == 0);
  else
    CHECK(pthread_create(&t, NULL, end_later, NULL) == 0);
  gort_goexit();
}
CASE(a_strange_thread_is_left) { gort_main(leave_main_to_a_thread, NULL); }
CASE(an_attached_thread_is_left) { gort_main(leave_main_to_a_thread, &counter); }

static void assert_dies_after_the_thread(const char *name) {
  const char *text = "fatal error: no goroutines (main called gort_goexit) - deadlock!";
  const struct outcome *o = run_case(name, "", NO_ENV);
  if (aborted(o) && has_line(o->err, text) && has_line(o->err, "the thread has ended"))
    return;
  print_outcome(name, o);
  fail_msg("expected a deadlock when the last thread has ended");
}

static void test_no_deadlock_beside_threads(void **state) {
  (void)state;
  if (UNDER_QEMU)
    skip();
  assert_dies_after_the_thread("a_strange_thread_is_left");
  assert_dies_after_the_thread("an_attached_thread_is_left");
}

/* --- Switching ------------------------------------------------------------------------------ */

/* The ABI has functions keep the rounding mode (one of four): so must a switch. */
static void set_rounding(uint32_t mode) {
#if defined(__x86_64__)
  uint32_t mxcsr = 0x1f80 | mode << 13;
  uint16_t x87 = (uint16_t)(0x037f | mode << 10);
  __asm__ __volatile__("ldmxcsr %0\n\tfldcw %1" : : "m"(mxcsr), "m"(x87));
#else
  __asm__ __volatile__("msr fpcr, %0" : : "r"((uint64_t)mode << 22));
#endif
}

static bool is_rounding(uint32_t mode) {
#if defined(__x86_64__)
  uint32_t mxcsr;
  uint16_t x87;
  __asm__ __volatile__("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(x87));
  return (mxcsr >> 13 & 3) == mode && (x87 >> 10 & 3) == mode;
#else
  uint64_t fpcr;
  __asm__ __volatile__("mrs %0, fpcr" : "=r"(fpcr));
  return (fpcr >> 22 & 3) == mode;
#endif
}

static void keep_rounding(void *arg) {
  uint32_t mode = (uint32_t)(uintptr_t)arg;
  set_rounding(mode);
  for (int i = 0; i < 200; i++) {
    gort_yield();
    if (!is_rounding(mode))
      atomic_fetch_add(&counter, 1);
  }
  set_rounding(0);
  atomic_fetch_add(&finished, 1);
}

static void test_a_switch_keeps_the_rounding_mode(void **state) {
  (void)state;
  start_count();
  for (uintptr_t i = 0; i < 20; i++)
    gort_go(keep_rounding, (void *)(i % 4));
  WAIT_UNTIL(atomic_load(&finished) == 20);
  assert_int_equal(atomic_load(&counter), 0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_run_once),
      cmocka_unit_test(test_a_tree_of_goroutines),
      cmocka_unit_test(test_the_argument_arrives),
      cmocka_unit_test(test_a_goroutine_needs_a_function),
      cmocka_unit_test(test_ids_are_unique_and_not_0),
      cmocka_unit_test(test_a_thread_has_id_0),
      cmocka_unit_test(test_mains_id_is_1),
      cmocka_unit_test(test_the_runtimes_own_are_not_counted),
      cmocka_unit_test(test_giving_way),
      cmocka_unit_test(test_sleep_is_never_early),
      cmocka_unit_test(test_sleeping_0_or_less_returns_at_once),
      cmocka_unit_test(test_the_longest_sleep),
      cmocka_unit_test(test_nanotime_is_the_monotonic_clock),
      cmocka_unit_test(test_goexit_ends_the_goroutine),
      cmocka_unit_test(test_goexit_in_main),
      cmocka_unit_test(test_no_deadlock_beside_threads),
      cmocka_unit_test(test_a_switch_keeps_the_rounding_mode),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
