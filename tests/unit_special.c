/* Special records from the inside: their order, what sweeping does with them, and the queue. */
#include "check.h"

#include "base/atomic.h"
#include "base/m.h"
#include "gc/gc.h"
#include "gc/work.h"
#include "heap/mheap.h"
#include "sched/sched.h"
#include "special/finq.h"
#include "special/mfinal.h"
#include "special/profile.h"
#include "special/special.h"
#include "special/table.h"

static struct mspan *span_of(const void *p) {
  struct mspan *s = spanOfHeap((uintptr_t)p);
  assert_non_null(s);
  return s;
}

static void verify(const void *p) { specials_verify(span_of(p)); }

/* --- Order ------------------------------------------------------------------------------------ */

struct listed {
  size_t n;
  struct special at[4096]; /* copies */
};

static void list_record(struct mspan *s, struct special *r, void *arg) {
  (void)s;
  struct listed *l = arg;
  if (l->n < COUNT_OF(l->at))
    l->at[l->n++] = *r;
}

static struct listed *records_of(const void *p) {
  static struct listed l;
  l.n = 0;
  specials_foreach(span_of(p), list_record, &l);
  return &l;
}

static bool comes_before(const struct special *a, const struct special *b) {
  return a->offset < b->offset || (a->offset == b->offset && a->kind < b->kind);
}

/* Each object of a span's worth, each kind at several offsets, added in random order. */
static void check_order(size_t size) {
  enum { KINDS = 4, MOST = 400 };
  static struct special record[MOST];
  struct rng r = seeded_rng(size);
  size_t added = 0;
  for (size_t i = 0; i < MOST / 8; i++) {
    kept[i] = gort_alloc(size);
    for (int j = 0; j < 8; j++) {
      struct special *s = &record[added];
      s->kind = (uint8_t)(KindSpecialWeakHandle + rng_below(&r, KINDS));
      added += addspecial((uintptr_t)kept[i] + rng_below(&r, size), s);
    }
  }
  for (size_t i = 0; i < MOST / 8; i++) {
    verify(kept[i]);
    struct listed *l = records_of(kept[i]);
    for (size_t j = 1; j < l->n; j++)
      assert_true(comes_before(&l->at[j - 1], &l->at[j]));
  }
  for (size_t i = 0; i < added; i++)
    for (size_t j = 0; j < MOST / 8; j++) {
      uintptr_t p = span_of(kept[j])->base + record[i].offset;
      if (p - (uintptr_t)kept[j] < size && removespecial(p, record[i].kind) == &record[i])
        break;
    }
  for (size_t i = 0; i < MOST / 8; i++)
    assert_int_equal(records_of(kept[i])->n, 0);
  forget_all();
}

static void test_records_are_in_order(void **state) {
  (void)state;
  static const size_t sizes[] = {8, 16, 48, 100, 1000, 5000, 40000, 300000};
  for (size_t i = 0; i < COUNT_OF(sizes); i++)
    check_order(sizes[i]);
}

static void test_one_of_a_kind_for_an_address(void **state) {
  (void)state;
  struct special a = {.kind = KindSpecialPin}, b = {.kind = KindSpecialPin},
                 c = {.kind = KindSpecialCleanup};
  char *p = gort_alloc(64);
  assert_true(addspecial((uintptr_t)p + 8, &a));
  assert_false(addspecial((uintptr_t)p + 8, &b));
  assert_true(addspecial((uintptr_t)p + 9, &b));
  assert_true(addspecial((uintptr_t)p + 8, &c));
  verify(p);
  assert_null(removespecial((uintptr_t)p, KindSpecialPin));
  assert_null(removespecial((uintptr_t)p + 8, KindSpecialProfile));
  assert_ptr_equal(removespecial((uintptr_t)p + 8, KindSpecialPin), &a);
  assert_null(removespecial((uintptr_t)p + 8, KindSpecialPin));
  assert_true(addspecial((uintptr_t)p + 8, &a));
  assert_ptr_equal(removespecial((uintptr_t)p + 8, KindSpecialPin), &a);
  assert_ptr_equal(removespecial((uintptr_t)p + 9, KindSpecialPin), &b);
  assert_ptr_equal(removespecial((uintptr_t)p + 8, KindSpecialCleanup), &c);
  assert_null(removespecial((uintptr_t)p + 8, KindSpecialCleanup));
  gort_keep_alive(p);
}

CASE(add_outside) {
  static struct special s = {.kind = KindSpecialPin};
  gort_init();
  addspecial((uintptr_t)&s, &s);
}
CASE(remove_outside) {
  gort_init();
  removespecial(0, KindSpecialFinalizer);
}

static void test_addresses_outside_the_heap(void **state) {
  (void)state;
  expect_death("fatal error: addspecial on invalid pointer", add_outside);
  expect_death("fatal error: removespecial on invalid pointer", remove_outside);
}

/* --- Plain finalizers, which have no records -------------------------------------------------- */

static void nop(void *p) { (void)p; }

static const struct specialchunk *chunk_of(const void *p) {
  const struct mspan *s = span_of(p);
  return specials_chunk(s, object_index(s, (uintptr_t)p));
}

static bool is_plain(const void *p) {
  const struct specialchunk *c = chunk_of(p);
  return c != NULL && (c->plain & slot_bit(object_index(span_of(p), (uintptr_t)p))) != 0;
}

static void test_a_plain_finalizer_has_no_record(void **state) {
  (void)state;
  char *p = gort_alloc(64);
  gort_set_finalizer_fn(p, nop);
  assert_true(is_plain(p));
  assert_int_equal(gort_try_set_finalizer_fn(p, nop), GORT_ERR_FIN_ALREADY_SET);
  assert_true(is_plain(p));
  assert_null(removespecial((uintptr_t)p, KindSpecialProfile));
  assert_null(removespecial((uintptr_t)p + 8, KindSpecialFinalizer));
  verify(p);
  gort_clear_finalizer(p);
  assert_false(is_plain(p));
  assert_null(removespecial((uintptr_t)p, KindSpecialFinalizer));
  verify(p);
}

/* Whoever asks for its record gets one. */
static void test_a_plain_finalizer_as_a_record(void **state) {
  (void)state;
  char *p = gort_alloc(64);
  gort_set_finalizer_fn(p, nop);
  struct listed *l = records_of(p);
  bool listed = false;
  for (size_t i = 0; i < l->n; i++)
    listed |=
        l->at[i].offset == (uintptr_t)p - span_of(p)->base && l->at[i].kind == KindSpecialFinalizer;
  assert_true(listed);
  struct specialfinalizer *f =
      (struct specialfinalizer *)removespecial((uintptr_t)p, KindSpecialFinalizer);
  assert_non_null(f);
  assert_ptr_equal(f->fn, (const gort_func *)(uintptr_t)nop);
  assert_ptr_equal(f->fint, &plain_function);
  assert_null(f->ot);
  assert_int_equal(f->nret, 0);
  assert_false(is_plain(p));
  verify(p);
}

/* With other records in the slot, before and after it. */
static void test_a_plain_finalizer_beside_records(void **state) {
  (void)state;
  struct special pin = {.kind = KindSpecialPin}, weak = {.kind = KindSpecialWeakHandle};
  char *p = gort_alloc(64);
  gort_set_finalizer_fn(p, nop);
  assert_true(addspecial((uintptr_t)p, &weak));
  assert_true(addspecial((uintptr_t)p + 8, &pin));
  assert_false(is_plain(p));
  verify(p);
  assert_int_equal(gort_try_set_finalizer_fn(p, nop), GORT_ERR_FIN_ALREADY_SET);
  gort_clear_finalizer(p);
  assert_int_equal(gort_try_set_finalizer_fn(p, nop), GORT_OK);
  assert_false(is_plain(p));
  verify(p);
  assert_ptr_equal(removespecial((uintptr_t)p, KindSpecialWeakHandle), &weak);
  assert_ptr_equal(removespecial((uintptr_t)p + 8, KindSpecialPin), &pin);
  gort_clear_finalizer(p);
  assert_int_equal(gort_try_set_finalizer_fn(p, nop), GORT_OK);
  assert_true(is_plain(p));
  gort_clear_finalizer(p);
}

/* --- What a finalizer's record holds ---------------------------------------------------------- */

static void call_nothing(const gort_func *self, void *args, void *results) {
  (void)self, (void)args, (void)results;
}

/* Of the record that a finalizer with these results gets. */
static size_t room_for(const gort_type *const *out, size_t n) {
  static gort_func fn = {call_nothing};
  static const gort_type *p;
  if (p == NULL)
    p = gort_type_ptr(gort_type_uint64);
  void *object = gort_alloc(3000);
  gort_any finalizer = {gort_type_func(&p, 1, out, n, false), &fn};
  gort_set_finalizer_any((gort_any){p, object}, finalizer);
  struct special *s = removespecial((uintptr_t)object, KindSpecialFinalizer);
  assert_non_null(s);
  struct specialfinalizer *f = (struct specialfinalizer *)s;
  assert_ptr_equal(f->fn, &fn);
  assert_ptr_equal(f->fint, p);
  assert_ptr_equal(f->ot, p);
  return f->nret;
}

/* In whole words. */
static void test_room_for_results(void **state) {
  (void)state;
  const gort_type *out[] = {gort_type_bool, gort_type_int64, gort_type_bool};
  assert_int_equal(room_for(NULL, 0), 0);
  assert_int_equal(room_for(out, 1), 8);
  assert_int_equal(room_for(out, 2), 16);
  assert_int_equal(room_for(out, 3), 24);
}

/* --- Tables ----------------------------------------------------------------------------------- */

static bool in_bitmap(const struct mspan *s) {
  size_t page = (s->base - mheap.arena) >> PAGE_SHIFT, next = page;
  return specials_next_span(&next, page + 1) == s;
}

static void test_sweeping_takes_empty_tables_away(void **state) {
  (void)state;
  for (size_t i = 0; i < MANY; i++) {
    kept[i] = gort_alloc(24);
    gort_set_finalizer_fn(kept[i], nop);
    assert_true(in_bitmap(span_of(kept[i])));
  }
  gort_gc();
  for (size_t i = 0; i < MANY; i++) {
    assert_non_null(span_of(kept[i])->specials);
    gort_clear_finalizer(kept[i]);
  }
  gort_gc();
  for (size_t i = 0; i < MANY; i++) {
    assert_null(span_of(kept[i])->specials);
    assert_false(in_bitmap(span_of(kept[i])));
  }
  forget_all();
}

static void test_walking_finds_each_span_once(void **state) {
  (void)state;
  size_t found = 0, expected = 0, page = 0;
  for (size_t i = 0; i < MANY; i++) {
    kept[i] = gort_alloc(1 + i * 97 % 60000);
    if (i % 3 == 0)
      gort_set_finalizer_fn(kept[i], nop);
  }
  for (struct mspan *s; (s = specials_next_span(&page, SIZE_MAX)) != NULL;) {
    assert_non_null(s->specials);
    found++;
  }
  for (uint32_t i = 1; i < mheap.nspans; i++)
    expected += mheap.spans[i].state == SPAN_INUSE && mheap.spans[i].specials != NULL;
  assert_int_equal(found, expected);
  for (size_t i = 0; i < MANY; i += 3)
    gort_clear_finalizer(kept[i]);
  forget_all();
}

/* Setting and clearing on many threads at once, in spans that they share. */
enum { SETTERS = 4 };
static void *shared[SETTERS * MANY];
static atomic_int setters_done;

static void set_and_clear(void *p) {
  void **mine = p;
  for (int round = 0; round < 20; round++) {
    for (size_t i = 0; i < MANY; i++)
      gort_set_finalizer_fn(mine[i * SETTERS], nop);
    for (size_t i = 0; i < MANY; i++)
      gort_clear_finalizer(mine[i * SETTERS]);
  }
  atomic_fetch_add(&setters_done, 1);
}

static void test_setting_and_clearing_on_many_threads(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(shared); i++)
    shared[i] = gort_alloc(16);
  atomic_store(&setters_done, 0);
  for (size_t i = 0; i < SETTERS; i++)
    assert_int_equal(gort_thread_start(set_and_clear, &shared[i]), 0);
  while (atomic_load(&setters_done) < SETTERS)
    gort_gc();
  for (size_t i = 0; i < COUNT_OF(shared); i++) {
    verify(shared[i]);
    shared[i] = NULL;
  }
}

/* --- A finalizer that holds up the others ----------------------------------------------------- */

static atomic_int blocking, release_it;

static void block(void *p) {
  (void)p;
  atomic_store(&blocking, 1);
  while (!atomic_load(&release_it))
    gort_sleep(100000);
}

static NOINLINE void make_with(void (*fn)(void *), size_t n) {
  for (size_t i = 0; i < n; i++)
    gort_set_finalizer_fn(gort_alloc(24), fn);
}

/* Returns when it is running: what is queued from now on stays queued. */
static void hold_fing(void) {
  atomic_store(&blocking, 0);
  atomic_store(&release_it, 0);
  while (!atomic_load(&blocking)) {
    make_with(block, 1);
    scrub_stack();
    gort_gc();
    nap();
  }
}

static void let_it_go(void) {
  atomic_store(&release_it, 1);
  assert_true(gort_drain(-1));
}

/* --- Spans that are not swept ----------------------------------------------------------------- */

static bool is_swept(const struct mspan *s) {
  return load_acquire(&s->sweepgen) - load_relaxed(&mheap.sweepgen) + 2 >= 2;
}

/* A cycle that leaves the sweeping to others. */
static void begin_sweeping(void) {
  store_relaxed(&mheap.trigger, 0);
  gc_trigger();
}

/* How many spans were not swept when `change` came to them. */
static size_t change_unswept(void (*change)(void *)) {
  size_t unswept = 0;
  begin_sweeping();
  for (size_t i = 0; i < MANY; i++) {
    struct mspan *s = span_of(kept[i]);
    unswept += !is_swept(s);
    change(kept[i]);
    assert_true(is_swept(s));
  }
  return unswept;
}

static void set_nop(void *p) { gort_set_finalizer_fn(p, nop); }

static void test_records_change_in_swept_spans_only(void **state) {
  (void)state;
  size_t set = 0, cleared = 0;
  for (size_t i = 0; i < MANY; i++)
    kept[i] = gort_alloc(8192);
  for (int round = 0; round < 1000 && (set == 0 || cleared == 0); round++) {
    set += change_unswept(set_nop);
    cleared += change_unswept(gort_clear_finalizer);
  }
  assert_true(set > 0 && cleared > 0);
  forget_all();
}

/* --- Setting while marking goes on ------------------------------------------------------------ */

static bool is_found(const uintptr_t *words, size_t n, const void *p) {
  while (n > 0 && words[n - 1] != (uintptr_t)p)
    n--;
  return n > 0;
}

/* Takes all words that were found to be pointers. */
static size_t take_found(uintptr_t *words, size_t room) {
  size_t n = 0;
  for (struct work w; (w = work_get()).kind != WORK_NONE; work_free_block(w.block)) {
    assert_int_equal(w.kind, WORK_BLOCK);
    for (size_t i = 0; i < w.block->n && n < room; i++)
      words[n++] = w.block->word[i];
  }
  return n;
}

/* What marking does for a record that it finds is done for one that comes later: what the object
 * reaches is handed to the workers, and the function, but not the object. */
static void test_set_while_marking(void **state) {
  (void)state;
  uintptr_t words[64];
  void **object = gort_alloc(64);
  gort_func *fn = gort_alloc(sizeof *fn);
  object[3] = gort_alloc(40);
  assert_true(gort_drain(-1));
  work_begin(1);
  store_seqcst(&gcphase, GCmark);
  enum special_result result =
      addfinalizer((uintptr_t)object, fn, 0, &plain_function, NULL); /* which never runs */
  store_seqcst(&gcphase, GCoff);
  size_t n = take_found(words, COUNT_OF(words));
  removefinalizer((uintptr_t)object);
  assert_int_equal(result, SPECIAL_ADDED);
  assert_true(is_found(words, n, object[3]));
  assert_true(is_found(words, n, fn));
  assert_false(is_found(words, n, object));
}

/* --- The two passes --------------------------------------------------------------------------- */

static atomic_int runs;
static void count_run(void *p) {
  (void)p;
  atomic_fetch_add(&runs, 1);
}

static struct bucket *tiny_bucket;

/* Every address of a tiny block has a finalizer, and the block has profile records: at its start
 * and in its middle. */
static NOINLINE void make_tiny_blocks(size_t n) {
  for (size_t i = 0; i < n; i++) {
    char *block = gort_alloc_noscan(15);
    for (size_t j = 0; j < 15; j++)
      gort_set_finalizer_fn(block + j, count_run);
    mProf_Malloc(tiny_bucket, (uintptr_t)block, 16);
    mProf_Malloc(tiny_bucket, (uintptr_t)block + 7, 16);
  }
}

static void test_all_finalizers_of_a_block_are_queued_at_once(void **state) {
  (void)state;
  tiny_bucket = newbucket("tiny");
  assert_true(gort_drain(-1));
  uint64_t queued = load_seqcst(&finstats.queued);
  atomic_store(&runs, 0);
  make_tiny_blocks(MANY);
  scrub_stack();
  gort_gc();
  queued = load_seqcst(&finstats.queued) - queued;
  assert_int_equal(queued % 15, 0);
  assert_true(mostly(queued, MANY * 15));
  assert_true(gort_drain(-1));
  assert_true(mostly((size_t)atomic_load(&runs), MANY * 15));
}

/* The block lives until its finalizers have run: its profile records stay with it, and are counted
 * when it goes. */
static void test_profile_records_stay_with_the_object(void **state) {
  (void)state;
  struct bucket *b = tiny_bucket = newbucket("tiny");
  make_tiny_blocks(MANY);
  assert_int_equal(b->allocs, 2 * MANY);
  assert_int_equal(b->alloc_bytes, 2 * MANY * 16);
  scrub_stack();
  assert_true(gort_drain(-1));
  gort_gc();
  assert_true(mostly(b->frees, 2 * MANY));
  assert_int_equal(b->frees % 2, 0);
  assert_int_equal(b->free_bytes, b->frees * 16);
}

static NOINLINE void make_profiled_and_finalized(struct bucket *b, void (*fn)(void *)) {
  for (size_t i = 0; i < MANY; i++) {
    void *p = gort_alloc(40);
    mProf_Malloc(b, (uintptr_t)p, 40);
    gort_set_finalizer_fn(p, fn);
  }
}

static void test_nothing_is_counted_free_while_finalizers_wait(void **state) {
  (void)state;
  struct bucket *b = newbucket("finalized");
  hold_fing();
  make_profiled_and_finalized(b, count_run);
  scrub_stack();
  for (int i = 0; i < 3; i++)
    gort_gc();
  assert_int_equal(b->frees, 0);
  let_it_go();
  gort_gc();
  assert_true(mostly(b->frees, MANY));
  assert_int_equal(b->free_bytes, b->frees * 48); /* whole slots */
}

CASE(profile_twice) {
  gort_init();
  void *p = gort_alloc(40);
  struct bucket *b = newbucket("twice");
  setprofilebucket((uintptr_t)p, b);
  setprofilebucket((uintptr_t)p, b);
}

CASE(free_of_unknown_kind) {
  static struct special s = {.kind = KindSpecialPin};
  gort_init();
  freespecial(&s, (uintptr_t)gort_alloc(40), 48);
}

static NOINLINE void make_unknown(void) {
  static struct special s[MANY];
  for (size_t i = 0; i < MANY; i++) {
    s[i].kind = 99;
    addspecial((uintptr_t)gort_alloc(40), &s[i]);
  }
}

CASE(sweep_of_unknown_kind) {
  gort_init();
  make_unknown();
  scrub_stack();
  gort_gc();
}

static void test_throws(void **state) {
  (void)state;
  expect_death("fatal error: setprofilebucket: profile already set", profile_twice);
  expect_death("fatal error: bad special kind", free_of_unknown_kind);
  expect_death("fatal error: bad special kind", sweep_of_unknown_kind);
}

/* --- What finalizers leave on the stack ------------------------------------------------------- */

static NOINLINE void leave_copies(void *p) {
  void *volatile copy[150];
  for (size_t i = 0; i < COUNT_OF(copy); i++)
    copy[i] = p;
}

static atomic_int lying, stand_up;

/* Its frame shows what was there before. */
static void lie_over_copies(void *p) {
  char *room = __builtin_alloca(1200);
  __asm__ __volatile__("" : : "r"(room) : "memory");
  atomic_store(&lying, 1);
  while (!atomic_load(&stand_up))
    gort_sleep(100000);
  gort_keep_alive(room);
  gort_keep_alive(p);
}

static NOINLINE void queue_with(void (*fn)(void *), size_t n) {
  make_with(fn, n);
  scrub_stack();
  gort_gc();
}

/* What is queued last runs first: those that leave copies, enough others to begin a new block, and
 * the one that stays. Whether a collection then frees all of the first. */
static bool copies_keep_nothing(void) {
  struct bucket *b = newbucket("copied");
  atomic_store(&lying, 0);
  atomic_store(&stand_up, 0);
  hold_fing();
  queue_with(lie_over_copies, 1);
  queue_with(nop, 2 * FIN_ROOM);
  make_profiled_and_finalized(b, leave_copies);
  scrub_stack();
  gort_gc();
  atomic_store(&release_it, 1);
  WAIT_UNTIL(atomic_load(&lying));
  gort_gc();
  bool all = b->frees == MANY;
  atomic_store(&stand_up, 1);
  assert_true(gort_drain(-1));
  return all;
}

static void test_what_finalizers_leave_keeps_nothing(void **state) {
  (void)state;
  enum { ROUNDS = 10 };
  int good = 0;
  for (int i = 0; i < ROUNDS; i++)
    good += copies_keep_nothing();
  assert_true(good >= ROUNDS / 2);
}

/* --- Reachable? ------------------------------------------------------------------------------- */

static NOINLINE void make_asked(uintptr_t *hidden, size_t n) {
  for (size_t i = 0; i < n; i++) {
    void *p = gort_alloc(16 + i * 700);
    hidden[i] = hide(p);
    kept[i] = p;
  }
}

static void test_reachable_objects(void **state) {
  (void)state;
  enum { N = 64 };
  uintptr_t hidden[N];
  size_t dead = 0;
  make_asked(hidden, N);
  scrub_stack();
  for (size_t i = 0; i < N; i += 2) /* from here on nothing is allocated, so they are still there */
    kept[i] = NULL;
  uint64_t found = reachable_objects(hidden, N);
  for (size_t i = 0; i < N; i++)
    if (i % 2)
      assert_true(found >> i & 1);
    else
      dead += !(found >> i & 1);
  assert_true(dead >= N / 2 - 4);
  for (size_t i = 1; i < N; i += 2) { /* the records are gone */
    assert_ptr_equal(reveal(hidden[i]), kept[i]);
    assert_null(removespecial((uintptr_t)kept[i], KindSpecialReachable));
  }
  forget_all();
}

/* --- The queue -------------------------------------------------------------------------------- */

static void fill_queue(size_t n) {
  hold_fing();
  make_with(count_run, n);
  scrub_stack();
  gort_gc();
}

static size_t blocks(void) {
  size_t n = 0;
  for (struct finblock *b = load_acquire(&allfin); b != NULL; b = b->alllink)
    n++;
  return n;
}

static size_t queued_in_blocks(void) {
  size_t n = 0;
  for (struct finblock *b = finq; b != NULL; b = b->next)
    n += b->cnt;
  return n;
}

static void test_blocks_are_used_anew(void **state) {
  (void)state;
  enum { N = 20 * FIN_ROOM };
  fill_queue(N);
  size_t first = blocks();
  lock(&finlock);
  size_t queued = queued_in_blocks();
  finq_verify();
  unlock(&finlock);
  assert_true(mostly(queued, N));
  assert_true(first >= queued / FIN_PER_BLOCK);
  let_it_go();
  for (int round = 0; round < 3; round++) {
    fill_queue(N * 9 / 10);
    let_it_go();
    assert_in_range(blocks(), 1, first);
  }
  lock(&finlock);
  assert_null(finq);
  finq_verify();
  unlock(&finlock);
}

/* Bytes that the collector's own tables have grown by. */
static uint64_t growth_since(uint64_t before) { return read_stats().gc_sys - before; }

static void set_and_clear_often(void *p, int n) {
  for (int i = 0; i < n; i++) {
    gort_set_finalizer_fn(p, nop);
    gort_clear_finalizer(p);
  }
}

static void set_twice_often(void *p, int n) {
  gort_set_finalizer_fn(p, nop);
  for (int i = 0; i < n; i++)
    assert_int_equal(gort_try_set_finalizer_fn(p, nop), GORT_ERR_FIN_ALREADY_SET);
  gort_clear_finalizer(p);
}

/* A fifth of the records that are needed in all would be too much. */
static void test_records_are_used_anew(void **state) {
  (void)state;
  enum { N = 40000, ROUNDS = 10, TOO_MUCH = N * sizeof(struct specialfinalizer) / 5 };
  void *p = gort_alloc(64);
  setprofilebucket((uintptr_t)p, newbucket("used anew")); /* or it would need no record */
  set_and_clear_often(p, 1);
  uint64_t before = read_stats().gc_sys;
  set_and_clear_often(p, N);
  assert_true(growth_since(before) < TOO_MUCH);
  set_twice_often(p, N);
  assert_true(growth_since(before) < TOO_MUCH);
  fill_queue(2 * N / ROUNDS); /* blocks for more than will be queued at once */
  let_it_go();
  before = read_stats().gc_sys;
  for (int i = 0; i < ROUNDS; i++) {
    make_with(nop, N / ROUNDS);
    assert_true(gort_drain(-1));
  }
  assert_true(growth_since(before) < TOO_MUCH);
}

CASE(queue_while_marking) {
  gort_init();
  store_relaxed(&gcphase, GCmark);
  queuefinalizer(gort_alloc(8), NULL, 0, &plain_function, NULL);
}
CASE(queue_without_type) {
  gort_init();
  make_with(nop, 1);
  queuefinalizer(gort_alloc(8), NULL, 0, NULL, NULL);
  gort_drain(-1);
}
CASE(queue_bad_kind) {
  gort_init();
  make_with(nop, 1);
  queuefinalizer(gort_alloc(8), NULL, 0, gort_type_int8, NULL);
  gort_drain(-1);
}

static void test_queue_throws(void **state) {
  (void)state;
  expect_death("fatal error: queuefinalizer during GC", queue_while_marking);
  expect_death("fatal error: missing type in runfinq", queue_without_type);
  expect_death("fatal error: bad kind in runfinq", queue_bad_kind);
}

/* Both flags are needed, and both are cleared. */
static void test_wakefing_looks_at_both_flags(void **state) {
  (void)state;
  assert_true(gort_drain(-1));
  WAIT_UNTIL(load_seqcst(&fingwait));
  assert_false(load_seqcst(&fingwake));
  struct g *was = load_seqcst(&fing);
  assert_null(wakefing());
  assert_true(load_seqcst(&fingwait));
  assert_ptr_equal(load_seqcst(&fing), was);
}

/* A thread that is about to sleep sees that it is to be woken. With the lock held nobody else can
 * wake it meanwhile. */
static void test_a_waiting_finalizer_is_work(void **state) {
  (void)state;
  bool seen = false;
  assert_true(gort_drain(-1));
  for (bool quiet = false; !quiet; nap()) {
    lock(&finlock);
    quiet = fingwait && !fingwake && !work_waits();
    if (quiet) {
      store_seqcst(&fingwake, true);
      seen = work_waits();
      store_seqcst(&fingwake, false);
    }
    unlock(&finlock);
  }
  assert_true(seen);
}

/* Work for a goroutine that has some already wakes nobody, and is not forgotten. */
static void test_wakefing_leaves_a_busy_one_alone(void **state) {
  (void)state;
  fill_queue(MANY);
  assert_false(load_seqcst(&fingwait));
  assert_true(load_seqcst(&fingwake));
  assert_null(wakefing());
  assert_true(load_seqcst(&fingwake));
  let_it_go();
}

/* The threads of the scheduler look for it as well. */
static void test_wakefing_clears_both_flags(void **state) {
  (void)state;
  struct g *gp;
  assert_true(gort_drain(-1));
  do {
    WAIT_UNTIL(load_seqcst(&fingwait));
    lock(&finlock);
    store_seqcst(&fingwake, true);
    unlock(&finlock);
  } while ((gp = wakefing()) == NULL);
  assert_ptr_equal(gp, load_seqcst(&fing));
  assert_false(load_seqcst(&fingwait));
  assert_false(load_seqcst(&fingwake));
  ready(gp);
  assert_true(gort_drain(-1));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_records_are_in_order),
      cmocka_unit_test(test_one_of_a_kind_for_an_address),
      cmocka_unit_test(test_addresses_outside_the_heap),
      cmocka_unit_test(test_a_plain_finalizer_has_no_record),
      cmocka_unit_test(test_a_plain_finalizer_as_a_record),
      cmocka_unit_test(test_a_plain_finalizer_beside_records),
      cmocka_unit_test(test_room_for_results),
      cmocka_unit_test(test_sweeping_takes_empty_tables_away),
      cmocka_unit_test(test_walking_finds_each_span_once),
      cmocka_unit_test(test_setting_and_clearing_on_many_threads),
      cmocka_unit_test(test_records_change_in_swept_spans_only),
      cmocka_unit_test(test_set_while_marking),
      cmocka_unit_test(test_all_finalizers_of_a_block_are_queued_at_once),
      cmocka_unit_test(test_profile_records_stay_with_the_object),
      cmocka_unit_test(test_nothing_is_counted_free_while_finalizers_wait),
      cmocka_unit_test(test_what_finalizers_leave_keeps_nothing),
      cmocka_unit_test(test_throws),
      cmocka_unit_test(test_reachable_objects),
      cmocka_unit_test(test_blocks_are_used_anew),
      cmocka_unit_test(test_records_are_used_anew),
      cmocka_unit_test(test_queue_throws),
      cmocka_unit_test(test_wakefing_looks_at_both_flags),
      cmocka_unit_test(test_a_waiting_finalizer_is_work),
      cmocka_unit_test(test_wakefing_leaves_a_busy_one_alone),
      cmocka_unit_test(test_wakefing_clears_both_flags),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
