/* What cannot be allocated: the throw with the size in its message, and the forms that return
 * NULL. Sizes are such that no machine has the memory. */
#include "check.h"

#include <inttypes.h>

struct pair {
  void *a, *b;
};
GORT_TYPE(pair_type, struct pair, a, b);

struct packet {
  size_t n;
  void *parts[];
};

/* Sizes that are too large for any machine, the first of which the heap has addresses for, up to
 * those that overflow when rounded. */
static const uint64_t too_much[] = {
    UINT64_C(1) << 43, UINT64_C(1) << 50, UINT64_C(1) << 62, UINT64_MAX / 2,
    UINT64_MAX - 4096, UINT64_MAX - 15,   UINT64_MAX - 1,    UINT64_MAX,
};

/* Compilers know that no object is that large; the sizes must not look constant. */
static size_t size_given(void) { return (size_t)strtoull(case_arg, NULL, 10); }

static void keep(void *p) { gort_keep_alive(p); }

CASE(alloc_too_much) {
  gort_init();
  keep(gort_alloc(size_given()));
}
CASE(alloc_noscan_too_much) {
  gort_init();
  keep(gort_alloc_noscan(size_given()));
}
CASE(alloc_aligned_too_much) {
  gort_init();
  keep(gort_alloc_aligned(size_given(), 64));
}
CASE(realloc_too_much) {
  gort_init();
  keep(gort_realloc(gort_alloc(100), size_given()));
}
CASE(alloc_root_too_much) {
  gort_init();
  keep(gort_alloc_root(size_given()));
}
CASE(memdup_too_much) {
  gort_init();
  keep(gort_memdup("", size_given()));
}

/* The same number as the sum of many parts: the product does not overflow. */
CASE(array_of_too_many) {
  gort_init();
  keep(gort_alloc_array_of(&pair_type, size_given() / sizeof(struct pair)));
}
CASE(new_array_too_many) {
  gort_init();
  keep(gort_new_array(struct pair, size_given() / sizeof(struct pair)));
}

/* Here the product does. */
CASE(array_of_overflows) {
  gort_init();
  keep(gort_alloc_array_of(&pair_type, size_given()));
}
CASE(new_array_overflows) {
  gort_init();
  keep(gort_new_array(struct pair, size_given()));
}
CASE(flex_overflows) {
  gort_init();
  keep(gort_new_flex(struct packet, parts, size_given()));
}

/* In a goroutine, where stacks are smaller and the trace is another. */
static void alloc_size_given(void *unused) {
  (void)unused;
  keep(gort_alloc(size_given()));
}
CASE(goroutine_too_much) { gort_main(alloc_size_given, NULL); }

static const char *const sized_cases[] = {
    "alloc_too_much",      "alloc_noscan_too_much", "alloc_aligned_too_much", "realloc_too_much",
    "alloc_root_too_much", "memdup_too_much",       "goroutine_too_much",
};

static const char *decimal(uint64_t n) {
  static char text[32];
  snprintf(text, sizeof text, "%" PRIu64, n);
  return text;
}

static void test_throws_with_the_size(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(sized_cases); i++) {
    expect_throw_of(decimal(too_much[0]), sized_cases[i], decimal(too_much[0]));
    expect_throw_of(decimal(UINT64_MAX), sized_cases[i], decimal(UINT64_MAX));
  }
}

static void test_throws_with_every_size(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(too_much); i++)
    expect_throw_of(decimal(too_much[i]), "alloc_too_much", decimal(too_much[i]));
}

static void test_arrays_throw_with_the_size(void **state) {
  (void)state;
  const char *size = decimal(UINT64_C(1) << 60);
  expect_throw_of(size, "array_of_too_many", size);
  expect_throw_of(size, "new_array_too_many", size);
}

/* What the size in the message is when it does not fit a word is not said: only that it is
 * there, and that nothing small was allocated for it. */
static void test_arrays_that_overflow_throw(void **state) {
  (void)state;
  static const char *const names[] = {"array_of_overflows", "new_array_overflows",
                                      "flex_overflows"};
  static const uint64_t counts[] = {UINT64_MAX, UINT64_MAX / 16 + 2, UINT64_MAX / 8,
                                    UINT64_MAX / 2 + 2};
  for (size_t i = 0; i < COUNT_OF(names); i++)
    for (size_t j = 0; j < COUNT_OF(counts); j++)
      expect_throw_of("fatal error: ", names[i], decimal(counts[j]));
}

static void test_try_forms_return_null(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(too_much); i++) {
    volatile uint64_t size = too_much[i];
    assert_null(gort_try_alloc((size_t)size));
    assert_non_null(strstr(gort_last_error(), decimal(size)));
    assert_null(gort_try_alloc_noscan((size_t)size));
    assert_non_null(strstr(gort_last_error(), decimal(size)));
  }
}

CASE(try_says) {
  gort_init();
  CHECK(gort_try_alloc(size_given()) == NULL);
  printf("%s", gort_last_error());
}

/* The text that a try form leaves is the one that the throw prints. */
static void test_try_leaves_the_text_of_the_throw(void **state) {
  (void)state;
  const char *size = decimal(UINT64_C(1) << 61);
  const struct outcome *o = run_case("try_says", size, NO_ENV);
  char text[1024];
  snprintf(text, sizeof text, "fatal error: %.900s", o->out);
  assert_true(strlen(o->out) > 0);
  expect_death_of(text, "alloc_too_much", size, NO_ENV);
}

static void test_a_refusal_changes_nothing(void **state) {
  (void)state;
  gort_mem_stats before = read_stats();
  volatile size_t size = SIZE_MAX / 2;
  for (int i = 0; i < 100; i++)
    assert_null(gort_try_alloc(size));
  gort_mem_stats after = read_stats();
  assert_in_range(after.heap_alloc, 0, before.heap_alloc + 100000);
  assert_in_range(after.heap_sys, 0, before.heap_sys + (64 << 20));
  uint64_t *p = gort_alloc(100);
  for (size_t i = 0; i < 12; i++)
    assert_int_equal(p[i], 0);
}

static void test_try_forms_allocate(void **state) {
  (void)state;
  for (size_t size = 1; size < 1000000; size *= 3) {
    assert_in_range(gort_usable_size(gort_try_alloc(size)), size, SIZE_MAX);
    assert_in_range(gort_usable_size(gort_try_alloc_noscan(size)), size, SIZE_MAX);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_throws_with_the_size),
      cmocka_unit_test(test_throws_with_every_size),
      cmocka_unit_test(test_arrays_throw_with_the_size),
      cmocka_unit_test(test_arrays_that_overflow_throw),
      cmocka_unit_test(test_try_forms_return_null),
      cmocka_unit_test(test_try_leaves_the_text_of_the_throw),
      cmocka_unit_test(test_a_refusal_changes_nothing),
      cmocka_unit_test(test_try_forms_allocate),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
