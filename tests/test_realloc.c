/* gort_realloc: contents, zeroed growth, the kind of memory, and what stays with the old object. */
#include "check.h"

struct mixed {
  uintptr_t number; /* looks like a pointer, is not traced */
  uint64_t *pointer;
};
GORT_TYPE(mixed_type, struct mixed, pointer);

static void fill(void *p, size_t size, unsigned seed) {
  unsigned char *b = p;
  for (size_t i = 0; i < size; i++)
    b[i] = (unsigned char)(seed + i * 7 + 1);
}

static bool is_filled(const void *p, size_t size, unsigned seed) {
  const unsigned char *b = p;
  for (size_t i = 0; i < size; i++)
    if (b[i] != (unsigned char)(seed + i * 7 + 1))
      return false;
  return true;
}

static bool is_zero(const void *p, size_t from, size_t to) {
  const unsigned char *b = p;
  for (size_t i = from; i < to; i++)
    if (b[i])
      return false;
  return true;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static void assert_resizes(void *(*alloc)(size_t), size_t from, size_t to) {
  void *p = alloc(from);
  fill(p, from, 3);
  void *q = gort_realloc(p, to);
  if (!is_filled(q, smaller(from, to), 3) || (to > from && !is_zero(q, from, to)))
    fail_msg("from %zu to %zu: wrong contents", from, to);
  assert_in_range(gort_usable_size(q), to, SIZE_MAX);
}

static const size_t sizes[] = {1,   7,    8,    12,    15,    16,     17,     24,
                               100, 1000, 4096, 10000, 40000, 100000, 1000000};

static void test_contents_and_zeroed_growth(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(sizes); i++)
    for (size_t j = 0; j < COUNT_OF(sizes); j++) {
      assert_resizes(gort_alloc, sizes[i], sizes[j]);
      assert_resizes(gort_alloc_noscan, sizes[i], sizes[j]);
    }
}

/* Bytes given back by a smaller size are new when it grows again. */
static void test_shrink_then_grow_is_zero(void **state) {
  (void)state;
  for (size_t small = 1; small <= 3000; small += small / 2 + 1)
    for (size_t large = small + 1; large <= 9000; large += large / 2 + 1) {
      void *p = small % 2 ? gort_alloc(large) : gort_alloc_noscan(large);
      fill(p, large, 5);
      p = gort_realloc(gort_realloc(p, small), large);
      assert_true(is_filled(p, small, 5));
      if (!is_zero(p, small, large))
        fail_msg("%zu, %zu, %zu: new bytes are not zero", large, small, large);
    }
}

static void test_null_allocates(void **state) {
  (void)state;
  unsigned char *p = gort_realloc(NULL, 1000);
  assert_true(is_zero(p, 0, 1000));
  p = gort_realloc(gort_alloc(0), 50);
  assert_true(is_zero(p, 0, 50));
}

static void test_grows_step_by_step(void **state) {
  (void)state;
  unsigned char *p = NULL;
  for (size_t n = 1; n < 5000; n++) {
    p = gort_realloc(p, n);
    assert_int_equal(p[n - 1], 0);
    p[n - 1] = (unsigned char)n;
  }
  for (size_t n = 1; n < 5000; n++)
    assert_int_equal(p[n - 1], (unsigned char)n);
}

/* --- What may not be reallocated ------------------------------------------------------------ */

static void realloc_to_200(void *p) { gort_keep_alive(gort_realloc(p, 200)); }

CASE(realloc_interior) {
  gort_init();
  realloc_to_200((char *)gort_alloc(100) + 8);
}
CASE(realloc_large_interior) {
  gort_init();
  realloc_to_200((char *)gort_alloc(100000) + 8192);
}
CASE(realloc_malloc) {
  gort_init();
  realloc_to_200(malloc(100));
}
CASE(realloc_static) {
  static char memory[100];
  gort_init();
  realloc_to_200(memory);
}
CASE(realloc_stack) {
  char memory[100];
  gort_init();
  realloc_to_200(memory);
}

static void test_only_an_objects_start_is_taken(void **state) {
  (void)state;
  expect_throw(realloc_interior);
  expect_throw(realloc_large_interior);
  expect_throw(realloc_malloc);
  expect_throw(realloc_static);
  expect_throw(realloc_stack);
}

/* --- The kind of memory stays --------------------------------------------------------------- */

static NOINLINE void *watched_target(void) { return watch(gort_alloc(64)); }

/* MANY objects of a kind, grown, each with the only pointer to a watched one in its new part. */
static NOINLINE void grow_with_targets(void *(*alloc)(size_t)) {
  for (size_t i = 0; i < MANY; i++) {
    void **p = gort_realloc(alloc(64), 64 + 8 * (i % 100 + 1));
    p[8 + i % 100] = watched_target();
    kept[i] = p;
  }
}

static void test_traced_memory_stays_traced(void **state) {
  (void)state;
  watch_begin();
  grow_with_targets(gort_alloc);
  assert_none_dead();
  forget_all();
  assert_mostly_dead(MANY);
}

static void test_noscan_memory_stays_noscan(void **state) {
  (void)state;
  watch_begin();
  grow_with_targets(gort_alloc_noscan);
  assert_mostly_dead(MANY);
  forget_all();
}

static NOINLINE void grow_typed(bool into_pointers) {
  for (size_t i = 0; i < MANY; i++) {
    struct mixed *m = gort_alloc_array_of(&mixed_type, 2);
    m = gort_realloc(m, (3 + i % 200) * sizeof *m);
    struct mixed *last = &m[2 + i % 200];
    if (into_pointers)
      last->pointer = watched_target();
    else
      last->number = (uintptr_t)watched_target();
    kept[i] = m;
  }
}

static void test_typed_memory_stays_typed(void **state) {
  (void)state;
  watch_begin();
  grow_typed(true);
  assert_none_dead();
  forget_all();
  assert_mostly_dead(MANY);
  watch_begin();
  grow_typed(false);
  assert_mostly_dead(MANY);
  forget_all();
}

/* Of each small size, and in every place that a slot can have in its span. */
static NOINLINE void grow_pointers(size_t n) {
  const gort_type *pointer = gort_type_ptr(gort_type_int64);
  for (size_t i = 0; i < MANY; i++)
    kept[i] = gort_alloc_array_of(pointer, n);
  for (size_t i = 0; i < MANY; i++) {
    void **p = kept[i] = gort_realloc(kept[i], (n + 100) * sizeof *p);
    p[n + i % 100] = watched_target();
  }
}

static void test_arrays_of_pointers_stay_such(void **state) {
  (void)state;
  for (size_t n = 1; n <= 10; n++) {
    watch_begin();
    grow_pointers(n);
    assert_none_dead();
    forget_all();
  }
}

static uintptr_t hidden_roots[MANY];

static NOINLINE void grow_roots(void) {
  for (size_t i = 0; i < MANY; i++) {
    void **p = gort_realloc(gort_alloc_root(64), 64 + 8 * (i % 100 + 1));
    p[8 + i % 100] = watched_target();
    hidden_roots[i] = hide(p);
  }
}

static NOINLINE void free_roots(void) {
  for (size_t i = 0; i < MANY; i++)
    gort_free_root(reveal(hidden_roots[i]));
}

static void test_a_root_stays_a_root(void **state) {
  (void)state;
  watch_begin();
  grow_roots();
  assert_none_dead();
  free_roots();
  assert_mostly_dead(MANY);
}

/* Also one that begins or has become empty, and when it does so again. */
static NOINLINE void grow_empty_roots(void) {
  for (size_t i = 0; i < MANY; i++) {
    void *root = i % 2 ? gort_alloc_root(0) : gort_realloc(gort_alloc_root(64), 0);
    if (i % 3 == 0)
      root = gort_realloc(gort_realloc(root, 48), 0);
    void **p = gort_realloc(root, 64);
    p[7] = watched_target();
    hidden_roots[i] = hide(p);
  }
}

static NOINLINE void grow_empty_plain_memory(void) {
  for (size_t i = 0; i < MANY; i++)
    watch(gort_realloc(gort_alloc(0), 64));
}

static void test_an_empty_root_stays_a_root(void **state) {
  (void)state;
  watch_begin();
  grow_empty_roots();
  assert_none_dead();
  free_roots();
  assert_mostly_dead(MANY);
  watch_begin();
  grow_empty_plain_memory();
  assert_mostly_dead(MANY);
}

CASE(free_what_is_no_root) {
  gort_init();
  gort_free_root(gort_realloc(gort_alloc_root(0), 0));
  gort_free_root(gort_alloc(0));
}

static void test_empty_roots_are_freed_as_often(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++)
    gort_alloc_root(0);
  for (int i = 0; i < 3; i++)
    gort_free_root(gort_alloc(0));
  expect_throw(free_what_is_no_root);
}

/* --- What stays with the old object --------------------------------------------------------- */

/* Finalizers go with the object that they were set on: while its new copy is held, the old one
 * dies, and its finalizer sees what it was. */
static atomic_int intact;

static void check_old_contents(void *p) {
  if (is_filled(p, 64, 9))
    atomic_fetch_add(&intact, 1);
  note_death(p);
}

static NOINLINE void move_watched(void) {
  for (size_t i = 0; i < MANY; i++) {
    void *p = gort_alloc(64);
    fill(p, 64, 9);
    watch_only(p);
    gort_set_finalizer_fn(p, check_old_contents);
    kept[i] = gort_realloc(p, 100000);
    if (kept[i] == p)
      check_failed(__FILE__, __LINE__, "64 bytes cannot grow to 100000 in place");
  }
}

static void test_finalizers_stay_with_the_old_object(void **state) {
  (void)state;
  watch_begin();
  atomic_store(&intact, 0);
  move_watched();
  assert_mostly_dead(MANY);
  assert_int_equal(atomic_load(&intact), deaths_so_far());
  for (size_t i = 0; i < MANY; i++)
    assert_true(is_filled(kept[i], 64, 9));
  forget_all();
}

static void test_the_old_object_lives_while_referenced(void **state) {
  (void)state;
  watch_begin();
  static void *old[MANY];
  for (size_t i = 0; i < MANY; i++) {
    fill(old[i] = watch(gort_alloc(64)), 64, 11);
    kept[i] = gort_realloc(old[i], 5000);
    memset(kept[i], 0, 5000);
  }
  assert_none_dead();
  for (size_t i = 0; i < MANY; i++)
    assert_true(is_filled(old[i], 64, 11));
  forget_all();
  memset(old, 0, sizeof old);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_contents_and_zeroed_growth),
      cmocka_unit_test(test_shrink_then_grow_is_zero),
      cmocka_unit_test(test_null_allocates),
      cmocka_unit_test(test_grows_step_by_step),
      cmocka_unit_test(test_only_an_objects_start_is_taken),
      cmocka_unit_test(test_traced_memory_stays_traced),
      cmocka_unit_test(test_noscan_memory_stays_noscan),
      cmocka_unit_test(test_typed_memory_stays_typed),
      cmocka_unit_test(test_arrays_of_pointers_stay_such),
      cmocka_unit_test(test_a_root_stays_a_root),
      cmocka_unit_test(test_an_empty_root_stays_a_root),
      cmocka_unit_test(test_empty_roots_are_freed_as_often),
      cmocka_unit_test(test_finalizers_stay_with_the_old_object),
      cmocka_unit_test(test_the_old_object_lives_while_referenced),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
