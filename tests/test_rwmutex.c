/* gort_rwmutex: goroutines, threads, and both side by side. */
#include "locks.h"

static gort_rwmutex rw;

/* --- Excluding ------------------------------------------------------------------------------ */

static void test_try_forms(void **state) {
  (void)state;
  static gort_rwmutex zeroed;
  gort_rwmutex m = GORT_RWMUTEX_INIT;
  gort_rwmutex_lock(&m);
  assert_false(gort_rwmutex_try_lock(&m));
  assert_false(gort_rwmutex_try_rlock(&m));
  gort_rwmutex_unlock(&m);
  assert_true(gort_rwmutex_try_lock(&m));
  gort_rwmutex_unlock(&m);
  assert_true(gort_rwmutex_try_rlock(&m));
  assert_true(gort_rwmutex_try_rlock(&m));
  gort_rwmutex_rlock(&m);
  assert_false(gort_rwmutex_try_lock(&m));
  gort_rwmutex_runlock(&m);
  gort_rwmutex_runlock(&m);
  assert_false(gort_rwmutex_try_lock(&m));
  gort_rwmutex_runlock(&m);
  assert_memory_equal(&m, &zeroed, sizeof m);
}

enum { TURNS = 1000 / SLOWNESS, TEAM = 12, ONE_WRITER = 10000 };
static atomic_int activity; /* readers inside + 10000 for each writer */
static long written;        /* under rw; plain, so that the thread sanitizer sees it */

static void check_inside(int add, bool alone) {
  int n = atomic_fetch_add(&activity, add) + add;
  CHECK(alone ? n == add : n >= 1 && n < ONE_WRITER);
}

static void read_once(struct rng *r) {
  check_inside(1, false);
  long before = written;
  if (rng_below(r, 20) == 0)
    gort_yield();
  CHECK(written == before);
  atomic_fetch_sub(&activity, 1);
  gort_rwmutex_runlock(&rw);
}

static void write_once(struct rng *r) {
  check_inside(ONE_WRITER, true);
  written++;
  if (rng_below(r, 20) == 0)
    gort_yield();
  atomic_fetch_sub(&activity, ONE_WRITER);
  gort_rwmutex_unlock(&rw);
}

static void use_in_turn(struct rng *r, bool writes, bool tries) {
  if (!tries && writes)
    gort_rwmutex_lock(&rw);
  else if (!tries)
    gort_rwmutex_rlock(&rw);
  else if (!(writes ? gort_rwmutex_try_lock(&rw) : gort_rwmutex_try_rlock(&rw)))
    return;
  (writes ? write_once : read_once)(r);
}

static void hammer(size_t me) {
  struct rng r = seeded_rng(me);
  for (int i = 0; i < TURNS; i++)
    use_in_turn(&r, me < 2, rng_below(&r, 5) == 0);
}

static void mix(size_t me) {
  struct rng r = seeded_rng(100 + me);
  for (int i = 0; i < TURNS; i++)
    use_in_turn(&r, rng_below(&r, 3) == 0, rng_below(&r, 5) == 0);
}

static void hammer_together(enum who who) {
  run_team(who, 1, hammer);
  run_team(who, 3, hammer);
  run_team(who, TEAM, hammer);
  run_team(who, TEAM, mix);
  assert_true(gort_rwmutex_try_lock(&rw));
  gort_rwmutex_unlock(&rw);
}

static void test_readers_or_one_writer(void **state) {
  (void)state;
  for_all_kinds(hammer_together);
}

static atomic_int inside, go_on;

static void read_till_go_on(void *unused) {
  (void)unused;
  gort_rwmutex_rlock(&rw);
  atomic_fetch_add(&inside, 1);
  AWAIT(atomic_load(&go_on));
  atomic_fetch_sub(&inside, 1);
  gort_rwmutex_runlock(&rw);
}

/* Each of them is inside before any leaves. */
static void read_together(enum who who) {
  atomic_store(&go_on, 0);
  for (size_t i = 0; i < 5; i++)
    start(who, i, read_till_go_on, NULL);
  AWAIT(atomic_load(&inside) == 5);
  atomic_store(&go_on, 1);
  AWAIT(atomic_load(&inside) == 0);
  AWAIT(gort_rwmutex_try_lock(&rw));
  gort_rwmutex_unlock(&rw);
}

static void test_readers_read_side_by_side(void **state) {
  (void)state;
  for_all_kinds(read_together);
}

static void rlock(void *unused) {
  (void)unused;
  gort_rwmutex_rlock(&rw);
}
static void runlock(void *unused) {
  (void)unused;
  gort_rwmutex_runlock(&rw);
}
static void lock(void *unused) {
  (void)unused;
  gort_rwmutex_lock(&rw);
}
static void unlock(void *unused) {
  (void)unused;
  gort_rwmutex_unlock(&rw);
}

static void test_another_may_unlock(void **state) {
  (void)state;
  in_goroutine(lock, NULL);
  in_thread(unlock, NULL);
  in_thread(lock, NULL);
  in_goroutine(unlock, NULL);
  in_goroutine(rlock, NULL);
  in_thread(rlock, NULL);
  in_thread(runlock, NULL);
  runlock(NULL);
  assert_true(gort_rwmutex_try_lock(&rw));
  unlock(NULL);
}

/* --- Who goes first ------------------------------------------------------------------------- */

enum { MOST = 40 };
static char turns[MOST + 1]; /* who has had it, a letter each */
static atomic_size_t nturns;

static void note(char letter) { turns[atomic_fetch_add(&nturns, 1)] = letter; }

static void write_turn(void *letter) {
  gort_rwmutex_lock(&rw);
  note((char)(uintptr_t)letter);
  gort_rwmutex_unlock(&rw);
}

static void read_turn(void *letter) {
  gort_rwmutex_rlock(&rw);
  note((char)(uintptr_t)letter);
  gort_rwmutex_runlock(&rw);
}

static void forget_turns(void) {
  memset(turns, 0, sizeof turns);
  atomic_store(&nturns, 0);
}

/* Capital letters write, small ones read; each waits before the next comes. */
static void queue_up(enum who who, const char *letters) {
  for (size_t i = 0; letters[i]; i++) {
    bool writes = letters[i] < 'a';
    start_waiter(who == BOTH ? (enum who)(i % 2) : who, writes ? write_turn : read_turn,
                 (void *)(uintptr_t)letters[i], writes ? "rwmutex lock" : "rwmutex rlock");
  }
}

static int by_letter(const void *a, const void *b) { return *(const char *)a - *(const char *)b; }

/* Readers between two writers go side by side, in whatever order. */
static void expect_turns(const char *letters) {
  AWAIT(atomic_load(&nturns) == strlen(letters));
  AWAIT(gort_rwmutex_try_lock(&rw));
  gort_rwmutex_unlock(&rw);
  for (size_t i = 0; turns[i]; i++) {
    size_t n = strspn(turns + i, "abcdefghijklmnopqrstuvwxyz");
    qsort(turns + i, n, 1, by_letter);
    i += n > 0 ? n - 1 : 0;
  }
  assert_string_equal(turns, letters);
}

static void check_turns(void (*take)(void *), void (*give)(void *), const char *come,
                        const char *go) {
  for (int who = 0; who < KINDS; who++)
    for (int giver = GOROUTINES; giver <= THREADS; giver++) {
      forget_turns();
      take(NULL);
      queue_up((enum who)who, come);
      assert_int_equal(atomic_load(&nturns), 0);
      (giver == THREADS ? in_thread : in_goroutine)(give, NULL);
      expect_turns(go);
    }
}

static void test_a_waiting_writer_goes_before_later_readers(void **state) {
  (void)state;
  check_turns(rlock, runlock, "Aab", "Aab");
}

static void test_all_waiting_readers_go_before_the_next_writer(void **state) {
  (void)state;
  check_turns(lock, unlock, "abc", "abc");
  check_turns(lock, unlock, "AabBcd", "abcdAB");
  check_turns(rlock, runlock, "AaBbCc", "AabcBC");
}

static void test_writers_go_in_order(void **state) {
  (void)state;
  check_turns(lock, unlock, "ABCDE", "ABCDE");
  check_turns(rlock, runlock, "ABCDE", "ABCDE");
}

/* The readers that wait go all at once, not one after the other. */
static void test_waiting_readers_go_together(void **state) {
  (void)state;
  for (int who = 0; who < KINDS; who++) {
    atomic_store(&go_on, 0);
    lock(NULL);
    for (size_t i = 0; i < 4; i++)
      start_waiter(who == BOTH ? (enum who)(i % 2) : (enum who)who, read_till_go_on, NULL,
                   "rwmutex rlock");
    forget_turns();
    queue_up((enum who)who, "A");
    assert_int_equal(atomic_load(&inside), 0);
    unlock(NULL);
    AWAIT(atomic_load(&inside) == 4);
    assert_int_equal(atomic_load(&nturns), 0);
    atomic_store(&go_on, 1);
    expect_turns("A");
  }
}

static void write_till_go_on(void *unused) {
  (void)unused;
  gort_rwmutex_lock(&rw);
  AWAIT(atomic_load(&go_on));
  gort_rwmutex_unlock(&rw);
}

/* The lock belongs to who waits as soon as the unlock has returned. */
static void be_overtaken_by_a_writer(void *who) {
  rlock(NULL);
  start_waiter((enum who)(uintptr_t)who, write_till_go_on, NULL, "rwmutex lock");
  CHECK(!gort_rwmutex_try_rlock(&rw));
  runlock(NULL);
  CHECK(!gort_rwmutex_try_rlock(&rw));
}

static void be_overtaken_by_a_reader(void *who) {
  lock(NULL);
  start_waiter((enum who)(uintptr_t)who, read_till_go_on, NULL, "rwmutex rlock");
  unlock(NULL);
  CHECK(!gort_rwmutex_try_lock(&rw));
}

static void overtake(void (*fn)(void *), void (*run)(void (*)(void *), void *)) {
  for (uintptr_t who = GOROUTINES; who <= THREADS; who++) {
    atomic_store(&go_on, 0);
    run(fn, (void *)who);
    atomic_store(&go_on, 1);
    AWAIT(gort_rwmutex_try_lock(&rw));
    unlock(NULL);
  }
}

static void test_unlocking_hands_it_over(void **state) {
  (void)state;
  for (int i = 0; i < 10; i++) {
    overtake(be_overtaken_by_a_writer, in_goroutine);
    overtake(be_overtaken_by_a_writer, in_thread);
    overtake(be_overtaken_by_a_reader, in_goroutine);
    overtake(be_overtaken_by_a_reader, in_thread);
  }
}

/* Readers that overlap all the time do not keep a writer out. */
static atomic_int stop, readers_left;

static void read_all_the_time(void *unused) {
  (void)unused;
  while (!atomic_load(&stop)) {
    gort_rwmutex_rlock(&rw);
    work_ns(20000);
    gort_rwmutex_runlock(&rw);
  }
  atomic_fetch_sub(&readers_left, 1);
}

static void write_amid_readers(enum who who) {
  atomic_store(&stop, 0);
  atomic_store(&readers_left, 4);
  for (size_t i = 0; i < 4; i++)
    start(who, i, read_all_the_time, NULL);
  for (int i = 0; i < 20; i++) {
    gort_sleep(100000);
    lock(NULL);
    unlock(NULL);
  }
  atomic_store(&stop, 1);
  AWAIT(atomic_load(&readers_left) == 0);
}

static void test_readers_do_not_keep_writers_out(void **state) {
  (void)state;
  for_all_kinds(write_amid_readers);
}

/* --- Many ----------------------------------------------------------------------------------- */

static atomic_long passed;

static void pass_reading(void *unused) {
  (void)unused;
  gort_rwmutex_rlock(&rw);
  atomic_fetch_add(&passed, 1);
  gort_rwmutex_runlock(&rw);
}

static void pass_writing(void *unused) {
  (void)unused;
  gort_rwmutex_lock(&rw);
  atomic_fetch_add(&passed, 1);
  gort_rwmutex_unlock(&rw);
}

static void test_many_wait(void **state) {
  (void)state;
  int n = ROOM_FOR(CROWD);
  atomic_store(&passed, 0);
  lock(NULL);
  for (int i = 0; i < n; i++)
    gort_go(i % 2 ? pass_reading : pass_writing, NULL);
  await_parked("rwmutex lock", (size_t)n / 2);
  await_parked("rwmutex rlock", (size_t)n / 2);
  unlock(NULL);
  AWAIT(atomic_load(&passed) == n);
}

/* --- Waiting -------------------------------------------------------------------------------- */

static void set_stop(void *unused) {
  (void)unused;
  atomic_store(&stop, 1);
}

static void use_lock(int how) {
  if (how == 0) {
    lock(NULL);
    unlock(NULL);
  } else if (how == 1) {
    rlock(NULL);
    runlock(NULL);
  } else if (how == 2 && gort_rwmutex_try_lock(&rw)) {
    unlock(NULL);
  } else if (how == 3 && gort_rwmutex_try_rlock(&rw)) {
    runlock(NULL);
  }
}

/* A loop that does nothing but locking gives way. */
static void lock_until_stopped(void *unused) {
  (void)unused;
  for (int how = 0; how < 4; how++) {
    atomic_store(&stop, 0);
    gort_go(set_stop, NULL);
    while (!atomic_load(&stop))
      use_lock(how);
  }
}
CASE(giving_way_by_locking) { gort_main(lock_until_stopped, NULL); }

static void test_locking_gives_way(void **state) {
  (void)state;
  expect_quiet_in(giving_way_by_locking, ENV("GORTMAXPROCS=1"));
}

static void lock_in_vain(void *how) {
  lock(NULL);
  if (how)
    rlock(NULL);
  else
    lock(NULL);
}
CASE(locked_twice) { gort_main(lock_in_vain, NULL); }
CASE(locked_and_rlocked) { gort_main(lock_in_vain, &rw); }

static void upgrade(void *unused) {
  (void)unused;
  rlock(NULL);
  lock(NULL);
}
CASE(rlocked_and_locked) { gort_main(upgrade, NULL); }

static void test_waiting_for_ever_is_a_deadlock(void **state) {
  (void)state;
  expect_deadlock(CASE_NAME(locked_twice), "", "rwmutex lock");
  expect_deadlock(CASE_NAME(locked_and_rlocked), "", "rwmutex rlock");
  expect_deadlock(CASE_NAME(rlocked_and_locked), "", "rwmutex lock");
}

/* --- The memory ----------------------------------------------------------------------------- */

static void give_writing(void *page) {
  gort_rwmutex_lock(page);
  offer(page);
  gort_rwmutex_unlock(page);
}
static void give_reading(void *page) {
  gort_rwmutex_rlock(page);
  offer(page);
  gort_rwmutex_runlock(page);
}
static void take_writing(void *page) {
  gort_rwmutex_lock(page);
  gort_rwmutex_unlock(page);
}
static void take_reading(void *page) {
  gort_rwmutex_rlock(page);
  gort_rwmutex_runlock(page);
}

/* The very moment that it is free. */
static void take_by_trying(void *page) {
  while (!gort_rwmutex_try_lock(page))
    gort_yield();
  gort_rwmutex_unlock(page);
}

static void test_its_memory_may_go(void **state) {
  (void)state;
  run_relays(give_writing, take_writing);
  run_relays(give_writing, take_reading);
  run_relays(give_reading, take_writing);
  run_relays(give_writing, take_by_trying);
  run_relays(give_reading, take_by_trying);
}

/* --- What is refused ------------------------------------------------------------------------ */

/* The first letters lock it, the last one unlocks what is not locked so. */
CASE(misuse) {
  static const struct {
    char letter;
    void (*fn)(void *);
  } calls[] = {{'l', lock}, {'u', unlock}, {'r', rlock}, {'v', runlock}};
  gort_init();
  for (const char *c = case_arg; *c; c++)
    for (size_t i = 0; i < COUNT_OF(calls); i++)
      if (calls[i].letter == *c)
        calls[i].fn(NULL);
}

static void test_unlock_of_unlocked(void **state) {
  (void)state;
  static const char *const unlocks[] = {"u", "ru", "luu", "rvu"};
  static const char *const runlocks[] = {"v", "lv", "rvv", "luv"};
  for (size_t i = 0; i < COUNT_OF(unlocks); i++)
    expect_death_of("fatal error: unlock of unlocked rwmutex", CASE_NAME(misuse), unlocks[i],
                    NO_ENV);
  for (size_t i = 0; i < COUNT_OF(runlocks); i++)
    expect_death_of("fatal error: runlock of unlocked rwmutex", CASE_NAME(misuse), runlocks[i],
                    NO_ENV);
}

static void call_lock(void) { lock(NULL); }
static void call_rlock(void) { rlock(NULL); }
static void call_try_lock(void) { gort_rwmutex_try_lock(&rw); }
static void call_try_rlock(void) { gort_rwmutex_try_rlock(&rw); }
static void call_unlock(void) { unlock(NULL); }
static void call_runlock(void) { runlock(NULL); }
static const struct call calls[] = {
    {"gort_rwmutex_lock", call_lock},         {"gort_rwmutex_rlock", call_rlock},
    {"gort_rwmutex_try_lock", call_try_lock}, {"gort_rwmutex_try_rlock", call_try_rlock},
    {"gort_rwmutex_unlock", call_unlock},     {"gort_rwmutex_runlock", call_runlock},
};
CASE(not_attached) { call_unattached(calls, COUNT_OF(calls)); }

static void test_threads_that_are_not_attached(void **state) {
  (void)state;
  expect_unattached(calls, COUNT_OF(calls), CASE_NAME(not_attached));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_try_forms),
      cmocka_unit_test(test_readers_or_one_writer),
      cmocka_unit_test(test_readers_read_side_by_side),
      cmocka_unit_test(test_another_may_unlock),
      cmocka_unit_test(test_a_waiting_writer_goes_before_later_readers),
      cmocka_unit_test(test_all_waiting_readers_go_before_the_next_writer),
      cmocka_unit_test(test_writers_go_in_order),
      cmocka_unit_test(test_waiting_readers_go_together),
      cmocka_unit_test(test_unlocking_hands_it_over),
      cmocka_unit_test(test_readers_do_not_keep_writers_out),
      cmocka_unit_test(test_many_wait),
      cmocka_unit_test(test_locking_gives_way),
      cmocka_unit_test(test_waiting_for_ever_is_a_deadlock),
      cmocka_unit_test(test_its_memory_may_go),
      cmocka_unit_test(test_unlock_of_unlocked),
      cmocka_unit_test(test_threads_that_are_not_attached),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
