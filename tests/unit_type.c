/* The inside of types: pointer masks and ranges, precise scanning, methods and itabs. */
#include "check.h"

#include "type/type.h"
#include "type/typemap.h"

#define TYPES(...)                                                                                 \
  ((const gort_type *const[]){__VA_ARGS__}), COUNT_OF(((const gort_type *const[]){__VA_ARGS__}))

struct shape {
  void *plain;
  uintptr_t number;
  void *array[3];
  char text[8];
  void *last;
};
GORT_TYPE(shape_type, struct shape, last, plain, array);
GORT_TYPE_NOSCAN(text_type, char[24]);

/* --- Layouts ---------------------------------------------------------------------------------- */

static void test_ranges_are_sorted_and_joined(void **state) {
  (void)state;
  const size_t at[] = {40, 8, 0, 16, 40, 24, 64};
  const gort_type *t = gort_type_struct("s", 72, 8, at, COUNT_OF(at));
  assert_int_equal(t->nfields, 3);
  assert_int_equal(t->fields[0].offset, 0);
  assert_int_equal(t->fields[0].size, 32);
  assert_int_equal(t->fields[1].offset, 40);
  assert_int_equal(t->fields[1].size, 8);
  assert_int_equal(t->fields[2].offset, 64);
  assert_int_equal(t->ptrmask, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8);
}

static void test_masks_end_with_the_64th_word(void **state) {
  (void)state;
  const size_t at[] = {63 * 8, 64 * 8, 100 * 8};
  const gort_type *t = gort_type_struct("s", 101 * 8, 8, at, COUNT_OF(at));
  assert_int_equal(t->ptrmask, UINT64_C(1) << 63);
  assert_int_equal(t->nfields, 2);
}

static void test_masks_of_macros_are_those_of_constructors(void **state) {
  (void)state;
  const size_t at[] = {0, 16, 24, 32, 48};
  const gort_type *t = gort_type_struct("s", sizeof(struct shape), 8, at, COUNT_OF(at));
  assert_int_equal(shape_type.ptrmask, t->ptrmask);
  assert_false(type_noscan(&shape_type));
  assert_true(type_noscan(&text_type));
  assert_true(type_noscan(gort_type_uintptr));
  assert_int_equal(gort_type_unsafe_pointer->ptrmask, 1);
  assert_int_equal(gort_type_empty_interface->ptrmask, 3);
  assert_int_equal(gort_type_ptr(&shape_type)->ptrmask, 1);
  assert_int_equal(gort_type_interface("I", NULL, 0)->ptrmask, 3);
}

/* --- Scanning --------------------------------------------------------------------------------- */

struct seen {
  uintptr_t base;
  size_t n;
  size_t word[4096];
};

static void note_word(uintptr_t *slot, void *arg) {
  struct seen *s = arg;
  s->word[s->n++] = ((uintptr_t)slot - s->base) / 8;
}

static struct seen scan(const gort_type *t, size_t lo, size_t hi) {
  static uintptr_t memory[4096];
  struct seen s = {.base = (uintptr_t)memory};
  type_scan_part(t, s.base, s.base + lo, s.base + hi, note_word, &s);
  return s;
}

static void test_scanning_an_array(void **state) {
  (void)state;
  const size_t expected[] = {6, 0, 2, 3, 4, 13, 7, 9, 10, 11};
  struct seen s = scan(&shape_type, 0, 2 * sizeof(struct shape));
  assert_int_equal(s.n, COUNT_OF(expected));
  assert_memory_equal(s.word, expected, sizeof expected);
}

/* An object's slot may be larger than its elements together: words beyond `hi` are left alone. */
static void test_scanning_ends_where_told(void **state) {
  (void)state;
  for (size_t words = 0; words <= 30; words++) {
    struct seen s = scan(&shape_type, 0, words * 8);
    size_t n = 0;
    for (size_t i = 0; i < words; i++)
      n += shape_type.ptrmask >> i % 7 & 1;
    assert_int_equal(s.n, n);
    for (size_t i = 0; i < s.n; i++)
      assert_in_range(s.word[i], 0, words - 1);
  }
}

/* The parts of an object, however it is cut, give the words of the whole, each once. */
static void test_scanning_in_parts(void **state) {
  (void)state;
  struct rng r = seeded_rng(1);
  const size_t at[] = {8, 800, 808, 1600};
  const gort_type *const types[] = {&shape_type, gort_type_struct("big", 1608, 8, at, 4),
                                    gort_type_empty_interface};
  for (int i = 0; i < 300; i++) {
    const gort_type *t = types[i % 3];
    size_t hi = (1 + rng_below(&r, 4096)) * 8, cut = rng_below(&r, hi / 8 + 1) * 8;
    struct seen whole = scan(t, 0, hi), a = scan(t, 0, cut), b = scan(t, cut, hi);
    static uint8_t times[4096];
    memset(times, 0, sizeof times);
    for (size_t j = 0; j < whole.n; j++)
      times[whole.word[j]]++;
    for (size_t j = 0; j < a.n; j++)
      times[a.word[j]] += 2;
    for (size_t j = 0; j < b.n; j++)
      times[b.word[j]] += 2;
    for (size_t j = 0; j < COUNT_OF(times); j++)
      assert_true(times[j] == 0 || times[j] == 3);
  }
}

/* Nothing is known of a type that is not set yet; all words count of one whose elements lie at
 * odd addresses. */
static void test_scanning_without_a_layout(void **state) {
  (void)state;
  assert_int_equal(scan(NULL, 0, 800).n, 0);
  assert_int_equal(scan(&text_type, 0, 800).n, 0);
  const size_t at[] = {0};
  assert_int_equal(scan(gort_type_struct("packed", 12, 4, at, 1), 0, 800).n, 100);
}

/* --- Methods ---------------------------------------------------------------------------------- */

static void method_a(void) {}
static void method_b(void) {}

static const gort_type *plain_func(void) { return gort_type_func(NULL, 0, NULL, 0, false); }

static void test_methods_are_sorted(void **state) {
  (void)state;
  const gort_type *t = gort_type_scalar("T", 8, 8);
  const gort_method m[] = {{"m", plain_func(), method_a}, {"c", plain_func(), method_b}};
  const gort_method n[] = {{"a", plain_func(), method_a}, {"z", plain_func(), method_b}};
  gort_type_add_methods(t, m, 2);
  gort_type_add_methods(t, n, 2);
  const struct method_table *table = type_methods(t);
  assert_int_equal(table->n, 4);
  for (size_t i = 1; i < table->n; i++)
    assert_true(strcmp(table->m[i - 1].name, table->m[i].name) < 0);
}

/* Who only looks whether a type satisfies an interface does not use it. */
static void test_satisfying_is_not_using(void **state) {
  (void)state;
  const gort_type *t = gort_type_scalar("T", 8, 8);
  const gort_method m[] = {{"m", plain_func(), method_a}};
  const gort_type *inter = gort_type_interface("I", m, 1);
  assert_false(type_satisfies(t, inter));
  gort_type_add_methods(t, m, 1);
  assert_true(type_satisfies(t, inter));
  assert_false(t->flags & TYPE_USED);
  assert_true(gort_type_implements(t, inter));
  assert_true(t->flags & TYPE_USED);
}

static void test_one_itab_for_a_pair(void **state) {
  (void)state;
  enum { N = 500 };
  const gort_method m[] = {{"m", plain_func(), method_a}, {"c", plain_func(), method_b}};
  const gort_type *inter = gort_type_interface("I", m, 2);
  static const gort_type *type[N];
  static const gort_itab *tab[N];
  for (size_t i = 0; i < N; i++) {
    type[i] = gort_type_scalar("T", 8, 8);
    gort_type_add_methods(type[i], m, 2);
    tab[i] = getitab(inter, type[i]);
    assert_ptr_equal(tab[i]->type, type[i]);
    assert_ptr_equal(tab[i]->fun[0], method_b);
    assert_ptr_equal(tab[i]->fun[1], method_a);
  }
  for (size_t i = 0; i < N; i++)
    assert_ptr_equal(getitab(inter, type[i]), tab[i]);
  assert_null(getitab(inter, gort_type_int8));
}

static void test_assertE2I2(void **state) {
  (void)state;
  const gort_type *t = gort_type_scalar("T", 8, 8);
  const gort_method m[] = {{"m", plain_func(), method_a}};
  const gort_type *inter = gort_type_interface("I", m, 1);
  gort_iface v;
  int data;
  assert_false(assertE2I2(inter, (gort_any){NULL, NULL}, &v));
  assert_false(assertE2I2(inter, (gort_any){gort_type_int8, &data}, &v));
  assert_null(v.tab);
  gort_type_add_methods(t, m, 1);
  assert_true(assertE2I2(inter, (gort_any){t, &data}, &v));
  assert_ptr_equal(v.data, &data);
  assert_ptr_equal(gort_iface_method(v, "m"), method_a);
  assert_null(gort_iface_method(v, "n"));
  assert_null(gort_iface_method((gort_iface){NULL, NULL}, "m"));
}

static void test_a_pointer_to_no_type(void **state) {
  (void)state;
  const gort_type *t = gort_type_ptr(NULL);
  assert_null(type_elem(t));
  assert_ptr_equal(gort_type_ptr(NULL), t);
  assert_ptr_equal(type_elem(gort_type_named("P", gort_type_ptr(&shape_type))), &shape_type);
}

/* --- What throws ------------------------------------------------------------------------------ */

CASE(align_3) { gort_type_scalar("T", 6, 3); }
CASE(align_0) { gort_type_scalar("T", 8, 0); }
CASE(size_no_multiple) { gort_type_scalar("T", 12, 8); }
CASE(offset_outside) { gort_type_struct("T", 16, 8, (size_t[]){16}, 1); }
CASE(offset_wraps) { gort_type_struct("T", 16, 8, (size_t[]){SIZE_MAX - 7}, 1); }
CASE(offset_odd) { gort_type_struct("T", 16, 8, (size_t[]){4}, 1); }
CASE(offset_in_small) { gort_type_struct("T", 4, 4, (size_t[]){0}, 1); }
CASE(variadic_of_none) { gort_type_func(NULL, 0, NULL, 0, true); }
CASE(func_of_nil) { gort_type_func((const gort_type *[]){NULL}, 1, NULL, 0, false); }
CASE(same_method_twice) {
  const gort_method m[] = {{"m", plain_func(), method_a}, {"m", plain_func(), method_b}};
  gort_type_add_methods(gort_type_scalar("T", 8, 8), m, 2);
}
CASE(same_method_later) {
  const gort_method m[] = {{"m", plain_func(), method_a}};
  const gort_type *t = gort_type_scalar("T", 8, 8);
  gort_type_add_methods(t, m, 1);
  gort_type_add_methods(t, m, 1);
}
CASE(methods_of_interface) {
  const gort_method m[] = {{"m", plain_func(), method_a}};
  gort_type_add_methods(gort_type_interface("I", NULL, 0), m, 1);
}
CASE(method_without_function) {
  const gort_method m[] = {{"m", plain_func(), NULL}};
  gort_type_add_methods(gort_type_scalar("T", 8, 8), m, 1);
}
CASE(method_of_no_function_type) {
  const gort_method m[] = {{"m", gort_type_int8, method_a}};
  gort_type_interface("I", m, 1);
}
CASE(implements_no_interface) { gort_type_implements(gort_type_int8, gort_type_int8); }
CASE(convert_missing) {
  const gort_method m[] = {{"Foo", plain_func(), NULL}};
  gort_convert((gort_any){gort_type_int8, NULL}, gort_type_interface("Fooer", m, 1));
}

static void test_throws(void **state) {
  (void)state;
  expect_death("fatal error: gort_type_scalar: alignment 3 of T is not a power of two", align_3);
  expect_throw(align_0);
  expect_death("fatal error: gort_type_scalar: size 12 of T is not a multiple of its alignment 8",
               size_no_multiple);
  expect_throw(offset_outside);
  expect_throw(offset_wraps);
  expect_throw(offset_odd);
  expect_throw(offset_in_small);
  expect_throw(variadic_of_none);
  expect_throw(func_of_nil);
  expect_throw(same_method_twice);
  expect_throw(same_method_later);
  expect_throw(methods_of_interface);
  expect_throw(method_without_function);
  expect_throw(method_of_no_function_type);
  expect_throw(implements_no_interface);
  expect_death("fatal error: gort_convert: int8 is not Fooer: missing method Foo", convert_missing);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ranges_are_sorted_and_joined),
      cmocka_unit_test(test_masks_end_with_the_64th_word),
      cmocka_unit_test(test_masks_of_macros_are_those_of_constructors),
      cmocka_unit_test(test_scanning_an_array),
      cmocka_unit_test(test_scanning_ends_where_told),
      cmocka_unit_test(test_scanning_in_parts),
      cmocka_unit_test(test_scanning_without_a_layout),
      cmocka_unit_test(test_methods_are_sorted),
      cmocka_unit_test(test_satisfying_is_not_using),
      cmocka_unit_test(test_one_itab_for_a_pair),
      cmocka_unit_test(test_assertE2I2),
      cmocka_unit_test(test_a_pointer_to_no_type),
      cmocka_unit_test(test_throws),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
