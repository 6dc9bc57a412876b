/* Deadlock: when it is found, what it says, and what still counts as hope.
 *
 * Each case is a program of its own, named by its argument. */
#include "channels.h"

static const char deadlock[] = "fatal error: all goroutines are asleep - deadlock!";

/* So that callers are in traces: nothing is a tail call. */
#define NOT_AT_THE_END __asm__ __volatile__("")

/* --- Those who wait in vain ----------------------------------------------------------------- */

static NOINLINE void send_to_null(void *unused) {
  (void)unused;
  gort_send(NULL, NULL);
  NOT_AT_THE_END;
}

static NOINLINE void recv_from_null(void *unused) {
  (void)unused;
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

static NOINLINE void recv_from_empty(void *unused) {
  (void)unused;
  recv_number(new_numbers(3));
  NOT_AT_THE_END;
}

static NOINLINE void send_without_room(void *unused) {
  (void)unused;
  send_number(new_numbers(0), 1);
  NOT_AT_THE_END;
}

static NOINLINE void send_to_full(void *unused) {
  (void)unused;
  gort_chan *c = new_numbers(3);
  fill(c);
  send_number(c, 1);
  NOT_AT_THE_END;
}

static NOINLINE void select_without_cases(void *unused) {
  (void)unused;
  gort_select(NULL, 0);
  NOT_AT_THE_END;
}

static NOINLINE void select_null_channels(void *unused) {
  (void)unused;
  int64_t n = 1;
  gort_case cases[] = {RECV(NULL, &n), SEND(NULL, &n)};
  gort_select(cases, 2);
  NOT_AT_THE_END;
}

static NOINLINE void select_unused_channels(void *unused) {
  (void)unused;
  int64_t n = 1;
  gort_case cases[20];
  for (int i = 0; i < 20; i++)
    cases[i] = i % 2 ? RECV(new_numbers(1), &n) : SEND(new_numbers(0), &n);
  gort_select(cases, 20);
  NOT_AT_THE_END;
}

static NOINLINE void select_itself(void *unused) {
  (void)unused;
  int64_t n = 1;
  gort_chan *c = new_numbers(0);
  gort_case cases[] = {SEND(c, &n), RECV(c, &n)};
  gort_select_until(cases, 2, -1);
  NOT_AT_THE_END;
}

static NOINLINE void select_until_never(void *unused) {
  (void)unused;
  gort_case k = RECV(new_numbers(0), NULL);
  gort_select_until(&k, 1, INT64_MAX);
  NOT_AT_THE_END;
}

static NOINLINE void await_never(void *unused) {
  (void)unused;
  gort_recv(gort_after(INT64_MAX), NULL);
  NOT_AT_THE_END;
}

static NOINLINE void lock_thread_and_wait(void *unused) {
  (void)unused;
  gort_lock_thread();
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

/* --- Hope that has gone --------------------------------------------------------------------- */

static void nothing(void *unused) { (void)unused; }

static NOINLINE void wait_after_a_sleep(void *unused) {
  (void)unused;
  gort_sleep(MILLISECOND);
  gort_recv(gort_after(MILLISECOND), NULL);
  gort_case k = RECV(NULL, NULL);
  gort_select_until(&k, 1, from_now(MILLISECOND));
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

static NOINLINE void wait_after_timers(void *unused) {
  (void)unused;
  gort_timer *t = gort_timer_start(MILLISECOND, 0, nothing, NULL);
  gort_timer *stopped = gort_timer_start(HOUR, 1000, nothing, NULL);
  gort_timer_start(INT64_MAX, 0, nothing, NULL);
  CHECK(gort_timer_stop(stopped));
  gort_recv(NULL, NULL);
  gort_keep_alive(t);
}

static void send_later(void *c) {
  gort_block_enter();
  usleep(5000);
  gort_block_exit();
  send_number(c, 1);
}

/* The watch waits for a deadline that does not matter any more. */
static NOINLINE void wait_after_a_deadline_was_met(void *unused) {
  (void)unused;
  gort_case k = RECV(new_numbers(0), NULL);
  gort_go(send_later, k.chan);
  CHECK(gort_select_until(&k, 1, from_now(HOUR)) == 0);
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

static void stop_later(void *t) {
  usleep(5000);
  CHECK(gort_timer_stop(t));
}

static NOINLINE void wait_after_a_thread_stopped_a_timer(void *unused) {
  (void)unused;
  CHECK(gort_thread_start(stop_later, gort_timer_start(HOUR, 0, nothing, NULL)) == 0);
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

static void sleep_and_end(void *unused) {
  (void)unused;
  gort_sleep(3 * MILLISECOND);
}

static NOINLINE void wait_after_others_have_ended(void *unused) {
  (void)unused;
  for (int i = 0; i < 1000; i++)
    gort_go(i % 10 ? nothing : sleep_and_end, NULL);
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

static void *sleep_and_end_thread(void *unused) {
  usleep(3000);
  return unused;
}

static NOINLINE void wait_after_threads_have_ended(void *unused) {
  (void)unused;
  pthread_t strange;
  CHECK(gort_thread_start(sleep_and_end, NULL) == 0);
  CHECK(pthread_create(&strange, NULL, sleep_and_end_thread, NULL) == 0);
  pthread_detach(strange);
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

static void block_and_end(void *unused) {
  (void)unused;
  gort_block_enter();
  usleep(3000);
  gort_block_exit();
}

static NOINLINE void wait_after_somebody_was_blocked(void *unused) {
  (void)unused;
  for (int i = 0; i < 5; i++)
    gort_go(block_and_end, NULL);
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

static void lock_and_end(void *unused) {
  (void)unused;
  gort_lock_thread();
  gort_yield();
}

static NOINLINE void wait_after_threads_of_goroutines_have_ended(void *unused) {
  (void)unused;
  for (int i = 0; i < 20; i++)
    gort_go(lock_and_end, NULL);
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

/* The finalizer goroutine does not count, whether it waits for work or for something else. */
static atomic_int finalized;

static void count_finalized(void *unused) {
  (void)unused;
  atomic_fetch_add(&finalized, 1);
}

static NOINLINE void make_mortals(void (*finalizer)(void *)) {
  for (int i = 0; i < MANY; i++)
    gort_set_finalizer_fn(gort_alloc(32), finalizer);
}

static NOINLINE void wait_after_finalizers(void *unused) {
  (void)unused;
  make_mortals(count_finalized);
  CHECK(gort_drain(-1));
  CHECK(atomic_load(&finalized) > 0);
  gort_recv(NULL, NULL);
  NOT_AT_THE_END;
}

static void finalize_for_good(void *unused) {
  (void)unused;
  gort_recv(NULL, NULL);
}

static NOINLINE void wait_beside_a_finalizer(void *unused) {
  (void)unused;
  make_mortals(finalize_for_good);
  gort_gc();
  gort_select(NULL, 0);
  NOT_AT_THE_END;
}

/* A timer's run that waits for good is no hope, nor will its timer go off again. */
static NOINLINE void wait_beside_a_run(void *unused) {
  (void)unused;
  gort_timer *t = gort_timer_start(0, 1000, recv_from_null, NULL);
  gort_select(NULL, 0);
  gort_keep_alive(t);
}

/* --- Several who wait for each other -------------------------------------------------------- */

struct circle {
  gort_chan *c[3];
  int number;
};

static NOINLINE void wait_for_my_neighbour(void *arg) {
  struct circle *me = arg;
  recv_number(me->c[me->number]);
  send_number(me->c[(me->number + 1) % 3], 1);
}

static void wait_in_a_circle(void *unused) {
  (void)unused;
  struct circle first = {{new_numbers(0), new_numbers(0), new_numbers(0)}, 0};
  for (int i = 1; i < 3; i++) {
    struct circle *other = gort_new(struct circle);
    *other = first;
    other->number = i;
    gort_go(wait_for_my_neighbour, other);
  }
  wait_for_my_neighbour(&first);
}

/* One of each kind. */
static void wait_in_all_ways(void *unused) {
  (void)unused;
  static void (*const ways[])(void *) = {recv_from_null,         send_to_full,
                                         recv_from_empty,        select_without_cases,
                                         select_unused_channels, lock_thread_and_wait};
  for (size_t i = 0; i < COUNT_OF(ways); i++)
    gort_go(ways[i], NULL);
  send_to_null(NULL);
}

static void wait_among_many(void *unused) {
  (void)unused;
  for (int i = 0; i < 500; i++)
    gort_go(recv_from_empty, NULL);
  send_to_full(NULL);
}

/* Main has gone; others that are left wait. */
static void leave_others_waiting(void *unused) {
  (void)unused;
  gort_go(send_to_full, NULL);
  gort_yield();
  gort_goexit();
}

/* --- That it is found, and what it says ----------------------------------------------------- */

/* For each program: main's state, if main is left, a function in its trace, and how many wait
 * besides. */
static const struct program {
  const char *name;
  void (*fn)(void *);
  const char *state, *function;
  size_t others;
} hopeless[] = {
    {"send to null", send_to_null, "chan send (nil chan)", "send_to_null", 0},
    {"recv from null", recv_from_null, "chan receive (nil chan)", "recv_from_null", 0},
    {"recv from empty", recv_from_empty, "chan receive", "recv_from_empty", 0},
    {"send without room", send_without_room, "chan send", "send_without_room", 0},
    {"send to full", send_to_full, "chan send", "send_to_full", 0},
    {"select without cases", select_without_cases, "select (no cases)", "select_without_cases", 0},
    {"select null", select_null_channels, "select (no cases)", "select_null_channels", 0},
    {"select unused", select_unused_channels, "select", "select_unused_channels", 0},
    {"select itself", select_itself, "select", "select_itself", 0},
    {"select until never", select_until_never, "select", "select_until_never", 0},
    {"await never", await_never, "chan receive", "await_never", 0},
    {"locked", lock_thread_and_wait, "chan receive (nil chan), locked to thread",
     "lock_thread_and_wait", 0},
    {"after a sleep", wait_after_a_sleep, "chan receive (nil chan)", "wait_after_a_sleep", 0},
    {"after timers", wait_after_timers, "chan receive (nil chan)", "wait_after_timers", 0},
    {"after a deadline", wait_after_a_deadline_was_met, "chan receive (nil chan)",
     "wait_after_a_deadline_was_met", 0},
    {"after stopping", wait_after_a_thread_stopped_a_timer, "chan receive (nil chan)",
     "wait_after_a_thread_stopped_a_timer", 0},
    {"after others", wait_after_others_have_ended, "chan receive (nil chan)",
     "wait_after_others_have_ended", 0},
    {"after threads", wait_after_threads_have_ended, "chan receive (nil chan)",
     "wait_after_threads_have_ended", 0},
    {"after blocking", wait_after_somebody_was_blocked, "chan receive (nil chan)",
     "wait_after_somebody_was_blocked", 0},
    {"after locked", wait_after_threads_of_goroutines_have_ended, "chan receive (nil chan)",
     "wait_after_threads_of_goroutines_have_ended", 0},
    {"after finalizers", wait_after_finalizers, "chan receive (nil chan)", "wait_after_finalizers",
     0},
    {"beside a finalizer", wait_beside_a_finalizer, "select (no cases)", "wait_beside_a_finalizer",
     0},
    {"beside a run", wait_beside_a_run, "select (no cases)", "recv_from_null", 1},
    {"circle", wait_in_a_circle, "chan receive", "wait_for_my_neighbour", 2},
    {"all ways", wait_in_all_ways, "chan send (nil chan)", "lock_thread_and_wait", 6},
    {"many", wait_among_many, "chan send", "recv_from_empty", 500},
    {"without main", leave_others_waiting, NULL, "send_to_full", 1},
};

CASE(waiting_in_vain) {
  for (size_t i = 0; i < COUNT_OF(hopeless); i++)
    if (strcmp(hopeless[i].name, case_arg) == 0)
      gort_main(hopeless[i].fn, NULL);
}

/* Those of the program, which the runtime's own say they are not. */
static size_t goroutines_of_program(const char *text) {
  return occurrences(text, "\ngoroutine ") - occurrences(text, ", system]:\n");
}

/* The message comes first, then main's trace and all others'. */
static bool says_all(const struct program *p, const char *text) {
  char main[128];
  snprintf(main, sizeof main, "goroutine 1 [%s]:", p->state ? p->state : "");
  return strncmp(text, deadlock, sizeof deadlock - 1) == 0 && has_line(text, deadlock) &&
         (!p->state || has_line(text, main)) && strstr(text, p->function) &&
         goroutines_of_program(text) == p->others + (p->state != NULL);
}

static void expect_deadlock(const struct program *p, const char *const *settings) {
  if (UNDER_QEMU)
    return;
  const struct outcome *o = run_case("waiting_in_vain", p->name, settings);
  if (aborted(o) && says_all(p, o->err))
    return;
  print_outcome(p->name, o);
  fail_msg("expected a deadlock, and the traces of %zu", p->others + 1);
}

static void test_a_deadlock_is_found_and_says_who_waits(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(hopeless); i++)
    expect_deadlock(&hopeless[i], NO_ENV);
}

static void test_a_deadlock_is_found_on_any_number_of_processors(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(hopeless); i++) {
    expect_deadlock(&hopeless[i], ENV("GORTMAXPROCS=1"));
    if (i % 3 == 0)
      expect_deadlock(&hopeless[i], ENV("GORTMAXPROCS=7"));
  }
}

/* --- Hope ----------------------------------------------------------------------------------- */

static gort_chan *hope;

static void send_hope(void *unused) {
  (void)unused;
  send_number(hope, 1);
}

static void sleep_and_send(void *unused) {
  (void)unused;
  gort_sleep(20 * MILLISECOND);
  send_hope(NULL);
}

static void hope_for_a_sleeper(void) { gort_go(sleep_and_send, NULL); }
static void hope_for_a_timer(void) { gort_timer_start(20 * MILLISECOND, 0, send_hope, NULL); }

static void send_third_time(void *arg) {
  if (atomic_fetch_add((atomic_int *)arg, 1) == 2)
    send_hope(NULL);
}

static void hope_for_a_periodic_timer(void) {
  gort_timer_start(MILLISECOND, 10 * MILLISECOND, send_third_time, gort_new(atomic_int));
}

static void await_and_send(void *unused) {
  (void)unused;
  gort_recv(gort_after(20 * MILLISECOND), NULL);
  send_hope(NULL);
}

static void hope_for_who_awaits_a_time(void) { gort_go(await_and_send, NULL); }

static void select_and_send(void *unused) {
  (void)unused;
  gort_case cases[] = {RECV(new_numbers(0), NULL), RECV(gort_after(INT64_MAX), NULL)};
  CHECK(gort_select_until(cases, 2, from_now(20 * MILLISECOND)) == -1);
  send_hope(NULL);
}

static void hope_for_a_deadline(void) { gort_go(select_and_send, NULL); }

static void nap_and_send(void *unused) {
  (void)unused;
  usleep(20000);
  send_hope(NULL);
}

static void *attach_and_send(void *unused) {
  usleep(20000);
  CHECK(gort_thread_attach());
  send_hope(NULL);
  return unused;
}

static void hope_for_a_thread(void) { CHECK(gort_thread_start(nap_and_send, NULL) == 0); }

static void hope_for_a_strange_thread(void) {
  pthread_t strange;
  CHECK(pthread_create(&strange, NULL, attach_and_send, NULL) == 0);
  pthread_detach(strange);
}

static void block_and_send(void *unused) {
  (void)unused;
  gort_block_enter();
  usleep(20000);
  gort_block_exit();
  send_hope(NULL);
}

static void hope_for_who_is_blocked(void) { gort_go(block_and_send, NULL); }

static void send_once(void *unused) {
  (void)unused;
  if (atomic_fetch_add(&finalized, 1) == 0)
    send_hope(NULL);
}

static void hope_for_a_finalizer(void) {
  make_mortals(send_once);
  scrub_stack();
  gort_gc();
}

static void sleep_in_finalizer(void *unused) {
  (void)unused;
  gort_sleep(20 * MILLISECOND);
  send_once(NULL);
}

static void hope_for_a_finalizer_that_sleeps(void) {
  make_mortals(sleep_in_finalizer);
  scrub_stack();
  gort_gc();
}

static const struct {
  const char *name;
  void (*fn)(void);
} hopes[] = {
    {"sleeper", hope_for_a_sleeper},
    {"timer", hope_for_a_timer},
    {"periodic", hope_for_a_periodic_timer},
    {"after", hope_for_who_awaits_a_time},
    {"deadline", hope_for_a_deadline},
    {"thread", hope_for_a_thread},
    {"strange", hope_for_a_strange_thread},
    {"blocked", hope_for_who_is_blocked},
    {"finalizer", hope_for_a_finalizer},
    {"sleeping finalizer", hope_for_a_finalizer_that_sleeps},
};

static void wait_in_hope(void *unused) {
  (void)unused;
  hope = new_numbers(0);
  for (size_t i = 0; i < COUNT_OF(hopes); i++)
    if (strcmp(hopes[i].name, case_arg) == 0)
      hopes[i].fn();
  CHECK(recv_number(hope) == 1);
  dprintf(STDOUT_FILENO, "done");
}
CASE(waiting_in_hope) { gort_main(wait_in_hope, NULL); }

static void test_while_there_is_hope_there_is_no_deadlock(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(hopes); i++) {
    const struct outcome *o = expect_quiet_of("waiting_in_hope", hopes[i].name, NO_ENV);
    assert_string_equal(o->out, "done");
    expect_quiet_of("waiting_in_hope", hopes[i].name, ENV("GORTMAXPROCS=1"));
  }
}

/* --- Close calls ---------------------------------------------------------------------------- */

enum { TIMES = 300 / SLOWNESS };

static void by_sleep(void) { gort_sleep(10000); }
static void by_after(void) { gort_recv(gort_after(10000), NULL); }

static void by_deadline(void) {
  gort_case k = RECV(NULL, NULL);
  gort_select_until(&k, 1, from_now(10000));
}

static void sleep_shortly_and_send(void *unused) {
  (void)unused;
  gort_sleep(10000);
  send_hope(NULL);
}

static void by_sleeper(void) {
  gort_go(sleep_shortly_and_send, NULL);
  recv_number(hope);
}

static void by_timer(void) {
  gort_timer_start(10000, 0, send_hope, NULL);
  recv_number(hope);
}

static void by_thread(void) {
  CHECK(gort_thread_start(send_hope, NULL) == 0);
  recv_number(hope);
}

static void lock_and_send(void *unused) {
  (void)unused;
  gort_lock_thread();
  send_hope(NULL);
}

static void by_locked(void) {
  gort_go(lock_and_send, NULL);
  recv_number(hope);
}

static void block_shortly_and_send(void *unused) {
  (void)unused;
  gort_block_enter();
  usleep(10);
  gort_block_exit();
  send_hope(NULL);
}

static void by_blocked(void) {
  gort_go(block_shortly_and_send, NULL);
  recv_number(hope);
}

static void (*const close_calls[])(void) = {by_sleep, by_after,  by_deadline, by_sleeper,
                                            by_timer, by_thread, by_locked,   by_blocked};

/* Main waits, again and again, and somebody is about to wake it. */
static void call_closely(void *unused) {
  (void)unused;
  hope = new_numbers(0);
  for (size_t i = 0; i < COUNT_OF(close_calls); i++)
    for (int n = 0; n < TIMES; n++)
      close_calls[i]();
}
CASE(calling_closely) { gort_main(call_closely, NULL); }

static void test_nobody_is_given_up_who_is_about_to_be_woken(void **state) {
  (void)state;
  expect_quiet_in(calling_closely, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(calling_closely, ENV("GORTMAXPROCS=2"));
  expect_quiet_in(calling_closely, ENV("GORTMAXPROCS=8"));
}

/* A program that keeps its own main has always a thread that may do something. */
CASE(own_main) {
  gort_init();
  for (int i = 0; i < 10; i++)
    gort_go(recv_from_null, NULL);
  for (int i = 0; i < 100; i++)
    nap();
}

/* When main has returned nobody needs to wait. */
static void leave_them_waiting(void *unused) {
  (void)unused;
  for (int i = 0; i < 10; i++)
    gort_go(recv_from_null, NULL);
  gort_yield();
}
CASE(main_has_returned) {
  gort_main(leave_them_waiting, NULL);
  for (int i = 0; i < 30; i++)
    nap();
  CHECK(gort_drain(-1));
}

static void test_programs_with_a_thread_of_their_own(void **state) {
  (void)state;
  expect_quiet(own_main);
  expect_quiet(main_has_returned);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_deadlock_is_found_and_says_who_waits),
      cmocka_unit_test(test_a_deadlock_is_found_on_any_number_of_processors),
      cmocka_unit_test(test_while_there_is_hope_there_is_no_deadlock),
      cmocka_unit_test(test_nobody_is_given_up_who_is_about_to_be_woken),
      cmocka_unit_test(test_programs_with_a_thread_of_their_own),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
