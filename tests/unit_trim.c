/* The memory of stacks that is not needed any more goes back to the system. */
#include "check.h"

#include "base/atomic.h"
#include "base/kernel.h"
#include "sched/sched.h"

enum { N = 200, DEPTH = 200 << 10, FRAME = 1000 };
static const int64_t SHORT = 100000000, LONG = 1000000000000, PATIENCE = 30000000000;

static atomic_int deep, ended, release_them, spinning;
static atomic_size_t at_the_most; /* bytes that were resident when all had gone deep */
static gort_chan *gate;

static size_t resident(void) {
  unsigned long pages = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  assert_non_null(f);
  assert_int_equal(fscanf(f, "%*u %lu", &pages), 1);
  fclose(f);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static NOINLINE void go_deep(void) {
  volatile char *p = __builtin_alloca(DEPTH);
  for (size_t i = 0; i < DEPTH; i += 512)
    p[i] = (char)i;
}

/* All at the same time, so that each has a stack of its own. */
static void go_deep_together(void) {
  go_deep();
  if (atomic_fetch_add(&deep, 1) == N - 1)
    atomic_store(&at_the_most, resident());
  while (atomic_load(&at_the_most) == 0)
    gort_sleep(1000000);
}

static void go_deep_and_end(void *unused) {
  (void)unused;
  go_deep_together();
  atomic_fetch_add(&ended, 1);
}

/* What is in use stays as it is. */
static void go_deep_and_wait(void *unused) {
  volatile char frame[FRAME];
  for (int i = 0; i < FRAME; i++)
    frame[i] = (char)(i * 7);
  go_deep_together();
  CHECK(!gort_recv(gate, NULL));
  for (int i = 0; i < FRAME; i++)
    CHECK(frame[i] == (char)(i * 7));
  go_deep();
  atomic_fetch_add(&ended, 1);
  (void)unused;
}

static void start(void (*fn)(void *)) {
  atomic_store(&deep, 0);
  atomic_store(&at_the_most, 0);
  atomic_store(&ended, 0);
  atomic_store(&release_them, 0);
  for (int i = 0; i < N; i++)
    gort_go(fn, NULL);
}

/* Three quarters of what the goroutines had; the sanitizers keep more for themselves. */
static bool is_less(void) {
  return resident() + (size_t)N * DEPTH / 4 * 3 < atomic_load(&at_the_most);
}

static void await_decrease(void (*meanwhile)(void)) {
  for (int64_t begin = monotonic_ns(); !is_less(); meanwhile())
    if (monotonic_ns() - begin > PATIENCE)
      fail_msg("%zu bytes are resident; it were %zu", resident(), atomic_load(&at_the_most));
}

static void test_stacks_of_the_dead(void **state) {
  (void)state;
  start(go_deep_and_end);
  WAIT_UNTIL(atomic_load(&ended) == N);
  await_decrease(nap);
}

static void spin(void *unused) {
  (void)unused;
  atomic_store(&spinning, 1);
  while (!atomic_load(&release_them))
    gort_yield();
  atomic_store(&spinning, 0);
}

/* A P that is busy has stacks in its cache; a collection takes them out. */
static void test_stacks_of_the_dead_while_busy(void **state) {
  (void)state;
  start(go_deep_and_end);
  gort_go(spin, NULL);
  WAIT_UNTIL(atomic_load(&ended) == N);
  gort_gc();
  await_decrease(nap);
  atomic_store(&release_them, 1);
  WAIT_UNTIL(!atomic_load(&spinning));
}

static void test_free_os_memory(void **state) {
  (void)state;
  start(go_deep_and_end);
  WAIT_UNTIL(atomic_load(&ended) == N);
  gort_free_os_memory();
  assert_true(is_less());
}

/* --- Parked goroutines ---------------------------------------------------------------------- */

static int parked(void) {
  int n = 0;
  for (struct g *g = load_acquire(&allgs); g; g = g->alllink)
    n += !g->system && load_acquire(&g->status) == Gwaiting;
  return n;
}

static void start_to_wait(void) {
  gate = gort_chan_new(0, 0);
  start(go_deep_and_wait);
  WAIT_UNTIL(atomic_load(&at_the_most) != 0 && parked() == N);
}

static void end_waiting(void) {
  gort_chan_close(gate);
  WAIT_UNTIL(atomic_load(&ended) == N);
}

static void test_parked_while_all_are_idle(void **state) {
  (void)state;
  start_to_wait();
  await_decrease(nap);
  end_waiting();
}

static void collect(void) {
  gort_gc();
  nap();
}

static void test_parked_while_others_run(void **state) {
  (void)state;
  gort_go(spin, NULL);
  WAIT_UNTIL(atomic_load(&spinning));
  start_to_wait();
  await_decrease(collect);
  atomic_store(&release_them, 1);
  WAIT_UNTIL(!atomic_load(&spinning));
  end_waiting();
}

/* Who has not waited for long keeps what it has. */
static void test_parked_for_a_short_time(void **state) {
  (void)state;
  trim_patience = LONG;
  start_to_wait();
  for (int i = 0; i < 100; i++)
    collect();
  assert_false(is_less());
  end_waiting();
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_stacks_of_the_dead),
      cmocka_unit_test(test_stacks_of_the_dead_while_busy),
      cmocka_unit_test(test_free_os_memory),
      cmocka_unit_test(test_parked_while_all_are_idle),
      cmocka_unit_test(test_parked_while_others_run),
      cmocka_unit_test(test_parked_for_a_short_time),
  };
  trim_patience = SHORT;
  CHECK_MAIN(argc, argv, tests, gort_init());
}
