/* What the traces say of goroutines, where a test from outside would have to wait for minutes. */
#include "check.h"

#include "base/atomic.h"
#include "base/kernel.h"
#include "sched/sched.h"
#include "sched/unwind.h"

static void sleep_for_good(void *unused) {
  (void)unused;
  gort_sleep(INT64_MAX);
}

static struct g *sleeper(void) {
  for (struct g *g = load_acquire(&allgs); g; g = g->alllink)
    if (!g->system && load_acquire(&g->status) == Gwaiting)
      return g;
  return NULL;
}

static void expect_waiting(struct g *g, int64_t ns, const char *state) {
  char header[64], text[4096];
  FILE *f = tmpfile();
  assert_non_null(f);
  store_relaxed(&g->waitsince, ns ? nanotime() - ns : 0);
  gort_print_goroutines(fileno(f));
  rewind(f);
  text[fread(text, 1, sizeof text - 1, f)] = 0;
  fclose(f);
  snprintf(header, sizeof header, "goroutine %llu [%s]:", (unsigned long long)g->goid, state);
  if (!has_line(text, header))
    fail_msg("%s is not in:\n%s", header, text);
}

static void test_waiting_times(void **state) {
  (void)state;
  const int64_t ms = 1000000, second = 1000 * ms, minute = 60 * second;
  gort_go(sleep_for_good, NULL);
  WAIT_UNTIL(sleeper());
  struct g *g = sleeper();
  expect_waiting(g, 0, "sleep"); /* not known */
  expect_waiting(g, 500 * ms, "sleep");
  expect_waiting(g, second, "sleep, 1 s");
  expect_waiting(g, 59 * second + 500 * ms, "sleep, 59 s");
  expect_waiting(g, minute, "sleep, 1 minute");
  expect_waiting(g, 2 * minute, "sleep, 2 minutes");
  expect_waiting(g, 600 * minute, "sleep, 600 minutes");
}

/* A linkage stub's frame is described by an expression, for it grows in the middle: before the
 * eleventh byte the return address is on top, after it below another word. */
static void test_linkage_stubs(void **state) {
  (void)state;
#if defined(__x86_64__)
  uintptr_t words[4] = {0x1000, 0x2000, 0x3000, 0x4000}, stub;
  struct readable r = {.stack = {{(uintptr_t)words, (uintptr_t)(words + 4)}}};
  __asm__("lea getppid@PLT(%%rip), %0" : "=r"(stub));
  for (uintptr_t i = 0; i < 16; i++) {
    struct frame f = {.pc = stub + i, .sp = (uintptr_t)words, .interrupted = true};
    assert_true(unwind(&f, &r));
    assert_int_equal(f.pc, words[i >= 11]);
    assert_int_equal(f.sp, (uintptr_t)&words[1 + (i >= 11)]);
  }
#else
  skip();
#endif
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_waiting_times),
      cmocka_unit_test(test_linkage_stubs),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
