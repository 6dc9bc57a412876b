/* The heap from inside: classes, pages, spans, runs, bits, and the walker that checks them. */
#include "check.h"

#include "debug/verify.h"
#include "gc/gc.h"
#include "gc/stop.h"
#include "heap/malloc.h"
#include "heap/mcache.h"
#include "heap/mcentral.h"
#include "heap/mheap.h"
#include "heap/pagealloc.h"

/* --- Size classes ------------------------------------------------------------------------ */

static void test_no_class_wastes_more_than_an_eighth(void **state) {
  (void)state;
  for (size_t size = 1; size <= MAX_SMALL_SIZE; size++) {
    size_t slot = gort_class_to_size[gort_size_class(size)];
    assert_true(slot >= size);
    if (size >= 128) /* below, alignment decides */
      assert_true((slot - size) * 8 <= slot);
  }
  for (unsigned c = 1; c < GORT_NUM_SIZE_CLASSES; c++) {
    size_t bytes = gort_class_to_pages[c] * (size_t)PAGE_SIZE;
    assert_true(bytes % gort_class_to_size[c] * 8 <= bytes);
    assert_true(bytes / gort_class_to_size[c] <= MAX_SLOTS);
  }
}

static void test_the_smallest_class_that_fits(void **state) {
  (void)state;
  for (size_t size = 1; size <= MAX_SMALL_SIZE; size++) {
    unsigned c = gort_size_class(size);
    assert_true(c == 1 || gort_class_to_size[c - 1] < size);
  }
}

static void test_offsets_divide_exactly(void **state) {
  (void)state;
  for (unsigned c = 1; c < GORT_NUM_SIZE_CLASSES; c++) {
    struct m *m = acquirem();
    struct mspan *s =
        mheap_alloc(gort_class_to_pages[c], make_spanclass(c, GORT_NOSCAN), gort_class_to_size[c]);
    assert_non_null(s);
    for (uintptr_t p = s->base; p < s->base + s->npages * PAGE_SIZE; p++)
      if (object_index(s, p) != (p - s->base) / s->elemsize)
        fail_msg("class %u, offset %lu", c, (unsigned long)(p - s->base));
    mheap_free(s);
    releasem(m);
  }
}

/* --- Pages ------------------------------------------------------------------------------- */

enum { RUNS = 2000 };

/* Takes and gives runs at random; no two may overlap, and what is clean must read as zero. */
static void test_pages_never_overlap(void **state) {
  (void)state;
  struct rng r = seeded_rng(1);
  static struct {
    uintptr_t p;
    size_t n;
  } run[RUNS];
  for (int step = 0; step < 20000; step++) {
    size_t i = rng_below(&r, RUNS);
    bool dirty;
    lock(&mheap.lock);
    if (run[i].n) {
      assert_int_equal(*(uint64_t *)run[i].p, i + 1);
      *(uint64_t *)run[i].p = ~UINT64_C(0);
      pagealloc_give(run[i].p, run[i].n);
      run[i].n = 0;
    } else {
      run[i].n = 1 + rng_below(&r, rng_below(&r, 50) == 0 ? 1500 : 20);
      run[i].p = pagealloc_take(run[i].n, &dirty);
      assert_true(run[i].p != 0);
      if (!dirty)
        assert_int_equal(*(uint64_t *)run[i].p, 0);
      *(uint64_t *)run[i].p = i + 1;
    }
    if (step % 4000 == 3999)
      pagealloc_scavenge(SIZE_MAX, step % 8000 == 7999);
    unlock(&mheap.lock);
  }
  lock(&mheap.lock);
  for (size_t i = 0; i < RUNS; i++)
    if (run[i].n)
      pagealloc_give(run[i].p, run[i].n);
  unlock(&mheap.lock);
}

/* A plain model of the pages [area, area + AREA_PAGES). */
enum { AREA_PAGES = 8192 };
static uintptr_t area;
static bool in_use[AREA_PAGES];

static void set_in_use(uintptr_t p, size_t n, bool value) {
  for (size_t i = 0; i < n; i++)
    in_use[(p - area) / PAGE_SIZE + i] = value;
}

static uintptr_t first_fit(size_t n) {
  size_t free = 0, i = 0;
  while (i < AREA_PAGES && free < n)
    free = in_use[i++] ? 0 : free + 1;
  return free == n ? area + (i - n) * PAGE_SIZE : 0;
}

/* Leaves the area free, and nothing below it: what was free there is linked. */
static uintptr_t *take_what_is_below(void) {
  bool dirty;
  uintptr_t *taken = NULL, p;
  area = pagealloc_take(AREA_PAGES, &dirty);
  pagealloc_give(area, AREA_PAGES);
  while ((p = pagealloc_take(1, &dirty)) != area) {
    *(uintptr_t **)p = taken;
    taken = (uintptr_t *)p;
  }
  pagealloc_give(area, 1);
  return taken;
}

static void give_linked(uintptr_t *p) {
  for (uintptr_t *next; p != NULL; p = next) {
    next = *(uintptr_t **)p;
    pagealloc_give((uintptr_t)p, 1);
  }
}

static size_t some_pages(struct rng *r) {
  static const uint32_t most[] = {7, 7, 7, 70, 70, 1500};
  return 1 + rng_below(r, most[rng_below(r, COUNT_OF(most))]);
}

static void test_pages_are_taken_first_fit(void **state) {
  (void)state;
  struct rng r = seeded_rng(2);
  enum { PIECES = 300 };
  static struct {
    uintptr_t p;
    size_t n;
  } piece[PIECES];
  bool dirty;
  lock(&mheap.lock);
  uintptr_t *below = take_what_is_below();
  for (int step = 0; step < 20000; step++) {
    size_t i = rng_below(&r, PIECES);
    if (piece[i].n) {
      pagealloc_give(piece[i].p, piece[i].n);
      set_in_use(piece[i].p, piece[i].n, false);
      piece[i].n = 0;
      continue;
    }
    size_t n = some_pages(&r);
    uintptr_t fit = first_fit(n);
    if (fit == 0)
      continue;
    assert_int_equal(pagealloc_take(n, &dirty), fit);
    set_in_use(piece[i].p = fit, piece[i].n = n, true);
  }
  for (size_t i = 0; i < PIECES; i++)
    if (piece[i].n)
      pagealloc_give(piece[i].p, piece[i].n);
  give_linked(below);
  unlock(&mheap.lock);
}

static void test_scavenged_pages_read_as_zero(void **state) {
  (void)state;
  bool dirty;
  lock(&mheap.lock);
  uintptr_t p = pagealloc_take(1024, &dirty);
  memset((void *)p, 1, 1024 * PAGE_SIZE);
  pagealloc_give(p, 1024);
  uint64_t before = pagealloc_stats.dirty_pages;
  size_t bytes = pagealloc_scavenge(SIZE_MAX, true);
  assert_true(bytes >= 1024 * PAGE_SIZE);
  assert_int_equal(pagealloc_stats.dirty_pages, before - bytes / PAGE_SIZE);
  assert_int_equal(pagealloc_take(1024, &dirty), p);
  assert_false(dirty);
  assert_int_equal(*(char *)p, 0);
  pagealloc_give(p, 1024);
  unlock(&mheap.lock);
}

/* Where the system's pages are larger, none goes back of which a part is in use. */
static void test_whole_pages_of_the_system_go_back(void **state) {
  (void)state;
  enum { LARGE = 8, N = 64, FIRST = 3, END = 21 };
  bool dirty;
  lock(&mheap.lock);
  size_t before = system_pages;
  system_pages = LARGE;
  uintptr_t p = pagealloc_take(N + LARGE, &dirty), q = ALIGN_UP(p, (size_t)LARGE * PAGE_SIZE);
  memset((void *)p, 1, (N + LARGE) * PAGE_SIZE);
  pagealloc_give(q + FIRST * PAGE_SIZE, END - FIRST);
  pagealloc_scavenge(SIZE_MAX, true);
  for (size_t i = 0; i < N; i++)
    assert_int_equal(*(char *)(q + i * PAGE_SIZE), i / LARGE != 1);
  system_pages = before;
  pagealloc_give(p, (q - p) / PAGE_SIZE + FIRST);
  pagealloc_give(q + END * PAGE_SIZE, N + LARGE - END - (q - p) / PAGE_SIZE);
  unlock(&mheap.lock);
}

/* --- Spans and runs ------------------------------------------------------------------------ */

static void test_free_slots_look_marked(void **state) {
  (void)state;
  struct m *m = acquirem();
  struct mspan *s = mheap_alloc(1, make_spanclass(4, GORT_SCAN), 32);
  for (unsigned w = 0; w < s->nwords; w++) {
    assert_int_equal(s->allocBits[w], 0);
    assert_true(s->gcmarkBits[w] == ~UINT64_C(0));
  }
  mheap_free(s);
  releasem(m);
}

static void test_a_run_is_taken_and_given_back(void **state) {
  (void)state;
  struct m *m = acquirem();
  mcache_flush(m);
  uintptr_t p = mcache_alloc(m, make_spanclass(4, GORT_SCAN));
  struct mspan *s = spanOfHeap(p);
  size_t i = object_index(s, p);
  assert_false(isFree(s, i));
  assert_true(i + 1 == s->nelems || isFree(s, i + 1)); /* next in the run, not allocated yet */
  assert_int_equal(s->sweepgen, mheap.sweepgen + 3);
  mcache_flush(m);
  assert_int_equal(s->sweepgen, mheap.sweepgen);
  assert_true(bit_test(s->allocBits, i));
  assert_true(i + 1 == s->nelems || !bit_test(s->allocBits, i + 1));
  releasem(m);
}

static void test_a_stale_cached_span_counts_as_unswept(void **state) {
  (void)state;
  struct m *m = acquirem();
  mcache_flush(m);
  sweep_finish();
  uintptr_t p = mcache_alloc(m, make_spanclass(30, GORT_NOSCAN));
  struct mspan *s = spanOfHeap(p);
  s->sweepgen = mheap.sweepgen + 1; /* as if a cycle had passed it over */
  mcache_flush(m);
  assert_int_equal(s->sweepgen, mheap.sweepgen - 2);
  ensureSwept(s);
  assert_true(s->state != SPAN_INUSE || s->sweepgen == mheap.sweepgen);
  releasem(m);
}

static void test_the_page_table_finds_every_byte(void **state) {
  (void)state;
  for (size_t size = 8; size <= 100000; size = size * 3 / 2) {
    char *p = gort_alloc(size);
    for (size_t at = 0; at < size; at += size / 7 + 1)
      assert_ptr_equal(gort_base(p + at), p);
  }
}

static NOINLINE void fill_and_drop(size_t size) {
  char *p = gort_alloc_noscan(size);
  memset(p, 0xff, size);
}

static void test_needzero_is_honoured(void **state) {
  (void)state;
  for (int round = 0; round < 3; round++) {
    for (size_t size = 16; size <= 200000; size = size * 3 / 2)
      for (int i = 0; i < 20; i++)
        fill_and_drop(size);
    gort_gc();
    for (size_t size = 16; size <= 200000; size = size * 3 / 2) {
      const char *p = gort_alloc(size);
      for (size_t i = 0; i < size; i++)
        assert_int_equal(p[i], 0);
    }
  }
}

/* --- The walker ---------------------------------------------------------------------------- */

static void with_the_world_stopped(void *fn) {
  stoptheworld("test");
  ((void (*)(void))fn)();
  verify_heap("before marking");
  starttheworld();
}

static struct mspan *victim;

static void spoil_nothing(void) {}
static void spoil_mark_bit(void) { victim->gcmarkBits[0] ^= 1; }
static void spoil_count(void) { victim->allocCount++; }
static void spoil_page(void) { mheap.pages[(victim->base - mheap.arena) >> PAGE_SHIFT].divmul++; }
static void spoil_generation(void) { victim->sweepgen -= 1; }
static void spoil_limit(void) { victim->limit -= 8; }

static const struct {
  const char *name;
  void (*fn)(void);
} faults[] = {{"none", spoil_nothing}, {"mark bit", spoil_mark_bit},     {"count", spoil_count},
              {"page", spoil_page},    {"generation", spoil_generation}, {"limit", spoil_limit}};

CASE(walk_a_spoiled_heap) {
  gort_init();
  void *p = gort_alloc(64);
  gort_gc();
  struct m *m = acquirem();
  mcache_flush(m);
  sweep_finish();
  victim = spanOfHeap((uintptr_t)p);
  releasem(m);
  for (size_t i = 0; i < COUNT_OF(faults); i++)
    if (strcmp(faults[i].name, case_arg) == 0)
      systemstack(with_the_world_stopped, (void *)faults[i].fn);
  gort_keep_alive(p);
}

static void test_the_walker_finds_faults(void **state) {
  (void)state;
  expect_quiet_of("walk_a_spoiled_heap", "none", NO_ENV);
  for (size_t i = 1; i < COUNT_OF(faults); i++)
    expect_throw_of("heap walker", "walk_a_spoiled_heap", faults[i].name);
}

/* --- What counts as live -----------------------------------------------------------------------
 */

enum { THREADS = 32, SIZES = 10 };

static atomic_int have_allocated;
static atomic_bool go_home;

static void allocate_of_each_size(void *unused) {
  (void)unused;
  for (size_t i = 1; i <= SIZES; i++)
    gort_keep_alive(gort_alloc(i * 96));
  atomic_fetch_add(&have_allocated, 1);
  gort_block_enter();
  WAIT_UNTIL(atomic_load(&go_home));
  gort_block_exit();
}

/* A thread that allocates one object has a span in its hands, of which it counts what it has taken:
 * or many of them would have a small heap collected all the time. */
static void test_spans_in_hand_are_not_live(void **state) {
  (void)state;
  gort_gc();
  uint64_t before = load_relaxed(&mheap.live);
  for (int i = 0; i < THREADS; i++)
    assert_int_equal(gort_thread_start(allocate_of_each_size, NULL), 0);
  WAIT_UNTIL(atomic_load(&have_allocated) == THREADS);
  uint64_t after = load_relaxed(&mheap.live);
  atomic_store(&go_home, true);
  assert_true(after < before + THREADS * SIZES * PAGE_SIZE);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_class_wastes_more_than_an_eighth),
      cmocka_unit_test(test_the_smallest_class_that_fits),
      cmocka_unit_test(test_offsets_divide_exactly),
      cmocka_unit_test(test_pages_never_overlap),
      cmocka_unit_test(test_pages_are_taken_first_fit),
      cmocka_unit_test(test_scavenged_pages_read_as_zero),
      cmocka_unit_test(test_whole_pages_of_the_system_go_back),
      cmocka_unit_test(test_free_slots_look_marked),
      cmocka_unit_test(test_a_run_is_taken_and_given_back),
      cmocka_unit_test(test_a_stale_cached_span_counts_as_unswept),
      cmocka_unit_test(test_the_page_table_finds_every_byte),
      cmocka_unit_test(test_needzero_is_honoured),
      cmocka_unit_test(test_the_walker_finds_faults),
      cmocka_unit_test(test_spans_in_hand_are_not_live),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
