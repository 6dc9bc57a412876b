/* Finalizers of plain C: when they run, how often, in which order, and what they may do. */
#include "check.h"

/* Things of an earlier test that die late are told by their epoch, and passed over. */
struct thing {
  struct thing *next;
  uint32_t id, epoch;
  uint64_t check;
};
GORT_TYPE(thing_type, struct thing, next);

static atomic_uint epoch;

static uint64_t check_of(uint32_t id, uint32_t in) {
  return (id + ((uint64_t)in << 32)) * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

static struct thing *new_thing(size_t id, struct thing *next) {
  struct thing *t = gort_new_of(struct thing, thing_type);
  uint32_t now = atomic_load(&epoch);
  *t = (struct thing){next, (uint32_t)id, now, check_of((uint32_t)id, now)};
  return t;
}

static bool thing_intact(const struct thing *t) { return t->check == check_of(t->id, t->epoch); }

static bool is_current(const struct thing *t) { return t->epoch == atomic_load(&epoch); }

/* --- Once ----------------------------------------------------------------------------------- */

static atomic_int runs[MANY], broken;

static void count_run(struct thing *t) {
  if (!thing_intact(t) || t->id >= MANY)
    atomic_fetch_add(&broken, 1);
  else if (is_current(t))
    atomic_fetch_add(&runs[t->id], 1);
}

static void reset_runs(void) {
  atomic_fetch_add(&epoch, 1);
  for (size_t i = 0; i < MANY; i++)
    atomic_store(&runs[i], 0);
  atomic_store(&broken, 0);
}

/* How many ran; none may have run twice, nor have seen a broken object. */
static NOINLINE size_t ran_once(void) {
  size_t n = 0;
  scrub_stack();
  assert_true(gort_drain(-1));
  for (size_t i = 0; i < MANY; i++) {
    assert_in_range(atomic_load(&runs[i]), 0, 1);
    n += (size_t)atomic_load(&runs[i]);
  }
  assert_int_equal(atomic_load(&broken), 0);
  return n;
}

static NOINLINE void make_counted(void) {
  for (size_t i = 0; i < MANY; i++)
    gort_set_finalizer(new_thing(i, NULL), count_run);
}

static void test_runs_once(void **state) {
  (void)state;
  reset_runs();
  make_counted();
  assert_true(mostly(ran_once(), MANY));
  for (int i = 0; i < 5; i++)
    ran_once();
}

static void make_counted_there(void *unused) {
  (void)unused;
  make_counted();
}

static void test_set_and_dropped_on_a_goroutine(void **state) {
  (void)state;
  reset_runs();
  in_goroutine(make_counted_there, NULL);
  assert_true(mostly(ran_once(), MANY));
}

/* The program does nothing but collect: nobody drains. */
static void test_runs_without_draining(void **state) {
  (void)state;
  watch_begin();
  for (int i = 0; i < MANY; i++)
    watch(gort_alloc(40));
  scrub_stack();
  gort_gc();
  WAIT_UNTIL(mostly((size_t)deaths_so_far(), MANY));
}

static NOINLINE void watch_sizes(void) {
  static const size_t sizes[] = {8, 16, 24, 100, 1000, 10000, 40000, 100000};
  for (size_t i = 0; i < MANY; i++) {
    size_t size = sizes[i % COUNT_OF(sizes)];
    watch(i / COUNT_OF(sizes) % 2 ? gort_alloc(size) : gort_alloc_noscan(size));
  }
}

static void test_objects_of_all_sizes(void **state) {
  (void)state;
  watch_begin();
  watch_sizes();
  assert_mostly_dead(MANY);
}

/* --- Not while reachable -------------------------------------------------------------------- */

static NOINLINE void hold_things(void) {
  for (size_t i = 0; i < MANY; i++) {
    struct thing *t = new_thing(i, NULL);
    gort_set_finalizer(t, count_run);
    kept[i] = t;
  }
}

static void test_not_while_reachable(void **state) {
  (void)state;
  reset_runs();
  hold_things();
  assert_int_equal(ran_once(), 0);
  forget_all();
  assert_true(mostly(ran_once(), MANY));
}

static NOINLINE void keep_one_alive(void) {
  struct thing *t = new_thing(0, NULL);
  gort_set_finalizer(t, count_run);
  for (int i = 0; i < 3; i++) {
    gort_gc();
    scrub_stack();
    assert_int_equal(atomic_load(&runs[0]), 0);
  }
  gort_keep_alive(t);
}

static void test_keep_alive(void **state) {
  (void)state;
  for (int i = 0; i < 20; i++) {
    reset_runs();
    keep_one_alive();
    assert_true(gort_drain(-1));
  }
}

/* What the object reaches is alive and untouched when its finalizer runs, whatever is allocated
 * meanwhile. */
static void check_list(struct thing *t) {
  bool intact = true;
  for (struct thing *at = t; at; at = at->next)
    intact &= thing_intact(at);
  if (intact)
    count_run(t);
  else
    atomic_fetch_add(&broken, 1);
}

static NOINLINE void make_lists(void) {
  for (size_t i = 0; i < MANY; i++) {
    struct thing *list = NULL;
    for (size_t j = 0; j < 20; j++)
      list = new_thing(1000000 + i * 20 + j, list);
    gort_set_finalizer(new_thing(i, list), check_list);
  }
}

static void test_what_it_reaches_is_intact(void **state) {
  (void)state;
  reset_runs();
  make_lists();
  for (int i = 0; i < 200000; i++)
    memset(gort_new(struct thing), 0xdd, sizeof(struct thing));
  assert_true(mostly(ran_once(), MANY));
}

/* --- Order ---------------------------------------------------------------------------------- */

static uint32_t order[MANY];
static atomic_int norder;

static void note_order(struct thing *t) {
  if (is_current(t))
    order[atomic_fetch_add(&norder, 1)] = t->id;
}

static void reset_order(void) {
  atomic_fetch_add(&epoch, 1);
  atomic_store(&norder, 0);
}

static NOINLINE void make_chain(size_t n) {
  struct thing *chain = NULL;
  for (size_t i = n; i-- > 0;) {
    chain = new_thing(i, chain);
    gort_set_finalizer(chain, note_order);
  }
}

/* 0 points to 1 points to 2...: they run in this order, each only after the one before it has
 * been freed, and draining sees to all of it. */
static void test_a_chain_runs_from_its_head(void **state) {
  (void)state;
  enum { LENGTH = 60 };
  int whole = 0;
  for (int round = 0; round < 10; round++) {
    reset_order();
    make_chain(LENGTH);
    scrub_stack();
    assert_true(gort_drain(-1));
    int n = atomic_load(&norder);
    whole += n == LENGTH;
    for (int i = 0; i < n; i++)
      assert_int_equal(order[i], i);
  }
  assert_in_range(whole, 5, 10);
}

static struct thing *volatile resurrected[MANY];
static atomic_int nresurrected;

static void resurrect(struct thing *t) {
  if (is_current(t))
    resurrected[atomic_fetch_add(&nresurrected, 1)] = t;
}

static void forget_resurrected(void) {
  atomic_fetch_add(&epoch, 1);
  for (size_t i = 0; i < MANY; i++)
    resurrected[i] = NULL;
  atomic_store(&nresurrected, 0);
}

static NOINLINE void make_pairs(void) {
  for (size_t i = 0; i < MANY; i++) {
    struct thing *b = new_thing(i, NULL);
    watch(b);
    gort_set_finalizer(new_thing(i, b), resurrect);
  }
}

/* B waits not only for A's finalizer, but until A is freed: here A's finalizer saves it. */
static void test_the_second_waits_until_the_first_is_freed(void **state) {
  (void)state;
  forget_resurrected();
  watch_begin();
  make_pairs();
  assert_none_dead();
  assert_true(mostly((size_t)atomic_load(&nresurrected), MANY));
  for (int i = 0; i < atomic_load(&nresurrected); i++)
    assert_true(thing_intact(resurrected[i]->next));
  forget_resurrected();
  assert_mostly_dead(MANY);
}

/* One collection kills the first only. */
static void test_the_second_needs_another_collection(void **state) {
  (void)state;
  for (int round = 0; round < 10; round++) {
    reset_order();
    make_chain(2);
    scrub_stack();
    gort_gc();
    assert_in_range(atomic_load(&norder), 0, 1); /* the first's, if it was quick */
    assert_true(gort_drain(-1));
  }
}

/* --- Rings ---------------------------------------------------------------------------------- */

static NOINLINE void make_rings(size_t length) {
  for (size_t i = 0; i < MANY; i++) {
    struct thing *first = new_thing(i, NULL), *last = first;
    watch(first);
    for (size_t j = 1; j < length; j++)
      last = last->next = new_thing(i, NULL);
    last->next = first;
  }
}

static void test_a_ring_through_a_finalizer_is_never_collected(void **state) {
  (void)state;
  for (size_t length = 1; length < 4; length++) {
    watch_begin();
    make_rings(length);
    for (int i = 0; i < 3; i++)
      assert_none_dead();
  }
}

static NOINLINE void point_to_rings(void) {
  for (size_t i = 0; i < MANY; i++) {
    struct thing *a = new_thing(i, NULL), *b = new_thing(i, a);
    a->next = b;
    watch(new_thing(i, a));
  }
}

/* A ring behind the object, but not through it, is no hindrance. */
static void test_a_ring_behind_a_finalizer_is(void **state) {
  (void)state;
  watch_begin();
  point_to_rings();
  assert_mostly_dead(MANY);
}

/* --- Resurrection, and setting anew --------------------------------------------------------- */

static void count_and_resurrect(struct thing *t) {
  count_run(t);
  resurrect(t);
}

static NOINLINE void make_resurrecting(void) {
  for (size_t i = 0; i < MANY; i++)
    gort_set_finalizer(new_thing(i, NULL), count_and_resurrect);
}

static void test_a_resurrected_object_lives_and_is_not_finalized_again(void **state) {
  (void)state;
  reset_runs();
  forget_resurrected();
  make_resurrecting();
  assert_true(mostly(ran_once(), MANY));
  for (int i = 0; i < 100000; i++)
    memset(gort_new(struct thing), 0xdd, sizeof(struct thing));
  gort_gc();
  for (int i = 0; i < atomic_load(&nresurrected); i++)
    assert_true(thing_intact(resurrected[i]));
  forget_resurrected();
  ran_once();
}

/* It may get another finalizer afterwards: the association was cleared. */
static NOINLINE void watch_resurrected(void) {
  for (int i = 0; i < atomic_load(&nresurrected); i++)
    watch(resurrected[i]);
}

static void test_a_resurrected_object_may_get_another_finalizer(void **state) {
  (void)state;
  reset_runs();
  forget_resurrected();
  make_resurrecting();
  assert_true(mostly(ran_once(), MANY));
  watch_begin();
  watch_resurrected();
  int n = atomic_load(&nresurrected);
  assert_none_dead();
  forget_resurrected();
  assert_mostly_dead(n);
}

enum { LIVES = 5 };
static atomic_int refused_anew;

static void set_anew(void *p) {
  struct thing *t = p;
  if (!is_current(t))
    return;
  atomic_fetch_add(&runs[t->id], 1);
  if (atomic_load(&runs[t->id]) < LIVES && gort_try_set_finalizer_fn(p, set_anew) != 0)
    atomic_fetch_add(&refused_anew, 1);
}

static NOINLINE void make_of_many_lives(void) {
  for (size_t i = 0; i < MANY; i++)
    gort_set_finalizer_fn(new_thing(i, NULL), set_anew);
}

/* A finalizer that sets itself anew runs once for each time, and draining waits for all. */
static void test_set_anew_by_the_finalizer(void **state) {
  (void)state;
  reset_runs();
  make_of_many_lives();
  scrub_stack();
  assert_true(gort_drain(-1));
  size_t all = 0;
  for (size_t i = 0; i < MANY; i++) {
    assert_in_range(atomic_load(&runs[i]), 0, LIVES);
    all += atomic_load(&runs[i]) == LIVES;
  }
  assert_true(mostly(all, MANY));
  assert_int_equal(atomic_load(&refused_anew), 0);
}

/* After its finalizer the object is freed, by a later collection. */
static void test_freed_after_the_finalizer(void **state) {
  (void)state;
  assert_true(gort_drain(-1));
  gort_mem_stats before = read_stats();
  make_counted();
  scrub_stack();
  assert_true(gort_drain(-1));
  gort_gc();
  assert_true(mostly(read_stats().frees - before.frees, MANY));
}

/* --- Clearing ------------------------------------------------------------------------------- */

static void clear_by_null(void *p) { gort_set_finalizer_fn(p, NULL); }
static void clear_by_any(void *p) {
  gort_set_finalizer_any((gort_any){gort_type_ptr(&thing_type), p}, (gort_any){NULL, NULL});
}
static void clear_by_try(void *p) {
  if (gort_try_clear_finalizer(p) != 0)
    atomic_fetch_add(&broken, 1);
}
static void clear_by_try_null(void *p) {
  if (gort_try_set_finalizer_fn(p, NULL) != 0)
    atomic_fetch_add(&broken, 1);
}

static NOINLINE void make_and_clear(void (*clear)(void *)) {
  for (size_t i = 0; i < MANY; i++) {
    struct thing *t = new_thing(i, NULL);
    gort_set_finalizer(t, count_run);
    clear(t);
  }
}

static void test_a_cleared_finalizer_never_runs(void **state) {
  (void)state;
  void (*const ways[])(void *) = {gort_clear_finalizer, clear_by_null, clear_by_any, clear_by_try,
                                  clear_by_try_null};
  for (size_t i = 0; i < COUNT_OF(ways); i++) {
    reset_runs();
    make_and_clear(ways[i]);
    assert_int_equal(ran_once(), 0);
  }
}

static void test_clearing_what_has_none(void **state) {
  (void)state;
  struct thing *t = new_thing(0, NULL);
  gort_clear_finalizer(t);
  gort_clear_finalizer(t);
  gort_set_finalizer_fn(t, NULL);
  assert_int_equal(gort_try_clear_finalizer(t), 0);
}

static NOINLINE void set_clear_and_set(void) {
  for (size_t i = 0; i < MANY; i++) {
    struct thing *t = new_thing(i, NULL);
    gort_set_finalizer(t, resurrect);
    gort_clear_finalizer(t);
    gort_set_finalizer(t, count_run);
  }
}

static void test_set_again_after_clearing(void **state) {
  (void)state;
  reset_runs();
  forget_resurrected();
  set_clear_and_set();
  assert_true(mostly(ran_once(), MANY));
  assert_int_equal(atomic_load(&nresurrected), 0);
}

/* --- What is accepted and ignored ----------------------------------------------------------- */

static int initialised = 7;
static int zeroed;
static const int constant = 9;

static void test_static_data_and_the_zero_size_object_are_ignored(void **state) {
  (void)state;
  watch_begin();
  char *text = (char *)(uintptr_t) "text";
  void *const ignored[] = {&initialised, &zeroed,       (void *)(uintptr_t)&constant, text,
                           stdout,       gort_alloc(0), (char *)&initialised + 1};
  for (size_t i = 0; i < COUNT_OF(ignored); i++) {
    gort_set_finalizer_fn(ignored[i], note_death);
    gort_set_finalizer_fn(ignored[i], note_death);
    assert_int_equal(gort_try_set_finalizer_fn(ignored[i], note_death), 0);
    gort_clear_finalizer(ignored[i]);
    assert_int_equal(gort_try_clear_finalizer(ignored[i]), 0);
  }
  assert_none_dead();
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_runs_once),
      cmocka_unit_test(test_set_and_dropped_on_a_goroutine),
      cmocka_unit_test(test_runs_without_draining),
      cmocka_unit_test(test_objects_of_all_sizes),
      cmocka_unit_test(test_not_while_reachable),
      cmocka_unit_test(test_keep_alive),
      cmocka_unit_test(test_what_it_reaches_is_intact),
      cmocka_unit_test(test_a_chain_runs_from_its_head),
      cmocka_unit_test(test_the_second_waits_until_the_first_is_freed),
      cmocka_unit_test(test_the_second_needs_another_collection),
      cmocka_unit_test(test_a_ring_through_a_finalizer_is_never_collected),
      cmocka_unit_test(test_a_ring_behind_a_finalizer_is),
      cmocka_unit_test(test_a_resurrected_object_lives_and_is_not_finalized_again),
      cmocka_unit_test(test_a_resurrected_object_may_get_another_finalizer),
      cmocka_unit_test(test_set_anew_by_the_finalizer),
      cmocka_unit_test(test_freed_after_the_finalizer),
      cmocka_unit_test(test_a_cleared_finalizer_never_runs),
      cmocka_unit_test(test_clearing_what_has_none),
      cmocka_unit_test(test_set_again_after_clearing),
      cmocka_unit_test(test_static_data_and_the_zero_size_object_are_ignored),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
