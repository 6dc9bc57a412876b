/* gort_cond: goroutines, threads, and both side by side. */
#include "locks.h"

static gort_mutex mutex = GORT_MUTEX_INIT;
static gort_cond cond = GORT_COND_INIT;

/* --- Waking --------------------------------------------------------------------------------- */

enum { MOST = 24 };
static size_t order[MOST];       /* who was woken; under mutex */
static size_t awake;             /* under mutex */
static atomic_size_t waits_next; /* how many have come to the wait */

static void wait_once(void *number) {
  gort_mutex_lock(&mutex);
  atomic_fetch_add(&waits_next, 1);
  gort_cond_wait(&cond, &mutex);
  order[awake++] = (size_t)(uintptr_t)number;
  gort_mutex_unlock(&mutex);
}

static size_t count_awake(void) {
  gort_mutex_lock(&mutex);
  size_t n = awake;
  gort_mutex_unlock(&mutex);
  return n;
}

/* Who says under the mutex that it is about to wait does wait when the mutex can be had. */
static void start_waiting(enum who who, size_t n) {
  awake = 0;
  atomic_store(&waits_next, 0);
  for (size_t i = 0; i < n; i++) {
    start(who, i, wait_once, (void *)(uintptr_t)i);
    AWAIT(atomic_load(&waits_next) == i + 1);
    gort_mutex_lock(&mutex);
    gort_mutex_unlock(&mutex);
  }
}

static void signal_with_mutex(bool with) {
  if (with)
    gort_mutex_lock(&mutex);
  gort_cond_signal(&cond);
  if (with)
    gort_mutex_unlock(&mutex);
}

/* A signal that nobody waits for costs no more than a look at it. */
static void assert_nobody_waits(void) {
  static const gort_cond zeroed;
  assert_memory_equal(&cond, &zeroed, sizeof cond);
}

static void signal_each(enum who who) {
  for (int with = 0; with < 2; with++) {
    start_waiting(who, MOST);
    assert_int_equal(count_awake(), 0);
    for (size_t i = 0; i < MOST; i++) {
      signal_with_mutex(with);
      AWAIT(count_awake() == i + 1);
      gort_yield();
      assert_int_equal(count_awake(), i + 1);
      assert_int_equal(order[i], i);
    }
    assert_nobody_waits();
    signal_with_mutex(with);
  }
}

static void test_signals_wake_one_each_in_order(void **state) {
  (void)state;
  for_all_kinds(signal_each);
}

static void broadcast(enum who who) {
  start_waiting(who, MOST);
  gort_cond_broadcast(&cond);
  AWAIT(count_awake() == MOST);
  size_t seen = 0;
  for (size_t i = 0; i < MOST; i++)
    seen |= (size_t)1 << order[i];
  assert_int_equal(seen, ((size_t)1 << MOST) - 1);
  assert_nobody_waits();
  gort_cond_broadcast(&cond);
}

static void test_a_broadcast_wakes_all(void **state) {
  (void)state;
  for_all_kinds(broadcast);
}

static atomic_int woke;

static void count_waking(void *unused) {
  wait_once(unused);
  atomic_fetch_add(&woke, 1);
}

/* Nobody who has not waited yet when it comes. */
static void test_a_signal_is_not_kept(void **state) {
  (void)state;
  atomic_store(&woke, 0);
  awake = 0;
  gort_cond_signal(&cond);
  gort_cond_broadcast(&cond);
  start_waiter(GOROUTINES, count_waking, NULL, "cond wait");
  start_waiter(THREADS, count_waking, NULL, "cond wait");
  assert_int_equal(atomic_load(&woke), 0);
  gort_cond_broadcast(&cond);
  AWAIT(atomic_load(&woke) == 2);
}

/* --- Order among many ----------------------------------------------------------------------- */

/* Each starts to wait before the one before it is woken: a signal never goes to a newcomer. */
static void signal_generations(enum who who) {
  enum { N = 60 };
  awake = 0;
  atomic_store(&waits_next, 0);
  for (size_t i = 0; i < N; i++) {
    start(who, i, wait_once, (void *)(uintptr_t)i);
    if (i > 0) {
      AWAIT(count_awake() == 1);
      gort_mutex_lock(&mutex);
      CHECK(order[0] == i - 1);
      awake = 0;
      gort_mutex_unlock(&mutex);
    }
    AWAIT(atomic_load(&waits_next) == i + 1);
    signal_with_mutex(true);
  }
  AWAIT(count_awake() == 1);
}

static void test_generations(void **state) {
  (void)state;
  for_all_kinds(signal_generations);
}

/* Three that bring one value from step to step, by signals and by looking. */
static int step; /* under mutex */

static void first_step(void) {
  gort_mutex_lock(&mutex);
  step = 1;
  gort_cond_wait(&cond, &mutex);
  CHECK(step == 2);
  step = 3;
  gort_cond_signal(&cond);
  gort_mutex_unlock(&mutex);
}

static void second_step(void) {
  gort_mutex_lock(&mutex);
  while (step != 1) {
    gort_mutex_unlock(&mutex);
    gort_yield();
    gort_mutex_lock(&mutex);
  }
  step = 2;
  gort_cond_signal(&cond);
  gort_mutex_unlock(&mutex);
}

static void third_step(void) {
  gort_mutex_lock(&mutex);
  while (step < 2) {
    gort_mutex_unlock(&mutex);
    gort_yield();
    gort_mutex_lock(&mutex);
  }
  if (step == 2) {
    gort_cond_wait(&cond, &mutex);
    CHECK(step == 3);
  }
  gort_mutex_unlock(&mutex);
}

static void take_step(size_t i) {
  static void (*const steps[])(void) = {first_step, second_step, third_step};
  steps[i]();
}

static void step_together(enum who who) {
  for (int i = 0; i < ROOM_FOR(50 / SLOWNESS); i++) {
    step = 0;
    run_team(who, 3, take_step);
    assert_int_equal(step, 3);
  }
}

static void test_steps(void **state) {
  (void)state;
  for_all_kinds(step_together);
}

static atomic_int first_is_back, second_is_back;
static bool let_second_go; /* under mutex */

static void wait_first(void *unused) {
  wait_once(unused);
  atomic_store(&first_is_back, 1);
}

static void wait_second(void *unused) {
  (void)unused;
  gort_mutex_lock(&mutex);
  while (!let_second_go)
    gort_cond_wait(&cond, &mutex);
  gort_mutex_unlock(&mutex);
  atomic_store(&second_is_back, 1);
}

static void call_broadcast(void *unused) {
  (void)unused;
  gort_cond_broadcast(&cond);
}

/* One who begins to wait at the same time does not take away what was for another. */
static void steal(enum who who) {
  for (int i = 0; i < ROOM_FOR(100 / SLOWNESS); i++) {
    awake = 0;
    let_second_go = false;
    atomic_store(&first_is_back, 0);
    atomic_store(&second_is_back, 0);
    atomic_store(&waits_next, 0);
    start(who, 0, wait_first, NULL);
    AWAIT(atomic_load(&waits_next) == 1);
    gort_mutex_lock(&mutex);
    gort_mutex_unlock(&mutex);
    start(who, 1, call_broadcast, NULL);
    start(who, 2, wait_second, NULL);
    AWAIT(atomic_load(&first_is_back));
    gort_mutex_lock(&mutex);
    let_second_go = true;
    gort_mutex_unlock(&mutex);
    gort_cond_broadcast(&cond);
    AWAIT(atomic_load(&second_is_back));
  }
}

static void test_nobody_steals_a_broadcast(void **state) {
  (void)state;
  for_all_kinds(steal);
}

/* --- A queue of work ------------------------------------------------------------------------ */

enum { TEAM = 8, PIECES = 2000 / SLOWNESS, ROOM = 3 };
static gort_cond not_full, not_empty;
static size_t in_queue;   /* under mutex */
static size_t made, done; /* under mutex */
static const size_t all = (size_t)TEAM / 2 * PIECES;

static void make_pieces(void) {
  for (size_t i = 0; i < PIECES; i++) {
    gort_mutex_lock(&mutex);
    while (in_queue == ROOM)
      gort_cond_wait(&not_full, &mutex);
    in_queue++;
    made++;
    gort_mutex_unlock(&mutex);
    gort_cond_signal(&not_empty);
  }
}

static void work_off(void) {
  gort_mutex_lock(&mutex);
  while (done < all) {
    while (in_queue == 0 && done < all)
      gort_cond_wait(&not_empty, &mutex);
    if (in_queue == 0)
      break;
    in_queue--;
    if (++done == all)
      gort_cond_broadcast(&not_empty);
    gort_cond_signal(&not_full);
  }
  gort_mutex_unlock(&mutex);
}

static void make_or_work(size_t i) {
  if (i % 4 < 2)
    make_pieces();
  else
    work_off();
}

static void work_together(enum who who) {
  in_queue = made = done = 0;
  run_team(who, TEAM, make_or_work);
  assert_int_equal(made, all);
  assert_int_equal(done, all);
}

static void test_a_queue_of_work(void **state) {
  (void)state;
  for_all_kinds(work_together);
}

/* --- Waiting -------------------------------------------------------------------------------- */

static gort_cond crowd[CROWD];
static atomic_long crowd_awake;

static void wait_in_crowd(void *c) {
  gort_mutex_lock(&mutex);
  gort_cond_wait(c, &mutex);
  atomic_fetch_add(&crowd_awake, 1);
  gort_mutex_unlock(&mutex);
}

static void wake_crowd(size_t n, size_t conds) {
  atomic_store(&crowd_awake, 0);
  for (size_t i = 0; i < n; i++)
    gort_go(wait_in_crowd, &crowd[i % conds]);
  await_parked("cond wait", n);
  for (size_t i = 0; i < conds; i++)
    gort_cond_broadcast(&crowd[i]);
  AWAIT(atomic_load(&crowd_awake) == (long)n);
}

static void test_many_wait(void **state) {
  (void)state;
  size_t n = ROOM_FOR(CROWD);
  wake_crowd(n, 1);
  wake_crowd(n, n);
}

static void wait_in_vain(void *unused) {
  (void)unused;
  gort_mutex_lock(&mutex);
  gort_cond_wait(&cond, &mutex);
}
CASE(never_signalled) { gort_main(wait_in_vain, NULL); }

static void test_waiting_for_ever_is_a_deadlock(void **state) {
  (void)state;
  expect_deadlock(CASE_NAME(never_signalled), "", "cond wait");
}

static atomic_int stop;
static void set_stop(void *unused) {
  (void)unused;
  atomic_store(&stop, 1);
}

static void signal_until_stopped(void *unused) {
  (void)unused;
  gort_go(set_stop, NULL);
  while (!atomic_load(&stop))
    gort_cond_signal(&cond);
  atomic_store(&stop, 0);
  gort_go(set_stop, NULL);
  while (!atomic_load(&stop))
    gort_cond_broadcast(&cond);
}
CASE(giving_way_by_signalling) { gort_main(signal_until_stopped, NULL); }

static void test_signalling_gives_way(void **state) {
  (void)state;
  expect_quiet_in(giving_way_by_signalling, ENV("GORTMAXPROCS=1"));
}

/* --- The memory ----------------------------------------------------------------------------- */

struct meeting {
  gort_mutex mutex;
  gort_cond cond;
  atomic_int waits;
};

/* Who was woken makes the condition and the mutex go, maybe before the signal has returned. */
static void take_meeting(void *page) {
  struct meeting *m = page;
  gort_mutex_lock(&m->mutex);
  atomic_store(&m->waits, 1);
  gort_cond_wait(&m->cond, &m->mutex);
  gort_mutex_unlock(&m->mutex);
}

static void await_taker(struct meeting *m) {
  offer(m);
  SOON(atomic_load(&m->waits));
  gort_mutex_lock(&m->mutex);
  gort_mutex_unlock(&m->mutex);
}

static void give_by_signal(void *page) {
  struct meeting *m = page;
  await_taker(m);
  gort_cond_signal(&m->cond);
}

static void give_by_broadcast(void *page) {
  struct meeting *m = page;
  await_taker(m);
  gort_cond_broadcast(&m->cond);
}

/* The mutex alone goes. Who waits unlocks it, while a signal may wake it at any moment. */
static void take_mutex(void *page) {
  gort_mutex_lock(page);
  gort_cond_wait(&cond, page);
  gort_mutex_unlock(page);
}

static void give_at_once(void *page) {
  size_t before = atomic_load(&taken);
  offer(page);
  for (int i = 0; atomic_load(&taken) == before; i++) {
    gort_cond_signal(&cond);
    if (i % 16 == 0)
      gort_yield();
  }
}

static void test_its_memory_may_go(void **state) {
  (void)state;
  run_relays(give_by_signal, take_meeting);
  run_relays(give_by_broadcast, take_meeting);
  run_relays(give_at_once, take_mutex);
}

/* --- What is refused ------------------------------------------------------------------------ */

static void wait_without(void *unused) {
  (void)unused;
  gort_cond_wait(&cond, &mutex);
}
CASE(wait_without_mutex) { gort_main(wait_without, NULL); }

/* The trace shows who has called it. */
static void test_the_mutex_must_be_locked(void **state) {
  (void)state;
  const char *text = "fatal error: unlock of unlocked mutex\n\ngoroutine 1 [running]:";
  expect_throw_of(text, CASE_NAME(wait_without_mutex), "");
}

static void call_wait(void) { gort_cond_wait(&cond, &mutex); }
static void call_signal(void) { gort_cond_signal(&cond); }
static void call_broadcast_here(void) { gort_cond_broadcast(&cond); }
static const struct call calls[] = {
    {"gort_cond_wait", call_wait},
    {"gort_cond_signal", call_signal},
    {"gort_cond_broadcast", call_broadcast_here},
};
CASE(not_attached) { call_unattached(calls, COUNT_OF(calls)); }

static void test_threads_that_are_not_attached(void **state) {
  (void)state;
  expect_unattached(calls, COUNT_OF(calls), CASE_NAME(not_attached));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_signals_wake_one_each_in_order),
      cmocka_unit_test(test_a_broadcast_wakes_all),
      cmocka_unit_test(test_a_signal_is_not_kept),
      cmocka_unit_test(test_generations),
      cmocka_unit_test(test_steps),
      cmocka_unit_test(test_nobody_steals_a_broadcast),
      cmocka_unit_test(test_a_queue_of_work),
      cmocka_unit_test(test_many_wait),
      cmocka_unit_test(test_waiting_for_ever_is_a_deadlock),
      cmocka_unit_test(test_signalling_gives_way),
      cmocka_unit_test(test_its_memory_may_go),
      cmocka_unit_test(test_the_mutex_must_be_locked),
      cmocka_unit_test(test_threads_that_are_not_attached),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
