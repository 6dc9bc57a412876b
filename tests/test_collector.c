/* Collections: asked for, by themselves, off; draining; the memory limit; memory that goes back;
 * and that marking misses nothing while the program moves its pointers. */
#include "check.h"

struct box {
  struct box *next;
  uint64_t magic;
};
GORT_TYPE(box_type, struct box, next);
#define MAGIC UINT64_C(0x6a09e667f3bcc908)

static NOINLINE void make_watched(size_t n, size_t size) {
  for (size_t i = 0; i < n; i++)
    watch(gort_alloc(size));
}

static NOINLINE void make_garbage(size_t total) {
  for (size_t made = 0; made < total; made += 10000)
    memset(gort_alloc(10000), 0xab, 10000);
}

/* --- gort_gc -------------------------------------------------------------------------------- */

static void test_gc_is_a_whole_collection(void **state) {
  (void)state;
  for (int i = 0; i < 10; i++) {
    gort_mem_stats before = read_stats();
    gort_gc();
    gort_mem_stats after = read_stats();
    assert_true(after.num_gc > before.num_gc);
    assert_int_equal(after.num_forced_gc, before.num_forced_gc + 1);
  }
}

enum { DROPPED_AT_ONCE = MANY / SLOWNESS };

static NOINLINE void queue_and_count(size_t *queued) {
  uint64_t before = read_stats().finalizers_queued;
  make_watched(DROPPED_AT_ONCE, 40);
  scrub_stack();
  gort_gc();
  *queued = read_stats().finalizers_queued - before;
}

/* What is dropped before the call is found dead by its return, also when a collection that had
 * begun before was under way. */
static void test_gc_finds_what_was_dropped_before(void **state) {
  (void)state;
  size_t queued;
  watch_begin();
  queue_and_count(&queued);
  assert_true(mostly(queued, DROPPED_AT_ONCE));
  start_collecting();
  for (int i = 0; i < 20; i++) {
    queue_and_count(&queued);
    assert_true(mostly(queued, DROPPED_AT_ONCE));
  }
  stop_collecting();
}

static atomic_int at_work;

static void collect_often(void *unused) {
  (void)unused;
  for (int i = 0; i < 30; i++)
    gort_gc();
  atomic_fetch_sub(&at_work, 1);
}

static void test_gc_from_everywhere_at_once(void **state) {
  (void)state;
  atomic_store(&at_work, 8);
  for (int i = 0; i < 4; i++) {
    gort_go(collect_often, NULL);
    assert_int_equal(gort_thread_start(collect_often, NULL), 0);
  }
  WAIT_UNTIL(atomic_load(&at_work) == 0);
}

/* --- By itself ------------------------------------------------------------------------------ */

static void test_collections_come_by_themselves(void **state) {
  (void)state;
  gort_gc();
  gort_mem_stats before = read_stats();
  make_garbage(500 << 20);
  gort_mem_stats after = read_stats();
  assert_true(after.num_gc > before.num_gc);
  if (!UNDER_TORTURE)
    assert_int_equal(after.num_forced_gc, before.num_forced_gc);
}

static void test_gc_percent(void **state) {
  (void)state;
  int percent = gort_set_gc_percent(50);
  assert_int_equal(gort_set_gc_percent(200), 50);
  assert_int_equal(gort_set_gc_percent(-1), 200);
  assert_true(gort_set_gc_percent(-7) < 0);
  assert_true(gort_set_gc_percent(percent) < 0);
  assert_int_equal(gort_set_gc_percent(percent), percent);
}

/* A negative percent turns off all collections but those asked for. */
static void test_gc_percent_off(void **state) {
  (void)state;
  if (UNDER_TORTURE)
    skip();
  int percent = gort_set_gc_percent(-1);
  gort_gc();
  gort_mem_stats before = read_stats();
  make_garbage(300 << 20);
  assert_int_equal(read_stats().num_gc, before.num_gc);
  gort_gc();
  assert_true(read_stats().num_gc > before.num_gc);
  gort_set_gc_percent(percent);
}

/* A smaller percent means more collections for the same garbage. */
static NOINLINE uint64_t collections_at(int percent) {
  struct box **live = gort_new_array(struct box *, 100);
  int before = gort_set_gc_percent(percent);
  for (int i = 0; i < 100; i++)
    live[i] = gort_alloc(200000);
  gort_gc();
  uint64_t n = read_stats().num_gc;
  make_garbage(400 << 20);
  n = read_stats().num_gc - n;
  gort_set_gc_percent(before);
  gort_keep_alive(live);
  return n;
}

static void test_gc_percent_sets_the_pace(void **state) {
  (void)state;
  assert_true(collections_at(20) > collections_at(400));
}

static void test_memory_limit(void **state) {
  (void)state;
  assert_true(gort_set_memory_limit(-1) == INT64_MAX);
  assert_true(gort_set_memory_limit(INT64_C(1) << 40) == INT64_MAX);
  assert_true(gort_set_memory_limit(-5) == INT64_C(1) << 40);
  assert_true(gort_set_memory_limit(INT64_MAX) == INT64_C(1) << 40);
  assert_true(gort_set_memory_limit(-1) == INT64_MAX);
}

/* The limit makes collections happen that the percent would not. */
CASE(limit_collects) {
  gort_init();
  gort_set_gc_percent(-1);
  gort_set_memory_limit((int64_t)read_stats().sys + (64 << 20));
  make_garbage((size_t)1 << 30);
  gort_mem_stats s = read_stats();
  CHECK(s.num_gc > 0);
  CHECK(s.heap_inuse < 256 << 20);
}

/* A limit below what is live must not stop the program for good. */
CASE(limit_too_small) {
  gort_init();
  struct box **live = gort_new_array(struct box *, 1000);
  for (int i = 0; i < 1000; i++)
    live[i] = gort_alloc(50000);
  gort_set_memory_limit(1 << 20);
  make_garbage(50 << 20);
  gort_keep_alive(live);
}

static void test_the_memory_limit_holds(void **state) {
  (void)state;
  expect_quiet(limit_collects);
  expect_quiet(limit_too_small);
}

/* --- Draining ------------------------------------------------------------------------------- */

static int plain_sum; /* not atomic: draining makes what finalizers wrote visible */

static void add_plain(void *p) { plain_sum += *(int *)p; }

static NOINLINE void make_addends(int n) {
  for (int i = 0; i < n; i++) {
    int *p = gort_alloc_noscan(16);
    *p = 1;
    gort_set_finalizer(p, (void (*)(int *))add_plain);
  }
}

static void test_what_finalizers_did_is_visible(void **state) {
  (void)state;
  for (int round = 0; round < 10; round++) {
    assert_true(gort_drain(-1));
    int before = plain_sum;
    make_addends(MANY);
    scrub_stack();
    assert_true(gort_drain(-1));
    assert_true(mostly((size_t)(plain_sum - before), MANY));
  }
}

static void test_draining_collects_until_nothing_dies(void **state) {
  (void)state;
  watch_begin();
  make_watched(MANY, 40);
  scrub_stack();
  assert_true(gort_drain(-1));
  gort_mem_stats s = read_stats();
  assert_int_equal(s.finalizers_run, s.finalizers_queued);
  assert_true(mostly((size_t)deaths_so_far(), MANY));
}

static atomic_int blocked, release_it;

static void block(void *p) {
  (void)p;
  atomic_store(&blocked, 1);
  while (!atomic_load(&release_it))
    gort_sleep(1000000);
}

static NOINLINE void make_blockers(void) {
  for (int i = 0; i < 20; i++)
    gort_set_finalizer_fn(gort_alloc(40), block);
}

static void test_draining_gives_up_when_the_time_is_up(void **state) {
  (void)state;
  atomic_store(&blocked, 0);
  atomic_store(&release_it, 0);
  make_blockers();
  scrub_stack();
  gort_gc();
  WAIT_UNTIL(atomic_load(&blocked));
  assert_false(gort_drain(10000000));
  gort_mem_stats before = read_stats();
  assert_false(gort_drain(0));
  assert_true(read_stats().num_gc > before.num_gc);
  assert_false(gort_drain(1));
  atomic_store(&release_it, 1);
  assert_true(gort_drain(-1));
}

/* With 0: one collection. */
static void test_draining_without_waiting(void **state) {
  (void)state;
  for (int i = 0; i < 5; i++) {
    uint64_t before = read_stats().num_gc;
    gort_drain(0);
    assert_int_equal(read_stats().num_gc - before, 1);
  }
}

static atomic_int drained;

static void drain_here(void *unused) {
  (void)unused;
  for (int i = 0; i < 10; i++) {
    make_watched(20, 40);
    if (gort_drain(-1))
      atomic_fetch_add(&drained, 1);
  }
  atomic_fetch_sub(&at_work, 1);
}

static void test_draining_from_everywhere_at_once(void **state) {
  (void)state;
  watch_begin();
  atomic_store(&at_work, 6);
  for (int i = 0; i < 3; i++) {
    gort_go(drain_here, NULL);
    assert_int_equal(gort_thread_start(drain_here, NULL), 0);
  }
  WAIT_UNTIL(atomic_load(&at_work) == 0);
  assert_int_equal(atomic_load(&drained), 60);
  assert_mostly_dead(6 * 10 * 20);
}

/* --- Memory goes back to the system --------------------------------------------------------- */

static size_t resident_bytes(void) {
  unsigned long size = 0, resident = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  assert_non_null(f);
  assert_int_equal(fscanf(f, "%lu %lu", &size, &resident), 2);
  fclose(f);
  return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static NOINLINE void fill_and_drop(size_t n, size_t size) {
  void **all = gort_new_array(void *, n);
  for (size_t i = 0; i < n; i++)
    memset(all[i] = gort_alloc_noscan(size), 0x99, size);
  memset(all, 0, n * sizeof *all);
}

static void test_free_os_memory(void **state) {
  (void)state;
  enum { DROPPED = 200 << 20 };
  static const size_t sizes[] = {1000, 100000, 10000000};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    gort_free_os_memory();
    int percent = gort_set_gc_percent(-1);
    fill_and_drop(DROPPED / sizes[i], sizes[i]);
    size_t full = resident_bytes();
    scrub_stack();
    gort_free_os_memory();
    gort_mem_stats s = read_stats();
    gort_set_gc_percent(percent);
    assert_in_range(resident_bytes(), 0, full - DROPPED * 8 / 10);
    assert_in_range(s.heap_released, DROPPED / 10 * 8, SIZE_MAX);
    assert_true(s.heap_released <= s.heap_idle);
  }
}

/* Without being asked, and although the program goes on collecting all the time. */
static void test_memory_goes_back_by_itself(void **state) {
  (void)state;
  enum { DROPPED = 200 << 20, COLLECTIONS = 2000 };
  gort_free_os_memory();
  int percent = gort_set_gc_percent(-1);
  fill_and_drop(DROPPED / 1000000, 1000000);
  size_t full = resident_bytes(), much = DROPPED * 8 / 10;
  scrub_stack();
  gort_set_gc_percent(percent);
  for (int i = 0; resident_bytes() > full - much; i++) {
    if (i == COLLECTIONS)
      fail_msg("%zu bytes are still resident, of %zu", resident_bytes(), full);
    gort_gc();
    gort_sleep(10000000);
  }
}

/* --- Marking beside a program that moves its pointers --------------------------------------- */

enum { CELLS = 20000, MOVES = 2000000 };

static atomic_int lost;

static struct box *new_box(void) {
  struct box *b = gort_new_of(struct box, box_type);
  b->magic = MAGIC;
  return b;
}

/* Each box is in exactly one cell, and on its way to another one only in a register. A collector
 * that looks at the cells one after the other finds it nowhere, if it trusts what it saw. */
static void move_boxes(struct box **cell, struct rng *r, size_t moves) {
  for (size_t i = 0; i < moves; i++) {
    size_t from = rng_below(r, CELLS), to = rng_below(r, CELLS);
    struct box *a = cell[from], *b = cell[to];
    if ((a && a->magic != MAGIC) || (b && b->magic != MAGIC))
      atomic_fetch_add(&lost, 1);
    cell[from] = NULL;
    cell[to] = NULL;
    __asm__ __volatile__("" : "+r"(a), "+r"(b) : : "memory");
    cell[from] = b;
    cell[to] = a;
    if (i % 16 == 0 && cell[from])
      cell[from]->next = new_box();
    if (i % 64 == 0)
      cell[to] = new_box();
  }
}

static void check_cells(struct box **cell) {
  for (size_t i = 0; i < CELLS; i++)
    for (struct box *b = cell[i]; b; b = b->next)
      if (b->magic != MAGIC)
        atomic_fetch_add(&lost, 1);
}

static void shuffle(void *stream) {
  struct rng r = seeded_rng((uint64_t)(uintptr_t)stream);
  struct box **cell = gort_new_array(struct box *, CELLS);
  for (size_t i = 0; i < CELLS / 2; i++)
    cell[i] = new_box();
  for (int round = 0; round < 10; round++) {
    move_boxes(cell, &r, MOVES / 10 / SLOWNESS);
    check_cells(cell);
  }
  atomic_fetch_sub(&at_work, 1);
}

static void test_nothing_that_moves_is_missed(void **state) {
  (void)state;
  atomic_store(&lost, 0);
  atomic_store(&at_work, 2);
  start_collecting();
  gort_go(shuffle, (void *)(uintptr_t)10);
  assert_int_equal(gort_thread_start(shuffle, (void *)(uintptr_t)11), 0);
  WAIT_UNTIL(atomic_load(&at_work) == 0);
  stop_collecting();
  assert_int_equal(atomic_load(&lost), 0);
}

/* From static data to the heap and back, again only through registers. */
static struct box *static_cell[CELLS];

static void test_nothing_that_moves_between_roots_and_heap_is_missed(void **state) {
  (void)state;
  atomic_store(&lost, 0);
  struct box **heap_cell = gort_new_array(struct box *, CELLS);
  struct rng r = seeded_rng(12);
  for (size_t i = 0; i < CELLS; i++)
    static_cell[i] = new_box();
  start_collecting();
  for (size_t i = 0; i < MOVES / SLOWNESS; i++) {
    size_t from = rng_below(&r, CELLS);
    struct box *a = static_cell[from], *b = heap_cell[from];
    if ((a && a->magic != MAGIC) || (b && b->magic != MAGIC))
      atomic_fetch_add(&lost, 1);
    static_cell[from] = b;
    __asm__ __volatile__("" : "+r"(a) : : "memory");
    heap_cell[from] = a;
    if (i % 256 == 0)
      static_cell[from] = new_box();
  }
  stop_collecting();
  check_cells(static_cell);
  check_cells(heap_cell);
  memset(static_cell, 0, sizeof static_cell);
  assert_int_equal(atomic_load(&lost), 0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gc_is_a_whole_collection),
      cmocka_unit_test(test_gc_finds_what_was_dropped_before),
      cmocka_unit_test(test_gc_from_everywhere_at_once),
      cmocka_unit_test(test_collections_come_by_themselves),
      cmocka_unit_test(test_gc_percent),
      cmocka_unit_test(test_gc_percent_off),
      cmocka_unit_test(test_gc_percent_sets_the_pace),
      cmocka_unit_test(test_memory_limit),
      cmocka_unit_test(test_the_memory_limit_holds),
      cmocka_unit_test(test_what_finalizers_did_is_visible),
      cmocka_unit_test(test_draining_collects_until_nothing_dies),
      cmocka_unit_test(test_draining_gives_up_when_the_time_is_up),
      cmocka_unit_test(test_draining_without_waiting),
      cmocka_unit_test(test_draining_from_everywhere_at_once),
      cmocka_unit_test(test_free_os_memory),
      cmocka_unit_test(test_memory_goes_back_by_itself),
      cmocka_unit_test(test_nothing_that_moves_is_missed),
      cmocka_unit_test(test_nothing_that_moves_between_roots_and_heap_is_missed),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
