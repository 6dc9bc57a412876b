/* Goroutine stacks: their sizes, what happens at their end, and the traces of goroutines. */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Frames are larger under sanitizers, which surround arrays and spill more. */
enum { ROOM = UNDER_ASAN || UNDER_TSAN ? 2 : 1 };

static atomic_int finished;

/* Touches about that many bytes of stack, from the top down. */
static NOINLINE void use_stack(size_t bytes) {
  volatile char *p = __builtin_alloca(bytes);
  for (size_t i = bytes; i > 0; i -= i < 512 ? i : 512)
    p[i - 1] = (char)i;
}

static void use_given(void *bytes) {
  use_stack((size_t)(uintptr_t)bytes);
  atomic_fetch_add(&finished, 1);
}

static void assert_fits(size_t stack_size, size_t use) {
  atomic_store(&finished, 0);
  gort_go_stack(use_given, (void *)use, stack_size);
  WAIT_UNTIL(atomic_load(&finished));
}

static void test_sizes(void **state) {
  (void)state;
  assert_fits(0, (256 << 10) / ROOM - (16 << 10));
  assert_fits(1 << 20, (1 << 20) / ROOM - (16 << 10));
  assert_fits(64 << 20, (64 << 20) / ROOM - (16 << 10));
  assert_fits(128 << 10, (128 << 10) / ROOM - (16 << 10));
}

/* 16 KiB at the least, also for who asks for less. */
static void test_the_smallest(void **state) {
  (void)state;
  if (ROOM > 1)
    skip();
  for (size_t size = 1; size <= 16 << 10; size = size * 4 + 1)
    assert_fits(size, 8 << 10);
}

static void test_gort_go_gives_the_default(void **state) {
  (void)state;
  atomic_store(&finished, 0);
  for (int i = 0; i < 100; i++)
    gort_go(use_given, (void *)(uintptr_t)((256 << 10) / ROOM - (16 << 10)));
  WAIT_UNTIL(atomic_load(&finished) == 100);
}

/* --- Main's --------------------------------------------------------------------------------- */

static void set_stack_limit(rlim_t soft) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_STACK, &limit) == 0);
  limit.rlim_cur = soft;
  CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
}

CASE(main_with_8_mib) { gort_main(use_given, (void *)(uintptr_t)((8 << 20) / ROOM - (64 << 10))); }
CASE(main_with_64_mib) {
  gort_main(use_given, (void *)(uintptr_t)((64 << 20) / ROOM - (64 << 10)));
}

CASE(limit_8_mib) {
  set_stack_limit(8 << 20);
  become_case("main_with_8_mib", "");
}
CASE(limit_64_mib) {
  set_stack_limit(64 << 20);
  become_case("main_with_64_mib", "");
}
CASE(no_limit) {
  set_stack_limit(RLIM_INFINITY);
  become_case("main_with_64_mib", "");
}

static void test_mains_is_as_large_as_the_limit(void **state) {
  (void)state;
  struct rlimit limit;
  assert_int_equal(getrlimit(RLIMIT_STACK, &limit), 0);
  if (limit.rlim_max != RLIM_INFINITY || UNDER_QEMU)
    skip();
  expect_quiet(limit_8_mib);
  expect_quiet(limit_64_mib);
  expect_quiet(no_limit);
}

/* --- Overflow ------------------------------------------------------------------------------- */

static volatile int deeper = 1;

static NOINLINE int recurse(int n) {
  volatile char frame[300];
  frame[0] = (char)n;
  return deeper ? recurse(n + 1) + frame[0] : 0;
}

static void overflow(void *unused) {
  (void)unused;
  dprintf(STDOUT_FILENO, "%llu", (unsigned long long)gort_id());
  deeper = recurse(0);
}

static void wait_for_good(void) {
  for (;;)
    nap();
}

/* The argument is the size to ask for; 1 means gort_go. */
CASE(overflow_goroutine) {
  gort_init();
  size_t size = strtoull(case_arg, NULL, 10);
  if (size == 1)
    gort_go(overflow, NULL);
  else
    gort_go_stack(overflow, NULL, size);
  wait_for_good();
}
CASE(overflow_main) { gort_main(overflow, NULL); }
CASE(overflow_main_of_1_mib) {
  set_stack_limit(1 << 20);
  become_case("overflow_main", "");
}
CASE(overflow_main_without_limit) {
  set_stack_limit(RLIM_INFINITY);
  become_case("overflow_main", "");
}

static void sleep_for_good(void *unused) {
  (void)unused;
  gort_sleep(INT64_MAX);
}

static void overflow_among_others(void *unused) {
  for (int i = 0; i < 20; i++)
    gort_go(sleep_for_good, unused);
  gort_yield();
  gort_go(overflow, NULL);
  gort_sleep(INT64_MAX);
}
CASE(overflow_among_many) { gort_main(overflow_among_others, NULL); }

static void finalizer_overflow(void *unused) { overflow(unused); }
CASE(overflow_finalizer) {
  gort_init();
  for (;;) {
    gort_set_finalizer_fn(gort_alloc(40), finalizer_overflow);
    gort_gc();
  }
}

/* Whether the trace that follows the message begins in `recurse`. Sanitizers have functions of
 * their own called, which need stack as well. */
static bool begins_in_recurse(const char *text) {
  const char *at = strstr(text, "\ngoroutine ");
  const char *name = at ? strstr(at, " recurse") : NULL;
  if (!name)
    return false;
  size_t lines = 0;
  for (at++; at < name; at++)
    lines += *at == '\n';
  return lines == 1 || UNDER_ASAN || UNDER_TSAN;
}

/* Of stacks that are not too deep to be followed, the trace has who called `recurse` first. */
static void expect_overflow_of(const char *name, const char *arg, const char *size,
                               const char *caller) {
  static struct outcome o;
  char text[128];
  o = *run_case(name, arg, NO_ENV);
  snprintf(text, sizeof text,
           "fatal error: stack overflow: goroutine %.20s exceeded its %s-byte stack", o.out, size);
  if (!aborted(&o) || !has_line(o.err, text) || !begins_in_recurse(o.err) ||
      !strstr(o.err, caller)) {
    print_outcome(name, &o);
    fail_msg("expected SIGABRT, a trace that begins in recurse, and: %s", text);
  }
}

static void expect_overflow(const char *name, const char *arg, const char *size) {
  expect_overflow_of(name, arg, size, "overflow+");
}

static void test_an_overflow_is_named(void **state) {
  (void)state;
  expect_overflow("overflow_goroutine", "1", "262144");
  expect_overflow("overflow_goroutine", "0", "262144");
  if (ROOM == 1)
    expect_overflow("overflow_goroutine", "2", "16384");
  expect_overflow("overflow_goroutine", "65536", "65536");
  expect_overflow("overflow_goroutine", "1048576", "1048576");
  if (!UNDER_QEMU)
    expect_overflow("overflow_main_of_1_mib", "", "1048576");
  expect_overflow("overflow_among_many", "", "262144");
  expect_overflow("overflow_finalizer", "", "262144");
}

/* However large the limit. */
static void test_mains_is_64_mib_at_most(void **state) {
  (void)state;
  struct rlimit limit;
  assert_int_equal(getrlimit(RLIMIT_STACK, &limit), 0);
  if (limit.rlim_max != RLIM_INFINITY || UNDER_QEMU || ROOM > 1)
    skip(); /* the sanitizers' own record of calls does not go so deep */
  expect_overflow_of("overflow_main_without_limit", "", "67108864", "");
}

/* A frame of many kilobytes, of which only the lowest bytes are touched. */
static void reach_below(void *bytes) {
  volatile char *frame = __builtin_frame_address(0);
  dprintf(STDOUT_FILENO, "%llu", (unsigned long long)gort_id());
  frame[-(65536 + (ptrdiff_t)(uintptr_t)bytes)] = 1;
}
CASE(reaching_below) {
  gort_init();
  gort_go_stack(reach_below, (void *)(uintptr_t)strtoull(case_arg, NULL, 10), 65536);
  wait_for_good();
}

/* The frame begins a little below the upper end of the stack. */
static void test_the_guard_is_64_kib(void **state) {
  (void)state;
  if (UNDER_ASAN)
    skip(); /* it reports this in its own way */
  for (int kib = 0; kib < 64; kib += 9) {
    char arg[16], text[128];
    snprintf(arg, sizeof arg, "%d", kib << 10);
    const struct outcome *o = run_case("reaching_below", arg, NO_ENV);
    snprintf(text, sizeof text,
             "fatal error: stack overflow: goroutine %.20s exceeded its 65536-byte stack", o->out);
    if (!aborted(o) || !has_line(o->err, text)) {
      print_outcome("reaching_below", o);
      fail_msg("expected SIGABRT and: %s", text);
    }
  }
}

/* --- Guards without the help of the kernel -----------------------------------------------------
 */

/* As before Linux 6.13: madvise does not know this advice. Where filters are not allowed nothing
 * changes. */
static void forbid_guard_install(void) {
  enum { GUARD_INSTALL = 102 };
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, GUARD_INSTALL, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {COUNT_OF(code), code};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

CASE(overflow_at_mprotect) {
  forbid_guard_install();
  overflow_goroutine();
}

static void test_guards_by_mprotect(void **state) {
  (void)state;
  expect_overflow("overflow_at_mprotect", "1", "262144");
  expect_overflow("overflow_at_mprotect", "65536", "65536");
}

/* A process may have some 65,000 mappings. */
static void park_many(void *unused) {
  enum { MANY_PARKED = 40000 };
  atomic_store(&finished, 0);
  for (int i = 0; i < MANY_PARKED; i++)
    gort_go(sleep_for_good, unused);
  while (gort_num_goroutines() <= MANY_PARKED)
    gort_sleep(1000000);
  gort_sleep(100000000);
  void *more = mmap(NULL, 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(more != MAP_FAILED && mprotect(more, 1, PROT_NONE) == 0);
}
CASE(many_at_mprotect) {
  forbid_guard_install();
  gort_main(park_many, NULL);
}

static void test_more_stacks_than_guards(void **state) {
  (void)state;
  if (UNDER_ASAN || UNDER_TSAN || UNDER_QEMU)
    skip(); /* they need memory of their own for each */
  const struct outcome *o = run_case("many_at_mprotect", "", NO_ENV);
  if (o->hung || o->status != 0 || occurrences(o->err, "leaves no guards") > 1) {
    print_outcome("many_at_mprotect", o);
    fail();
  }
}

/* Another segmentation fault is none. */
static int *volatile nowhere = NULL;

static void touch_null(void *unused) {
  (void)unused;
  *nowhere = 1;
}
CASE(fault_in_goroutine) { gort_main(touch_null, NULL); }

static void test_other_faults_are_no_overflows(void **state) {
  (void)state;
  if (UNDER_ASAN || UNDER_TSAN)
    skip();
  const struct outcome *o = run_case("fault_in_goroutine", "", NO_ENV);
  if (o->hung || !WIFSIGNALED(o->status) || strstr(o->err, "stack overflow")) {
    print_outcome("fault_in_goroutine", o);
    fail();
  }
}

/* --- Traces --------------------------------------------------------------------------------- */

enum { TRACED = 10 };
static atomic_ullong traced_ids[TRACED];
static atomic_int ntraced, release_them;

static void wait_to_be_traced(void *unused) {
  (void)unused;
  int i = atomic_fetch_add(&ntraced, 1);
  atomic_store(&traced_ids[i], gort_id());
  while (!atomic_load(&release_them))
    gort_sleep(1000000);
  atomic_fetch_add(&finished, 1);
}

static char *printed_goroutines(void) {
  static char text[1 << 18];
  FILE *f = tmpfile();
  assert_non_null(f);
  gort_print_goroutines(fileno(f));
  rewind(f);
  text[fread(text, 1, sizeof text - 1, f)] = 0;
  fclose(f);
  return text;
}

static void test_print_goroutines(void **state) {
  (void)state;
  atomic_store(&finished, 0);
  for (int i = 0; i < TRACED; i++)
    gort_go(wait_to_be_traced, NULL);
  for (int i = 0; i < TRACED; i++)
    WAIT_UNTIL(atomic_load(&traced_ids[i]) != 0);
  const char *text = printed_goroutines();
  for (int i = 0; i < TRACED; i++) {
    char name[64];
    snprintf(name, sizeof name, "goroutine %llu ", (unsigned long long)atomic_load(&traced_ids[i]));
    if (!strstr(text, name))
      fail_msg("%s is not in:\n%s", name, text);
  }
  atomic_store(&release_them, 1);
  WAIT_UNTIL(atomic_load(&finished) == TRACED);
}

/* --- Callers -------------------------------------------------------------------------------- */

/* Nothing here is compiled with frame pointers. */
static atomic_int there;

static void spin_until_released(int unused) {
  (void)unused;
  atomic_store(&there, 1);
  while (!atomic_load(&release_them))
    continue;
}

static void sleep_until_released(int unused) {
  (void)unused;
  atomic_store(&there, 1);
  while (!atomic_load(&release_them))
    gort_sleep(10000000);
}

static void block_until_released(int unused) {
  gort_block_enter();
  atomic_store(&there, 1);
  while (!atomic_load(&release_them))
    nap();
  gort_block_exit();
  (void)unused;
}

static void collect_until_released(int unused) {
  (void)unused;
  atomic_store(&there, 1);
  while (!atomic_load(&release_them))
    gort_gc();
}

static void handle_until_released(int unused) {
  struct sigaction a = {.sa_handler = spin_until_released}, before;
  CHECK(sigaction(SIGUSR1, &a, &before) == 0);
  raise(SIGUSR1);
  CHECK(sigaction(SIGUSR1, &before, NULL) == 0);
  (void)unused;
}

static NOINLINE int called_third(void (*fn)(int), int n) {
  volatile char frame[200];
  frame[n] = 1;
  fn(n);
  return frame[n];
}

static NOINLINE int called_second(void (*fn)(int), int n) {
  void *volatile more = __builtin_alloca((size_t)n + 100); /* its frame's size is not constant */
  return called_third(fn, n) + (more != NULL);
}

static NOINLINE int called_first(void (*fn)(int), int n) { return called_second(fn, n) + 1; }

static void call_three(void *fn) {
  volatile int used = called_first((void (*)(int))(uintptr_t)fn, 7);
  (void)used;
  atomic_fetch_add(&finished, 1);
}

/* Whether the words stand in the text, in this order. */
static bool in_order(const char *text, const char *const *words) {
  for (; text && *words; words++)
    text = strstr(text, *words);
  return text != NULL;
}

static void expect_callers_of(void (*fn)(int)) {
  atomic_store(&finished, 0);
  atomic_store(&there, 0);
  atomic_store(&release_them, 0);
  gort_go(call_three, (void *)(uintptr_t)fn);
  WAIT_UNTIL(atomic_load(&there));
  nap();
  const char *text = printed_goroutines();
  atomic_store(&release_them, 1);
  WAIT_UNTIL(atomic_load(&finished));
  const char *const callers[] = {"_until_released", "called_third", "called_second",
                                 "called_first",    "call_three",   NULL};
  if (!in_order(text, callers))
    fail_msg("the callers are not all in:\n%s", text);
}

static void test_traces_have_all_callers(void **state) {
  (void)state;
  expect_callers_of(sleep_until_released);
  expect_callers_of(block_until_released);
  expect_callers_of(collect_until_released);
  if (UNDER_TSAN)
    return; /* it does not let a loop be stopped */
  expect_callers_of(spin_until_released);
  expect_callers_of(handle_until_released);
}

/* --- How long they have waited -------------------------------------------------------------- */

static atomic_int blocked_id, slept_id, slept_long;

static void sleep_twice(void *unused) {
  (void)unused;
  gort_sleep(1900000000);
  atomic_store(&slept_long, 1);
  gort_sleep(INT64_MAX);
}

static void sleep_with_id(void *unused) {
  (void)unused;
  atomic_store(&slept_id, (int)gort_id());
  sleep_twice(NULL);
}

static void block_with_id(void *unused) {
  (void)unused;
  atomic_store(&blocked_id, (int)gort_id());
  gort_block_enter();
  WAIT_UNTIL(atomic_load(&release_them));
  gort_block_exit();
}

static void expect_state(int id, const char *state) {
  char header[64];
  snprintf(header, sizeof header, "goroutine %d [%s]:", id, state);
  const char *text = printed_goroutines();
  if (!has_line(text, header))
    fail_msg("%s is not in:\n%s", header, text);
}

/* The clock that is stored with each wait stands still while all are idle. */
static void test_how_long_they_wait(void **state) {
  (void)state;
  atomic_store(&release_them, 0);
  gort_go(sleep_with_id, NULL);
  gort_go(block_with_id, NULL);
  WAIT_UNTIL(atomic_load(&blocked_id) != 0 && atomic_load(&slept_id) != 0);
  nap();
  int64_t begin = monotonic_ns();
  expect_state(atomic_load(&slept_id), "sleep");
  expect_state(atomic_load(&blocked_id), "blocked in a call");
  WAIT_UNTIL(monotonic_ns() - begin > 1050000000);
  expect_state(atomic_load(&slept_id), "sleep, 1 s");
  expect_state(atomic_load(&blocked_id), "blocked in a call, 1 s");
  WAIT_UNTIL(atomic_load(&slept_long));
  nap();
  expect_state(atomic_load(&slept_id), "sleep");
  atomic_store(&release_them, 1);
}

/* --- Under load ----------------------------------------------------------------------------- */

/* While they run, start and end. */
static void spawn_often(void *unused) {
  (void)unused;
  while (!atomic_load(&release_them)) {
    gort_go(use_given, (void *)(uintptr_t)100);
    gort_yield();
  }
  atomic_fetch_add(&ntraced, 1);
}

static void test_print_goroutines_under_load(void **state) {
  (void)state;
  atomic_store(&release_them, 0);
  atomic_store(&ntraced, 0);
  int null = open("/dev/null", O_WRONLY);
  for (int i = 0; i < 4; i++)
    gort_go(spawn_often, NULL);
  for (int i = 0; i < 20; i++)
    gort_print_goroutines(null);
  atomic_store(&release_them, 1);
  WAIT_UNTIL(atomic_load(&ntraced) == 4);
  close(null);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sizes),
      cmocka_unit_test(test_the_smallest),
      cmocka_unit_test(test_gort_go_gives_the_default),
      cmocka_unit_test(test_mains_is_as_large_as_the_limit),
      cmocka_unit_test(test_an_overflow_is_named),
      cmocka_unit_test(test_mains_is_64_mib_at_most),
      cmocka_unit_test(test_the_guard_is_64_kib),
      cmocka_unit_test(test_guards_by_mprotect),
      cmocka_unit_test(test_more_stacks_than_guards),
      cmocka_unit_test(test_other_faults_are_no_overflows),
      cmocka_unit_test(test_print_goroutines),
      cmocka_unit_test(test_traces_have_all_callers),
      cmocka_unit_test(test_how_long_they_wait),
      cmocka_unit_test(test_print_goroutines_under_load),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
