/* Very many goroutines: at the same time, and one after the other. */
#include "check.h"

/* A million, where that does not take too long; and the thread sanitizer knows 8128 at the most. */
#if UNDER_TSAN
enum { MANY_AT_ONCE = 2000, MANY_IN_SEQUENCE = 50000 };
#elif defined(GORT_DEBUG) || UNDER_ASAN
enum { MANY_AT_ONCE = 20000, MANY_IN_SEQUENCE = 200000 };
#else
enum { MANY_AT_ONCE = 1000000, MANY_IN_SEQUENCE = 10000000 };
#endif
enum { FEWER_UNDER_QEMU = 50 };

static long at_once(void) { return MANY_AT_ONCE / (UNDER_QEMU ? FEWER_UNDER_QEMU : 1); }
static long in_sequence(void) { return MANY_IN_SEQUENCE / (UNDER_QEMU ? FEWER_UNDER_QEMU : 1); }

/* What the kernel counts for this process, page tables included, in bytes. */
static long kernel_says(const char *what) {
  char line[256];
  long kib = 0;
  FILE *f = fopen("/proc/self/status", "r");
  CHECK(f != NULL);
  while (fgets(line, sizeof line, f))
    if (strncmp(line, what, strlen(what)) == 0)
      kib = atol(line + strlen(what) + 1);
  fclose(f);
  return kib << 10;
}

static long memory(void) { return kernel_says("VmRSS") + kernel_says("VmPTE"); }

static gort_chan *gate;
static atomic_long waiting, released;

static void wait_at_the_gate(void *unused) {
  int64_t v;
  (void)unused;
  atomic_fetch_add(&waiting, 1);
  CHECK(!gort_recv(gate, &v));
  atomic_fetch_add(&released, 1);
}

/* The last ones may still be on their way from the count to the channel. */
static void park_all(long n) {
  gate = gort_chan_new(sizeof(int64_t), 0);
  atomic_store(&waiting, 0);
  atomic_store(&released, 0);
  for (long i = 0; i < n; i++)
    gort_go(wait_at_the_gate, NULL);
  while (atomic_load(&waiting) < n)
    gort_sleep(1000000);
  gort_sleep(10000000);
}

static void release_all(long n) {
  gort_chan_close(gate);
  while (atomic_load(&released) < n || gort_num_goroutines() > 1)
    gort_sleep(1000000);
}

/* 6 GiB for a million. The sanitizers, and qemu, have memory of their own beside each. */
static void park_a_million(void *unused) {
  (void)unused;
  long n = at_once(), most = n * 6442, before = memory();
  for (int round = 0; round < 2; round++) {
    park_all(n);
    CHECK(gort_num_goroutines() == n + 1);
    long grown = memory() - before;
    if (grown > most && !UNDER_ASAN && !UNDER_TSAN && !UNDER_QEMU)
      dprintf(STDERR_FILENO, "%ld goroutines take %ld bytes, more than %ld\n", n, grown, most);
    release_all(n);
  }
}
CASE(million_parked) { gort_main(park_a_million, NULL); }

static void test_a_million_park(void **state) {
  (void)state;
  expect_quiet(million_parked);
}

static atomic_long ended;

static void end_at_once(void *unused) {
  (void)unused;
  atomic_fetch_add(&ended, 1);
}

static void spawn_and_await(long n) {
  atomic_store(&ended, 0);
  for (long i = 0; i < n; i++)
    gort_go(end_at_once, NULL);
  while (atomic_load(&ended) < n)
    gort_sleep(100000);
}

static void spawn_ten_million(void *unused) {
  (void)unused;
  spawn_and_await(in_sequence() / 10);
  long before = memory();
  spawn_and_await(in_sequence());
  long grown = memory() - before;
  if (grown > 16 << 20 && !UNDER_ASAN && !UNDER_TSAN)
    dprintf(STDERR_FILENO, "%ld goroutines in sequence: memory has grown by %ld bytes\n",
            in_sequence(), grown);
}
CASE(ten_million_spawned) { gort_main(spawn_ten_million, NULL); }

static void test_ten_million_in_sequence(void **state) {
  (void)state;
  expect_quiet(ten_million_spawned);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_million_park),
      cmocka_unit_test(test_ten_million_in_sequence),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
