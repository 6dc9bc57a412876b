/* The finalizer goroutine: one finalizer at a time, one that blocks, ends itself or collects. */
#include "check.h"

struct thing {
  void *next;
  uint64_t id;
};
GORT_TYPE(thing_type, struct thing, next);

static NOINLINE void make(size_t n, void (*finalizer)(void *)) {
  for (size_t i = 0; i < n; i++) {
    struct thing *t = gort_new_of(struct thing, thing_type);
    t->id = i;
    watch_only(t);
    gort_set_finalizer_fn(t, finalizer);
  }
}

static NOINLINE void make_and_collect(size_t n, void (*finalizer)(void *)) {
  make(n, finalizer);
  scrub_stack();
  gort_gc();
}

/* --- One at a time, on one goroutine -------------------------------------------------------- */

static atomic_int inside, overlaps;
static atomic_ullong fing_id;
static atomic_int wrong_ids;

static void yield_inside(void *p) {
  unsigned long long expected = 0;
  if (atomic_fetch_add(&inside, 1) != 0)
    atomic_fetch_add(&overlaps, 1);
  if (!atomic_compare_exchange_strong(&fing_id, &expected, gort_id()) && expected != gort_id())
    atomic_fetch_add(&wrong_ids, 1);
  gort_yield();
  gort_sleep(10000);
  atomic_fetch_sub(&inside, 1);
  note_death(p);
}

static void test_one_at_a_time_on_one_goroutine(void **state) {
  (void)state;
  watch_begin();
  make(MANY, yield_inside);
  assert_mostly_dead(MANY);
  assert_int_equal(atomic_load(&overlaps), 0);
  assert_int_equal(atomic_load(&wrong_ids), 0);
  assert_int_not_equal(atomic_load(&fing_id), 0);
}

/* In a program with its own main, that goroutine is on the runtime's own thread. */
static pthread_t test_thread;
static atomic_int on_test_thread;

static void note_thread(void *p) {
  if (pthread_equal(pthread_self(), test_thread))
    atomic_fetch_add(&on_test_thread, 1);
  note_death(p);
}

static void test_not_on_the_programs_threads(void **state) {
  (void)state;
  test_thread = pthread_self();
  watch_begin();
  make(MANY, note_thread);
  assert_mostly_dead(MANY);
  assert_int_equal(atomic_load(&on_test_thread), 0);
}

/* --- Ending early --------------------------------------------------------------------------- */

static void end_early(void *p) {
  note_death(p);
  if (((struct thing *)p)->id % 3 == 0)
    gort_goexit();
}

static void test_goexit_ends_that_finalizer_alone(void **state) {
  (void)state;
  gort_mem_stats before = read_stats();
  watch_begin();
  make(MANY, end_early);
  assert_mostly_dead(MANY);
  make(MANY, note_death);
  assert_mostly_dead(2 * MANY);
  gort_mem_stats after = read_stats();
  assert_int_equal(after.finalizers_run - before.finalizers_run,
                   after.finalizers_queued - before.finalizers_queued);
}

static void end_here(void *p) {
  note_death(p);
  gort_goexit();
}

static NOINLINE int end_deep_inside(int depth, void *p) {
  static void (*volatile end)(void *) = end_here;
  if (depth == 0)
    end(p);
  else
    depth += end_deep_inside(depth - 1, p);
  return depth;
}

static void end_in_a_call(void *p) { end_deep_inside(20, p); }

static void test_goexit_from_a_call(void **state) {
  (void)state;
  watch_begin();
  make(MANY, end_in_a_call);
  assert_mostly_dead(MANY);
}

/* --- Blocking ------------------------------------------------------------------------------- */

static atomic_int blocked, release_it;

static void block(void *p) {
  atomic_store(&blocked, 1);
  while (!atomic_load(&release_it))
    gort_sleep(1000000);
  note_death(p);
}

static NOINLINE void make_blocker(void) {
  atomic_store(&blocked, 0);
  atomic_store(&release_it, 0);
  while (!atomic_load(&blocked)) {
    make_and_collect(1, block);
    nap();
  }
}

static void let_it_go(void) {
  atomic_store(&release_it, 1);
  assert_true(gort_drain(-1));
}

static void test_one_that_blocks_holds_up_those_behind_it(void **state) {
  (void)state;
  watch_begin();
  make_blocker();
  make_and_collect(MANY, note_death);
  for (int i = 0; i < 20; i++)
    nap();
  assert_int_equal(deaths_so_far(), 0);
  let_it_go();
  assert_mostly_dead(MANY);
}

static void test_one_that_blocks_shows_in_the_statistics(void **state) {
  (void)state;
  assert_int_equal(read_stats().finalizer_running_ns, 0);
  make_blocker();
  nap();
  gort_mem_stats first = read_stats();
  nap();
  gort_mem_stats second = read_stats();
  assert_int_not_equal(first.finalizer_running_ns, 0);
  assert_true(second.finalizer_running_ns > first.finalizer_running_ns);
  make_and_collect(MANY, note_death);
  gort_mem_stats behind = read_stats();
  assert_true(mostly(behind.finalizers_queued - second.finalizers_queued, MANY));
  assert_int_equal(behind.finalizers_run, second.finalizers_run);
  let_it_go();
  gort_mem_stats after = read_stats();
  assert_int_equal(after.finalizer_running_ns, 0);
  assert_int_equal(after.finalizers_run, after.finalizers_queued);
}

/* Goroutines and threads go on meanwhile, and so do collections. */
static void allocate_a_lot(void *unused) {
  (void)unused;
  for (int i = 0; i < 100000; i++)
    gort_alloc(100);
  gort_gc();
}

static void test_one_that_blocks_holds_up_nothing_else(void **state) {
  (void)state;
  make_blocker();
  in_goroutine(allocate_a_lot, NULL);
  in_thread(allocate_a_lot, NULL);
  allocate_a_lot(NULL);
  let_it_go();
}

/* Its object, and what that points to, stays alive while it runs. */
static atomic_int saw_wrong;

static void block_and_look(void *p) {
  struct thing *t = p;
  block(p);
  if (((struct thing *)t->next)->id != 77)
    atomic_fetch_add(&saw_wrong, 1);
}

static NOINLINE void make_looking_blockers(size_t n) {
  for (size_t i = 0; i < n; i++) {
    struct thing *t = gort_new_of(struct thing, thing_type);
    struct thing *next = gort_new_of(struct thing, thing_type);
    next->id = 77;
    t->next = next;
    watch(next);
    gort_set_finalizer_fn(t, block_and_look);
  }
}

static void test_what_a_running_finalizer_reaches_stays(void **state) {
  (void)state;
  watch_begin();
  atomic_store(&blocked, 0);
  atomic_store(&release_it, 0);
  make_looking_blockers(MANY);
  scrub_stack();
  gort_gc();
  WAIT_UNTIL(atomic_load(&blocked));
  for (int i = 0; i < 5; i++)
    allocate_a_lot(NULL);
  assert_int_equal(deaths_so_far(), 0);
  let_it_go();
  assert_int_equal(atomic_load(&saw_wrong), 0);
  assert_mostly_dead(MANY);
}

/* It stays even where the finalizer itself has no pointer to it any more. */
static NOINLINE void collect_and_look(uintptr_t hidden) {
  scrub_stack();
  gort_gc();
  for (int i = 0; i < 200; i++)
    memset(gort_new_of(struct thing, thing_type), 0, sizeof(struct thing));
  struct thing *t = reveal(hidden);
  if (t->id != 78 || ((struct thing *)t->next)->id != 77)
    atomic_fetch_add(&saw_wrong, 1);
}

static void hide_and_look(void *p) { collect_and_look(hide(p)); }

static NOINLINE void make_hiders(size_t n) {
  for (size_t i = 0; i < n; i++) {
    struct thing *t = gort_new_of(struct thing, thing_type);
    struct thing *next = gort_new_of(struct thing, thing_type);
    next->id = 77;
    t->id = 78;
    t->next = next;
    watch(next);
    gort_set_finalizer_fn(t, hide_and_look);
  }
}

static void test_what_a_finalizer_has_forgotten_stays_while_it_runs(void **state) {
  (void)state;
  enum { N = 50 };
  watch_begin();
  make_hiders(N);
  assert_mostly_dead(N);
  assert_int_equal(atomic_load(&saw_wrong), 0);
}

/* --- What a finalizer may call -------------------------------------------------------------- */

static void collect_inside(void *p) {
  gort_gc();
  note_death(p);
}

static void test_gc_in_a_finalizer(void **state) {
  (void)state;
  watch_begin();
  make(50, collect_inside);
  make(MANY, note_death);
  assert_mostly_dead(50 + MANY);
}

static atomic_int drained_inside;

static void drain_inside(void *p) {
  static const int64_t limits[] = {-1, 0, 1000000000000};
  for (size_t i = 0; i < COUNT_OF(limits); i++)
    if (gort_drain(limits[i]))
      atomic_fetch_add(&drained_inside, 1);
  note_death(p);
}

static void test_drain_in_a_finalizer_is_false_at_once(void **state) {
  (void)state;
  watch_begin();
  make(50, drain_inside);
  assert_mostly_dead(50);
  assert_int_equal(atomic_load(&drained_inside), 0);
}

static atomic_int started;

static void count_start(void *t) {
  if (((struct thing *)t)->id < MANY)
    atomic_fetch_add(&started, 1);
}

static void start_goroutine(void *p) {
  gort_go(count_start, p);
  memset(gort_alloc(1000), 0xee, 1000);
  note_death(p);
}

static void test_allocating_and_starting_goroutines_in_a_finalizer(void **state) {
  (void)state;
  watch_begin();
  make(MANY, start_goroutine);
  assert_mostly_dead(MANY);
  int dead = deaths_so_far();
  WAIT_UNTIL(atomic_load(&started) >= dead);
}

/* Finalizers that make garbage with finalizers: draining waits for those, too. */
enum { GENERATIONS = 5 };

static void beget(void *p);

static NOINLINE void make_descendant(uint64_t generation) {
  struct thing *t = gort_new_of(struct thing, thing_type);
  t->id = generation;
  watch_only(t);
  gort_set_finalizer_fn(t, beget);
}

static void beget(void *p) {
  uint64_t generation = ((struct thing *)p)->id;
  if (generation < GENERATIONS)
    make_descendant(generation + 1);
  note_death(p);
}

static NOINLINE void make_ancestors(void) {
  for (int i = 0; i < MANY; i++)
    make_descendant(1);
}

static void test_drain_waits_for_what_finalizers_set_off(void **state) {
  (void)state;
  watch_begin();
  make_ancestors();
  assert_mostly_dead(GENERATIONS * MANY);
}

/* A finalizer's frame is as large as any goroutine's. */
static void use_stack(void *p) {
  volatile char frame[UNDER_ASAN || UNDER_TSAN ? 50000 : 150000];
  for (size_t i = 0; i < sizeof frame; i += 100)
    frame[i] = (char)i;
  note_death(p);
}

static void test_a_finalizer_may_use_stack(void **state) {
  (void)state;
  watch_begin();
  make(MANY, use_stack);
  assert_mostly_dead(MANY);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_at_a_time_on_one_goroutine),
      cmocka_unit_test(test_not_on_the_programs_threads),
      cmocka_unit_test(test_goexit_ends_that_finalizer_alone),
      cmocka_unit_test(test_goexit_from_a_call),
      cmocka_unit_test(test_one_that_blocks_holds_up_those_behind_it),
      cmocka_unit_test(test_one_that_blocks_shows_in_the_statistics),
      cmocka_unit_test(test_one_that_blocks_holds_up_nothing_else),
      cmocka_unit_test(test_what_a_running_finalizer_reaches_stays),
      cmocka_unit_test(test_what_a_finalizer_has_forgotten_stays_while_it_runs),
      cmocka_unit_test(test_gc_in_a_finalizer),
      cmocka_unit_test(test_drain_in_a_finalizer_is_false_at_once),
      cmocka_unit_test(test_allocating_and_starting_goroutines_in_a_finalizer),
      cmocka_unit_test(test_drain_waits_for_what_finalizers_set_off),
      cmocka_unit_test(test_a_finalizer_may_use_stack),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
