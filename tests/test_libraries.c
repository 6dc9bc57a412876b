/* Shared libraries: those loaded later count with their data, bss and thread-local variables,
 * and what is unloaded is forgotten. The library is built here, with the system's compiler;
 * without one there is nothing to test. */
#include "check.h"

#include <dlfcn.h>

/* `place` gives the address of an array of SLOTS pointers: 0 data, 1 bss, 2 and 3 thread-local,
 * 4 a large bss, 5 thread-local with an alignment of a page. */
static const char library_source[] =
    "static void *data[100] = {&data};\n"
    "static void *bss[100];\n"
    "static void *large[200000];\n"
    "static __thread void *tls[100];\n"
    "static __thread void *tls_data[100] = {(void *)1};\n"
    "static __thread void *tls_page[600] __attribute__((aligned(4096)));\n"
    "void **place(int i) {\n"
    "  void **const places[] = {data, bss, tls, tls_data, large + 150000, tls_page + 500};\n"
    "  return places[i];\n"
    "}\n"
    "int number(void) { return NUMBER; }\n";

/* Its constructor starts a thread, and waits until it has begun. */
static const char starter_source[] =
    "int gort_thread_start(void (*)(void *), void *);\n"
    "static void nothing(void *unused) { (void)unused; }\n"
    "__attribute__((constructor)) static void begin(void) { gort_thread_start(nothing, 0); }\n";

enum { SLOTS = 100, PLACES = 6, LIBRARIES = 20, STARTER = LIBRARIES };

static char folder[] = "/tmp/gort_test_XXXXXX";
static bool have_folder, have_libraries;

static void file_name(char *name, size_t size, int i) {
  snprintf(name, size, "%s/library%d.so", folder, i);
}

static bool run_compiler(const char *source, const char *output, int number) {
  char define[32];
  snprintf(define, sizeof define, "-DNUMBER=%d", number);
  const char *given = getenv("GORT_TEST_CC"), *cc = given ? given : "cc";
  const char *argv[] = {cc, "-shared", "-fPIC", define, "-o", output, "-x", "c", source, NULL};
  pid_t pid;
  int status;
  if (posix_spawnp(&pid, cc, NULL, NULL, (char **)(uintptr_t)argv, environ) != 0)
    return false;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    continue;
  return status == 0;
}

static bool build(const char *text, int from, int to) {
  char source[64], library[64];
  snprintf(source, sizeof source, "%s/library.c", folder);
  FILE *f = fopen(source, "w");
  if (!f)
    return false;
  fputs(text, f);
  fclose(f);
  bool built = true;
  for (int i = from; i < to && built; i++) {
    file_name(library, sizeof library, i);
    built = run_compiler(source, library, i);
  }
  return built;
}

static bool build_libraries(void) {
  have_folder = mkdtemp(folder) != NULL;
  return build(library_source, 0, LIBRARIES) && build(starter_source, STARTER, STARTER + 1);
}

static void remove_libraries(void) {
  char name[64];
  for (int i = 0; i <= STARTER; i++) {
    file_name(name, sizeof name, i);
    unlink(name);
  }
  snprintf(name, sizeof name, "%s/library.c", folder);
  unlink(name);
  rmdir(folder);
}

static void need_libraries(void) {
  if (!have_libraries)
    skip();
}

static void *load(int i) {
  char name[64];
  file_name(name, sizeof name, i);
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    check_failed(__FILE__, __LINE__, dlerror());
  return library;
}

static void **place_in(void *library, int i) {
  void **(*place)(int) = (void **(*)(int))dlsym(library, "place");
  return place(i);
}

static NOINLINE void fill_place(void **slot) {
  for (size_t i = 0; i < SLOTS; i++)
    slot[i] = watch(gort_alloc(64));
}

static NOINLINE void clear_place(void **slot) {
  for (size_t i = 0; i < SLOTS; i++)
    *(void *volatile *)&slot[i] = NULL;
}

static void assert_places_are_roots(void *library) {
  for (int i = 0; i < PLACES; i++) {
    watch_begin();
    fill_place(place_in(library, i));
    int dead = deaths();
    if (dead)
      fail_msg("place %d: %d of %d died", i, dead, SLOTS);
    clear_place(place_in(library, i));
    assert_mostly_dead(SLOTS);
  }
}

static void test_a_library_loaded_later(void **state) {
  (void)state;
  need_libraries();
  void *library = load(0);
  assert_places_are_roots(library);
  assert_int_equal(dlclose(library), 0);
  assert_true(gort_drain(-1));
}

/* In threads of the program, too; with variables that each thread gets when it first asks. */
static void *shared_library;
static atomic_int holding, let_go, gone;

static void hold_in_thread_locals(void *unused) {
  (void)unused;
  for (int i = 0; i < PLACES; i++)
    if (i == 2 || i == 3 || i == 5)
      fill_place(place_in(shared_library, i));
  atomic_fetch_add(&holding, 1);
  while (!atomic_load(&let_go))
    nap();
  atomic_fetch_add(&gone, 1);
}

static void test_thread_local_variables_of_libraries(void **state) {
  (void)state;
  enum { THREADS = 4 };
  need_libraries();
  shared_library = load(0);
  watch_begin();
  for (int i = 0; i < THREADS; i++)
    assert_int_equal(gort_thread_start(hold_in_thread_locals, NULL), 0);
  WAIT_UNTIL(atomic_load(&holding) == THREADS);
  assert_none_dead();
  atomic_store(&let_go, 1);
  WAIT_UNTIL(atomic_load(&gone) == THREADS);
  for (int i = 0; i < 5; i++)
    nap();
  assert_mostly_dead(3 * SLOTS * THREADS);
  assert_int_equal(dlclose(shared_library), 0);
}

/* Loading and unloading while collections run; what is gone must not be looked at. */
static void test_loading_and_unloading_all_the_time(void **state) {
  (void)state;
  need_libraries();
  struct rng r = seeded_rng(3);
  void *loaded[LIBRARIES] = {NULL};
  start_collecting();
  for (int round = 0; round < 400; round++) {
    size_t i = rng_below(&r, LIBRARIES);
    if (loaded[i]) {
      assert_int_equal(dlclose(loaded[i]), 0);
      loaded[i] = NULL;
    } else {
      loaded[i] = load((int)i);
      place_in(loaded[i], (int)rng_below(&r, PLACES))[5] = gort_alloc(64);
    }
  }
  stop_collecting();
  for (size_t i = 0; i < LIBRARIES; i++)
    if (loaded[i])
      assert_int_equal(dlclose(loaded[i]), 0);
  gort_gc();
}

/* A child inherits the dynamic linker as it was: with its lock held, or in the middle of a change,
 * by a thread that the child does not have. */
static atomic_bool stop_loading, loading_stopped;

static void load_and_unload(void *unused) {
  (void)unused;
  while (!atomic_load(&stop_loading)) {
    void *library = load(0);
    CHECK(dlclose(library) == 0);
  }
  atomic_store(&loading_stopped, true);
}

static void collect_in_child(void) {
  pid_t pid = fork();
  if (pid == 0) {
    alarm(30);
    for (int i = 0; i < 3; i++)
      gort_gc();
    _exit(0);
  }
  await_child(pid);
}

static void test_a_child_of_fork_while_libraries_come_and_go(void **state) {
  (void)state;
  need_libraries();
  if (UNDER_TSAN || UNDER_ASAN || UNDER_QEMU) /* their own locks may be held in the child */
    skip();
  start_collecting();
  assert_int_equal(gort_thread_start(load_and_unload, NULL), 0);
  for (int i = 0; i < 30; i++)
    collect_in_child();
  atomic_store(&stop_loading, true);
  WAIT_UNTIL(atomic_load(&loading_stopped));
  stop_collecting();
}

/* The new thread must not need what the thread that loads the library holds. (It may still be in
 * the library's code after that, which therefore stays.) */
static void test_a_constructor_that_starts_a_thread(void **state) {
  (void)state;
  need_libraries();
  alarm(60);
  assert_non_null(load(STARTER));
  alarm(0);
}

static void test_what_an_unloaded_library_held_dies(void **state) {
  (void)state;
  need_libraries();
  watch_begin();
  for (int i = 0; i < LIBRARIES; i++) {
    void *library = load(i);
    fill_place(place_in(library, i % 2));
    assert_int_equal(dlclose(library), 0);
  }
  assert_mostly_dead(LIBRARIES * SLOTS);
}

/* Static data of a library loaded later is static data to gort_set_finalizer as well. */
static void test_static_data_of_libraries_is_ignored(void **state) {
  (void)state;
  need_libraries();
  void *library = load(1);
  assert_int_equal(gort_try_set_finalizer_fn(place_in(library, 0), note_death), 0);
  assert_int_equal(gort_try_set_finalizer_fn(place_in(library, 1), note_death), 0);
  assert_int_equal(gort_try_set_finalizer_fn(place_in(library, 4), note_death), 0);
  assert_int_not_equal(gort_try_set_finalizer_fn(place_in(library, 2), note_death), 0);
  assert_int_equal(dlclose(library), 0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_library_loaded_later),
      cmocka_unit_test(test_thread_local_variables_of_libraries),
      cmocka_unit_test(test_loading_and_unloading_all_the_time),
      cmocka_unit_test(test_a_child_of_fork_while_libraries_come_and_go),
      cmocka_unit_test(test_a_constructor_that_starts_a_thread),
      cmocka_unit_test(test_what_an_unloaded_library_held_dies),
      cmocka_unit_test(test_static_data_of_libraries_is_ignored),
  };
  have_libraries = build_libraries();
  if (have_folder)
    atexit(remove_libraries);
  CHECK_MAIN(argc, argv, tests, gort_init());
}
