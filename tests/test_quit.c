/* SIGQUIT: every goroutine's trace on standard error, and then the end that it brings. */
#include "check.h"

#include <sys/prctl.h>

static atomic_int at_work, release_them, handled;

static void begin_case(void) {
  prctl(PR_SET_DUMPABLE, 0); /* no core files, please */
  alarm(60);
}

static void quit(void) { CHECK(kill(getpid(), SIGQUIT) == 0); }

/* No function here ends in a call, which would be a jump out of its frame. */
static void sleep_for_good(void *unused) {
  (void)unused;
  atomic_fetch_add(&at_work, 1);
  gort_sleep(INT64_MAX);
  atomic_fetch_sub(&at_work, 1);
}

static void spin_for_good(void *unused) {
  (void)unused;
  atomic_fetch_add(&at_work, 1);
  while (!atomic_load(&release_them))
    continue;
}

static void block_for_good(void *unused) {
  (void)unused;
  gort_block_enter();
  atomic_fetch_add(&at_work, 1);
  while (!atomic_load(&release_them))
    nap();
  gort_block_exit();
}

static const struct outcome *expect_quit(const char *name, const char *arg) {
  const struct outcome *o = run_case(name, arg, NO_ENV);
  if (o->hung || !WIFSIGNALED(o->status) || WTERMSIG(o->status) != SIGQUIT ||
      !has_line(o->err, "SIGQUIT: quit")) {
    print_outcome(name, o);
    fail_msg("expected the line `SIGQUIT: quit`, and death by it");
  }
  return o;
}

static void expect_in_trace(const struct outcome *o, const char *part) {
  if (strstr(o->err, part))
    return;
  print_outcome("", o);
  fail_msg("expected in the traces: %s", part);
}

/* --- Goroutines in every state --------------------------------------------------------------- */

static void start_all_kinds(void) {
  gort_max_procs(4);
  gort_go(sleep_for_good, NULL);
  gort_go(spin_for_good, NULL);
  gort_go(block_for_good, NULL);
}

static void quit_among_all_kinds(void *unused) {
  (void)unused;
  start_all_kinds();
  while (atomic_load(&at_work) < 3)
    gort_sleep(1000000);
  quit();
  gort_sleep(INT64_MAX);
}

CASE(all_kinds) {
  begin_case();
  gort_main(quit_among_all_kinds, NULL);
}

static void test_all_kinds_are_printed(void **state) {
  (void)state;
  const struct outcome *o = expect_quit("all_kinds", "");
  expect_in_trace(o, "goroutine 1 [");
  expect_in_trace(o, " [sleep]:");
  expect_in_trace(o, " [running]:");
  expect_in_trace(o, " [blocked in a call]:");
  expect_in_trace(o, " sleep_for_good+");
  expect_in_trace(o, " spin_for_good+");
  expect_in_trace(o, " block_for_good+");
}

/* --- Where the signal finds the program ------------------------------------------------------- */

/* On a thread of its own, not attached: after a while. */
static void *quit_later(void *unused) {
  WAIT_UNTIL(atomic_load(&at_work));
  for (int i = 0; i < 100; i++)
    nap();
  quit();
  return unused;
}

static void start_to_quit_later(void) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, quit_later, NULL) == 0);
}

CASE(all_idle) {
  begin_case();
  start_to_quit_later();
  gort_main(sleep_for_good, NULL);
}

/* A goroutine that computes, on the thread that the signal comes to. */
CASE(on_a_goroutine) {
  begin_case();
  start_to_quit_later();
  gort_main(spin_for_good, NULL);
}

static void collect_for_good(void *unused) {
  (void)unused;
  atomic_fetch_add(&at_work, 1);
  for (;;)
    gort_gc();
}

CASE(in_a_collection) {
  begin_case();
  start_to_quit_later();
  gort_main(collect_for_good, NULL);
}

static void allocate_for_good(void *unused) {
  (void)unused;
  atomic_fetch_add(&at_work, 1);
  for (;;)
    kept[0] = gort_alloc(40);
}

CASE(in_an_allocation) {
  begin_case();
  start_to_quit_later();
  gort_main(allocate_for_good, NULL);
}

static void yield_for_good(void *unused) {
  (void)unused;
  atomic_fetch_add(&at_work, 1);
  for (;;)
    gort_yield();
}

static void yield_with_others(void *unused) {
  for (int i = 0; i < 20; i++)
    gort_go(yield_for_good, unused);
  yield_for_good(unused);
}

CASE(in_a_switch) {
  begin_case();
  start_to_quit_later();
  gort_main(yield_with_others, NULL);
}

static void test_wherever_the_program_is(void **state) {
  (void)state;
  expect_in_trace(expect_quit("all_idle", ""), " sleep_for_good+");
  expect_in_trace(expect_quit("on_a_goroutine", ""), " spin_for_good+");
  for (int i = 0; i < 5; i++) {
    expect_in_trace(expect_quit("in_a_collection", ""), " collect_for_good+");
    expect_in_trace(expect_quit("in_an_allocation", ""), " allocate_for_good+");
    expect_in_trace(expect_quit("in_a_switch", ""), " yield_for_good+");
  }
}

/* The signal interrupts a call of the program's, which does not come to end by itself therefore. */
CASE(thread_in_a_call) {
  begin_case();
  gort_init();
  if (strcmp(case_arg, "with goroutines") == 0) {
    gort_go(sleep_for_good, NULL);
    WAIT_UNTIL(atomic_load(&at_work));
  }
  atomic_fetch_add(&at_work, 1);
  start_to_quit_later();
  pause();
  _exit(0);
}

static void test_threads(void **state) {
  (void)state;
  const struct outcome *o = expect_quit("thread_in_a_call", "");
  expect_in_trace(o, "\nthread ");
  expect_in_trace(o, " thread_in_a_call+");
  o = expect_quit("thread_in_a_call", "with goroutines");
  expect_in_trace(o, "\nthread ");
  expect_in_trace(o, " thread_in_a_call+");
  expect_in_trace(o, " sleep_for_good+");
}

/* --- When the world cannot be stopped -------------------------------------------------------- */

static void block_the_stop_signal(void *unused) {
  sigset_t urg;
  sigemptyset(&urg);
  sigaddset(&urg, SIGURG);
  pthread_sigmask(SIG_BLOCK, &urg, NULL);
  spin_for_good(unused);
}

/* The first signal leaves the thread that it comes to where it is: another one has to send more. */
static void *send_twice(void *unused) {
  WAIT_UNTIL(atomic_load(&at_work) == 2);
  int64_t begin = monotonic_ns();
  quit();
  WAIT_UNTIL(monotonic_ns() - begin > 1100000000);
  quit();
  return unused;
}

static void wait_to_be_quit(void *unused) {
  gort_max_procs(4);
  gort_go(sleep_for_good, NULL);
  gort_go(block_the_stop_signal, NULL);
  gort_sleep(INT64_MAX);
  (void)unused;
}

CASE(unstoppable) {
  pthread_t thread;
  sigset_t quit_signal;
  begin_case();
  sigemptyset(&quit_signal);
  sigaddset(&quit_signal, SIGQUIT);
  pthread_sigmask(SIG_BLOCK, &quit_signal, NULL);
  CHECK(pthread_create(&thread, NULL, send_twice, NULL) == 0);
  pthread_sigmask(SIG_UNBLOCK, &quit_signal, NULL);
  gort_main(wait_to_be_quit, NULL);
}

static void test_a_second_signal(void **state) {
  (void)state;
  const struct outcome *o = expect_quit("unstoppable", "");
  expect_in_trace(o, " sleep_for_good+");
  assert_int_equal(occurrences(o->err, "SIGQUIT: quit"), 1);
}

/* --- Who decides ------------------------------------------------------------------------------ */

static void note_signal(int sig) {
  (void)sig;
  atomic_store(&handled, 1);
}

static void quit_and_see(void *unused) {
  (void)unused;
  quit();
  while (!atomic_load(&handled))
    gort_sleep(1000000);
}

CASE(own_handler) {
  signal(SIGQUIT, note_signal);
  gort_main(quit_and_see, NULL);
}

static void handle_later(void *unused) {
  signal(SIGQUIT, note_signal);
  quit_and_see(unused);
}
CASE(handler_set_later) { gort_main(handle_later, NULL); }

static void quit_in_vain(void *unused) {
  (void)unused;
  quit();
  gort_sleep(10000000);
}

CASE(ignored) {
  signal(SIGQUIT, SIG_IGN);
  gort_main(quit_in_vain, NULL);
}

/* What it blocks stays pending. */
static void take_pending_quit(void *unused) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGQUIT);
  quit_in_vain(unused);
  int sig;
  CHECK(sigwait(&set, &sig) == 0 && sig == SIGQUIT);
}

CASE(blocked) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGQUIT);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  gort_main(take_pending_quit, NULL);
}

static void test_the_program_decides(void **state) {
  (void)state;
  expect_quiet(own_handler);
  expect_quiet(handler_set_later);
  expect_quiet(ignored);
  expect_quiet(blocked);
}

/* --- fork ------------------------------------------------------------------------------------- */

static NOINLINE void run_until_quit(void *unused) {
  (void)unused;
  if (strcmp(case_arg, "with goroutines") == 0) {
    gort_go(sleep_for_good, NULL);
    gort_sleep(1000000);
  }
  quit();
  for (;;)
    gort_sleep(1000000);
}

/* The child is quit; its parent goes on. */
static void fork_and_quit(void *unused) {
  start_all_kinds();
  while (atomic_load(&at_work) < 3)
    gort_sleep(1000000);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0)
    run_until_quit(unused);
  int status;
  while (waitpid(pid, &status, 0) < 0)
    CHECK(errno == EINTR);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGQUIT);
  _exit(0);
}

CASE(in_a_child) {
  begin_case();
  gort_main(fork_and_quit, NULL);
}

static void expect_child_is_quit(const char *arg) {
  const struct outcome *o = run_case("in_a_child", arg, NO_ENV);
  if (o->hung || o->status != 0 || !has_line(o->err, "SIGQUIT: quit")) {
    print_outcome("in_a_child", o);
    fail();
  }
  expect_in_trace(o, " run_until_quit");
}

static void test_a_child_of_fork(void **state) {
  (void)state;
  if (UNDER_QEMU)
    skip();
  expect_child_is_quit("");
  expect_child_is_quit("with goroutines");
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_kinds_are_printed),
      cmocka_unit_test(test_wherever_the_program_is),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_a_second_signal),
      cmocka_unit_test(test_the_program_decides),
      cmocka_unit_test(test_a_child_of_fork),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
