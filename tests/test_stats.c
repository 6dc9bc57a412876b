/* The statistics: Go's identities between the fields, what each counts, and a structure that may
 * grow. */
#include "check.h"

static void assert_identities(const gort_mem_stats *s) {
  assert_int_equal(s->mallocs - s->frees, s->heap_objects);
  assert_int_equal(s->heap_idle + s->heap_inuse, s->heap_sys);
  assert_int_equal(s->alloc, s->heap_alloc);
  assert_true(s->mallocs >= s->frees);
  assert_true(s->total_alloc >= s->alloc);
  assert_true(s->heap_alloc <= s->heap_inuse);
  assert_true(s->heap_released <= s->heap_idle);
  assert_true(s->sys >= s->heap_sys + s->stack_inuse + s->gc_sys);
  assert_true(s->num_gc >= s->num_forced_gc);
  assert_true(s->finalizers_set >= s->finalizers_queued);
  assert_true(s->finalizers_queued >= s->finalizers_run);
  assert_true(s->cleanups_added >= s->cleanups_queued);
  assert_true(s->cleanups_queued >= s->cleanups_run);
  assert_true(s->gc_cpu_fraction >= 0 && s->gc_cpu_fraction <= 1);
}

static NOINLINE void make_some(size_t n) {
  for (size_t i = 0; i < n; i++) {
    gort_alloc(8 + i % 3000);
    gort_alloc_noscan(1 + i % 40);
    if (i % 500 == 0)
      gort_alloc(100000);
  }
}

static void test_identities(void **state) {
  (void)state;
  for (int i = 0; i < 30; i++) {
    make_some(2000);
    gort_mem_stats s = read_stats();
    assert_identities(&s);
    gort_gc();
    s = read_stats();
    assert_identities(&s);
  }
}

/* They hold between any two instructions of others. */
static atomic_int stop_flag, at_work;

static void allocate_always(void *unused) {
  (void)unused;
  while (!atomic_load(&stop_flag))
    make_some(100);
  atomic_fetch_sub(&at_work, 1);
}

static void test_identities_while_others_allocate(void **state) {
  (void)state;
  atomic_store(&stop_flag, 0);
  atomic_store(&at_work, 4);
  for (int i = 0; i < 2; i++) {
    gort_go(allocate_always, NULL);
    assert_int_equal(gort_thread_start(allocate_always, NULL), 0);
  }
  for (int i = 0; i < 500; i++) {
    gort_mem_stats s = read_stats();
    assert_identities(&s);
  }
  atomic_store(&stop_flag, 1);
  WAIT_UNTIL(atomic_load(&at_work) == 0);
}

static NOINLINE void allocate_exactly(size_t n, size_t size) {
  for (size_t i = 0; i < n; i++)
    kept[i % COUNT_OF(kept)] = gort_alloc(size);
}

static void test_each_allocation_counts(void **state) {
  (void)state;
  static const size_t sizes[] = {16, 64, 1024, 32768, 262144};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    gort_mem_stats before = read_stats();
    allocate_exactly(MANY, sizes[i]);
    gort_mem_stats after = read_stats();
    assert_int_equal(after.mallocs - before.mallocs, MANY);
    assert_int_equal(after.total_alloc - before.total_alloc, MANY * sizes[i]);
    forget_all();
  }
}

/* As in Go, tiny objects count one by one, and among those in use as the blocks they share. */
static void test_tiny_allocations_count(void **state) {
  (void)state;
  gort_mem_stats before = read_stats();
  for (int i = 0; i < MANY; i++)
    gort_alloc_noscan(2);
  gort_mem_stats after = read_stats();
  assert_in_range(after.mallocs - before.mallocs, MANY, MANY + 10);
  assert_true(after.heap_objects <= before.heap_objects + MANY / 4);
}

/* What a thread has counted stays when it has ended. */
static void allocate_some(void *unused) {
  (void)unused;
  for (int i = 0; i < MANY; i++)
    gort_alloc(64);
}

static void test_what_ended_threads_allocated_counts(void **state) {
  (void)state;
  enum { THREADS = 10 };
  gort_mem_stats before = read_stats();
  for (int i = 0; i < THREADS; i++)
    in_thread(allocate_some, NULL);
  gort_mem_stats after = read_stats();
  assert_in_range(after.mallocs - before.mallocs, THREADS * MANY, THREADS * MANY + 100);
  assert_true(after.total_alloc - before.total_alloc >= THREADS * MANY * 64);
}

static NOINLINE void make_garbage(size_t n, size_t size) {
  for (size_t i = 0; i < n; i++)
    gort_alloc(size);
}

static void assert_deaths_counted(size_t size) {
  gort_gc();
  gort_mem_stats before = read_stats();
  make_garbage(MANY, size);
  gort_mem_stats full = read_stats();
  assert_true(full.heap_objects > before.heap_objects || full.num_gc > before.num_gc);
  scrub_stack();
  gort_gc();
  gort_mem_stats after = read_stats();
  assert_true(mostly(after.frees - before.frees, MANY));
  assert_true(after.heap_objects < before.heap_objects + MANY / 10);
  assert_true(after.heap_alloc < before.heap_alloc + MANY * size / 10);
}

static void test_what_dies_is_counted(void **state) {
  (void)state;
  assert_deaths_counted(1024);
  assert_deaths_counted(100000);
}

static void test_counters_never_fall(void **state) {
  (void)state;
  gort_mem_stats last = read_stats();
  for (int i = 0; i < 100; i++) {
    make_some(300);
    if (i % 10 == 0)
      gort_gc();
    gort_mem_stats now = read_stats();
    assert_true(now.total_alloc >= last.total_alloc && now.mallocs >= last.mallocs);
    assert_true(now.frees >= last.frees && now.num_gc >= last.num_gc);
    assert_true(now.pause_total_ns >= last.pause_total_ns);
    assert_true(now.pause_max_ns >= last.pause_max_ns && now.heap_sys > 0);
    last = now;
  }
}

/* --- Pauses --------------------------------------------------------------------------------- */

CASE(pauses_of_few_cycles) {
  gort_init();
  for (int i = 0; i < 100; i++)
    gort_gc();
  gort_mem_stats s = read_stats();
  CHECK(s.num_gc >= 100);
  if (s.num_gc > 256)
    return; /* a build that collects more than was asked for: the array has gone round */
  uint64_t sum = 0;
  for (size_t i = 0; i < 256; i++) {
    CHECK((i < s.num_gc) == (s.pause_end_ns[i] != 0));
    CHECK(i < s.num_gc || s.pause_ns[i] == 0);
    sum += s.pause_ns[i];
  }
  CHECK(sum == s.pause_total_ns);
  for (size_t i = 1; i < s.num_gc; i++)
    CHECK(s.pause_end_ns[i] >= s.pause_end_ns[i - 1]);
}

static void test_pauses_add_up(void **state) {
  (void)state;
  expect_quiet(pauses_of_few_cycles);
}

/* The array goes round: the last cycle n is at (n + 255) % 256. */
static void test_the_last_pause_has_its_place(void **state) {
  (void)state;
  for (int i = 0; i < 300; i++) {
    gort_gc();
    gort_mem_stats s = read_stats();
    size_t last = (s.num_gc + 255) % 256;
    assert_true(s.pause_ns[last] > 0);
    assert_true(s.pause_max_ns >= s.pause_ns[last] && s.pause_max_ns <= s.pause_total_ns);
    for (size_t j = 0; j < 256; j++)
      assert_true(s.pause_end_ns[j] <= s.pause_end_ns[last]);
    assert_true(s.last_gc_ns >= s.pause_end_ns[last]);
  }
}

static uint64_t realtime_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void test_the_last_collection_is_in_real_time(void **state) {
  (void)state;
  uint64_t before = realtime_ns();
  gort_gc();
  uint64_t after = realtime_ns();
  gort_mem_stats s = read_stats();
  assert_in_range(s.last_gc_ns, before, after);
  assert_in_range(s.pause_end_ns[(s.num_gc + 255) % 256], before, after);
}

/* --- Finalizers ----------------------------------------------------------------------------- */

static NOINLINE void make_watched(size_t n) {
  for (size_t i = 0; i < n; i++)
    watch(gort_alloc(40));
}

static void test_finalizers_are_counted(void **state) {
  (void)state;
  assert_true(gort_drain(-1));
  watch_begin();
  gort_mem_stats before = read_stats();
  assert_int_equal(before.finalizers_run, before.finalizers_queued);
  make_watched(MANY);
  gort_mem_stats set = read_stats();
  assert_int_equal(set.finalizers_set - before.finalizers_set, MANY);
  int dead = deaths();
  gort_mem_stats after = read_stats();
  assert_in_range(after.finalizers_run - before.finalizers_run, dead, MANY + 50);
  assert_int_equal(after.finalizers_run, after.finalizers_queued);
  assert_int_equal(after.finalizer_running_ns, 0);
}

/* --- The structure's size ------------------------------------------------------------------- */

static void test_no_more_is_written_than_asked_for(void **state) {
  (void)state;
  static unsigned char room[sizeof(gort_mem_stats) + 64];
  for (size_t size = 0; size <= sizeof(gort_mem_stats); size += 8) {
    memset(room, 0xa5, sizeof room);
    gort_read_mem_stats_sized((gort_mem_stats *)(void *)room, size);
    for (size_t i = size; i < sizeof room; i++)
      assert_int_equal(room[i], 0xa5);
  }
}

/* A program built against an older header gets the beginning of what a newer one gets. */
static void test_a_shorter_structure_is_the_beginning(void **state) {
  (void)state;
  gort_mem_stats whole = read_stats(), part;
  memset(&part, 0xa5, sizeof part);
  gort_read_mem_stats_sized(&part, offsetof(gort_mem_stats, frees));
  assert_true(part.total_alloc >= whole.total_alloc);
  assert_true(part.mallocs >= whole.mallocs && part.mallocs < whole.mallocs + 1000);
}

static void test_next_gc_is_ahead(void **state) {
  (void)state;
  gort_gc();
  gort_mem_stats s = read_stats();
  assert_true(s.next_gc >= s.heap_alloc);
}

static void test_version(void **state) {
  (void)state;
  assert_non_null(gort_version());
  assert_true(strlen(gort_version()) > 0);
}

/* Each block of tiny objects has two bytes in a table beside the heap. */
enum { BLOCKS = 1 << 16 };

CASE(tables) {
  static void *block[BLOCKS];
  gort_mem_stats before, after;
  gort_init();
  gort_read_mem_stats(&before);
  for (size_t i = 0; i < BLOCKS; i++)
    block[i] = gort_alloc_noscan(12);
  gort_read_mem_stats(&after);
  gort_keep_alive(block);
  CHECK(after.heap_inuse >= before.heap_inuse + BLOCKS * 16);
  CHECK(after.gc_sys >= before.gc_sys + BLOCKS * 2);
}

static void test_tables_are_counted(void **state) {
  (void)state;
  expect_quiet(tables);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_identities),
      cmocka_unit_test(test_identities_while_others_allocate),
      cmocka_unit_test(test_each_allocation_counts),
      cmocka_unit_test(test_tiny_allocations_count),
      cmocka_unit_test(test_what_ended_threads_allocated_counts),
      cmocka_unit_test(test_what_dies_is_counted),
      cmocka_unit_test(test_counters_never_fall),
      cmocka_unit_test(test_pauses_add_up),
      cmocka_unit_test(test_the_last_pause_has_its_place),
      cmocka_unit_test(test_the_last_collection_is_in_real_time),
      cmocka_unit_test(test_finalizers_are_counted),
      cmocka_unit_test(test_no_more_is_written_than_asked_for),
      cmocka_unit_test(test_a_shorter_structure_is_the_beginning),
      cmocka_unit_test(test_next_gc_is_ahead),
      cmocka_unit_test(test_tables_are_counted),
      cmocka_unit_test(test_version),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
