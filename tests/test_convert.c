/* Methods, interfaces and conversion to them. */
#include "check.h"

struct animal {
  int legs;
};

static const gort_type *t_animal, *p_animal; /* the type and the pointer type with methods */
static const gort_type *t_counter, *t_namer, *t_legs_func, *t_add_func;

#define TYPES(...)                                                                                 \
  ((const gort_type *const[]){__VA_ARGS__}), COUNT_OF(((const gort_type *const[]){__VA_ARGS__}))

typedef void (*any_fn)(void);

static int animal_legs(void *self) { return ((struct animal *)self)->legs; }
static int animal_add(void *self, int n) { return ((struct animal *)self)->legs += n; }

static void make_types(void) {
  t_legs_func = gort_type_func(NULL, 0, TYPES(gort_type_int32), false);
  t_add_func = gort_type_func(TYPES(gort_type_int32), TYPES(gort_type_int32), false);
  t_animal = gort_type_scalar("struct animal", sizeof(struct animal), alignof(struct animal));
  p_animal = gort_type_ptr(t_animal);
  const gort_method methods[] = {{"Legs", t_legs_func, (any_fn)animal_legs},
                                 {"Add", t_add_func, (any_fn)animal_add}};
  gort_type_add_methods(p_animal, methods, 2);
  const gort_method counter[] = {{"Legs", t_legs_func, NULL}};
  const gort_method namer[] = {{"Legs", t_legs_func, NULL}, {"Name", t_legs_func, NULL}};
  t_counter = gort_type_interface("Counter", counter, 1);
  t_namer = gort_type_interface("Namer", namer, 2);
}

static const gort_type *one_method_interface(const char *method, const gort_type *type) {
  const gort_method m[] = {{method, type, NULL}};
  return gort_type_interface("I", m, 1);
}

/* --- Implementing --------------------------------------------------------------------------- */

static void test_implements_by_name_and_type(void **state) {
  (void)state;
  assert_true(gort_type_implements(p_animal, t_counter));
  assert_false(gort_type_implements(p_animal, t_namer));
  assert_true(gort_type_implements(p_animal, one_method_interface("Add", t_add_func)));
  assert_false(gort_type_implements(p_animal, one_method_interface("Add", t_legs_func)));
  assert_false(gort_type_implements(p_animal, one_method_interface("legs", t_legs_func)));
  assert_false(gort_type_implements(p_animal, one_method_interface("Leg", t_legs_func)));
}

/* Methods in whatever order, in the type and in the interface. */
static void test_order_does_not_matter(void **state) {
  (void)state;
  const gort_method ab[] = {{"Add", t_add_func, NULL}, {"Legs", t_legs_func, NULL}};
  const gort_method ba[] = {{"Legs", t_legs_func, NULL}, {"Add", t_add_func, NULL}};
  assert_true(gort_type_implements(p_animal, gort_type_interface("AB", ab, 2)));
  assert_true(gort_type_implements(p_animal, gort_type_interface("BA", ba, 2)));
}

static void test_everything_implements_the_empty_interface(void **state) {
  (void)state;
  const gort_type *none = gort_type_interface("Nothing", NULL, 0);
  const gort_type *const types[] = {p_animal,    t_animal,  gort_type_int8,
                                    t_legs_func, t_counter, gort_type_empty_interface};
  for (size_t i = 0; i < COUNT_OF(types); i++) {
    assert_true(gort_type_implements(types[i], gort_type_empty_interface));
    assert_true(gort_type_implements(types[i], none));
    assert_true(gort_type_implements(types[i], gort_type_named("Empty", none)));
  }
}

/* The methods of *T are not T's, nor those of a type named after it. */
static void test_methods_belong_to_one_type(void **state) {
  (void)state;
  assert_false(gort_type_implements(t_animal, t_counter));
  assert_false(gort_type_implements(gort_type_named("P", p_animal), t_counter));
  assert_false(gort_type_implements(gort_type_ptr(p_animal), t_counter));
}

static void test_a_named_type_has_methods_of_its_own(void **state) {
  (void)state;
  const gort_type *beast = gort_type_named("Beast", p_animal);
  const gort_method methods[] = {{"Name", t_legs_func, (any_fn)animal_legs}};
  gort_type_add_methods(beast, methods, 1);
  assert_true(gort_type_implements(beast, one_method_interface("Name", t_legs_func)));
  assert_false(gort_type_implements(p_animal, one_method_interface("Name", t_legs_func)));
  assert_false(gort_type_implements(beast, t_counter));
}

static void test_a_named_interface_keeps_its_methods(void **state) {
  (void)state;
  const gort_type *named = gort_type_named("Counter2", t_counter);
  assert_true(gort_type_implements(p_animal, named));
  assert_false(gort_type_implements(t_animal, named));
  assert_false(gort_type_implements(p_animal, gort_type_named("Namer2", t_namer)));
}

static void test_methods_may_be_added_in_parts(void **state) {
  (void)state;
  const gort_type *t = gort_type_ptr(gort_type_scalar("parts", 8, 8));
  const gort_method one[] = {{"Legs", t_legs_func, (any_fn)animal_legs}};
  const gort_method two[] = {{"Name", t_legs_func, (any_fn)animal_legs}};
  gort_type_add_methods(t, one, 1);
  gort_type_add_methods(t, two, 1);
  assert_true(gort_type_implements(t, t_namer));
}

/* --- Converting ----------------------------------------------------------------------------- */

static void test_convert_and_call(void **state) {
  (void)state;
  struct animal *a = gort_new_noscan(struct animal);
  a->legs = 4;
  const gort_method both[] = {{"Legs", t_legs_func, NULL}, {"Add", t_add_func, NULL}};
  gort_iface v = gort_convert((gort_any){p_animal, a}, gort_type_interface("Both", both, 2));
  assert_non_null(v.tab);
  assert_ptr_equal(v.data, a);
  int (*add)(void *, int) = (int (*)(void *, int))gort_iface_method(v, "Add");
  int (*legs)(void *) = (int (*)(void *))gort_iface_method(v, "Legs");
  assert_int_equal(add(v.data, 2), 6);
  assert_int_equal(legs(v.data), 6);
}

static void test_convert_to_a_named_interface(void **state) {
  (void)state;
  struct animal a = {8};
  gort_iface v = gort_convert((gort_any){p_animal, &a}, gort_type_named("C", t_counter));
  int (*legs)(void *) = (int (*)(void *))gort_iface_method(v, "Legs");
  assert_int_equal(legs(v.data), 8);
}

CASE(convert_lacks_a_method) {
  struct animal a = {1};
  gort_init();
  make_types();
  gort_convert((gort_any){p_animal, &a}, t_namer);
}
CASE(convert_nil) {
  gort_init();
  make_types();
  gort_convert((gort_any){NULL, NULL}, t_counter);
}

static void test_converting_what_cannot_be_throws(void **state) {
  (void)state;
  expect_throw(convert_lacks_a_method);
  expect_throw(convert_nil);
}

enum { CONVERTERS = 6 };
static atomic_int wrong_conversions, converters_done;

static void convert_often(void *unused) {
  (void)unused;
  for (int i = 0; i < 200; i++) {
    const gort_type *t = gort_type_named("Fresh", t_counter);
    struct animal a = {i};
    gort_iface v = gort_convert((gort_any){p_animal, &a}, t);
    int (*legs)(void *) = (int (*)(void *))gort_iface_method(v, "Legs");
    if (legs(v.data) != i || gort_type_implements(p_animal, t_namer))
      atomic_fetch_add(&wrong_conversions, 1);
  }
  atomic_fetch_add(&converters_done, 1);
}

static void test_converting_on_many_threads(void **state) {
  (void)state;
  for (int i = 0; i < CONVERTERS / 2; i++) {
    gort_go(convert_often, NULL);
    assert_int_equal(gort_thread_start(convert_often, NULL), 0);
  }
  WAIT_UNTIL(atomic_load(&converters_done) == CONVERTERS);
  assert_int_equal(atomic_load(&wrong_conversions), 0);
}

/* --- When methods may be added -------------------------------------------------------------- */

static const gort_method late[] = {{"Late", NULL, (any_fn)animal_legs}};

static void add_late(const gort_type *t) {
  gort_method m = late[0];
  m.type = t_legs_func;
  gort_type_add_methods(t, &m, 1);
}

CASE(add_after_convert) {
  struct animal a = {1};
  gort_init();
  make_types();
  gort_convert((gort_any){p_animal, &a}, t_counter);
  add_late(p_animal);
}
CASE(add_after_yes) {
  gort_init();
  make_types();
  gort_type_implements(p_animal, t_counter);
  add_late(p_animal);
}
CASE(add_after_no) {
  gort_init();
  make_types();
  gort_type_implements(p_animal, t_namer);
  add_late(p_animal);
}

static void finalize_nothing(const gort_func *self, void *args, void *results) {
  (void)self, (void)args, (void)results;
}
static gort_func nothing = {finalize_nothing};

/* "used in a finalizer": as the type of the object. */
CASE(add_after_finalizer) {
  gort_init();
  make_types();
  void *obj = gort_alloc_of(t_animal);
  const gort_type *f = gort_type_func(TYPES(p_animal), NULL, 0, false);
  gort_set_finalizer_any((gort_any){p_animal, obj}, (gort_any){f, &nothing});
  add_late(p_animal);
}
CASE(add_after_finalizer_with_interface) {
  gort_init();
  make_types();
  void *obj = gort_alloc_of(t_animal);
  const gort_type *f = gort_type_func(TYPES(t_counter), NULL, 0, false);
  gort_set_finalizer_any((gort_any){p_animal, obj}, (gort_any){f, &nothing});
  add_late(p_animal);
}

static void test_adding_methods_late_throws(void **state) {
  (void)state;
  expect_throw(add_after_convert);
  expect_throw(add_after_yes);
  expect_throw(add_after_no);
  expect_throw(add_after_finalizer);
  expect_throw(add_after_finalizer_with_interface);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_implements_by_name_and_type),
      cmocka_unit_test(test_order_does_not_matter),
      cmocka_unit_test(test_everything_implements_the_empty_interface),
      cmocka_unit_test(test_methods_belong_to_one_type),
      cmocka_unit_test(test_a_named_type_has_methods_of_its_own),
      cmocka_unit_test(test_a_named_interface_keeps_its_methods),
      cmocka_unit_test(test_methods_may_be_added_in_parts),
      cmocka_unit_test(test_convert_and_call),
      cmocka_unit_test(test_convert_to_a_named_interface),
      cmocka_unit_test(test_converting_what_cannot_be_throws),
      cmocka_unit_test(test_converting_on_many_threads),
      cmocka_unit_test(test_adding_methods_late_throws),
  };
  CHECK_MAIN(argc, argv, tests, (make_types(), gort_init()));
}
