/* A system that has no threads to give, or only a few: `ulimit -u`. This program's own
 * pthread_create stands for it. */
#include "check.h"

#include <dlfcn.h>
#include <sys/syscall.h>

typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static int threads_left; /* that the system will give */

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
  create_fn *create = (create_fn *)(uintptr_t)dlsym(RTLD_NEXT, "pthread_create");
  if (threads_left <= 0)
    return EAGAIN;
  threads_left--;
  return create(thread, attr, fn, arg);
}

static atomic_int turns, died;

static void take_turns(void *unused) {
  (void)unused;
  for (int i = 0; i < 10; i++) {
    gort_alloc(1000);
    gort_yield();
    gort_sleep(1000);
  }
  atomic_fetch_add(&turns, 1);
}

static void fell(void *unused) {
  (void)unused;
  atomic_fetch_add(&died, 1);
}

static NOINLINE void make_mortals(void) {
  for (int i = 0; i < MANY; i++)
    gort_set_finalizer_fn(gort_alloc(64), fell);
}

static void live_without_threads(void *unused) {
  (void)unused;
  for (int i = 0; i < 50; i++)
    gort_go(take_turns, NULL);
  while (atomic_load(&turns) < 50)
    gort_sleep(1000000);
  make_mortals();
  CHECK(gort_drain(-1));
  CHECK(mostly((size_t)atomic_load(&died), MANY));
  CHECK(gort_thread_start(fell, NULL) == EAGAIN);
}

static void live_locked_without_threads(void *unused) {
  (void)unused;
  gort_lock_thread();
  for (int i = 0; i < 5; i++)
    gort_sleep(1000000);
  live_without_threads(NULL);
  CHECK(syscall(SYS_gettid) == getpid());
  gort_unlock_thread();
  gort_sleep(1000000);
}

CASE(main_without_threads) {
  threads_left = atoi(case_arg);
  gort_main(live_without_threads, NULL);
}
CASE(locked_main_without_threads) {
  threads_left = atoi(case_arg);
  gort_main(live_locked_without_threads, NULL);
}

/* Without goroutines a program needs no other thread to collect. */
CASE(init_without_threads) {
  threads_left = 0;
  gort_init();
  for (int i = 0; i < 1000; i++)
    gort_alloc(10000);
  gort_gc();
  CHECK(gort_thread_start(fell, NULL) == EAGAIN);
  CHECK(read_stats().num_gc > 0);
}

CASE(go_without_threads) {
  gort_init();
  gort_go(take_turns, NULL);
  nap();
}

/* What it lacks the runtime may say on standard error. */
static void assert_succeeds(const char *name, const char *arg) {
  const struct outcome *o = run_case(name, arg, NO_ENV);
  if (!o->hung && o->status == 0)
    return;
  print_outcome(name, o);
  fail();
}

static void test_main_runs_with_few_threads(void **state) {
  (void)state;
  for (char n[] = "0"; n[0] <= '4'; n[0]++)
    assert_succeeds("main_without_threads", n);
}

/* From 2 on another thread may have the locked goroutine, and wait for more to come. */
static void test_a_locked_main_runs_without_threads(void **state) {
  (void)state;
  assert_succeeds("locked_main_without_threads", "0");
  assert_succeeds("locked_main_without_threads", "1");
}

static void test_collecting_needs_no_threads(void **state) {
  (void)state;
  assert_succeeds("init_without_threads", "");
}

static void test_goroutines_beside_main_need_one(void **state) {
  (void)state;
  expect_throw_of("fatal error: cannot start a thread", "go_without_threads", "");
}

int main(int argc, char **argv) {
  if (UNDER_ASAN || UNDER_TSAN)
    return 77; /* which have a pthread_create of their own */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_main_runs_with_few_threads),
      cmocka_unit_test(test_a_locked_main_runs_without_threads),
      cmocka_unit_test(test_collecting_needs_no_threads),
      cmocka_unit_test(test_goroutines_beside_main_need_one),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
