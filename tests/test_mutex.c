/* gort_mutex: goroutines, threads, and both side by side. */
#include "locks.h"

static gort_mutex mutex;

/* --- Excluding ------------------------------------------------------------------------------ */

static void test_a_zeroed_mutex_is_free(void **state) {
  (void)state;
  static gort_mutex zeroed;
  gort_mutex m = GORT_MUTEX_INIT;
  gort_mutex_lock(&m);
  assert_false(gort_mutex_try_lock(&m));
  gort_mutex_unlock(&m);
  assert_true(gort_mutex_try_lock(&m));
  assert_false(gort_mutex_try_lock(&m));
  gort_mutex_unlock(&m);
  assert_memory_equal(&m, &zeroed, sizeof m);
}

enum { TEAM = 10, TURNS = 2000 / SLOWNESS };
static long counter; /* under mutex; plain, so that the thread sanitizer sees who excludes whom */
static atomic_long skipped;

static void hammer(size_t me) {
  struct rng r = seeded_rng(me);
  for (int i = 0; i < TURNS; i++) {
    if (i % 3 != 0) {
      gort_mutex_lock(&mutex);
    } else if (!gort_mutex_try_lock(&mutex)) {
      atomic_fetch_add(&skipped, 1);
      continue;
    }
    counter++;
    if (rng_below(&r, 50) == 0)
      gort_yield();
    gort_mutex_unlock(&mutex);
  }
}

static void hammer_together(enum who who) {
  counter = 0;
  atomic_store(&skipped, 0);
  run_team(who, TEAM, hammer);
  assert_int_equal(counter + atomic_load(&skipped), TEAM * TURNS);
  assert_true(gort_mutex_try_lock(&mutex));
  gort_mutex_unlock(&mutex);
}

static void test_one_at_a_time(void **state) {
  (void)state;
  for_all_kinds(hammer_together);
}

static void lock_mutex(void *unused) {
  (void)unused;
  gort_mutex_lock(&mutex);
}
static void unlock_mutex(void *unused) {
  (void)unused;
  gort_mutex_unlock(&mutex);
}

static void test_another_may_unlock(void **state) {
  (void)state;
  in_goroutine(lock_mutex, NULL);
  assert_false(gort_mutex_try_lock(&mutex));
  in_thread(unlock_mutex, NULL);
  in_thread(lock_mutex, NULL);
  in_goroutine(unlock_mutex, NULL);
  lock_mutex(NULL);
  in_goroutine(unlock_mutex, NULL);
  assert_true(gort_mutex_try_lock(&mutex));
  in_thread(unlock_mutex, NULL);
}

/* --- Many ----------------------------------------------------------------------------------- */

static gort_mutex crowd[CROWD];
static atomic_long passed;

static void pass(void *m) {
  gort_mutex_lock(m);
  atomic_fetch_add(&passed, 1);
  gort_mutex_unlock(m);
}

static void test_many_on_one(void **state) {
  (void)state;
  int n = ROOM_FOR(CROWD);
  atomic_store(&passed, 0);
  gort_mutex_lock(&mutex);
  for (int i = 0; i < n; i++)
    gort_go(pass, &mutex);
  await_parked("mutex lock", (size_t)n);
  assert_int_equal(atomic_load(&passed), 0);
  gort_mutex_unlock(&mutex);
  AWAIT(atomic_load(&passed) == n);
}

static void test_many_with_one_each(void **state) {
  (void)state;
  int n = ROOM_FOR(CROWD);
  atomic_store(&passed, 0);
  for (int i = 0; i < n; i++) {
    gort_mutex_lock(&crowd[i]);
    gort_go(pass, &crowd[i]);
  }
  await_parked("mutex lock", (size_t)n);
  for (int i = n - 1; i >= 0; i--)
    gort_mutex_unlock(&crowd[i]);
  AWAIT(atomic_load(&passed) == n);
}

/* --- Fairness ------------------------------------------------------------------------------- */

enum { QUEUE = 12 };
static size_t order[QUEUE]; /* under mutex */
static size_t ordered;      /* under mutex */
static atomic_int go_on;

static void take_turn(void *number) {
  gort_mutex_lock(&mutex);
  order[ordered++] = (size_t)(uintptr_t)number;
  gort_mutex_unlock(&mutex);
}

static void queue_up(enum who who, size_t n) {
  ordered = 0;
  for (size_t i = 0; i < n; i++)
    start_waiter(who == BOTH ? (enum who)(i % 2) : who, take_turn, (void *)(uintptr_t)i,
                 "mutex lock");
  gort_sleep(1100000);
}

static void check_order(size_t n) {
  for (bool all = false; !all; pause_ns(50000)) {
    gort_mutex_lock(&mutex);
    all = ordered == n;
    gort_mutex_unlock(&mutex);
  }
  for (size_t i = 0; i < n; i++)
    CHECK(order[i] == i);
}

/* All have waited for longer than a millisecond, so each is handed the mutex. */
static void test_who_waits_long_goes_in_order(void **state) {
  (void)state;
  for (int who = 0; who < KINDS; who++) {
    gort_mutex_lock(&mutex);
    queue_up((enum who)who, QUEUE);
    gort_mutex_unlock(&mutex);
    check_order(QUEUE);
  }
}

static void hold_mutex(void *unused) {
  (void)unused;
  gort_mutex_lock(&mutex);
  AWAIT(atomic_load(&go_on));
  gort_mutex_unlock(&mutex);
}

/* Nobody who comes meanwhile gets it, not even who has it in sight. */
static void be_overtaken_by(void *who) {
  atomic_store(&go_on, 0);
  gort_mutex_lock(&mutex);
  start_waiter((enum who)(uintptr_t)who, hold_mutex, NULL, "mutex lock");
  gort_sleep(1100000);
  gort_mutex_unlock(&mutex);
  CHECK(!gort_mutex_try_lock(&mutex));
  atomic_store(&go_on, 1);
  gort_mutex_lock(&mutex);
  gort_mutex_unlock(&mutex);
}

static void test_who_waits_long_is_handed_it(void **state) {
  (void)state;
  for (int i = 0; i < 30; i++)
    for (uintptr_t who = GOROUTINES; who <= THREADS; who++) {
      be_overtaken_by((void *)who);
      in_goroutine(be_overtaken_by, (void *)who);
    }
}

/* On one processor, so that who is woken is not there at once. It comes too late, and is the first
 * again. (If it has waited for a millisecond before, it is handed the mutex. That is as well.) */
static void come_too_late(void *unused) {
  (void)unused;
  ordered = 0;
  gort_mutex_lock(&mutex);
  for (uintptr_t i = 0; i < QUEUE; i++) {
    gort_go(take_turn, (void *)i);
    while (parked("mutex lock") + ordered <= i)
      gort_yield();
    gort_mutex_unlock(&mutex);
    gort_mutex_lock(&mutex);
  }
  AWAIT(parked("mutex lock") + ordered == QUEUE);
  gort_sleep(1100000);
  gort_mutex_unlock(&mutex);
  check_order(QUEUE);
}
CASE(woken_too_early) { gort_main(come_too_late, NULL); }

static void test_who_was_woken_in_vain_is_the_first_again(void **state) {
  (void)state;
  for (int i = 0; i < 5; i++)
    expect_quiet_in(woken_too_early, ENV("GORTMAXPROCS=1"));
}

static atomic_int stop, hogs;

static void hog(void *hold_ns) {
  while (!atomic_load(&stop)) {
    gort_mutex_lock(&mutex);
    work_ns((int64_t)(intptr_t)hold_ns);
    gort_mutex_unlock(&mutex);
  }
  atomic_fetch_sub(&hogs, 1);
}

static void sleepy_hog(void *unused) {
  (void)unused;
  while (!atomic_load(&stop)) {
    gort_mutex_lock(&mutex);
    gort_sleep(100000);
    gort_mutex_unlock(&mutex);
  }
  atomic_fetch_sub(&hogs, 1);
}

static void lock_now_and_then(void *unused) {
  (void)unused;
  for (int i = 0; i < 10; i++) {
    gort_sleep(100000);
    gort_mutex_lock(&mutex);
    gort_mutex_unlock(&mutex);
  }
}

static void check_fairness(enum who who, size_t n, void (*fn)(void *), int64_t hold_ns) {
  atomic_store(&stop, 0);
  atomic_store(&hogs, (int)n);
  for (size_t i = 0; i < n; i++)
    start(who, i, fn, (void *)(intptr_t)hold_ns);
  lock_now_and_then(NULL);
  in_goroutine(lock_now_and_then, NULL);
  in_thread(lock_now_and_then, NULL);
  atomic_store(&stop, 1);
  AWAIT(atomic_load(&hogs) == 0);
}

static void hog_together(enum who who) {
  check_fairness(who, 1, hog, 0);
  check_fairness(who, 3, hog, 0);
  check_fairness(who, 2, hog, 50000);
  check_fairness(who, 1, sleepy_hog, 0);
}

static void test_hogs_do_not_keep_others_out(void **state) {
  (void)state;
  for_all_kinds(hog_together);
}

/* --- Waiting -------------------------------------------------------------------------------- */

static atomic_int finished;

static void lock_once(void *unused) {
  (void)unused;
  gort_mutex_lock(&mutex);
  gort_mutex_unlock(&mutex);
  atomic_fetch_add(&finished, 1);
}

/* On one processor: who waits does not keep it, nor its thread. */
static void others_run(void *unused) {
  (void)unused;
  CHECK(gort_max_procs(0) == 1);
  gort_mutex_lock(&mutex);
  for (int i = 0; i < 100; i++)
    gort_go(lock_once, NULL);
  for (int i = 0; i < 1000; i++)
    gort_yield();
  CHECK(atomic_load(&finished) == 0);
  gort_mutex_unlock(&mutex);
  while (atomic_load(&finished) < 100)
    gort_yield();
}
CASE(waiting_on_one_processor) { gort_main(others_run, NULL); }

/* Who has been handed the mutex runs before the one that gave it goes on: until then nobody could
 * make use of it. (It may be asked to give way as soon as it runs.) */
static void hand_over(void *unused) {
  (void)unused;
  enum { ROUNDS = 20 };
  int at_once = 0;
  for (int i = 0; i < ROUNDS; i++) {
    gort_mutex_lock(&mutex);
    start_waiter(GOROUTINES, lock_once, NULL, "mutex lock");
    gort_sleep(1100000);
    gort_mutex_unlock(&mutex);
    at_once += atomic_load(&finished) > i;
    AWAIT(atomic_load(&finished) > i);
  }
  CHECK(at_once > ROUNDS / 4);
}
CASE(handed_on_one_processor) { gort_main(hand_over, NULL); }

static void set_stop(void *unused) {
  (void)unused;
  atomic_store(&stop, 1);
}

/* A loop that does nothing but locking gives way. */
static void lock_until_stopped(void *unused) {
  (void)unused;
  gort_mutex m = GORT_MUTEX_INIT;
  atomic_store(&stop, 0);
  gort_go(set_stop, NULL);
  while (!atomic_load(&stop)) {
    gort_mutex_lock(&m);
    gort_mutex_unlock(&m);
  }
  atomic_store(&stop, 0);
  gort_go(set_stop, NULL);
  while (!atomic_load(&stop))
    if (gort_mutex_try_lock(&m))
      gort_mutex_unlock(&m);
}
CASE(giving_way_by_locking) { gort_main(lock_until_stopped, NULL); }

static void test_on_one_processor(void **state) {
  (void)state;
  expect_quiet_in(waiting_on_one_processor, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(handed_on_one_processor, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(giving_way_by_locking, ENV("GORTMAXPROCS=1"));
}

static void lock_twice(void *unused) {
  (void)unused;
  gort_mutex_lock(&mutex);
  gort_mutex_lock(&mutex);
}
CASE(locked_twice) { gort_main(lock_twice, NULL); }

static void test_waiting_for_ever_is_a_deadlock(void **state) {
  (void)state;
  expect_deadlock(CASE_NAME(locked_twice), "", "mutex lock");
}

/* --- The memory ----------------------------------------------------------------------------- */

static void give_mutex(void *m) {
  gort_mutex_lock(m);
  offer(m);
  gort_mutex_unlock(m);
}
static void take_mutex(void *m) {
  gort_mutex_lock(m);
  gort_mutex_unlock(m);
}

static void take_by_trying(void *m) {
  while (!gort_mutex_try_lock(m))
    gort_yield();
  gort_mutex_unlock(m);
}

static void test_its_memory_may_go(void **state) {
  (void)state;
  run_relays(give_mutex, take_mutex);
  run_relays(give_mutex, take_by_trying);
}

/* --- What is refused ------------------------------------------------------------------------ */

CASE(unlock_of_a_new_one) {
  gort_init();
  gort_mutex_unlock(&mutex);
}

CASE(unlock_twice) {
  gort_init();
  gort_mutex_lock(&mutex);
  gort_mutex_unlock(&mutex);
  gort_mutex_unlock(&mutex);
}

static void test_unlock_of_unlocked(void **state) {
  (void)state;
  expect_death("fatal error: unlock of unlocked mutex", unlock_of_a_new_one);
  expect_death("fatal error: unlock of unlocked mutex", unlock_twice);
}

static void call_lock(void) { gort_mutex_lock(&mutex); }
static void call_try_lock(void) { gort_mutex_try_lock(&mutex); }
static void call_unlock(void) { gort_mutex_unlock(&mutex); }
static const struct call calls[] = {
    {"gort_mutex_lock", call_lock},
    {"gort_mutex_try_lock", call_try_lock},
    {"gort_mutex_unlock", call_unlock},
};
CASE(not_attached) { call_unattached(calls, COUNT_OF(calls)); }

static void test_threads_that_are_not_attached(void **state) {
  (void)state;
  expect_unattached(calls, COUNT_OF(calls), CASE_NAME(not_attached));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_zeroed_mutex_is_free),
      cmocka_unit_test(test_one_at_a_time),
      cmocka_unit_test(test_another_may_unlock),
      cmocka_unit_test(test_many_on_one),
      cmocka_unit_test(test_many_with_one_each),
      cmocka_unit_test(test_who_waits_long_goes_in_order),
      cmocka_unit_test(test_who_waits_long_is_handed_it),
      cmocka_unit_test(test_who_was_woken_in_vain_is_the_first_again),
      cmocka_unit_test(test_hogs_do_not_keep_others_out),
      cmocka_unit_test(test_on_one_processor),
      cmocka_unit_test(test_waiting_for_ever_is_a_deadlock),
      cmocka_unit_test(test_its_memory_may_go),
      cmocka_unit_test(test_unlock_of_unlocked),
      cmocka_unit_test(test_threads_that_are_not_attached),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
