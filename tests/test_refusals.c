/* What gort_set_finalizer refuses: each row of the table, its exact text when it throws, the
 * same text and a code of its own when it does not, and that the first row that applies counts. */
#include "check.h"

#include <sys/mman.h>

struct T {
  uint64_t word[8];
};

static const gort_type *t_T, *p_T, *t_int;

#define TYPES(...)                                                                                 \
  ((const gort_type *const[]){__VA_ARGS__}), COUNT_OF(((const gort_type *const[]){__VA_ARGS__}))
#define NONE NULL, 0

static void make_types(void) {
  t_T = gort_type_scalar("T", sizeof(struct T), alignof(struct T));
  p_T = gort_type_ptr(t_T);
  t_int = gort_type_scalar("int", sizeof(int), alignof(int));
}

static void call_nothing(const gort_func *self, void *args, void *results) {
  (void)self, (void)args, (void)results;
}
static gort_func nothing = {call_nothing};
static int number;

static gort_any any(const gort_type *type, void *data) { return (gort_any){type, data}; }

/* --- Objects -------------------------------------------------------------------------------- */

static gort_any good_object(void) { return any(p_T, gort_alloc_of(t_T)); }
static gort_any nil_object(void) { return any(NULL, gort_alloc_of(t_T)); }
static gort_any nil_object_at_null(void) { return any(NULL, NULL); }
static gort_any int_object(void) { return any(t_int, &number); }
static gort_any T_object(void) { return any(t_T, gort_alloc_of(t_T)); }
static gort_any T_object_at_null(void) { return any(t_T, NULL); }
static gort_any unsafe_object(void) { return any(gort_type_unsafe_pointer, gort_alloc(8)); }
static gort_any func_object(void) { return any(gort_type_func(NONE, NONE, false), &nothing); }
static gort_any any_object(void) { return any(gort_type_empty_interface, gort_alloc(16)); }
static gort_any named_object(void) { return any(gort_type_named("N", t_int), &number); }
static gort_any nil_elem_object(void) { return any(gort_type_ptr(NULL), gort_alloc_of(t_T)); }
static gort_any nil_elem_object_outside(void) { return any(gort_type_ptr(NULL), NULL); }
static gort_any null_object(void) { return any(p_T, NULL); }

static gort_any malloc_object(void) {
  static void *memory;
  if (!memory)
    memory = malloc(4096);
  return any(p_T, memory);
}
static gort_any mapped_object(void) {
  static void *memory;
  if (!memory)
    memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return any(p_T, memory);
}
static gort_any stack_object(void) {
  struct T here;
  volatile uintptr_t address = (uintptr_t)&here;
  return any(p_T, (void *)address);
}
static gort_any thread_local_object(void) {
  static __thread struct T here;
  return any(p_T, &here);
}
#ifdef __x86_64__ /* elsewhere linkers may put constants beside code */
static gort_any code_object(void) { return any(p_T, (void *)(uintptr_t)call_nothing); }
#endif
static gort_any wild_object(void) { return any(p_T, (void *)(uintptr_t)0x7654); }
static gort_any highest_object(void) { return any(p_T, (void *)(UINTPTR_MAX - 7)); }

static gort_any inside_object(void) { return any(p_T, (char *)gort_alloc_of(t_T) + 8); }
static gort_any at_the_last_byte(void) { return any(p_T, (char *)gort_alloc_of(t_T) + 63); }
static gort_any inside_large_object(void) { return any(p_T, (char *)gort_alloc(100000) + 8192); }

static gort_any object_with_finalizer(void) {
  gort_any obj = good_object();
  gort_set_finalizer_any(obj, any(gort_type_func(&p_T, 1, NONE, false), &nothing));
  return obj;
}

/* --- Finalizers ----------------------------------------------------------------------------- */

static gort_any good_finalizer(void) { return any(gort_type_func(&p_T, 1, NONE, false), &nothing); }
static gort_any clearing(void) { return any(NULL, NULL); }
static gort_any int_finalizer(void) { return any(t_int, &number); }
static gort_any int_finalizer_at_null(void) { return any(t_int, NULL); }
static gort_any pointer_finalizer(void) { return any(p_T, &nothing); }
static gort_any unsafe_finalizer(void) { return any(gort_type_unsafe_pointer, &nothing); }
static gort_any missing_function(void) { return any(gort_type_func(&p_T, 1, NONE, false), NULL); }
static gort_any missing_variadic(void) { return any(gort_type_func(&p_T, 1, NONE, true), NULL); }
static gort_any missing_of_int(void) { return any(gort_type_func(&t_int, 1, NONE, false), NULL); }
static gort_any variadic(void) { return any(gort_type_func(&p_T, 1, NONE, true), &nothing); }
static gort_any variadic_of_two(void) {
  return any(gort_type_func(TYPES(t_int, p_T), NONE, true), &nothing);
}
static gort_any without_parameters(void) {
  return any(gort_type_func(NONE, TYPES(t_int), false), &nothing);
}
static gort_any of_two(void) { return any(gort_type_func(TYPES(p_T, p_T), NONE, false), &nothing); }
static gort_any of_int(void) {
  return any(gort_type_func(&t_int, 1, TYPES(t_int, gort_type_bool), false), &nothing);
}
static gort_any of_T(void) { return any(gort_type_func(&t_T, 1, NONE, false), &nothing); }
static gort_any of_interface(void) {
  const gort_method m = {"Close", gort_type_func(NONE, NONE, false), NULL};
  const gort_type *closer = gort_type_interface("Closer", &m, 1);
  return any(gort_type_func(&closer, 1, NONE, false), &nothing);
}

/* --- The table ------------------------------------------------------------------------------ */

/* One kind for each message, in the table's order. */
enum kind {
  NIL,
  NOT_POINTER,
  NIL_ELEM,
  NOT_ALLOCATED,
  NOT_BEGINNING,
  NOT_FUNCTION,
  NO_FUNCTION,
  DOTDOTDOT,
  CANNOT_PASS,
  ALREADY_SET,
  NUM_KINDS
};

struct bad {
  gort_any (*make)(void);
  enum kind kind;
  const char *message;
};

static const struct bad bad_objects[] = {
    {nil_object, NIL, "first argument is nil"},
    {nil_object_at_null, NIL, "first argument is nil"},
    {int_object, NOT_POINTER, "first argument is int, not pointer"},
    {T_object, NOT_POINTER, "first argument is T, not pointer"},
    {T_object_at_null, NOT_POINTER, "first argument is T, not pointer"},
    {unsafe_object, NOT_POINTER, "first argument is unsafe_pointer, not pointer"},
    {func_object, NOT_POINTER, "first argument is func(), not pointer"},
    {any_object, NOT_POINTER, "first argument is any, not pointer"},
    {named_object, NOT_POINTER, "first argument is N, not pointer"},
    {nil_elem_object, NIL_ELEM, "nil elem type!"},
    {nil_elem_object_outside, NIL_ELEM, "nil elem type!"},
    {null_object, NOT_ALLOCATED, "pointer not in allocated block"},
    {malloc_object, NOT_ALLOCATED, "pointer not in allocated block"},
    {mapped_object, NOT_ALLOCATED, "pointer not in allocated block"},
    {stack_object, NOT_ALLOCATED, "pointer not in allocated block"},
    {thread_local_object, NOT_ALLOCATED, "pointer not in allocated block"},
#ifdef __x86_64__
    {code_object, NOT_ALLOCATED, "pointer not in allocated block"},
#endif
    {wild_object, NOT_ALLOCATED, "pointer not in allocated block"},
    {highest_object, NOT_ALLOCATED, "pointer not in allocated block"},
    {inside_object, NOT_BEGINNING, "pointer not at beginning of allocated block"},
    {at_the_last_byte, NOT_BEGINNING, "pointer not at beginning of allocated block"},
    {inside_large_object, NOT_BEGINNING, "pointer not at beginning of allocated block"},
};

static const struct bad bad_finalizers[] = {
    {int_finalizer, NOT_FUNCTION, "second argument is int, not a function"},
    {int_finalizer_at_null, NOT_FUNCTION, "second argument is int, not a function"},
    {pointer_finalizer, NOT_FUNCTION, "second argument is *T, not a function"},
    {unsafe_finalizer, NOT_FUNCTION, "second argument is unsafe_pointer, not a function"},
    {missing_function, NO_FUNCTION, "second argument is func(*T) without a function"},
    {missing_variadic, NO_FUNCTION, "second argument is func(...*T) without a function"},
    {missing_of_int, NO_FUNCTION, "second argument is func(int) without a function"},
    {variadic, DOTDOTDOT, "cannot pass *T to finalizer func(...*T) because dotdotdot"},
    {variadic_of_two, DOTDOTDOT, "cannot pass *T to finalizer func(int, ...*T) because dotdotdot"},
    {without_parameters, CANNOT_PASS, "cannot pass *T to finalizer func() int"},
    {of_two, CANNOT_PASS, "cannot pass *T to finalizer func(*T, *T)"},
    {of_int, CANNOT_PASS, "cannot pass *T to finalizer func(int) (int, bool)"},
    {of_T, CANNOT_PASS, "cannot pass *T to finalizer func(T)"},
    {of_interface, CANNOT_PASS, "cannot pass *T to finalizer func(Closer)"},
};

static const struct bad already_set = {object_with_finalizer, ALREADY_SET, "finalizer already set"};

static const char *with_prefix(const char *message) {
  static char text[256];
  snprintf(text, sizeof text, "gort_set_finalizer: %s", message);
  return text;
}

static const char *as_thrown(const char *message) {
  static char text[256];
  snprintf(text, sizeof text, "fatal error: gort_set_finalizer: %s", message);
  return text;
}

static int codes[NUM_KINDS];

static void assert_refused(int code, const struct bad *row) {
  assert_int_not_equal(code, 0);
  assert_string_equal(gort_last_error(), with_prefix(row->message));
  if (codes[row->kind] == 0)
    codes[row->kind] = code;
  assert_int_equal(code, codes[row->kind]);
}

static void assert_pair_refused(const struct bad *row, gort_any obj, gort_any finalizer) {
  assert_refused(gort_try_set_finalizer_any(obj, finalizer), row);
}

/* --- Without throwing ----------------------------------------------------------------------- */

static void test_each_object_row(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(bad_objects); i++) {
    const struct bad *row = &bad_objects[i];
    assert_pair_refused(row, row->make(), good_finalizer());
    assert_pair_refused(row, row->make(), clearing());
  }
}

static void test_each_finalizer_row(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(bad_finalizers); i++)
    assert_pair_refused(&bad_finalizers[i], good_object(), bad_finalizers[i].make());
  assert_pair_refused(&already_set, object_with_finalizer(), good_finalizer());
}

static void test_the_first_row_counts(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(bad_finalizers); i++) {
    gort_any finalizer = bad_finalizers[i].make();
    for (size_t j = 0; j < COUNT_OF(bad_objects); j++)
      assert_pair_refused(&bad_objects[j], bad_objects[j].make(), finalizer);
    assert_pair_refused(&bad_finalizers[i], object_with_finalizer(), finalizer);
  }
}

static void test_each_message_has_a_code(void **state) {
  test_each_object_row(state);
  test_each_finalizer_row(state);
  for (size_t i = 0; i < NUM_KINDS; i++) {
    assert_int_not_equal(codes[i], 0);
    for (size_t j = 0; j < i; j++)
      assert_int_not_equal(codes[i], codes[j]);
  }
}

static void fn_nothing(void *p) { (void)p; }

/* The plain forms carry no types; the rows on the address hold for them. */
static void test_plain_forms(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(bad_objects); i++) {
    const struct bad *row = &bad_objects[i];
    if (row->kind != NOT_ALLOCATED && row->kind != NOT_BEGINNING)
      continue;
    assert_refused(gort_try_set_finalizer_fn(row->make().data, fn_nothing), row);
    assert_refused(gort_try_set_finalizer_fn(row->make().data, NULL), row);
    assert_refused(gort_try_clear_finalizer(row->make().data), row);
  }
  assert_refused(gort_try_set_finalizer_fn(object_with_finalizer().data, fn_nothing), &already_set);
}

static void test_success_is_zero(void **state) {
  (void)state;
  gort_any obj = good_object();
  assert_int_equal(gort_try_set_finalizer_any(obj, good_finalizer()), 0);
  assert_int_equal(gort_try_set_finalizer_any(obj, clearing()), 0);
  assert_int_equal(gort_try_set_finalizer_fn(obj.data, fn_nothing), 0);
  assert_int_equal(gort_try_clear_finalizer(obj.data), 0);
}

/* --- Nothing has changed -------------------------------------------------------------------- */

static NOINLINE void refuse_over_watched(void) {
  for (size_t i = 0; i < MANY; i++) {
    gort_any obj = {p_T, watch(gort_alloc_of(t_T))};
    gort_any finalizer = bad_finalizers[i % COUNT_OF(bad_finalizers)].make();
    assert_int_not_equal(gort_try_set_finalizer_any(obj, finalizer), 0);
    assert_int_not_equal(gort_try_set_finalizer_any(obj, good_finalizer()), 0);
    assert_int_not_equal(gort_try_set_finalizer_fn(obj.data, fn_nothing), 0);
    gort_any inside = {p_T, (char *)obj.data + 8};
    assert_int_not_equal(gort_try_set_finalizer_any(inside, good_finalizer()), 0);
    assert_int_not_equal(gort_try_clear_finalizer(inside.data), 0);
  }
}

static void test_a_refusal_leaves_the_old_finalizer(void **state) {
  (void)state;
  watch_begin();
  refuse_over_watched();
  assert_mostly_dead(MANY);
}

static NOINLINE void refuse_and_drop(void) {
  for (size_t i = 0; i < MANY; i++) {
    gort_any finalizer = bad_finalizers[i % COUNT_OF(bad_finalizers)].make();
    assert_int_not_equal(gort_try_set_finalizer_any(good_object(), finalizer), 0);
  }
}

static void test_a_refusal_sets_nothing(void **state) {
  (void)state;
  uint64_t before = read_stats().finalizers_set;
  refuse_and_drop();
  assert_int_equal(read_stats().finalizers_set, before);
}

/* --- Free slots ----------------------------------------------------------------------------- */

static uintptr_t hidden[MANY];

/* Every tenth is held, so that the others are free slots between objects in use. */
static NOINLINE void make_free_slots(size_t size) {
  for (size_t i = 0; i < MANY; i++) {
    void *p = gort_alloc(size);
    hidden[i] = hide(p);
    if (i % 10 == 0)
      kept[i] = p;
  }
}

static NOINLINE size_t count_refused_slots(size_t offset) {
  size_t refused = 0;
  for (size_t i = 0; i < MANY; i++) {
    if (i % 10 == 0)
      continue;
    char *p = reveal(hidden[i]);
    if (gort_try_set_finalizer_fn(p + offset, NULL) == codes[NOT_ALLOCATED] &&
        gort_try_set_finalizer_fn(p + offset, fn_nothing) == codes[NOT_ALLOCATED] &&
        strcmp(gort_last_error(), "gort_set_finalizer: pointer not in allocated block") == 0)
      refused++;
  }
  return refused;
}

static void assert_free_slots_refused(size_t size) {
  make_free_slots(size);
  scrub_stack();
  gort_gc();
  size_t free_slots = MANY - MANY / 10;
  assert_true(mostly(count_refused_slots(0), free_slots));
  assert_true(mostly(count_refused_slots(8), free_slots));
  for (size_t i = 0; i < MANY; i += 10)
    assert_int_equal(gort_try_set_finalizer_fn(kept[i], fn_nothing), 0);
  forget_all();
}

static void test_free_slots(void **state) {
  test_each_object_row(state);
  int percent = gort_set_gc_percent(-1);
  assert_free_slots_refused(48);
  assert_free_slots_refused(3000);
  assert_free_slots_refused(50000);
  gort_set_gc_percent(percent);
}

/* --- gort_last_error ------------------------------------------------------------------------ */

static void test_last_error_stays_until_the_next(void **state) {
  (void)state;
  assert_pair_refused(&bad_objects[0], nil_object(), good_finalizer());
  for (int i = 0; i < 1000; i++)
    assert_int_equal(gort_try_set_finalizer_any(good_object(), good_finalizer()), 0);
  assert_non_null(gort_try_alloc(100));
  gort_gc();
  assert_string_equal(gort_last_error(), with_prefix(bad_objects[0].message));
  assert_pair_refused(&already_set, object_with_finalizer(), good_finalizer());
}

static atomic_int refused_elsewhere;

/* On a goroutine and on a thread alike: its own text, also after it has given way often. */
static void refuse_elsewhere(void *arg) {
  const struct bad *row = arg;
  gort_try_set_finalizer_any(row->make(), good_finalizer());
  for (int i = 0; i < 100; i++) {
    gort_yield();
    if (strcmp(gort_last_error() + strlen("gort_set_finalizer: "), row->message) != 0)
      return;
  }
  atomic_fetch_add(&refused_elsewhere, 1);
}

static void test_last_error_is_ones_own(void **state) {
  (void)state;
  atomic_store(&refused_elsewhere, 0);
  assert_pair_refused(&bad_objects[0], nil_object(), good_finalizer());
  in_thread(refuse_elsewhere, (void *)(uintptr_t)&bad_objects[2]);
  for (size_t i = 0; i < COUNT_OF(bad_objects); i++)
    gort_go(refuse_elsewhere, (void *)(uintptr_t)&bad_objects[i]);
  WAIT_UNTIL(atomic_load(&refused_elsewhere) == 1 + COUNT_OF(bad_objects));
  assert_string_equal(gort_last_error(), with_prefix(bad_objects[0].message));
}

/* --- Throwing ------------------------------------------------------------------------------- */

static void start(void) {
  make_types();
  gort_init();
}

static const struct bad *row_given(const struct bad *rows) { return &rows[atoi(case_arg)]; }

CASE(set_bad_object) {
  start();
  gort_set_finalizer_any(row_given(bad_objects)->make(), good_finalizer());
}
CASE(clear_bad_object) {
  start();
  gort_set_finalizer_any(row_given(bad_objects)->make(), clearing());
}
CASE(set_bad_object_fn) {
  start();
  gort_set_finalizer_fn(row_given(bad_objects)->make().data, fn_nothing);
}
CASE(clear_bad_object_fn) {
  start();
  gort_clear_finalizer(row_given(bad_objects)->make().data);
}
CASE(set_bad_finalizer) {
  start();
  gort_set_finalizer_any(good_object(), row_given(bad_finalizers)->make());
}
CASE(set_twice) {
  start();
  gort_set_finalizer_any(object_with_finalizer(), good_finalizer());
}
CASE(set_twice_fn) {
  start();
  gort_set_finalizer_fn(object_with_finalizer().data, fn_nothing);
}
CASE(set_twice_macro) {
  start();
  struct T *t = object_with_finalizer().data;
  gort_set_finalizer(t, (void (*)(struct T *))fn_nothing);
}

static void expect_refusal(const char *name, size_t row, const char *message) {
  char arg[16];
  snprintf(arg, sizeof arg, "%zu", row);
  expect_death_of(as_thrown(message), name, arg, NO_ENV);
}

static void test_each_row_throws(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(bad_objects); i++) {
    expect_refusal("set_bad_object", i, bad_objects[i].message);
    expect_refusal("clear_bad_object", i, bad_objects[i].message);
  }
  for (size_t i = 0; i < COUNT_OF(bad_finalizers); i++)
    expect_refusal("set_bad_finalizer", i, bad_finalizers[i].message);
  expect_death(as_thrown(already_set.message), set_twice);
}

static void test_plain_forms_throw(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(bad_objects); i++)
    if (bad_objects[i].kind == NOT_ALLOCATED || bad_objects[i].kind == NOT_BEGINNING) {
      expect_refusal("set_bad_object_fn", i, bad_objects[i].message);
      expect_refusal("clear_bad_object_fn", i, bad_objects[i].message);
    }
  expect_death(as_thrown(already_set.message), set_twice_fn);
  expect_death(as_thrown(already_set.message), set_twice_macro);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_object_row),
      cmocka_unit_test(test_each_finalizer_row),
      cmocka_unit_test(test_the_first_row_counts),
      cmocka_unit_test(test_each_message_has_a_code),
      cmocka_unit_test(test_plain_forms),
      cmocka_unit_test(test_success_is_zero),
      cmocka_unit_test(test_a_refusal_leaves_the_old_finalizer),
      cmocka_unit_test(test_a_refusal_sets_nothing),
      cmocka_unit_test(test_free_slots),
      cmocka_unit_test(test_last_error_stays_until_the_next),
      cmocka_unit_test(test_last_error_is_ones_own),
      cmocka_unit_test(test_each_row_throws),
      cmocka_unit_test(test_plain_forms_throw),
  };
  CHECK_MAIN(argc, argv, tests, start());
}
