/* The environment: GORTGC, GORTMEMLIMIT, GORTMAXPROCS, GORTDEBUG and GORTTORTURE. */
#include "check.h"

#define MAGIC UINT64_C(0x1122334455667788)

/* --- Settings ------------------------------------------------------------------------------- */

static void print_settings(void *unused) {
  (void)unused;
  int percent = gort_set_gc_percent(100);
  printf("%d %lld %d\n", percent < 0 ? -1 : percent, (long long)gort_set_memory_limit(-1),
         gort_max_procs(0));
}

CASE(settings) {
  gort_init();
  print_settings(NULL);
}
CASE(settings_in_main) { gort_main(print_settings, NULL); }

struct settings {
  int percent, procs;
  long long limit;
};

static struct settings settings_printed(const struct outcome *o) {
  struct settings s;
  assert_int_equal(sscanf(o->out, "%d %lld %d", &s.percent, &s.limit, &s.procs), 3);
  return s;
}

static struct settings settings_with(const char *setting) {
  const char *const *env = ENV("GORTGC", "GORTMEMLIMIT", "GORTMAXPROCS", setting);
  expect_quiet_in(settings_in_main, env);
  return settings_printed(expect_quiet_in(settings, env));
}

static void test_defaults(void **state) {
  (void)state;
  struct settings s = settings_with("GORTDEBUG");
  assert_int_equal(s.percent, 100);
  assert_true(s.limit == INT64_MAX);
}

static void test_gortgc(void **state) {
  (void)state;
  assert_int_equal(settings_with("GORTGC=50").percent, 50);
  assert_int_equal(settings_with("GORTGC=400").percent, 400);
  assert_int_equal(settings_with("GORTGC=off").percent, -1);
}

static void test_gortmemlimit(void **state) {
  (void)state;
  assert_true(settings_with("GORTMEMLIMIT=512MiB").limit == 512LL << 20);
  assert_true(settings_with("GORTMEMLIMIT=3GiB").limit == 3LL << 30);
  assert_true(settings_with("GORTMEMLIMIT=100000KiB").limit == 100000LL << 10);
  assert_true(settings_with("GORTMEMLIMIT=2TiB").limit == 2LL << 40);
  assert_true(settings_with("GORTMEMLIMIT=800000000B").limit == 800000000LL);
  assert_true(settings_with("GORTMEMLIMIT=800000000").limit == 800000000LL);
}

static void test_gortmaxprocs(void **state) {
  (void)state;
  assert_int_equal(settings_with("GORTMAXPROCS=1").procs, 1);
  assert_int_equal(settings_with("GORTMAXPROCS=7").procs, 7);
}

/* --- Nonsense ------------------------------------------------------------------------------- */

static bool is_default(struct settings s, struct settings normal) {
  return s.percent == normal.percent && s.limit == normal.limit && s.procs == normal.procs;
}

/* Said once, with the variable's name, and the default is used. */
static void assert_reported_once(const char *setting, const char *word) {
  struct settings normal = settings_with("GORTDEBUG");
  const char *const *env =
      ENV("GORTGC", "GORTMEMLIMIT", "GORTMAXPROCS", "GORTSIGNAL", "GORTDEBUG", setting);
  const struct outcome *o = run_case("settings", "", env);
  bool fine = !o->hung && o->status == 0 && occurrences(o->err, word) == 1;
  if (!fine || !is_default(settings_printed(o), normal)) {
    print_outcome(setting, o);
    fail_msg("%s should be reported once", setting);
  }
}

static void test_nonsense_is_reported_once(void **state) {
  (void)state;
  static const char *const nonsense[] = {
      "GORTGC=banana",   "GORTGC=10x",          "GORTMEMLIMIT=much", "GORTMEMLIMIT=10XiB",
      "GORTMEMLIMIT=-5", "GORTMAXPROCS=banana", "GORTMAXPROCS=-2",   "GORTMAXPROCS=0",
      "GORTSIGNAL=URG",  "GORTSIGNAL=0",        "GORTSIGNAL=65",     "GORTSIGNAL=9"};
  for (size_t i = 0; i < COUNT_OF(nonsense); i++) {
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(nonsense[i], "="), nonsense[i]);
    assert_reported_once(nonsense[i], name);
  }
}

/* Of a signal that stops threads the handler returns, so it cannot be one that a fault raises. */
static void test_faults_are_no_signal_to_stop_with(void **state) {
  (void)state;
  static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS};
  for (size_t i = 0; i < COUNT_OF(faults); i++) {
    char setting[32];
    snprintf(setting, sizeof setting, "GORTSIGNAL=%d", faults[i]);
    assert_reported_once(setting, "GORTSIGNAL");
  }
}

static void test_unknown_debug_words_are_reported_once(void **state) {
  (void)state;
  assert_reported_once("GORTDEBUG=banana=1", "banana");
  assert_reported_once("GORTDEBUG=banana", "banana");
  assert_reported_once("GORTDEBUG=banana=1,gctrace=0,banana=1", "banana");
  assert_reported_once("GORTDEBUG=gctrace=0,banana=1,clobberfree=1", "banana");
  assert_reported_once("GORTDEBUG=,banana=1,,banana=1,gctrace=0,banana=1,", "banana");
}

/* --- GORTDEBUG ------------------------------------------------------------------------------ */

CASE(print_cycles) {
  gort_init();
  for (int i = 0; i < 7; i++)
    gort_gc();
  printf("%llu", (unsigned long long)read_stats().num_gc);
  fflush(stdout);
  _exit(0);
}

static void test_gctrace_writes_a_line_for_each_cycle(void **state) {
  (void)state;
  const struct outcome *o = run_case("print_cycles", "", ENV("GORTDEBUG=gctrace=1"));
  assert_int_equal(o->status, 0);
  assert_int_equal(count_lines(o->err), atoi(o->out));
  assert_true(atoi(o->out) >= 7);
  o = run_case("print_cycles", "", ENV("GORTDEBUG=gctrace=0"));
  assert_int_equal(count_lines(o->err), 0);
}

static uintptr_t hidden[MANY];

static NOINLINE void make_hidden(size_t size) {
  for (size_t i = 0; i < MANY; i++) {
    uint64_t *p = gort_alloc(size);
    for (size_t j = 0; j < size / 8; j++)
      p[j] = MAGIC;
    hidden[i] = hide(p);
  }
}

static NOINLINE size_t still_magic(size_t size) {
  size_t n = 0;
  for (size_t i = 0; i < MANY; i++) {
    const uint64_t *p = reveal(hidden[i]);
    n += p[1] == MAGIC || p[size / 8 - 1] == MAGIC;
  }
  return n;
}

CASE(freed_is_clobbered) {
  gort_init();
  gort_set_gc_percent(-1);
  for (size_t size = 16; size <= 8192; size *= 8) {
    make_hidden(size);
    scrub_stack();
    gort_gc();
    CHECK(mostly(MANY - still_magic(size), MANY));
  }
}

static void test_clobberfree(void **state) {
  (void)state;
  if (UNDER_ASAN)
    skip(); /* which knows that the slots are free */
  expect_quiet_in(freed_is_clobbered, ENV("GORTDEBUG=clobberfree=1"));
}

/* Each object on pages of its own, and no address twice. */
static int by_value(const void *a, const void *b) {
  uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
  return (x > y) - (x < y);
}

CASE(fenced) {
  enum { N = 3000 };
  static uintptr_t page[N];
  gort_init();
  for (size_t i = 0; i < N; i++) {
    page[i] = (uintptr_t)gort_alloc(100) / (uintptr_t)sysconf(_SC_PAGESIZE);
    if (i % 500 == 0)
      gort_gc();
  }
  qsort(page, N, sizeof page[0], by_value);
  for (size_t i = 1; i < N; i++)
    CHECK(page[i] != page[i - 1]);
}

static void test_efence(void **state) {
  (void)state;
  expect_quiet_in(fenced, ENV("GORTDEBUG=efence=1"));
}

static NOINLINE void make_watched(size_t n) {
  for (size_t i = 0; i < n; i++)
    watch(gort_alloc(40));
}

CASE(nothing_dies) {
  gort_init();
  watch_begin();
  make_watched(MANY);
  make_hidden(64);
  scrub_stack();
  for (int i = 0; i < 3; i++)
    gort_gc();
  CHECK(gort_drain(-1));
  CHECK(deaths_so_far() == 0);
  CHECK(still_magic(64) == MANY);
  CHECK(read_stats().frees == 0);
}

/* Under sbrk, setting checks its arguments and does nothing: twice is no error. */
CASE(sbrk_checks) {
  gort_init();
  char *p = gort_alloc(64);
  int local;
  CHECK(gort_try_set_finalizer_fn(p, note_death) == 0);
  CHECK(gort_try_set_finalizer_fn(p, note_death) == 0);
  CHECK(gort_try_set_finalizer_fn(NULL, note_death) != 0);
  CHECK(gort_try_set_finalizer_fn(&local, note_death) != 0);
  CHECK(gort_try_set_finalizer_any((gort_any){NULL, p}, (gort_any){NULL, NULL}) != 0);
  gort_any obj = {gort_type_ptr(gort_type_int64), p};
  CHECK(gort_try_set_finalizer_any(obj, (gort_any){gort_type_int8, p}) != 0);
  const gort_type *f = gort_type_func(NULL, 0, NULL, 0, false);
  static gort_func nothing;
  CHECK(gort_try_set_finalizer_any(obj, (gort_any){f, &nothing}) != 0);
}

static void test_sbrk(void **state) {
  (void)state;
  expect_quiet_in(nothing_dies, ENV("GORTDEBUG=sbrk=1"));
  expect_quiet_in(sbrk_checks, ENV("GORTDEBUG=sbrk=1"));
}

CASE(allocate_and_free) {
  gort_init();
  for (int i = 0; i < atoi(case_arg); i++)
    gort_alloc(5000);
  gort_gc();
}

/* A line for each. */
static void test_allocfreetrace(void **state) {
  (void)state;
  const struct outcome *o = run_case("allocate_and_free", "200", ENV("GORTDEBUG=allocfreetrace=1"));
  assert_int_equal(o->status, 0);
  size_t allocs = occurrences(o->err, "allocfreetrace: alloc 0x");
  size_t frees = occurrences(o->err, "allocfreetrace: free 0x");
  assert_true(allocs >= 200);
  assert_true(mostly(frees, 200));
  assert_true(frees <= allocs);
}

static void sleep_a_while(void *unused) {
  (void)unused;
  gort_sleep(atoll(case_arg) * 1000000);
}
CASE(sleeping) { gort_main(sleep_a_while, NULL); }
CASE(sleeping_thread) {
  gort_init();
  sleep_a_while(NULL);
}

/* The numbers in the brackets are the lengths of the processors' queues. */
static void assert_schedtrace_line(const char *line) {
  int n = 0, procs = 0;
  sscanf(line,
         "SCHED %*dms: gomaxprocs=%d idleprocs=%*u threads=%*d spinningthreads=%*u idlethreads=%*d "
         "runqueue=%*u [%*u %*u %*u]%n",
         &procs, &n);
  if (procs != 3 || n == 0 || line[n] != '\n')
    fail_msg("not a line of schedtrace: %.200s", line);
}

/* Who prints may come late on a busy machine. */
static void assert_schedtrace(const char *name) {
  static const char *const sleep_ms[] = {"100", "1000", "10000"};
  const struct outcome *o = NULL;
  size_t lines = 0;
  for (size_t i = 0; i < COUNT_OF(sleep_ms) && lines < 2; i++) {
    o = run_case(name, sleep_ms[i], ENV("GORTDEBUG=schedtrace=20", "GORTMAXPROCS=3"));
    assert_int_equal(o->status, 0);
    lines = count_lines(o->err);
  }
  assert_true(lines >= 2);
  for (const char *line = o->err; *line; line = strchr(line, '\n') + 1)
    assert_schedtrace_line(line);
}

/* In a program without goroutines too. */
static void test_schedtrace(void **state) {
  (void)state;
  assert_schedtrace("sleeping");
  assert_schedtrace("sleeping_thread");
}

/* The rest change how a collection goes, not what it finds. */
CASE(all_is_well) {
  gort_init();
  watch_begin();
  start_collecting();
  for (int i = 0; i < 20; i++)
    make_watched(MANY);
  stop_collecting();
  CHECK(mostly((size_t)deaths(), 20 * MANY));
  for (int i = 0; i < MANY; i++)
    kept[i] = watch(gort_alloc(100));
  int before = deaths_so_far();
  CHECK(deaths() - before < MANY * 2);
  for (int i = 0; i < MANY; i++)
    CHECK(!watched_dead(hide(kept[i])));
}

static void test_other_words(void **state) {
  (void)state;
  expect_quiet_in(all_is_well, ENV("GORTDEBUG=gcstoptheworld=1"));
  expect_quiet_in(all_is_well, ENV("GORTDEBUG=gccheckmark=1"));
  expect_quiet_in(all_is_well, ENV("GORTDEBUG=gccheckmark=1,gcstoptheworld=1,clobberfree=1"));
  expect_quiet_in(all_is_well, ENV("GORTDEBUG=checkfinalizers=0"));
}

/* --- Torture -------------------------------------------------------------------------------- */

/* Two who could each go on to its end. */
enum { TURNS = 500 };
static char turns[2 * TURNS];
static size_t nturns;

static void take_turns(void *letter) {
  for (int i = 0; i < TURNS; i++) {
    turns[nturns++] = *(char *)letter;
    gort_num_goroutines();
  }
}

static void write_turns(void *unused) {
  (void)unused;
  static char letters[] = "ab";
  gort_wait_group wg = GORT_WAIT_GROUP_INIT;
  for (int i = 0; i < 2; i++)
    gort_wait_group_go(&wg, take_turns, &letters[i]);
  gort_wait_group_wait(&wg);
  CHECK(write(STDOUT_FILENO, turns, sizeof turns) == (ssize_t)sizeof turns);
}
CASE(taking_turns) { gort_main(write_turns, NULL); }

static const char *turns_from(const char *seed) {
  const char *const *env = ENV("GORTMAXPROCS=1", seed);
  const struct outcome *o = expect_quiet_in(taking_turns, env);
  assert_int_equal(strlen(o->out), sizeof turns);
  assert_non_null(strstr(o->torture, seed));
  return o->out;
}

/* Which is printed. How long things take may still make a difference, so there are some tries. */
static void test_a_seed_says_when_goroutines_give_way(void **state) {
  (void)state;
  char first[sizeof turns + 1];
  bool again = false;
  if (!UNDER_TORTURE)
    return;
  strcpy(first, turns_from("GORTTORTURE=2"));
  for (int i = 0; i < 10 && !again; i++)
    again = strcmp(turns_from("GORTTORTURE=2"), first) == 0;
  assert_true(again);
  assert_string_not_equal(turns_from("GORTTORTURE=3"), first);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_gortgc),
      cmocka_unit_test(test_gortmemlimit),
      cmocka_unit_test(test_gortmaxprocs),
      cmocka_unit_test(test_nonsense_is_reported_once),
      cmocka_unit_test(test_faults_are_no_signal_to_stop_with),
      cmocka_unit_test(test_unknown_debug_words_are_reported_once),
      cmocka_unit_test(test_gctrace_writes_a_line_for_each_cycle),
      cmocka_unit_test(test_clobberfree),
      cmocka_unit_test(test_efence),
      cmocka_unit_test(test_sbrk),
      cmocka_unit_test(test_allocfreetrace),
      cmocka_unit_test(test_schedtrace),
      cmocka_unit_test(test_other_words),
      cmocka_unit_test(test_a_seed_says_when_goroutines_give_way),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
