/* gort_set_finalizer_any: finalizers as values that carry their types. Function values on the
 * heap with captured variables, interface parameters, room for results. */
#include "check.h"

struct item {
  uint64_t magic, unused[2]; /* too large to share a block */
};
#define MAGIC UINT64_C(0x0123456789abcdef)

GORT_TYPE_NOSCAN(item_type, struct item);

static const gort_type *p_item, *f_item; /* *struct item, func(*struct item) */

#define TYPES(...)                                                                                 \
  ((const gort_type *const[]){__VA_ARGS__}), COUNT_OF(((const gort_type *const[]){__VA_ARGS__}))
#define NONE NULL, 0

static atomic_int calls, wrong;

static void expect_here(bool right) {
  if (!right)
    atomic_fetch_add(&wrong, 1);
}

static struct item *new_item(void) {
  struct item *it = gort_alloc_of(&item_type);
  it->magic = MAGIC;
  watch_only(it);
  return it;
}

static void begin(void) {
  watch_begin();
  atomic_store(&calls, 0);
  atomic_store(&wrong, 0);
}

static void assert_all_called_well(void) {
  assert_mostly_dead(MANY);
  assert_int_equal(atomic_load(&wrong), 0);
}

static void set(const gort_type *t, void *obj, const gort_type *f, gort_func *fn) {
  gort_set_finalizer_any((gort_any){t, obj}, (gort_any){f, fn});
}

/* --- The argument and the function value ---------------------------------------------------- */

static gort_func check_pointer_func;

static void check_pointer(const gort_func *self, void *args, void *results) {
  struct item *it = *(struct item **)args;
  expect_here(self == &check_pointer_func && it->magic == MAGIC && results == NULL);
  note_death(it);
}

static gort_func check_pointer_func = {check_pointer};

static NOINLINE void make_items(const gort_type *t, const gort_type *f, gort_func *fn) {
  for (size_t i = 0; i < MANY; i++)
    set(t, new_item(), f, fn);
}

static void test_args_point_to_the_pointer(void **state) {
  (void)state;
  begin();
  make_items(p_item, f_item, &check_pointer_func);
  assert_all_called_well();
}

static void test_function_type_may_be_named(void **state) {
  (void)state;
  begin();
  make_items(p_item, gort_type_named("Finalizer", f_item), &check_pointer_func);
  assert_all_called_well();
}

/* --- Closures on the collected heap --------------------------------------------------------- */

struct closure {
  gort_func func;
  uint64_t *captured;
  void *also;
};
GORT_TYPE(closure_type, struct closure, captured, also);

static void call_closure(const gort_func *self, void *args, void *results) {
  const struct closure *c = (const struct closure *)self;
  (void)results;
  expect_here(*c->captured == MAGIC);
  note_death(*(void **)args);
}

/* The captured variable is itself watched: it must not die before the closure has run. */
static struct closure *new_closure(bool typed) {
  struct closure *c = typed ? gort_new_of(struct closure, closure_type) : gort_new(struct closure);
  c->func.call = call_closure;
  c->captured = gort_new_noscan(uint64_t);
  *c->captured = MAGIC;
  return c;
}

static NOINLINE void make_items_with_closures(void) {
  for (size_t i = 0; i < MANY; i++)
    set(p_item, new_item(), f_item, &new_closure(i % 2)->func);
}

static void dirty_the_heap(void) {
  for (int i = 0; i < 100000; i++)
    memset(gort_new(struct closure), 0xdd, sizeof(struct closure));
  for (int i = 0; i < 100000; i++)
    *gort_new_noscan(uint64_t) = 5;
}

static void test_closures_are_kept_with_what_they_captured(void **state) {
  (void)state;
  begin();
  make_items_with_closures();
  dirty_the_heap();
  gort_gc();
  dirty_the_heap();
  assert_all_called_well();
}

static NOINLINE void hold_items_with_closures(void) {
  for (size_t i = 0; i < MANY; i++) {
    kept[i] = new_item();
    set(p_item, kept[i], f_item, &new_closure(i % 2)->func);
  }
}

static void test_closures_live_as_long_as_the_object(void **state) {
  (void)state;
  begin();
  hold_items_with_closures();
  for (int i = 0; i < 3; i++) {
    dirty_the_heap();
    assert_none_dead();
  }
  forget_all();
  assert_all_called_well();
}

/* Once it has run (or been cleared) a closure and what it captured can go. */
static void count_call(const gort_func *self, void *args, void *results) {
  (void)self, (void)args, (void)results;
  atomic_fetch_add(&calls, 1);
}

static atomic_int called_though_cleared;

static void must_not_run(const gort_func *self, void *args, void *results) {
  (void)self, (void)args, (void)results;
  atomic_fetch_add(&called_though_cleared, 1);
}

static NOINLINE void capture_watched(bool hold) {
  for (size_t i = 0; i < MANY; i++) {
    struct closure *c = new_closure(true);
    c->func.call = hold ? must_not_run : count_call;
    c->also = watch(gort_alloc(40));
    struct item *it = gort_alloc_of(&item_type);
    set(p_item, it, f_item, &c->func);
    kept[i] = hold ? it : NULL;
  }
}

static void test_captured_variables_die_after_the_run(void **state) {
  (void)state;
  begin();
  capture_watched(false);
  assert_mostly_dead(MANY);
  assert_true(mostly((size_t)atomic_load(&calls), MANY));
}

static NOINLINE void clear_kept(void) {
  for (size_t i = 0; i < MANY; i++)
    gort_clear_finalizer(kept[i]);
}

static void test_captured_variables_die_after_clearing(void **state) {
  (void)state;
  begin();
  capture_watched(true);
  assert_none_dead();
  clear_kept();
  assert_mostly_dead(MANY);
  forget_all();
  assert_true(gort_drain(-1));
  assert_int_equal(atomic_load(&called_though_cleared), 0);
}

/* A closure that captured its own object keeps it for good. */
static NOINLINE void capture_the_object(void) {
  for (size_t i = 0; i < MANY; i++) {
    struct closure *c = new_closure(true);
    struct item *it = new_item();
    c->also = it;
    set(p_item, it, f_item, &c->func);
  }
}

static void test_capturing_the_object_keeps_it(void **state) {
  (void)state;
  begin();
  capture_the_object();
  assert_none_dead();
}

/* --- Interface parameters ------------------------------------------------------------------- */

static uint64_t item_magic(void *self) { return ((struct item *)self)->magic; }

static const gort_type *magic_interface(void) {
  const gort_type *f = gort_type_func(NONE, TYPES(gort_type_uint64), false);
  const gort_method m[] = {{"Magic", f, NULL}};
  return gort_type_interface("Magician", m, 1);
}

/* Methods hang on a type of this file's own: others are used above, and methods come first. */
static const gort_type *pointer_with_method(void) {
  static const gort_type *t;
  if (!t) {
    t = gort_type_ptr(gort_type_scalar("struct item", sizeof(struct item), 8));
    const gort_type *f = gort_type_func(NONE, TYPES(gort_type_uint64), false);
    const gort_method m[] = {{"Magic", f, (void (*)(void))item_magic}};
    gort_type_add_methods(t, m, 1);
  }
  return t;
}

static const gort_type *expected_type;

static void check_any(const gort_func *self, void *args, void *results) {
  gort_any *a = args;
  (void)self, (void)results;
  expect_here(a->type == expected_type && ((struct item *)a->data)->magic == MAGIC);
  note_death(a->data);
}
static gort_func check_any_func = {check_any};

static void check_iface(const gort_func *self, void *args, void *results) {
  gort_iface *v = args;
  (void)self, (void)results;
  uint64_t (*magic)(void *) = (uint64_t(*)(void *))gort_iface_method(*v, "Magic");
  expect_here(magic(v->data) == MAGIC);
  note_death(v->data);
}
static gort_func check_iface_func = {check_iface};

static void test_empty_interface_parameters_get_an_any(void **state) {
  (void)state;
  const gort_type *none = gort_type_interface("None", NULL, 0);
  const gort_type *const empty[] = {gort_type_empty_interface, none, gort_type_named("Named", none),
                                    gort_type_named("Any", gort_type_empty_interface)};
  expected_type = p_item;
  for (size_t i = 0; i < COUNT_OF(empty); i++) {
    begin();
    make_items(p_item, gort_type_func(&empty[i], 1, NONE, false), &check_any_func);
    assert_all_called_well();
  }
}

static void test_interface_parameters_get_an_iface(void **state) {
  (void)state;
  const gort_type *iface = magic_interface();
  const gort_type *const with_methods[] = {iface, gort_type_named("Named", iface)};
  for (size_t i = 0; i < COUNT_OF(with_methods); i++) {
    begin();
    make_items(pointer_with_method(), gort_type_func(&with_methods[i], 1, NONE, false),
               &check_iface_func);
    assert_all_called_well();
  }
}

/* --- Assignability -------------------------------------------------------------------------- */

static gort_func count_call_func = {count_call};

static int try_pass(const gort_type *x, const gort_type *parameter) {
  struct item *it = gort_alloc_of(&item_type);
  const gort_type *f = gort_type_func(&parameter, 1, NONE, false);
  return gort_try_set_finalizer_any((gort_any){x, it}, (gort_any){f, &count_call_func});
}

static void test_what_can_be_passed_to_what(void **state) {
  (void)state;
  const gort_type *a = gort_type_named("A", p_item), *b = gort_type_named("B", p_item);
  const gort_type *other = gort_type_ptr(gort_type_named("struct item", &item_type));
  const gort_type *iface = magic_interface();
  assert_int_equal(try_pass(p_item, p_item), 0);
  assert_int_equal(try_pass(a, a), 0);
  assert_int_equal(try_pass(a, p_item), 0);
  assert_int_equal(try_pass(p_item, a), 0);
  assert_int_not_equal(try_pass(a, b), 0);
  assert_int_not_equal(try_pass(p_item, other), 0);
  assert_int_not_equal(try_pass(other, p_item), 0);
  assert_int_not_equal(try_pass(p_item, gort_type_ptr(p_item)), 0);
  assert_int_not_equal(try_pass(p_item, gort_type_unsafe_pointer), 0);
  assert_int_not_equal(try_pass(p_item, gort_type_uintptr), 0);
  assert_int_not_equal(try_pass(p_item, &item_type), 0);
  assert_int_not_equal(try_pass(p_item, iface), 0);
  assert_int_equal(try_pass(pointer_with_method(), iface), 0);
  assert_int_equal(try_pass(a, gort_type_empty_interface), 0);
}

static void test_a_named_pointer_is_passed_as_it_is(void **state) {
  (void)state;
  const gort_type *a = gort_type_named("A", p_item);
  begin();
  make_items(a, f_item, &check_pointer_func);
  assert_all_called_well();
  begin();
  make_items(p_item, gort_type_func(&a, 1, NONE, false), &check_pointer_func);
  assert_all_called_well();
}

/* --- Room for results ----------------------------------------------------------------------- */

struct results_func {
  gort_func func;
  size_t size; /* of the results */
};

static void use_results(const gort_func *self, void *args, void *results) {
  size_t size = ((const struct results_func *)self)->size;
  unsigned char *r = results;
  expect_here(results != NULL && (uintptr_t)results % 16 == 0);
  for (size_t i = 0; i < size; i++)
    expect_here(r[i] == 0);
  memset(results, 0xff, size);
  note_death(*(void **)args);
}

static void assert_room(const gort_type *const *out, size_t n, size_t size) {
  struct results_func *f = gort_new_noscan(struct results_func);
  *f = (struct results_func){{use_results}, size};
  begin();
  make_items(p_item, gort_type_func(&p_item, 1, out, n, false), &f->func);
  assert_all_called_well();
}

/* Each result at its alignment: a bool, 7 bytes of padding, a word, a bool make 17 bytes. */
static void test_results_have_zeroed_room(void **state) {
  (void)state;
  const gort_type *big = gort_type_scalar("big", 20000, 8);
  const gort_type *wide = gort_type_scalar("wide", 16, 16);
  assert_room(TYPES(gort_type_bool), 1);
  assert_room(TYPES(gort_type_bool, gort_type_int64, gort_type_bool), 17);
  assert_room(TYPES(gort_type_int16, wide, gort_type_int8), 33);
  assert_room(TYPES(big, gort_type_int64), 20008);
  assert_room(TYPES(gort_type_int32, gort_type_empty_interface), 24);
  assert_room(TYPES(gort_type_bool), 1);
}

/* There are results, if only of no size. */
static void test_results_without_size_have_an_address(void **state) {
  (void)state;
  const gort_type *nothing = gort_type_scalar("nothing", 0, 1);
  assert_room(TYPES(nothing), 0);
  assert_room(TYPES(nothing, nothing), 0);
  assert_room(TYPES(nothing, gort_type_int8), 1);
}

/* A large frame before does not change that. */
static void test_no_results_are_null(void **state) {
  (void)state;
  begin();
  make_items(p_item, f_item, &check_pointer_func);
  assert_all_called_well();
}

/* What a finalizer leaves as its result is thrown away: it keeps nothing alive. */
static void return_the_object(const gort_func *self, void *args, void *results) {
  (void)self;
  *(void **)results = *(void **)args;
  atomic_fetch_add(&calls, 1);
}
static gort_func return_the_object_func = {return_the_object};

struct parent {
  void *child;
};
GORT_TYPE(parent_type, struct parent, child);

static NOINLINE void make_returned(void) {
  const gort_type *p = gort_type_ptr(&parent_type);
  const gort_type *f = gort_type_func(&p, 1, &p, 1, false);
  for (size_t i = 0; i < MANY; i++) {
    struct parent *parent = gort_new_of(struct parent, parent_type);
    parent->child = watch(gort_alloc(40));
    set(p, parent, f, &return_the_object_func);
  }
}

static void test_results_are_thrown_away(void **state) {
  (void)state;
  begin();
  make_returned();
  assert_mostly_dead(MANY);
  assert_true(mostly((size_t)atomic_load(&calls), MANY));
}

static void nothing_to_do(const gort_func *self, void *args, void *results) {
  (void)self, (void)args, (void)results;
}
static gort_func nothing_func = {nothing_to_do};

static NOINLINE void make_one_parent(void) {
  const gort_type *p = gort_type_ptr(&parent_type);
  struct parent *parent = gort_new_of(struct parent, parent_type);
  parent->child = watch(gort_alloc(40));
  set(p, parent, gort_type_func(&p, 1, NONE, false), &nothing_func);
}

/* The room for the argument does not keep the last one until there is another: its child can die,
 * which it cannot before its parent is freed. */
static void test_the_last_object_is_freed(void **state) {
  (void)state;
  enum { ROUNDS = 40 };
  size_t freed = 0;
  for (size_t i = 0; i < ROUNDS; i++) {
    begin();
    make_one_parent();
    freed += deaths() == 1;
  }
  assert_true(mostly(freed, ROUNDS));
}

/* --- The object while it runs --------------------------------------------------------------- */

static NOINLINE void collect_and_look(uintptr_t hidden) {
  scrub_stack();
  gort_gc();
  for (int i = 0; i < 200; i++)
    ((struct item *)gort_alloc_of(&item_type))->magic = 0;
  expect_here(((struct item *)reveal(hidden))->magic == MAGIC);
  note_death(reveal(hidden));
}

static void hide_and_look(const gort_func *self, void *args, void *results) {
  (void)self, (void)results;
  collect_and_look(hide(*(void **)args));
}
static gort_func hide_and_look_func = {hide_and_look};

static NOINLINE void make_hiders(size_t n) {
  for (size_t i = 0; i < n; i++)
    set(p_item, new_item(), f_item, &hide_and_look_func);
}

/* The room for the argument is no root; the queue's entry is. */
static void test_the_object_stays_while_the_finalizer_runs(void **state) {
  (void)state;
  enum { N = 50 };
  begin();
  make_hiders(N);
  assert_mostly_dead(N);
  assert_int_equal(atomic_load(&wrong), 0);
}

/* --- Static data ---------------------------------------------------------------------------- */

static struct item static_item;

/* "whatever the finalizer" */
static void test_static_data_is_ignored_with_any_finalizer(void **state) {
  (void)state;
  const gort_any finalizers[] = {{gort_type_int32, NULL},
                                 {f_item, NULL},
                                 {f_item, &check_pointer_func},
                                 {gort_type_func(TYPES(p_item, p_item), NONE, false), NULL},
                                 {gort_type_func(TYPES(p_item), NONE, true), NULL},
                                 {NULL, NULL}};
  void *const objects[] = {&static_item, gort_alloc(0)};
  for (size_t o = 0; o < COUNT_OF(objects); o++)
    for (size_t i = 0; i < COUNT_OF(finalizers); i++) {
      gort_any obj = {p_item, objects[o]};
      assert_int_equal(gort_try_set_finalizer_any(obj, finalizers[i]), 0);
      gort_set_finalizer_any(obj, finalizers[i]);
    }
}

static void make_types(void) {
  p_item = gort_type_ptr(&item_type);
  f_item = gort_type_func(&p_item, 1, NULL, 0, false);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_args_point_to_the_pointer),
      cmocka_unit_test(test_function_type_may_be_named),
      cmocka_unit_test(test_closures_are_kept_with_what_they_captured),
      cmocka_unit_test(test_closures_live_as_long_as_the_object),
      cmocka_unit_test(test_captured_variables_die_after_the_run),
      cmocka_unit_test(test_captured_variables_die_after_clearing),
      cmocka_unit_test(test_capturing_the_object_keeps_it),
      cmocka_unit_test(test_empty_interface_parameters_get_an_any),
      cmocka_unit_test(test_interface_parameters_get_an_iface),
      cmocka_unit_test(test_what_can_be_passed_to_what),
      cmocka_unit_test(test_a_named_pointer_is_passed_as_it_is),
      cmocka_unit_test(test_results_have_zeroed_room),
      cmocka_unit_test(test_results_without_size_have_an_address),
      cmocka_unit_test(test_no_results_are_null),
      cmocka_unit_test(test_results_are_thrown_away),
      cmocka_unit_test(test_the_last_object_is_freed),
      cmocka_unit_test(test_the_object_stays_while_the_finalizer_runs),
      cmocka_unit_test(test_static_data_is_ignored_with_any_finalizer),
  };
  CHECK_MAIN(argc, argv, tests, (make_types(), gort_init()));
}
