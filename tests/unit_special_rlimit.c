/* Setting finalizers when there is no memory for their records: refused, and nothing has changed.
 */
#include "check.h"

#include "base/m.h"

enum { OBJECTS = 20000 };

static void **object;

static void nop(void *p) { (void)p; }

/* The threads that will be needed are there already: one for goroutines, and the collector's. */
static NOINLINE void start_threads(void) {
  gort_max_procs(1);
  gort_set_finalizer_fn(gort_alloc(32), nop);
  CHECK(gort_drain(-1));
}

/* No more address space than the process has now. */
static void forbid_more_memory(void) {
  start_threads();
  struct rlimit limit;
  long pages = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  CHECK(f != NULL && fscanf(f, "%ld", &pages) == 1 && fclose(f) == 0);
  CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
  limit.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

static void allow_more_memory(void) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
  limit.rlim_cur = limit.rlim_max;
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* How many can be set until one is refused. */
static size_t set_until_refused(void) {
  size_t n = 0;
  while (n < OBJECTS && gort_try_set_finalizer_fn(object[n], nop) == 0)
    n++;
  return n;
}

/* Of several sizes, so that tables and chunks are needed as well as records. */
static void make_objects(void) {
  gort_init();
  object = gort_new_array(void *, OBJECTS);
  for (size_t i = 0; i < OBJECTS; i++)
    object[i] = gort_alloc(i % 3 == 0 ? 8 : i % 3 == 1 ? 200 : 1000);
  gort_set_finalizer_fn(object[0], nop); /* starts the finalizer goroutine */
  gort_clear_finalizer(object[0]);
}

static void test_refused_without_memory(void **state) {
  (void)state;
  make_objects();
  forbid_more_memory();
  size_t n = set_until_refused();
  assert_in_range(n, 1, OBJECTS - 1);
  uint64_t before = getm()->stats.finalizers_set;
  assert_int_equal(gort_try_set_finalizer_fn(object[n], nop), GORT_ERR_OUT_OF_MEMORY);
  assert_string_equal(gort_last_error(),
                      "gort_set_finalizer: out of memory: cannot allocate 56 bytes");
  assert_int_equal(getm()->stats.finalizers_set, before);
  gort_clear_finalizer(object[n]);
  allow_more_memory();
  for (size_t i = n; i < OBJECTS; i++)
    assert_int_equal(gort_try_set_finalizer_fn(object[i], nop), 0);
  for (size_t i = 0; i < OBJECTS; i++)
    assert_int_equal(gort_try_set_finalizer_fn(object[i], nop), GORT_ERR_FIN_ALREADY_SET);
  for (size_t i = 0; i < OBJECTS; i++)
    gort_clear_finalizer(object[i]);
}

CASE(throws_without_memory) {
  make_objects();
  forbid_more_memory();
  for (size_t i = 0; i < OBJECTS; i++)
    gort_set_finalizer_fn(object[i], nop);
}

static void test_throws_without_memory(void **state) {
  (void)state;
  expect_death("fatal error: gort_set_finalizer: out of memory: cannot allocate 56 bytes",
               throws_without_memory);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refused_without_memory),
      cmocka_unit_test(test_throws_without_memory),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
