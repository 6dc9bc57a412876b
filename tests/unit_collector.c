/* The collector's inside: what it does by itself. */
#include "check.h"

#include "base/atomic.h"
#include "base/m.h"
#include "gc/gc.h"

static void nothing(void *unused) { (void)unused; }

static uint64_t cycles(void) {
  gort_mem_stats s;
  gort_read_mem_stats(&s);
  return s.num_gc;
}

/* Nothing is allocated meanwhile. Finalizers of what has died long ago run at last. */
static void test_a_cycle_now_and_then(void **state) {
  (void)state;
  gort_gc();
  uint64_t before = cycles();
  WAIT_UNTIL(cycles() >= before + 3);
}

static void test_not_when_off(void **state) {
  (void)state;
  int percent = gort_set_gc_percent(-1);
  for (int i = 0; i < 5; i++)
    nap();
  uint64_t before = cycles();
  for (int i = 0; i < 50; i++)
    nap();
  assert_int_equal(cycles(), before);
  gort_set_gc_percent(percent);
}

/* These cycles are nobody's wish. */
static void test_they_are_not_forced(void **state) {
  (void)state;
  gort_mem_stats before, after;
  gort_read_mem_stats(&before);
  WAIT_UNTIL(cycles() >= before.num_gc + 2);
  gort_read_mem_stats(&after);
  assert_int_equal(after.num_forced_gc, before.num_forced_gc);
}

static atomic_int waiting, cleaned_up, cleaned_up_standing;

static void clean_up(void *unused) {
  (void)unused;
  atomic_fetch_add(&cleaned_up, 1);
  if (load_seqcst(&getm()->status) != M_RUNNING)
    atomic_fetch_add(&cleaned_up_standing, 1);
}

static void *be_cancelled(void *unused) {
  gort_thread_attach();
  pthread_cleanup_push(clean_up, NULL);
  atomic_fetch_add(&waiting, 1);
  for (;;)
    nap();
  pthread_cleanup_pop(0);
  return unused;
}

/* A thread is not cancelled while it stands still: it would run the program's cleanup then. */
static void test_nobody_is_cancelled_in_a_stopped_world(void **state) {
  (void)state;
  enum { N = 300 };
  if (UNDER_ASAN || UNDER_TSAN || UNDER_QEMU) /* the frames that are left; signals come late */
    skip();
  start_collecting();
  for (int i = 0; i < N; i++) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, be_cancelled, NULL), 0);
    WAIT_UNTIL(atomic_load(&waiting) == i + 1);
    pthread_cancel(thread);
    assert_int_equal(pthread_join(thread, NULL), 0);
  }
  stop_collecting();
  assert_int_equal(atomic_load(&cleaned_up), N);
  assert_int_equal(atomic_load(&cleaned_up_standing), 0);
}

static int set_up(void **state) {
  (void)state;
  gort_init();
  gc_period = 20000000;
  gort_go(nothing, NULL); /* sysmon */
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_cycle_now_and_then),
      cmocka_unit_test(test_not_when_off),
      cmocka_unit_test(test_they_are_not_forced),
      cmocka_unit_test(test_nobody_is_cancelled_in_a_stopped_world),
  };
  return cmocka_run_group_tests(tests, set_up, NULL);
}
