/* Type descriptors: their strings, sizes and identity, and that objects are traced by them. */
#include "check.h"

struct inner {
  uintptr_t number;
  void *pointers[2];
};
struct shape {
  void *plain;
  uintptr_t number;
  void *array[3];
  struct inner inside;
  struct inner several[2];
  uintptr_t last;
};
GORT_TYPE(shape_type, struct shape, plain, array, inside.pointers, several[1]);
GORT_TYPE(shape_all_type, struct shape, plain, array, inside, several);
GORT_TYPE(element_type, struct shape, array[2], inside.pointers[1]);
GORT_TYPE_NOSCAN(inner_type, struct inner);

typedef struct shape form;
GORT_TYPE(form_type, form, plain);

static const gort_type *t_int, *t_bool, *t_T;

static const gort_type *func(const gort_type *const *in, size_t nin, const gort_type *const *out,
                             size_t nout, bool variadic) {
  return gort_type_func(in, nin, out, nout, variadic);
}
#define TYPES(...)                                                                                 \
  ((const gort_type *const[]){__VA_ARGS__}), COUNT_OF(((const gort_type *const[]){__VA_ARGS__}))
#define NONE NULL, 0

/* --- Strings -------------------------------------------------------------------------------- */

#define assert_string_of(t, s) assert_string_equal(gort_type_string(t), (s))

static void test_strings_of_macros(void **state) {
  (void)state;
  assert_string_of(&shape_type, "struct shape");
  assert_string_of(&inner_type, "struct inner");
  assert_string_of(&form_type, "form");
}

static void test_strings_of_constructors(void **state) {
  (void)state;
  const size_t at[] = {0};
  assert_string_of(gort_type_scalar("int", 4, 4), "int");
  assert_string_of(gort_type_struct("struct x", 16, 8, at, 1), "struct x");
  assert_string_of(gort_type_named("Celsius", gort_type_float64), "Celsius");
  assert_string_of(gort_type_interface("Stringer", NULL, 0), "Stringer");
  assert_string_of(gort_type_ptr(t_T), "*T");
  assert_string_of(gort_type_ptr(gort_type_ptr(t_T)), "**T");
  assert_string_of(gort_type_ptr(&shape_type), "*struct shape");
}

static void test_strings_of_functions(void **state) {
  (void)state;
  const gort_type *pt = gort_type_ptr(t_T);
  assert_string_of(func(NONE, NONE, false), "func()");
  assert_string_of(func(TYPES(pt, t_int), TYPES(t_int), false), "func(*T, int) int");
  assert_string_of(func(TYPES(t_int), NONE, true), "func(...int)");
  assert_string_of(func(TYPES(pt, t_int), NONE, true), "func(*T, ...int)");
  assert_string_of(func(TYPES(t_int), TYPES(t_int, t_bool), false), "func(int) (int, bool)");
  assert_string_of(func(NONE, TYPES(pt), false), "func() *T");
  assert_string_of(gort_type_ptr(func(TYPES(t_int), NONE, false)), "*func(int)");
  const gort_type *f = func(TYPES(t_int), TYPES(t_bool), false);
  assert_string_of(func(TYPES(f), NONE, false), "func(func(int) bool)");
}

static void test_shipped_types(void **state) {
  (void)state;
  const struct {
    const gort_type *type;
    const char *string;
    size_t size;
  } shipped[] = {
      {gort_type_bool, "bool", 1},
      {gort_type_int8, "int8", 1},
      {gort_type_int16, "int16", 2},
      {gort_type_int32, "int32", 4},
      {gort_type_int64, "int64", 8},
      {gort_type_uint8, "uint8", 1},
      {gort_type_uint16, "uint16", 2},
      {gort_type_uint32, "uint32", 4},
      {gort_type_uint64, "uint64", 8},
      {gort_type_float32, "float32", 4},
      {gort_type_float64, "float64", 8},
      {gort_type_uintptr, "uintptr", sizeof(uintptr_t)},
      {gort_type_unsafe_pointer, "unsafe_pointer", sizeof(void *)},
      {gort_type_empty_interface, "any", sizeof(gort_any)},
  };
  for (size_t i = 0; i < COUNT_OF(shipped); i++) {
    assert_string_of(shipped[i].type, shipped[i].string);
    assert_int_equal(gort_type_size(shipped[i].type), shipped[i].size);
  }
}

/* --- Sizes and identity --------------------------------------------------------------------- */

static void test_sizes(void **state) {
  (void)state;
  assert_int_equal(gort_type_size(&shape_type), sizeof(struct shape));
  assert_int_equal(gort_type_size(&inner_type), sizeof(struct inner));
  assert_int_equal(gort_type_size(gort_type_scalar("odd", 5, 1)), 5);
  assert_int_equal(gort_type_size(gort_type_struct("s", 48, 16, NULL, 0)), 48);
  assert_int_equal(gort_type_size(gort_type_ptr(&shape_type)), sizeof(void *));
  assert_int_equal(gort_type_size(gort_type_named("N", &shape_type)), sizeof(struct shape));
  assert_int_equal(gort_type_size(gort_type_interface("I", NULL, 0)), sizeof(gort_iface));
}

static void test_pointer_and_function_types_are_unique(void **state) {
  (void)state;
  const gort_type *pt = gort_type_ptr(t_T);
  assert_ptr_equal(gort_type_ptr(t_T), pt);
  assert_ptr_not_equal(gort_type_ptr(t_int), pt);
  assert_ptr_equal(gort_type_ptr(pt), gort_type_ptr(pt));
  const gort_type *f = func(TYPES(pt, t_int), TYPES(t_bool), false);
  assert_ptr_equal(func(TYPES(pt, t_int), TYPES(t_bool), false), f);
  assert_ptr_not_equal(func(TYPES(pt, t_int), TYPES(t_bool), true), f);
  assert_ptr_not_equal(func(TYPES(t_int, pt), TYPES(t_bool), false), f);
  assert_ptr_not_equal(func(TYPES(pt), TYPES(t_int, t_bool), false), f);
  assert_ptr_not_equal(func(TYPES(pt, t_int, t_bool), NONE, false), f);
  assert_ptr_not_equal(func(TYPES(pt, t_int), NONE, false), f);
  assert_ptr_equal(func(NONE, NONE, false), func(NONE, NONE, false));
}

static void test_named_types_are_new_each_time(void **state) {
  (void)state;
  assert_ptr_not_equal(gort_type_scalar("int", 4, 4), gort_type_scalar("int", 4, 4));
  assert_ptr_not_equal(gort_type_struct("s", 8, 8, NULL, 0), gort_type_struct("s", 8, 8, NULL, 0));
  assert_ptr_not_equal(gort_type_named("N", t_int), gort_type_named("N", t_int));
  assert_ptr_not_equal(gort_type_named("N", t_int), t_int);
  assert_ptr_not_equal(gort_type_interface("I", NULL, 0), gort_type_interface("I", NULL, 0));
}

/* Of types with the same string, pointers differ all the same. */
static void test_identity_is_not_by_string(void **state) {
  (void)state;
  const gort_type *a = gort_type_scalar("same", 4, 4), *b = gort_type_scalar("same", 4, 4);
  assert_ptr_not_equal(gort_type_ptr(a), gort_type_ptr(b));
  assert_ptr_not_equal(func(TYPES(a), NONE, false), func(TYPES(b), NONE, false));
}

/* --- From any thread, at any time ----------------------------------------------------------- */

enum { MAKERS = 8, MADE = 300 };

static const gort_type *elements[MADE];
static const gort_type *made[MAKERS][2 * MADE];
static atomic_int ready_makers;

/* A thread that the runtime does not know. All begin at once, and make the same types. */
static void *make_types(void *p) {
  const gort_type **mine = p;
  atomic_fetch_add(&ready_makers, 1);
  while (atomic_load(&ready_makers) < MAKERS)
    continue;
  for (size_t i = 0; i < MADE; i++) {
    mine[i] = gort_type_ptr(elements[i]);
    mine[MADE + i] = gort_type_func(&mine[i], 1, &elements[i], 1, false);
  }
  return NULL;
}

static void make_types_on_threads(void) {
  pthread_t thread[MAKERS];
  atomic_store(&ready_makers, 0);
  for (size_t i = 0; i < MADE; i++)
    elements[i] = gort_type_scalar("element", 8, 8);
  for (size_t i = 0; i < MAKERS; i++)
    CHECK(pthread_create(&thread[i], NULL, make_types, made[i]) == 0);
  for (size_t i = 0; i < MAKERS; i++)
    CHECK(pthread_join(thread[i], NULL) == 0);
}

static void test_threads_make_the_same_types(void **state) {
  (void)state;
  make_types_on_threads();
  for (size_t i = 1; i < MAKERS; i++)
    assert_memory_equal(made[i], made[0], sizeof made[0]);
  assert_string_of(made[0][MADE], "func(*element) element");
}

CASE(types_before_the_runtime) {
  make_types_on_threads();
  CHECK(gort_type_ptr(elements[0]) == made[0][0]);
  CHECK(strcmp(gort_type_string(gort_type_int32), "int32") == 0);
  gort_init();
  CHECK(gort_type_ptr(elements[0]) == made[0][0]);
}

static void test_types_before_the_runtime(void **state) {
  (void)state;
  expect_quiet(types_before_the_runtime);
}

/* --- Precise tracing ------------------------------------------------------------------------ */

static NOINLINE void *watched_target(void) { return watch(gort_alloc(40)); }

/* MANY objects of the type, each with the only pointer to a watched object in one word, that at
 * the offset. */
static NOINLINE void hold_at(const gort_type *t, size_t n, size_t offset) {
  for (size_t i = 0; i < MANY; i++) {
    char *p = n == 1 ? gort_alloc_of(t) : gort_alloc_array_of(t, n);
    *(void **)(p + offset) = watched_target();
    kept[i] = p;
  }
}

static void assert_traced(const gort_type *t, size_t n, size_t offset, bool traced) {
  watch_begin();
  hold_at(t, n, offset);
  int dead = deaths();
  if (traced ? dead != 0 : !mostly((size_t)dead, MANY))
    fail_msg("%s (%zu of them), offset %zu: %d of %d died", gort_type_string(t), n, offset, dead,
             MANY);
  forget_all();
  assert_mostly_dead(MANY);
}

static void assert_word_of_each_traced(const gort_type *t, size_t offset, bool traced) {
  size_t size = gort_type_size(t);
  assert_traced(t, 1, offset, traced);
  assert_traced(t, 3, 2 * size + offset, traced);
  assert_traced(t, 40, 39 * size + offset, traced);
}

static void test_fields_are_traced_and_others_are_not(void **state) {
  (void)state;
  assert_word_of_each_traced(&shape_type, offsetof(struct shape, plain), true);
  assert_word_of_each_traced(&shape_type, offsetof(struct shape, number), false);
  assert_word_of_each_traced(&shape_type, offsetof(struct shape, last), false);
  assert_word_of_each_traced(&shape_type, offsetof(struct shape, inside.number), false);
  assert_word_of_each_traced(&shape_type, offsetof(struct shape, several[0].pointers), false);
}

static void test_every_word_of_an_array_or_structure_counts(void **state) {
  (void)state;
  for (size_t i = 0; i < 3; i++)
    assert_word_of_each_traced(&shape_type, offsetof(struct shape, array[i]), true);
  for (size_t i = 0; i < sizeof(struct inner); i += sizeof(void *)) {
    assert_word_of_each_traced(&shape_type, offsetof(struct shape, several[1]) + i, true);
    assert_word_of_each_traced(&shape_all_type, offsetof(struct shape, inside) + i, true);
    assert_word_of_each_traced(&shape_all_type, offsetof(struct shape, several[0]) + i, true);
  }
}

static void test_fields_of_fields(void **state) {
  (void)state;
  assert_word_of_each_traced(&element_type, offsetof(struct shape, array[2]), true);
  assert_word_of_each_traced(&element_type, offsetof(struct shape, array[1]), false);
  assert_word_of_each_traced(&element_type, offsetof(struct shape, inside.pointers[1]), true);
  assert_word_of_each_traced(&element_type, offsetof(struct shape, inside.pointers[0]), false);
}

static void test_types_without_pointers(void **state) {
  (void)state;
  assert_word_of_each_traced(&inner_type, offsetof(struct inner, pointers), false);
  assert_traced(gort_type_struct("empty of pointers", 64, 8, NULL, 0), 1, 8, false);
  assert_traced(gort_type_uintptr, 100, 80, false);
}

/* Descriptors by offsets, of structures of one word up to several pages. */
static void test_structures_of_many_sizes(void **state) {
  (void)state;
  for (size_t words = 1; words <= 3000; words = words * 3 + 1) {
    const size_t at[] = {0, words / 2 * 8, (words - 1) * 8};
    const gort_type *t = gort_type_struct("of words", words * 8, 8, at, 3);
    assert_traced(t, 1, at[0], true);
    assert_traced(t, 1, at[1], true);
    assert_traced(t, 1, at[2], true);
    assert_traced(t, 3, words * 16 + at[2], true);
    if (words > 4)
      assert_traced(t, 1, (words - 2) * 8, false);
  }
}

static void test_values_of_other_kinds(void **state) {
  (void)state;
  assert_traced(gort_type_ptr(t_T), 1, 0, true);
  assert_traced(gort_type_ptr(t_T), 100, 99 * 8, true);
  assert_traced(gort_type_unsafe_pointer, 1, 0, true);
  assert_traced(func(TYPES(t_int), NONE, false), 1, 0, true);
  assert_traced(gort_type_empty_interface, 1, offsetof(gort_any, data), true);
  assert_traced(gort_type_interface("I", NULL, 0), 5, 64 + offsetof(gort_iface, data), true);
  const gort_type *named = gort_type_named("Shape", &shape_type);
  assert_traced(named, 1, offsetof(struct shape, plain), true);
  assert_traced(named, 1, offsetof(struct shape, number), false);
}

static NOINLINE void hold_from_new_of(bool field) {
  for (size_t i = 0; i < MANY; i++) {
    struct shape *s = gort_new_of(struct shape, shape_type);
    if (field)
      s->plain = watched_target();
    else
      s->number = (uintptr_t)watched_target();
    kept[i] = s;
  }
}

static void test_new_of_is_traced_by_its_type(void **state) {
  (void)state;
  watch_begin();
  hold_from_new_of(true);
  assert_none_dead();
  forget_all();
  assert_mostly_dead(MANY);
  watch_begin();
  hold_from_new_of(false);
  assert_mostly_dead(MANY);
  forget_all();
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_strings_of_macros),
      cmocka_unit_test(test_strings_of_constructors),
      cmocka_unit_test(test_strings_of_functions),
      cmocka_unit_test(test_shipped_types),
      cmocka_unit_test(test_sizes),
      cmocka_unit_test(test_pointer_and_function_types_are_unique),
      cmocka_unit_test(test_named_types_are_new_each_time),
      cmocka_unit_test(test_identity_is_not_by_string),
      cmocka_unit_test(test_threads_make_the_same_types),
      cmocka_unit_test(test_types_before_the_runtime),
      cmocka_unit_test(test_fields_are_traced_and_others_are_not),
      cmocka_unit_test(test_every_word_of_an_array_or_structure_counts),
      cmocka_unit_test(test_fields_of_fields),
      cmocka_unit_test(test_types_without_pointers),
      cmocka_unit_test(test_structures_of_many_sizes),
      cmocka_unit_test(test_values_of_other_kinds),
      cmocka_unit_test(test_new_of_is_traced_by_its_type),
  };
  t_int = gort_type_scalar("int", sizeof(int), alignof(int));
  t_bool = gort_type_bool;
  t_T = gort_type_scalar("T", 8, 8);
  CHECK_MAIN(argc, argv, tests, gort_init());
}
