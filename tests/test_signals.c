/* Stopping threads by a signal, and what the program must not notice of it. */
#include "check.h"

#include <sys/syscall.h>
#include <sys/time.h>

static atomic_int stop_flag, at_work, failures;

static void expect_there(bool right) {
  if (!right)
    atomic_fetch_add(&failures, 1);
}

/* Runs fn on a thread while another collects the given number of times. */
static void run_among_collections(void (*fn)(void *), int collections) {
  atomic_store(&stop_flag, 0);
  atomic_store(&at_work, 1);
  atomic_store(&failures, 0);
  assert_int_equal(gort_thread_start(fn, NULL), 0);
  for (int i = 0; i < collections; i++)
    gort_gc();
  atomic_store(&stop_flag, 1);
  WAIT_UNTIL(atomic_load(&at_work) == 0);
  assert_int_equal(atomic_load(&failures), 0);
}

/* --- errno ---------------------------------------------------------------------------------- */

static void watch_errno(void *unused) {
  (void)unused;
  while (!atomic_load(&stop_flag)) {
    errno = 1234;
    for (volatile int i = 0; i < 1000; i++)
      continue;
    expect_there(errno == 1234);
  }
  atomic_store(&at_work, 0);
}

static void test_errno_is_untouched_by_a_stop(void **state) {
  (void)state;
  run_among_collections(watch_errno, 500);
}

/* --- Registers ------------------------------------------------------------------------------ */

/* Sums in floating point and integers, over and over: a stop changes no register. */
static void watch_sums(void *unused) {
  (void)unused;
  while (!atomic_load(&stop_flag)) {
    double sum = 0;
    uint64_t hash = 1;
    for (int i = 0; i < 20000; i++) {
      sum += i * 0.5;
      hash = hash * 31 + (uint64_t)i;
    }
    expect_there(sum == 0.5 * 19999 * 10000);
    static atomic_ullong expected;
    unsigned long long none = 0;
    if (!atomic_compare_exchange_strong(&expected, &none, hash))
      expect_there(none == hash);
  }
  atomic_store(&at_work, 0);
}

static void test_registers_are_untouched_by_a_stop(void **state) {
  (void)state;
  run_among_collections(watch_sums, 500);
}

/* --- System calls --------------------------------------------------------------------------- */

static int pipe_ends[2];

static void read_one(void *unused) {
  (void)unused;
  char c = 0;
  ssize_t got = read(pipe_ends[0], &c, 1);
  expect_there(got == 1 && c == 'x');
  atomic_store(&at_work, 0);
}

static void start_and_collect(void (*fn)(void *), int collections) {
  atomic_store(&at_work, 1);
  atomic_store(&failures, 0);
  assert_int_equal(gort_thread_start(fn, NULL), 0);
  for (int i = 0; i < collections; i++) {
    gort_gc();
    if (i % 10 == 0)
      nap();
  }
}

/* SA_RESTART: a read goes on after each stop. */
static void test_read_is_restarted(void **state) {
  (void)state;
  if (UNDER_TSAN)
    skip(); /* it delivers a signal only after the read */
  assert_int_equal(pipe(pipe_ends), 0);
  start_and_collect(read_one, 200);
  assert_int_equal(atomic_load(&at_work), 1);
  assert_int_equal(write(pipe_ends[1], "x", 1), 1);
  WAIT_UNTIL(atomic_load(&at_work) == 0);
  assert_int_equal(atomic_load(&failures), 0);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

/* What is never restarted runs to its end between block_enter and block_exit. */
static void sleep_blocked(void *unused) {
  (void)unused;
  for (int i = 0; i < 10; i++) {
    struct timespec t = {0, 20000000};
    gort_block_enter();
    int slept = nanosleep(&t, NULL);
    struct pollfd none = {-1, 0, 0};
    int polled = poll(&none, 1, 20);
    gort_block_exit();
    expect_there(slept == 0 && polled == 0);
  }
  atomic_store(&at_work, 0);
}

static void test_no_signal_comes_while_blocked(void **state) {
  (void)state;
  atomic_store(&at_work, 1);
  atomic_store(&failures, 0);
  assert_int_equal(gort_thread_start(sleep_blocked, NULL), 0);
  while (atomic_load(&at_work))
    gort_gc();
  assert_int_equal(atomic_load(&failures), 0);
}

/* A thread between block_enter and block_exit is not waited for, even one without signals. */
static void block_all_signals(void *unused) {
  (void)unused;
  sigset_t all, before;
  gort_block_enter();
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  atomic_store(&at_work, 2);
  while (!atomic_load(&stop_flag))
    nap();
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  gort_block_exit();
  atomic_store(&at_work, 0);
}

static void test_blocked_threads_are_not_waited_for(void **state) {
  (void)state;
  atomic_store(&stop_flag, 0);
  assert_int_equal(gort_thread_start(block_all_signals, NULL), 0);
  WAIT_UNTIL(atomic_load(&at_work) == 2);
  for (int i = 0; i < 20; i++)
    gort_gc();
  atomic_store(&stop_flag, 1);
  WAIT_UNTIL(atomic_load(&at_work) == 0);
}

/* --- Which signal --------------------------------------------------------------------------- */

static bool has_handler(int sig) {
  struct sigaction a;
  CHECK(sigaction(sig, NULL, &a) == 0);
  return a.sa_handler != SIG_DFL && a.sa_handler != SIG_IGN;
}

static bool restarts(int sig) {
  struct sigaction a;
  CHECK(sigaction(sig, NULL, &a) == 0);
  return a.sa_flags & SA_RESTART;
}

static void spin(void *unused) {
  (void)unused;
  atomic_store(&at_work, 1);
  while (!atomic_load(&stop_flag))
    continue;
  atomic_store(&at_work, 0);
}

static void collect_with_spinner(void) {
  CHECK(gort_thread_start(spin, NULL) == 0);
  WAIT_UNTIL(atomic_load(&at_work));
  for (int i = 0; i < 20; i++)
    gort_gc();
  atomic_store(&stop_flag, 1);
  WAIT_UNTIL(!atomic_load(&at_work));
}

CASE(default_signal) {
  gort_init();
  collect_with_spinner();
  CHECK(has_handler(SIGURG) && restarts(SIGURG));
  CHECK(!has_handler(SIGUSR2));
}

CASE(signal_usr2) {
  gort_init();
  collect_with_spinner();
  CHECK(has_handler(SIGUSR2) && restarts(SIGUSR2));
  CHECK(!has_handler(SIGURG));
}

static void test_the_signal_can_be_chosen(void **state) {
  (void)state;
  char setting[32];
  snprintf(setting, sizeof setting, "GORTSIGNAL=%d", SIGUSR2);
  expect_quiet_in(default_signal, ENV("GORTSIGNAL"));
  expect_quiet_in(signal_usr2, ENV(setting));
}

/* SIGURG that comes from elsewhere means nothing. */
CASE(foreign_signals) {
  gort_init();
  CHECK(gort_thread_start(spin, NULL) == 0);
  WAIT_UNTIL(atomic_load(&at_work));
  start_collecting();
  for (int i = 0; i < 2000; i++)
    kill(getpid(), SIGURG);
  stop_collecting();
  atomic_store(&stop_flag, 1);
  WAIT_UNTIL(!atomic_load(&at_work));
  CHECK(gort_drain(-1));
}

static void test_signals_from_elsewhere_are_harmless(void **state) {
  (void)state;
  expect_quiet(foreign_signals);
}

/* --- A thread that blocks the signal -------------------------------------------------------- */

static atomic_int may_collect, collected;

/* Not while the starter still waits in gort_thread_start: there it holds up nobody. */
static void collect_once(void *unused) {
  (void)unused;
  WAIT_UNTIL(atomic_load(&may_collect));
  gort_gc();
  atomic_store(&collected, 1);
}

/* Blocks the signal until the complaint must have come; the collection waits and then ends. */
CASE(stubborn_thread) {
  gort_init();
  pthread_setname_np(pthread_self(), "stubborn");
  sigset_t urg, before;
  sigemptyset(&urg);
  sigaddset(&urg, SIGURG);
  pthread_sigmask(SIG_BLOCK, &urg, &before);
  printf("%ld\n", syscall(SYS_gettid));
  fflush(stdout);
  CHECK(gort_thread_start(collect_once, NULL) == 0);
  atomic_store(&may_collect, 1);
  for (int64_t end = monotonic_ns() + INT64_C(3000000000); monotonic_ns() < end;)
    nap();
  CHECK(!atomic_load(&collected));
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  WAIT_UNTIL(atomic_load(&collected));
}

static void test_a_thread_that_blocks_the_signal_is_named(void **state) {
  (void)state;
  static struct outcome o;
  o = *run_case("stubborn_thread", "", ENV("GORTSIGNAL"));
  o.out[strcspn(o.out, "\n")] = 0;
  if (o.hung || o.status != 0 || !(strstr(o.err, "stubborn") || strstr(o.err, o.out))) {
    print_outcome("stubborn_thread", &o);
    fail_msg("the thread should be named, and the collection should end");
  }
}

/* --- Alternate signal stacks ---------------------------------------------------------------- */

static atomic_int in_handler;
static void *volatile seen_in_handler;

static void wait_in_handler(int sig) {
  (void)sig;
  atomic_store(&in_handler, 1);
  while (!atomic_load(&stop_flag))
    continue;
  atomic_store(&in_handler, 0);
}

/* Stopped while it runs on another stack, the thread's own stack counts all the same. */
static NOINLINE void hold_under_handler(void) {
  void *volatile frame[100];
  for (size_t i = 0; i < COUNT_OF(frame); i++)
    frame[i] = watch(gort_alloc(40));
  raise(SIGUSR1);
  for (size_t i = 0; i < COUNT_OF(frame); i++)
    seen_in_handler = frame[i];
  seen_in_handler = NULL;
}

static void use_alternate_stack(void *unused) {
  (void)unused;
  static char memory[1 << 16];
  stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
  struct sigaction a = {.sa_handler = wait_in_handler, .sa_flags = SA_ONSTACK};
  CHECK(sigaltstack(&stack, NULL) == 0);
  CHECK(sigaction(SIGUSR1, &a, NULL) == 0);
  hold_under_handler();
  scrub_stack();
  stack.ss_flags = SS_DISABLE;
  CHECK(sigaltstack(&stack, NULL) == 0);
  atomic_store(&at_work, 0);
}

static void test_alternate_signal_stacks(void **state) {
  (void)state;
  if (UNDER_TSAN)
    skip(); /* it delivers no signal to a handler */
  watch_begin();
  atomic_store(&stop_flag, 0);
  atomic_store(&at_work, 1);
  assert_int_equal(gort_thread_start(use_alternate_stack, NULL), 0);
  WAIT_UNTIL(atomic_load(&in_handler));
  for (int i = 0; i < 10; i++)
    gort_gc();
  assert_none_dead();
  atomic_store(&stop_flag, 1);
  WAIT_UNTIL(atomic_load(&at_work) == 0);
  assert_mostly_dead(100);
}

/* --- A program that has its own timers ------------------------------------------------------ */

static atomic_int ticks;

static void tick(int sig) {
  (void)sig;
  atomic_fetch_add(&ticks, 1);
}

static void test_a_programs_own_signals(void **state) {
  (void)state;
  struct sigaction a = {.sa_handler = tick, .sa_flags = SA_RESTART}, before;
  struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
  assert_int_equal(sigaction(SIGALRM, &a, &before), 0);
  assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
  watch_begin();
  for (int i = 0; i < 30; i++) {
    for (int j = 0; j < MANY; j++)
      watch(gort_alloc(100));
    gort_gc();
  }
  WAIT_UNTIL(atomic_load(&ticks) > 10);
  assert_mostly_dead(30 * MANY);
  assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
  assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
}

/* --- Signals on goroutines ------------------------------------------------------------------ */

static atomic_int raised;

static void note_raised(int sig) {
  (void)sig;
  atomic_fetch_add(&raised, 1);
}

/* Two that wait for each other are on two threads, one of them the runtime's own. */
static void raise_on_goroutine(void *unused) {
  (void)unused;
  gort_sleep(1000000);
  CHECK(raise(SIGUSR1) == 0); /* handled before it returns */
  CHECK(atomic_load(&raised) > 0);
  sigset_t blocked;
  CHECK(pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0);
  CHECK(sigismember(&blocked, SIGTERM) == 0 && sigismember(&blocked, SIGINT) == 0);
  CHECK(sigismember(&blocked, SIGUSR2) == 1);
  atomic_fetch_sub(&at_work, 1);
}

static void raise_among_goroutines(void *unused) {
  (void)unused;
  struct sigaction a = {.sa_handler = note_raised, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGUSR1, &a, NULL) == 0);
  atomic_store(&at_work, 20);
  for (int i = 0; i < 20; i++)
    gort_go(raise_on_goroutine, NULL);
  while (atomic_load(&at_work) > 0)
    gort_sleep(1000000);
  CHECK(system("kill -TERM $$") == SIGTERM);
}

CASE(raise_on_goroutines) {
  sigset_t usr2;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  CHECK(pthread_sigmask(SIG_BLOCK, &usr2, NULL) == 0); /* the threads to come block it, too */
  gort_main(raise_among_goroutines, NULL);
}

static void test_signals_on_goroutines(void **state) {
  (void)state;
  expect_quiet(raise_on_goroutines);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_errno_is_untouched_by_a_stop),
      cmocka_unit_test(test_registers_are_untouched_by_a_stop),
      cmocka_unit_test(test_read_is_restarted),
      cmocka_unit_test(test_no_signal_comes_while_blocked),
      cmocka_unit_test(test_blocked_threads_are_not_waited_for),
      cmocka_unit_test(test_the_signal_can_be_chosen),
      cmocka_unit_test(test_signals_from_elsewhere_are_harmless),
      cmocka_unit_test(test_a_thread_that_blocks_the_signal_is_named),
      cmocka_unit_test(test_alternate_signal_stacks),
      cmocka_unit_test(test_a_programs_own_signals),
      cmocka_unit_test(test_signals_on_goroutines),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
