/* gort_once: goroutines, threads, and both side by side. */
#include "locks.h"

/* --- Once ----------------------------------------------------------------------------------- */

enum { TEAM = 12 };
static gort_once once;
static int runs; /* only by what is to be done once */
static atomic_int let_it_end, callers, returned;

static void do_it(void *arg) {
  CHECK(arg == &once);
  runs++;
  AWAIT(atomic_load(&let_it_end));
  runs++;
}

static void call_once(void *unused) {
  (void)unused;
  atomic_fetch_add(&callers, 1);
  gort_once_do(&once, do_it, &once);
  CHECK(runs == 2);
  atomic_fetch_add(&returned, 1);
}

static void call_together(enum who who) {
  once = (gort_once)GORT_ONCE_INIT;
  runs = 0;
  atomic_store(&let_it_end, 0);
  atomic_store(&callers, 0);
  atomic_store(&returned, 0);
  for (size_t i = 0; i < TEAM; i++)
    start(who, i, call_once, NULL);
  AWAIT(atomic_load(&callers) == TEAM);
  gort_sleep(1000000);
  assert_int_equal(atomic_load(&returned), 0);
  atomic_store(&let_it_end, 1);
  AWAIT(atomic_load(&returned) == TEAM);
  gort_once_do(&once, do_it, NULL);
}

static void test_all_return_when_it_has_been_done(void **state) {
  (void)state;
  for_all_kinds(call_together);
}

static atomic_int quick_runs;
static void do_quickly(void *unused) {
  (void)unused;
  atomic_fetch_add(&quick_runs, 1);
}

static gort_once many[200];
static void call_many(size_t me) {
  (void)me;
  for (size_t i = 0; i < COUNT_OF(many); i++)
    gort_once_do(&many[i], do_quickly, NULL);
}

static void race(enum who who) {
  memset(many, 0, sizeof many);
  atomic_store(&quick_runs, 0);
  run_team(who, TEAM, call_many);
  assert_int_equal(atomic_load(&quick_runs), COUNT_OF(many));
}

static void test_it_is_done_once(void **state) {
  (void)state;
  for_all_kinds(race);
}

/* --- Ending early --------------------------------------------------------------------------- */

static void end_early(void *unused) {
  do_quickly(unused);
  AWAIT(atomic_load(&let_it_end));
  gort_goexit();
}

static void call_and_end(void *unused) {
  atomic_fetch_add(&callers, 1);
  gort_once_do(&once, end_early, unused);
  atomic_fetch_add(&returned, 1);
}

/* It ends the goroutine that does it, and counts as done. */
static void test_goexit_does_it_too(void **state) {
  (void)state;
  once = (gort_once)GORT_ONCE_INIT;
  atomic_store(&quick_runs, 0);
  atomic_store(&let_it_end, 0);
  atomic_store(&callers, 0);
  atomic_store(&returned, 0);
  gort_go(call_and_end, NULL);
  AWAIT(atomic_load(&quick_runs) == 1);
  for (size_t i = 0; i < TEAM; i++)
    start(BOTH, i, call_and_end, NULL);
  await_parked("once", TEAM / 2);
  assert_int_equal(atomic_load(&returned), 0);
  atomic_store(&let_it_end, 1);
  AWAIT(atomic_load(&returned) == TEAM);
  gort_once_do(&once, end_early, NULL);
  assert_int_equal(atomic_load(&quick_runs), 1);
}

/* One in the other, in a goroutine of a group: each is done when gort_goexit has ended it. */
static gort_once inner, outer;
static gort_wait_group group;

static void do_inner(void *unused) {
  (void)unused;
  gort_goexit();
}
static void do_outer(void *unused) { gort_once_do(&inner, do_inner, unused); }
static void do_both(void *unused) {
  gort_once_do(&outer, do_outer, unused);
  CHECK(false);
}

static void test_goexit_in_one_within_another(void **state) {
  (void)state;
  gort_wait_group_go(&group, do_both, NULL);
  gort_wait_group_wait(&group);
  gort_once_do(&inner, do_quickly, NULL);
  gort_once_do(&outer, do_quickly, NULL);
  assert_int_equal(atomic_load(&quick_runs), 1);
}

/* In a finalizer it ends that finalizer alone, after what was begun there has been done. */
static gort_once once_each[MANY];
static atomic_int finalized;

static void finalize(void *p) {
  int i = *(int *)p;
  note_death(p);
  atomic_fetch_add(&finalized, 1);
  gort_once_do(&once_each[i], do_inner, NULL);
  CHECK(false);
}

static NOINLINE void make_objects(void) {
  for (int i = 0; i < MANY; i++) {
    int *p = gort_alloc_noscan(40);
    *p = i;
    watch_only(p);
    gort_set_finalizer_fn(p, finalize);
  }
}

static void test_goexit_in_a_finalizer(void **state) {
  (void)state;
  watch_begin();
  make_objects();
  assert_mostly_dead(MANY);
  atomic_store(&quick_runs, 0);
  for (int i = 0; i < MANY; i++)
    gort_once_do(&once_each[i], do_quickly, NULL);
  assert_int_equal(atomic_load(&quick_runs) + atomic_load(&finalized), MANY);
}

/* --- Giving way, deadlock ------------------------------------------------------------------- */

static atomic_int stop;
static void set_stop(void *unused) {
  (void)unused;
  atomic_store(&stop, 1);
}

static void call_until_stopped(void *unused) {
  (void)unused;
  gort_go(set_stop, NULL);
  while (!atomic_load(&stop))
    gort_once_do(&once, do_quickly, NULL);
}
CASE(giving_way) { gort_main(call_until_stopped, NULL); }

static void test_giving_way(void **state) {
  (void)state;
  expect_quiet_in(giving_way, ENV("GORTMAXPROCS=1"));
}

static void call_itself(void *unused) { gort_once_do(&once, call_itself, unused); }
CASE(called_in_itself) { gort_main(call_itself, NULL); }

static void test_waiting_for_ever_is_a_deadlock(void **state) {
  (void)state;
  expect_deadlock(CASE_NAME(called_in_itself), "", "once");
}

/* --- The memory ----------------------------------------------------------------------------- */

static void give_once(void *page) { gort_once_do(page, offer, page); }
static void take_once(void *page) { gort_once_do(page, do_quickly, NULL); }
static void take_late(void *page) {
  come_late();
  take_once(page);
}

static void test_its_memory_may_go(void **state) {
  (void)state;
  atomic_store(&quick_runs, 0);
  run_relays(give_once, take_once);
  run_relays(give_once, take_late);
  assert_int_equal(atomic_load(&quick_runs), 0);
}

/* --- What is refused ------------------------------------------------------------------------ */

CASE(do_nothing) {
  gort_init();
  gort_once_do(&once, NULL, NULL);
}

static void end_thread(void *unused) {
  (void)unused;
  gort_goexit();
}
CASE(goexit_on_a_thread) {
  gort_init();
  gort_once_do(&once, end_thread, NULL);
}

static void test_what_is_refused(void **state) {
  (void)state;
  expect_death("fatal error: gort_once_do: fn is nil", do_nothing);
  expect_death("fatal error: gort_goexit: not on a goroutine", goexit_on_a_thread);
}

static void call_do(void) { gort_once_do(&once, do_quickly, NULL); }
static const struct call calls[] = {{"gort_once_do", call_do}};
CASE(not_attached) { call_unattached(calls, COUNT_OF(calls)); }

static void test_threads_that_are_not_attached(void **state) {
  (void)state;
  expect_unattached(calls, COUNT_OF(calls), CASE_NAME(not_attached));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_return_when_it_has_been_done),
      cmocka_unit_test(test_it_is_done_once),
      cmocka_unit_test(test_goexit_does_it_too),
      cmocka_unit_test(test_goexit_in_one_within_another),
      cmocka_unit_test(test_goexit_in_a_finalizer),
      cmocka_unit_test(test_giving_way),
      cmocka_unit_test(test_waiting_for_ever_is_a_deadlock),
      cmocka_unit_test(test_its_memory_may_go),
      cmocka_unit_test(test_what_is_refused),
      cmocka_unit_test(test_threads_that_are_not_attached),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
