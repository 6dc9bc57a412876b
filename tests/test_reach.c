/* What keeps an object alive: a pointer to any of its bytes, from memory that is traced. And
 * what does not: a pointer one past the end, or one in memory without pointers. */
#include "check.h"

/* --- Interior pointers ---------------------------------------------------------------------- */

/* MANY watched objects, each held by a pointer to another of its bytes. */
static NOINLINE void hold_by_interior(size_t size, void *(*alloc)(size_t)) {
  for (size_t i = 0; i < MANY; i++)
    kept[i] = (char *)watch(alloc(size)) + (size < MANY ? i % size : i * (size / MANY));
}

static NOINLINE void hold_by_last_byte(size_t size, void *(*alloc)(size_t)) {
  for (size_t i = 0; i < MANY; i++)
    kept[i] = (char *)watch(alloc(size)) + size - 1;
}

static void assert_held_and_released(void (*hold)(size_t, void *(*)(size_t)), size_t size,
                                     void *(*alloc)(size_t)) {
  watch_begin();
  hold(size, alloc);
  assert_none_dead();
  forget_all();
  assert_mostly_dead(MANY);
}

static void test_any_byte_keeps_an_object(void **state) {
  (void)state;
  static const size_t sizes[] = {16, 24, 48, 100, 1000, 5000, 40000};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    assert_held_and_released(hold_by_interior, sizes[i], gort_alloc);
    assert_held_and_released(hold_by_interior, sizes[i], gort_alloc_noscan);
    assert_held_and_released(hold_by_last_byte, sizes[i], gort_alloc);
  }
}

struct holder {
  uintptr_t before;
  char *pointer;
  uintptr_t after;
};
GORT_TYPE(holder_type, struct holder, pointer);

/* The interior pointer lies in a typed object on the heap. */
static NOINLINE void hold_by_typed_field(size_t size, void *(*alloc)(size_t)) {
  for (size_t i = 0; i < MANY; i++) {
    struct holder *h = gort_new_of(struct holder, holder_type);
    h->pointer = (char *)watch(alloc(size)) + i % size;
    kept[i] = h;
  }
}

static void test_any_byte_keeps_an_object_from_the_heap(void **state) {
  (void)state;
  assert_held_and_released(hold_by_typed_field, 64, gort_alloc);
  assert_held_and_released(hold_by_typed_field, 64, gort_alloc_noscan);
}

/* --- One past the end ----------------------------------------------------------------------- */

enum { SLOTS = 2 * MANY };

static int by_address(const void *a, const void *b) {
  const char *x = *(char *const *)a, *y = *(char *const *)b;
  return (x > y) - (x < y);
}

/* Every second object, by address, is held by a pointer one past its end. That points to its
 * neighbour, which is held anyway. */
static NOINLINE void hold_one_past_the_end(size_t size) {
  char **all = gort_new_array(char *, SLOTS);
  for (size_t i = 0; i < SLOTS; i++)
    all[i] = gort_alloc(size);
  qsort(all, SLOTS, sizeof *all, by_address);
  for (size_t i = 0; i < MANY; i++) {
    kept[i] = (char *)watch(all[2 * i]) + size;
    kept[MANY + i] = all[2 * i + 1];
  }
  memset(all, 0, SLOTS * sizeof *all);
}

static void test_one_past_the_end_keeps_nothing(void **state) {
  (void)state;
  static const size_t sizes[] = {16, 64, 1024, 8192, 65536};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    watch_begin();
    hold_one_past_the_end(sizes[i]);
    assert_mostly_dead(MANY);
    forget_all();
  }
}

/* --- Memory that is not traced -------------------------------------------------------------- */

static NOINLINE void *watched_target(void) { return watch(gort_alloc(48)); }

static NOINLINE void hold_from(size_t size, void *(*alloc)(size_t)) {
  for (size_t i = 0; i < MANY; i++) {
    void **p = alloc(size);
    p[i % (size / sizeof *p)] = watched_target();
    kept[i] = p;
  }
}

static void assert_not_held(void (*hold)(size_t, void *(*)(size_t)), size_t size,
                            void *(*alloc)(size_t)) {
  watch_begin();
  hold(size, alloc);
  assert_mostly_dead(MANY);
  forget_all();
}

static void *memdup_of_pointers(size_t size) {
  static char zeros[100000];
  return gort_memdup(zeros, size);
}
static void *strdup_of_size(size_t size) {
  char *text = malloc(size);
  memset(text, 'x', size - 1);
  text[size - 1] = 0;
  char *copy = gort_strdup(text);
  free(text);
  return copy;
}
static void *new_noscan_holder(size_t size) {
  (void)size;
  return gort_new_noscan(struct holder);
}
static void *scalar_of_size(size_t size) {
  return gort_alloc_of(gort_type_scalar("bytes", size, 8));
}
static void *scalars_of_size(size_t size) {
  return gort_alloc_array_of(gort_type_uint64, size / sizeof(uint64_t));
}

static void test_pointer_free_memory_keeps_nothing(void **state) {
  (void)state;
  static const size_t sizes[] = {16, 64, 1000, 40000};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    assert_not_held(hold_from, sizes[i], gort_alloc_noscan);
    assert_not_held(hold_from, sizes[i], gort_try_alloc_noscan);
    assert_not_held(hold_from, sizes[i], memdup_of_pointers);
    assert_not_held(hold_from, sizes[i], strdup_of_size);
    assert_not_held(hold_from, sizes[i], scalar_of_size);
    assert_not_held(hold_from, sizes[i], scalars_of_size);
  }
  assert_not_held(hold_from, sizeof(struct holder), new_noscan_holder);
}

static void *new_holder(size_t size) {
  (void)size;
  return gort_new(struct holder);
}
static void *new_array_of_size(size_t size) { return gort_new_array(void *, size / 8); }
static void *aligned_of_size(size_t size) { return gort_alloc_aligned(size, 128); }
static void *realloc_of_size(size_t size) { return gort_realloc(NULL, size); }

static void test_untyped_memory_keeps_what_every_word_points_to(void **state) {
  (void)state;
  static const size_t sizes[] = {8, 16, 64, 1000, 40000};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    assert_held_and_released(hold_from, sizes[i], gort_alloc);
    assert_held_and_released(hold_from, sizes[i], gort_try_alloc);
    assert_held_and_released(hold_from, sizes[i], new_array_of_size);
    assert_held_and_released(hold_from, sizes[i], aligned_of_size);
    assert_held_and_released(hold_from, sizes[i], realloc_of_size);
  }
  assert_held_and_released(hold_from, sizeof(struct holder), new_holder);
}

struct packet {
  uint32_t n;
  void *parts[];
};

static NOINLINE void hold_from_flex(size_t size, void *(*alloc)(size_t)) {
  (void)alloc;
  for (size_t i = 0; i < MANY; i++) {
    struct packet *p = gort_new_flex(struct packet, parts, size);
    p->parts[i % size] = watched_target();
    kept[i] = p;
  }
}

static void test_flexible_arrays_are_traced(void **state) {
  (void)state;
  assert_held_and_released(hold_from_flex, 1, NULL);
  assert_held_and_released(hold_from_flex, 100, NULL);
  assert_held_and_released(hold_from_flex, 5000, NULL);
}

/* --- Long ways ------------------------------------------------------------------------------ */

struct link {
  struct link *next;
  uint64_t number;
  void *other;
};
GORT_TYPE(link_type, struct link, next, other);

static NOINLINE struct link *long_list(size_t n) {
  struct link *head = NULL;
  for (size_t i = 0; i < n; i++) {
    struct link *l = i % 2 ? gort_new(struct link) : gort_new_of(struct link, link_type);
    l->next = head;
    l->number = i;
    head = l;
  }
  return head;
}

/* A chain of a million: marking must not need stack for each. */
static void test_a_long_list_is_kept_whole(void **state) {
  (void)state;
  enum { LENGTH = 1000000 };
  struct link *head = long_list(LENGTH);
  gort_gc();
  strdup_of_size(100000);
  uint64_t expected = LENGTH;
  for (struct link *l = head; l; l = l->next)
    if (l->number != --expected)
      fail_msg("link %lu holds %lu", (unsigned long)expected, (unsigned long)l->number);
  assert_int_equal(expected, 0);
}

/* One object with a million pointers: marked in parts, none forgotten. */
static void test_a_large_array_is_traced_to_its_end(void **state) {
  (void)state;
  enum { LENGTH = 1000000 };
  uint64_t **array = gort_new_array(uint64_t *, LENGTH);
  for (size_t i = 0; i < LENGTH; i++)
    *(array[i] = gort_new_noscan(uint64_t)) = i;
  for (int round = 0; round < 2; round++) {
    gort_gc();
    for (size_t i = 0; i < LENGTH; i++)
      if (*array[i] != i)
        fail_msg("element %zu holds %lu", i, (unsigned long)*array[i]);
  }
}

static NOINLINE void make_rings(void) {
  for (size_t i = 0; i < MANY; i++) {
    struct link *a = gort_new(struct link), *b = gort_new(struct link);
    a->next = b;
    b->next = a;
    b->other = watched_target();
  }
}

static void test_rings_die(void **state) {
  (void)state;
  watch_begin();
  make_rings();
  assert_mostly_dead(MANY);
}

/* --- Memory is found again ------------------------------------------------------------------ */

static NOINLINE void make_garbage(size_t size, size_t n) {
  for (size_t i = 0; i < n; i++)
    memset(gort_alloc(size), 0x77, size);
}

/* What dies without a finalizer is free after one collection. */
static void test_what_is_dropped_is_freed(void **state) {
  (void)state;
  static const size_t sizes[] = {16, 200, 3000, 100000};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    gort_gc();
    int percent = gort_set_gc_percent(-1);
    gort_mem_stats before = read_stats();
    make_garbage(sizes[i], MANY);
    scrub_stack();
    gort_gc();
    gort_mem_stats after = read_stats();
    gort_set_gc_percent(percent);
    assert_true(mostly(after.frees - before.frees, MANY));
    assert_in_range(after.heap_alloc, 0, before.heap_alloc + sizes[i] * MANY / 10 + 100000);
  }
}

/* Garbage without end fits into little memory, without the program asking for collections. */
static void test_memory_is_used_again(void **state) {
  (void)state;
  gort_gc();
  uint64_t before = read_stats().heap_sys;
  for (int i = 0; i < 100; i++)
    make_garbage(10000, 1000);
  assert_in_range(read_stats().heap_sys, 0, before + (500 << 20));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_any_byte_keeps_an_object),
      cmocka_unit_test(test_any_byte_keeps_an_object_from_the_heap),
      cmocka_unit_test(test_one_past_the_end_keeps_nothing),
      cmocka_unit_test(test_pointer_free_memory_keeps_nothing),
      cmocka_unit_test(test_untyped_memory_keeps_what_every_word_points_to),
      cmocka_unit_test(test_flexible_arrays_are_traced),
      cmocka_unit_test(test_a_long_list_is_kept_whole),
      cmocka_unit_test(test_a_large_array_is_traced_to_its_end),
      cmocka_unit_test(test_rings_die),
      cmocka_unit_test(test_what_is_dropped_is_freed),
      cmocka_unit_test(test_memory_is_used_again),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
