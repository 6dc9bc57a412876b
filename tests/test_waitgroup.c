/* gort_wait_group: goroutines, threads, and both side by side. */
#include "locks.h"

static gort_wait_group wg = GORT_WAIT_GROUP_INIT;

/* --- Waiting -------------------------------------------------------------------------------- */

static void test_nothing_to_wait_for(void **state) {
  (void)state;
  static gort_wait_group zeroed;
  gort_wait_group_wait(&wg);
  gort_wait_group_add(&wg, 3);
  gort_wait_group_add(&wg, 0);
  gort_wait_group_add(&wg, -2);
  gort_wait_group_done(&wg);
  gort_wait_group_wait(&wg);
  assert_memory_equal(&wg, &zeroed, sizeof wg);
}

/* All come to one group, and wait together for the other. */
enum { TEAM = 16 };
static gort_wait_group all_here, all_go;
static atomic_int gone;

static void come_and_go(void *unused) {
  (void)unused;
  gort_wait_group_done(&all_here);
  gort_wait_group_wait(&all_go);
  atomic_fetch_add(&gone, 1);
}

static void meet(enum who who) {
  atomic_store(&gone, 0);
  gort_wait_group_add(&all_here, TEAM);
  gort_wait_group_add(&all_go, TEAM);
  for (size_t i = 0; i < TEAM; i++)
    start(who, i, come_and_go, NULL);
  gort_wait_group_wait(&all_here);
  for (int i = 0; i < TEAM; i++) {
    assert_int_equal(atomic_load(&gone), 0);
    gort_wait_group_done(&all_go);
  }
  AWAIT(atomic_load(&gone) == TEAM);
}

static void meet_often(enum who who) {
  for (int i = 0; i < 8; i++)
    meet(who);
}

static void test_all_go_when_the_last_is_done(void **state) {
  (void)state;
  for_all_kinds(meet_often);
}

/* Nobody returns from waiting too early, and all that was done before is seen. */
static long marks[TEAM];

static void make_mark(void *mark) {
  *(long *)mark += 1;
  gort_wait_group_done(&wg);
}

static void mark_and_wait(enum who who) {
  for (long round = 1; round <= ROOM_FOR(100 / SLOWNESS); round++) {
    for (size_t i = 0; i < TEAM; i++) {
      gort_wait_group_add(&wg, 1);
      start(who, i, make_mark, &marks[i]);
    }
    gort_wait_group_wait(&wg);
    for (size_t i = 0; i < TEAM; i++)
      assert_int_equal(marks[i], round);
  }
  memset(marks, 0, sizeof marks);
}

static void test_what_was_done_is_seen(void **state) {
  (void)state;
  for_all_kinds(mark_and_wait);
}

/* The counter goes up and down beside those who wait, and to 0 only once. */
static atomic_int woken;

static void wait_and_count(void *unused) {
  (void)unused;
  gort_wait_group_wait(&wg);
  atomic_fetch_add(&woken, 1);
}

static void up_and_down(size_t me) {
  for (int i = 0; i < 2000 / SLOWNESS; i++) {
    gort_wait_group_add(&wg, 1 + (int)me % 3);
    for (size_t j = 0; j < me % 3; j++)
      gort_wait_group_done(&wg);
    gort_wait_group_add(&wg, -1);
  }
}

static void wait_meanwhile(enum who who) {
  atomic_store(&woken, 0);
  gort_wait_group_add(&wg, 1);
  for (size_t i = 0; i < 10; i++)
    start(who, i, wait_and_count, NULL);
  run_team(who, 6, up_and_down);
  assert_int_equal(atomic_load(&woken), 0);
  gort_wait_group_done(&wg);
  AWAIT(atomic_load(&woken) == 10);
}

static void test_up_and_down(void **state) {
  (void)state;
  for_all_kinds(wait_meanwhile);
}

static void test_many_wait(void **state) {
  (void)state;
  int n = ROOM_FOR(CROWD);
  atomic_store(&woken, 0);
  gort_wait_group_add(&wg, 1);
  for (int i = 0; i < n; i++)
    gort_go(wait_and_count, NULL);
  await_parked("wait group wait", (size_t)n);
  gort_wait_group_done(&wg);
  AWAIT(atomic_load(&woken) == n);
}

/* A group inside something larger lies as its type says. */
static void test_any_struct(void **state) {
  (void)state;
  struct {
    char c;
    gort_wait_group wg;
  } *s = gort_alloc(sizeof *s);
  gort_wait_group_add(&s->wg, 1);
  gort_wait_group_done(&s->wg);
  gort_wait_group_wait(&s->wg);
}

/* --- Members -------------------------------------------------------------------------------- */

static atomic_int counter;

static void count(void *arg) {
  CHECK(arg == &counter);
  gort_yield();
  atomic_fetch_add(&counter, 1);
}

static void count_and_exit(void *arg) {
  count(arg);
  gort_goexit();
}

static void count_and_start(void *arg) {
  gort_wait_group_go(&wg, count, arg);
  gort_wait_group_go(&wg, count_and_exit, arg);
  count(arg);
}

static void go_and_wait(enum who who) {
  (void)who;
  atomic_store(&counter, 0);
  for (int i = 0; i < 100; i++) {
    gort_wait_group_go(&wg, count, &counter);
    gort_wait_group_go(&wg, count_and_exit, &counter);
    gort_wait_group_go(&wg, count_and_start, &counter);
  }
  gort_wait_group_wait(&wg);
  assert_int_equal(atomic_load(&counter), 500);
}

static void test_goroutines_of_a_group(void **state) {
  (void)state;
  for_all_kinds(go_and_wait);
}

/* Groups in groups: what was deferred last is done first. */
static gort_wait_group outer, inner;

static void exit_inside(void *unused) {
  (void)unused;
  atomic_fetch_add(&counter, 1);
  gort_goexit();
}

static void wait_for_inner(void *unused) {
  gort_wait_group_go(&inner, exit_inside, unused);
  gort_wait_group_wait(&inner);
  exit_inside(NULL);
}

static void test_groups_in_groups(void **state) {
  (void)state;
  atomic_store(&counter, 0);
  for (int i = 0; i < 100; i++) {
    gort_wait_group_go(&outer, wait_for_inner, NULL);
    gort_wait_group_wait(&outer);
  }
  assert_int_equal(atomic_load(&counter), 200);
}

/* The argument is traced from the call on, and garbage when the function has dropped it. */
static gort_wait_group gate;

static void hold_object(void *p) {
  CHECK(*(uint64_t *)p == 12345);
  gort_keep_alive(p);
  gort_wait_group_wait(&gate);
}

static NOINLINE void start_members(bool to_die) {
  for (int i = 0; i < MANY; i++) {
    uint64_t *p = gort_alloc(40);
    *p = 12345;
    gort_wait_group_go(&wg, hold_object, to_die ? watch(p) : p);
  }
}

/* On one processor none of them has begun when the collection comes. */
static void collect_before_they_begin(void *unused) {
  (void)unused;
  start_members(false);
  scrub_stack();
  gort_gc();
  gort_wait_group_wait(&wg);
}
CASE(arguments_traced) { gort_main(collect_before_they_begin, NULL); }

static void test_the_argument_is_traced(void **state) {
  (void)state;
  expect_quiet_in(arguments_traced, ENV("GORTMAXPROCS=1", "GORTDEBUG=clobberfree=1"));
}

/* Compilers that do not optimize keep copies for as long as a function runs. */
#if defined(GORT_DEBUG) || UNDER_TSAN
enum { KEEPS_COPIES = 1 };
#else
enum { KEEPS_COPIES = 0 };
#endif

static void test_an_argument_that_was_dropped_dies(void **state) {
  (void)state;
  watch_begin();
  gort_wait_group_add(&gate, 1);
  start_members(true);
  await_parked("wait group wait", MANY);
  int dead = deaths();
  gort_wait_group_done(&gate);
  gort_wait_group_wait(&wg);
  assert_true(KEEPS_COPIES || mostly((size_t)dead, MANY));
}

/* --- Giving way, deadlock ------------------------------------------------------------------- */

static atomic_int stop;
static void set_stop(void *unused) {
  (void)unused;
  atomic_store(&stop, 1);
}

static void use_until_stopped(void *unused) {
  (void)unused;
  gort_go(set_stop, NULL);
  while (!atomic_load(&stop)) {
    gort_wait_group_add(&wg, 1);
    gort_wait_group_done(&wg);
  }
  atomic_store(&stop, 0);
  gort_go(set_stop, NULL);
  while (!atomic_load(&stop))
    gort_wait_group_wait(&wg);
}
CASE(giving_way) { gort_main(use_until_stopped, NULL); }

static void test_giving_way(void **state) {
  (void)state;
  expect_quiet_in(giving_way, ENV("GORTMAXPROCS=1"));
}

static void wait_in_vain(void *unused) {
  (void)unused;
  gort_wait_group_add(&wg, 1);
  gort_wait_group_wait(&wg);
}
CASE(never_done) { gort_main(wait_in_vain, NULL); }

static void test_waiting_for_ever_is_a_deadlock(void **state) {
  (void)state;
  expect_deadlock(CASE_NAME(never_done), "", "wait group wait");
}

/* --- The memory ----------------------------------------------------------------------------- */

static void give_group(void *page) {
  gort_wait_group_add(page, 1);
  offer(page);
  gort_wait_group_done(page);
}
static void take_group(void *page) { gort_wait_group_wait(page); }
static void take_late(void *page) {
  come_late();
  gort_wait_group_wait(page);
}

/* The end of a member is the last use. */
static void end_at_once(void *page) { offer(page); }
static void give_by_a_member(void *page) { gort_wait_group_go(page, end_at_once, page); }

static void test_its_memory_may_go(void **state) {
  (void)state;
  run_relays(give_group, take_group);
  run_relays(give_by_a_member, take_group);
  run_relays(give_group, take_late);
}

/* --- What is refused ------------------------------------------------------------------------ */

CASE(done_too_often) {
  gort_init();
  gort_wait_group_add(&wg, 1);
  gort_wait_group_done(&wg);
  gort_wait_group_done(&wg);
}
CASE(add_negative) {
  gort_init();
  gort_wait_group_add(&wg, 5);
  gort_wait_group_add(&wg, -6);
}
static void wait_quietly(void *unused) {
  (void)unused;
  gort_wait_group_wait(&wg);
}
CASE(negative_while_somebody_waits) {
  gort_init();
  gort_wait_group_add(&wg, 1);
  start_waiter(GOROUTINES, wait_quietly, NULL, "wait group wait");
  gort_wait_group_add(&wg, INT32_MIN);
}
CASE(go_nothing) {
  gort_init();
  gort_wait_group_go(&wg, NULL, NULL);
}

static void test_what_is_refused(void **state) {
  (void)state;
  expect_death("fatal error: negative wait group counter", done_too_often);
  expect_death("fatal error: negative wait group counter", add_negative);
  expect_death("fatal error: negative wait group counter", negative_while_somebody_waits);
  expect_death("fatal error: gort_wait_group_go: fn is nil", go_nothing);
}

static void call_add(void) { gort_wait_group_add(&wg, 1); }
static void call_done(void) { gort_wait_group_done(&wg); }
static void call_wait(void) { gort_wait_group_wait(&wg); }
static void call_go(void) { gort_wait_group_go(&wg, count, &counter); }
static const struct call calls[] = {
    {"gort_wait_group_add", call_add},
    {"gort_wait_group_done", call_done},
    {"gort_wait_group_wait", call_wait},
    {"gort_wait_group_go", call_go},
};
CASE(not_attached) { call_unattached(calls, COUNT_OF(calls)); }

static void test_threads_that_are_not_attached(void **state) {
  (void)state;
  expect_unattached(calls, COUNT_OF(calls), CASE_NAME(not_attached));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_nothing_to_wait_for),
      cmocka_unit_test(test_all_go_when_the_last_is_done),
      cmocka_unit_test(test_what_was_done_is_seen),
      cmocka_unit_test(test_up_and_down),
      cmocka_unit_test(test_many_wait),
      cmocka_unit_test(test_any_struct),
      cmocka_unit_test(test_goroutines_of_a_group),
      cmocka_unit_test(test_groups_in_groups),
      cmocka_unit_test(test_the_argument_is_traced),
      cmocka_unit_test(test_an_argument_that_was_dropped_dies),
      cmocka_unit_test(test_giving_way),
      cmocka_unit_test(test_waiting_for_ever_is_a_deadlock),
      cmocka_unit_test(test_its_memory_may_go),
      cmocka_unit_test(test_what_is_refused),
      cmocka_unit_test(test_threads_that_are_not_attached),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
