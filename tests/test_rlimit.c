/* A limited address space, as after `ulimit -v 4000000`: the heap makes do with it, and says so
 * when it is used up. */
#include "check.h"

static NOINLINE void make_watched(size_t n) {
  for (size_t i = 0; i < n; i++)
    watch(gort_alloc(40));
}

/* Takes up to n MiB, as long as there are any. */
static NOINLINE size_t take_mebibytes(size_t n) {
  void **chain = NULL;
  size_t taken = 0;
  for (void **p; taken < n && (p = gort_try_alloc(1 << 20)); taken++) {
    *p = chain;
    chain = p;
  }
  gort_keep_alive(chain);
  return taken;
}

static void take_all(void *unused) {
  (void)unused;
  size_t taken = take_mebibytes(1 << 20);
  CHECK(taken > 100 && taken < 5000);
  CHECK(strstr(gort_last_error(), "1048576") != NULL);
}

/* When memory is used up the program goes on, and what it dropped is found again. */
CASE(limited) {
  gort_init();
  make_watched(100);
  in_goroutine(take_all, NULL);
  scrub_stack();
  gort_gc();
  for (int i = 0; i < 10; i++)
    CHECK(take_mebibytes(100) == 100);
}

static void throw_when_full(void *unused) {
  (void)unused;
  void **chain = NULL;
  for (;;) {
    void **p = gort_alloc(1 << 20);
    *p = chain;
    chain = p;
  }
}
CASE(limited_throws) { gort_main(throw_when_full, NULL); }

CASE(with_limit) {
  struct rlimit limit = {UINT64_C(4000000) << 10, UINT64_C(4000000) << 10};
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
  become_case(case_arg, "");
}

static void test_a_limited_address_space(void **state) {
  (void)state;
  expect_quiet_of("with_limit", "limited", NO_ENV);
  expect_throw_of("1048576", "with_limit", "limited_throws");
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_limited_address_space),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
