/* Time: channels of gort_after, gort_timer, and sleeping beside other things. No test relies on how
 * late something is, only that nothing is early. */
#include "channels.h"

#include <sys/time.h>

static const int64_t spans[] = {1, 1000, 50000, MILLISECOND, 5 * MILLISECOND, 20 * MILLISECOND};

/* --- What gort_after's channel gives -------------------------------------------------------- */

static int64_t recv_before(gort_chan *c, int64_t *now) {
  int64_t when = recv_number(c);
  *now = gort_nanotime();
  return when;
}

static int64_t select_before(gort_chan *c, int64_t *now) {
  int64_t when = -1;
  gort_case cases[] = {RECV(NULL, NULL), RECV(c, &when), RECV(gort_after(HOUR), NULL)};
  CHECK(gort_select(cases, 3) == 1 && cases[1].ok);
  *now = gort_nanotime();
  return when;
}

static int64_t select_until_before(gort_chan *c, int64_t *now) {
  int64_t when = -1;
  gort_case k = RECV(c, &when);
  CHECK(gort_select_until(&k, 1, from_now(HOUR)) == 0 && k.ok);
  *now = gort_nanotime();
  return when;
}

static int64_t try_before(gort_chan *c, int64_t *now) {
  int64_t when = -1;
  while (gort_try_recv(c, &when) == 0)
    gort_yield();
  *now = gort_nanotime();
  return when;
}

static int64_t try_select_before(gort_chan *c, int64_t *now) {
  int64_t when = -1;
  gort_case cases[] = {RECV(NULL, NULL), RECV(c, &when)};
  while (gort_try_select(cases, 2) < 0)
    gort_yield();
  *now = gort_nanotime();
  return when;
}

static int64_t (*const waits[])(gort_chan *, int64_t *) = {
    recv_before, select_before, select_until_before, try_before, try_select_before};

/* The value is the time at which it was due, and nobody has it before. */
static void await_spans(void *unused) {
  (void)unused;
  for (size_t w = 0; w < COUNT_OF(waits); w++)
    for (size_t i = 0; i < COUNT_OF(spans); i++) {
      int64_t now, first = from_now(spans[i]);
      gort_chan *c = gort_after(spans[i]);
      int64_t last = from_now(spans[i]), when = waits[w](c, &now);
      CHECK(first <= when && when <= last && when <= now);
      CHECK(gort_try_recv(c, NULL) == 0 && gort_chan_len(c) == 0);
    }
}

static void test_after_gives_its_time_once_and_never_early(void **state) {
  (void)state;
  for (int i = 0; i < 20; i++)
    start_job(i % 10 == 9 ? THREAD : GOROUTINE, await_spans, NULL);
  await_spans(NULL);
  await_jobs();
}

static void look_at_after(void *unused) {
  (void)unused;
  int64_t n = 5;
  gort_chan *later = gort_after(HOUR), *soon = gort_after(3 * MILLISECOND);
  CHECK(gort_chan_cap(later) == 1 && gort_chan_len(later) == 0);
  CHECK(gort_try_recv(later, &n) == 0 && n == 5);
  UNTIL(gort_chan_len(soon) == 1);
  CHECK(gort_chan_cap(soon) == 1 && gort_chan_len(soon) == 1);
  CHECK(gort_try_recv(soon, &n) == 1 && n <= gort_nanotime());
  CHECK(gort_chan_len(soon) == 0 && gort_try_recv(soon, &n) == 0);
  CHECK(gort_chan_len(later) == 0);
}

static void test_length_and_capacity_of_after(void **state) {
  (void)state;
  on_both(look_at_after, NULL);
}

/* Nobody has to wait for it. */
static void take_at_once(void *unused) {
  (void)unused;
  static const int64_t at_once[] = {0, -1, -1000000000, INT64_MIN};
  for (size_t i = 0; i < COUNT_OF(at_once); i++) {
    int64_t before = gort_nanotime(), when = -1;
    gort_chan *c = gort_after(at_once[i]);
    int64_t after = gort_nanotime();
    CHECK(gort_chan_len(c) == 1 && gort_chan_cap(c) == 1);
    CHECK(gort_try_recv(c, &when) == 1 && before <= when && when <= after);
    CHECK(gort_try_recv(c, &when) == 0);
    gort_case k = RECV(gort_after(at_once[i]), NULL);
    CHECK(gort_select_until(&k, 1, 0) == 0);
  }
}

static void test_after_0_or_less_is_at_once(void **state) {
  (void)state;
  on_both(take_at_once, NULL);
}

static void take_never(void *unused) {
  (void)unused;
  static const int64_t far[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2};
  for (size_t i = 0; i < COUNT_OF(far); i++) {
    gort_chan *c = gort_after(far[i]);
    gort_case k = RECV(c, NULL);
    CHECK(gort_chan_len(c) == 0 && gort_try_recv(c, NULL) == 0 && gort_try_select(&k, 1) == -1);
    CHECK(gort_select_until(&k, 1, from_now(MILLISECOND)) == -1);
    gort_case cases[] = {RECV(c, NULL), RECV(gort_after(MILLISECOND), NULL)};
    CHECK(gort_select(cases, 2) == 1);
  }
}

static void recv_never(void *ns) {
  gort_recv(gort_after(*(const int64_t *)ns), NULL);
  CHECK(false);
}

/* Times beyond all clocks do not overflow into the past, nor disturb others. */
static void test_after_the_longest_time_is_never(void **state) {
  (void)state;
  static const int64_t far[] = {INT64_MAX, INT64_MAX - 1};
  for (size_t i = 0; i < COUNT_OF(far); i++)
    for (enum role role = 0; role < ROLES; role++)
      start_job(role, recv_never, (void *)(uintptr_t)&far[i]);
  on_both(take_never, NULL);
  atomic_store(&jobs, 0); /* they stay */
}

/* Which of them is due first. */
static void await_the_first(void *unused) {
  (void)unused;
  for (int i = 0; i < 50 / SLOWNESS; i++) {
    gort_chan *late = gort_after(HOUR), *soon = gort_after(50000);
    gort_case cases[] = {RECV(late, NULL), RECV(soon, NULL), RECV(late, NULL)};
    CHECK(gort_select_until(cases, 3, from_now(HOUR)) == 1);
    cases[1].chan = gort_after(HOUR);
    CHECK(gort_select_until(cases, 3, from_now(50000)) == -1);
  }
}

static void test_the_first_to_be_due_wakes_a_select(void **state) {
  (void)state;
  on_both(await_the_first, NULL);
}

/* --- Several who wait for the same ---------------------------------------------------------- */

static atomic_int got, gone;

static void recv_or_be_closed(void *c) {
  atomic_fetch_add(&got, gort_recv(c, NULL));
  atomic_fetch_add(&gone, 1);
}

static void select_or_be_closed(void *c) {
  gort_case cases[] = {RECV(c, NULL), RECV(gort_after(HOUR), NULL)};
  CHECK(gort_select(cases, 2) == 0);
  atomic_fetch_add(&got, cases[0].ok);
  atomic_fetch_add(&gone, 1);
}

static void poll_or_be_closed(void *c) {
  int n = 0;
  for (; n >= 0; atomic_fetch_add(&got, n == 1)) {
    gort_sleep(100000);
    n = gort_try_recv(c, NULL);
  }
  atomic_fetch_add(&gone, 1);
}

static void test_one_of_many_gets_the_value(void **state) {
  (void)state;
  static void (*const ways[])(void *) = {recv_or_be_closed, select_or_be_closed, poll_or_be_closed};
  for (int64_t ns = 0; ns < 3 * MILLISECOND; ns += MILLISECOND) {
    gort_chan *c = gort_after(ns);
    atomic_store(&got, 0);
    atomic_store(&gone, 0);
    for (int i = 0; i < 24; i++)
      start_job(i % 8 == 7 ? THREAD : GOROUTINE, ways[i % 3], c);
    UNTIL(atomic_load(&got) == 1);
    wait_a_little();
    assert_true(atomic_load(&gone) <= 1);
    gort_chan_close(c);
    await_jobs();
    assert_int_equal(atomic_load(&got), 1);
  }
}

/* What is due is in the channel as it is closed; what is not does not come any more. */
static void test_closing_a_channel_of_after(void **state) {
  (void)state;
  int64_t when = from_now(4 * MILLISECOND);
  gort_chan *due = gort_after(0), *later = gort_after(4 * MILLISECOND);
  gort_chan_close(due);
  gort_chan_close(later);
  bool in_time = gort_nanotime() < when;
  assert_int_equal(gort_chan_len(due), 1);
  assert_true(gort_recv(due, NULL));
  assert_false(gort_recv(due, NULL));
  wait_a_little();
  assert_true(!in_time || gort_chan_len(later) == 0);
  assert_true(!in_time || !gort_recv(later, NULL));
}

/* --- Who keeps it --------------------------------------------------------------------------- */

static NOINLINE void make_afters(int64_t ns) {
  for (int i = 0; i < MANY; i++)
    watch(gort_after(ns));
}

static void test_after_that_is_dropped_is_collected(void **state) {
  (void)state;
  static const int64_t when[] = {0, 1000, HOUR, INT64_MAX};
  for (size_t i = 0; i < COUNT_OF(when); i++) {
    watch_begin();
    make_afters(when[i]);
    assert_mostly_dead(MANY);
  }
}

/* Those who waited for it have been woken by something else. */
static void wait_for_something_else(void *unused) {
  (void)unused;
  gort_chan *later = watch(gort_after(HOUR)), *c = new_numbers(1);
  gort_case cases[] = {RECV(later, NULL), RECV(c, NULL)};
  CHECK(gort_select_until(cases, 2, from_now(1000)) == -1);
  send_number(c, 1);
  CHECK(gort_select(cases, 2) == 1);
}

static void test_after_that_was_waited_for_is_collected(void **state) {
  (void)state;
  watch_begin();
  for (int i = 0; i < MANY; i++)
    start_job(i % 50 ? GOROUTINE : THREAD, wait_for_something_else, NULL);
  await_jobs();
  assert_mostly_dead(MANY);
}

/* What waits is kept, though nothing but the call points to it. */
static void recv_after_alone(void *ns) {
  int64_t when;
  CHECK(gort_recv(gort_after((int64_t)(uintptr_t)ns), &when) && when <= gort_nanotime());
}

static void select_after_alone(void *ns) {
  gort_case *cases = gort_new_array(gort_case, 20);
  for (int i = 0; i < 20; i++)
    cases[i] = RECV(gort_after((int64_t)(uintptr_t)ns), NULL);
  CHECK(gort_select(cases, 20) >= 0);
}

static void wait_beside_collections(void) {
  gort_init();
  start_collecting();
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < 40; i++)
      start_job(i % 10 == 9 ? THREAD : GOROUTINE, i % 2 ? recv_after_alone : select_after_alone,
                (void *)(uintptr_t)((i % 5) * MILLISECOND / 2));
    await_jobs();
  }
  stop_collecting();
}
CASE(waiting_beside_collections) { wait_beside_collections(); }

static void test_after_is_kept_while_somebody_waits_for_it(void **state) {
  (void)state;
  expect_quiet_in(waiting_beside_collections, ENV("GORTDEBUG=clobberfree=1"));
  expect_quiet_in(waiting_beside_collections, ENV("GORTMAXPROCS=1"));
}

/* --- Sleeping beside other things ----------------------------------------------------------- */

static void sleep_beside(void *number) {
  struct rng r = seeded_rng((uintptr_t)number);
  for (int i = 0; i < 100 / SLOWNESS; i++) {
    int64_t ns = (int64_t)rng_below(&r, rng_below(&r, 20) ? 100000 : 3 * MILLISECOND);
    int64_t until = from_now(ns);
    gort_sleep(ns);
    CHECK(gort_nanotime() >= until);
  }
}

/* Deadlines armed on Ps that are not there any more come all the same. */
static void test_sleepers_wake_while_max_procs_changes(void **state) {
  (void)state;
  int before = gort_max_procs(8);
  for (uintptr_t i = 0; i < 100; i++)
    start_job(i % 20 == 19 ? THREAD : GOROUTINE, sleep_beside, (void *)i);
  for (int n = 0; atomic_load(&jobs) > 0; n++) {
    gort_max_procs(1 + n * 5 % 9);
    nap();
  }
  gort_max_procs(before);
}

static void set_flag(void *flag) { atomic_store((atomic_int *)flag, 1); }

static void sleep_and_set(void *flag) {
  gort_sleep(MILLISECOND);
  set_flag(flag);
}

static void recv_after_and_set(void *flag) {
  gort_recv(gort_after(MILLISECOND), NULL);
  set_flag(flag);
}

/* They arm their deadlines on a P whose goroutine then calls the runtime no more: somebody else
 * sees to them. */
static void compute_beside_deadlines(void *unused) {
  (void)unused;
  atomic_int flags[3] = {0};
  gort_go(sleep_and_set, &flags[0]);
  gort_go(recv_after_and_set, &flags[1]);
  gort_timer_start(MILLISECOND, 0, set_flag, &flags[2]);
  gort_yield();
  for (int i = 0; i < 3; i++)
    while (!atomic_load(&flags[i]))
      continue;
}
CASE(computing_beside_deadlines) { gort_main(compute_beside_deadlines, NULL); }

static void test_who_computes_holds_up_no_deadline_of_others(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++)
    expect_quiet_in(computing_beside_deadlines, ENV("GORTMAXPROCS=2"));
}

/* Two that talk to each other all the time, and one who wants to know what time it is. */
static gort_chan *chatter, *end_of_chatter;

/* It may begin when others have ended. */
static void chat(void *end) {
  int64_t n = 1;
  gort_case cases[] = {SEND(chatter, &n), RECV(end, NULL)};
  while (gort_select(cases, 2) == 0)
    continue;
}

static void chat_both_ways(void *unused) {
  (void)unused;
  int64_t n = 1;
  gort_chan *timer = gort_after(20 * MILLISECOND);
  gort_case cases[] = {SEND(chatter, &n), RECV(chatter, NULL), RECV(timer, NULL)};
  while (gort_select(cases, 3) != 2)
    continue;
  signal_on(end_of_chatter);
}

static void be_told_the_time(void *unused) {
  (void)unused;
  chatter = new_numbers(0);
  end_of_chatter = new_signals(0);
  gort_chan *timer = gort_after(20 * MILLISECOND);
  gort_case cases[] = {RECV(chatter, NULL), RECV(timer, NULL)};
  for (int i = 0; i < 2; i++)
    gort_go(chat, end_of_chatter);
  while (gort_select(cases, 2) == 0)
    continue;
  gort_chan_close(end_of_chatter);
  end_of_chatter = new_signals(0);
  for (int i = 0; i < 2; i++)
    gort_go(chat_both_ways, NULL);
  await_signal(end_of_chatter);
  await_signal(end_of_chatter);
}
CASE(time_beside_chatter) { gort_main(be_told_the_time, NULL); }

static void test_time_comes_beside_chatter(void **state) {
  (void)state;
  be_told_the_time(NULL);
  expect_quiet_in(time_beside_chatter, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(time_beside_chatter, ENV("GORTMAXPROCS=4"));
}

static void ignore(int sig) { (void)sig; }

static void send_later(void *c) {
  gort_sleep(10 * MILLISECOND);
  send_number(c, 5);
}

/* Signals of the program do not wake anybody early, nor who waits without a deadline. */
CASE(sleeping_under_signals) {
  struct sigaction a = {.sa_handler = ignore}; /* without SA_RESTART */
  struct itimerval t = {{0, 300}, {0, 300}};
  gort_init();
  CHECK(sigaction(SIGALRM, &a, NULL) == 0 && setitimer(ITIMER_REAL, &t, NULL) == 0);
  for (uintptr_t i = 0; i < 8; i++)
    start_job(i % 2 ? THREAD : GOROUTINE, i % 4 < 2 ? sleep_beside : await_spans, (void *)i);
  sleep_beside(NULL);
  await_spans(NULL);
  gort_chan *c = new_numbers(0);
  start_job(GOROUTINE, send_later, c);
  CHECK(recv_number(c) == 5);
  await_jobs();
}

static void test_signals_wake_nobody_early(void **state) {
  (void)state;
  expect_quiet(sleeping_under_signals);
}

static void sleep_for_no_time(void *unused) {
  (void)unused;
  for (int i = 0; i < 200; i++) {
    gort_sleep(0);
    gort_chan *c = new_signals(1);
    signal_on(c);
    await_signal(c);
    gort_recv(gort_after(0), NULL);
  }
}

static void test_no_time_beside_collections(void **state) {
  (void)state;
  start_collecting();
  start_job(GOROUTINE, sleep_for_no_time, NULL);
  start_job(GOROUTINE, sleep_for_no_time, NULL);
  sleep_for_no_time(NULL);
  await_jobs();
  stop_collecting();
}

static void await_many_afters(void *unused) {
  (void)unused;
  for (int i = 0; i < 20000 / SLOWNESS; i++)
    gort_recv(gort_after(i % 8 ? 0 : 1), NULL);
}

static void test_many_short_times(void **state) {
  (void)state;
  on_both(await_many_afters, NULL);
}

/* --- gort_timer goes off -------------------------------------------------------------------- */

/* What the function of a timer is told and says. */
struct alarm {
  int64_t due; /* not before; of periodic ones: the first run */
  int64_t period;
  atomic_int runs, inside;
  _Atomic uint64_t goid;
  int64_t work; /* how long a run takes */
};

static struct alarm *new_alarm(int64_t after, int64_t period) {
  struct alarm *a = gort_new(struct alarm);
  a->due = from_now(after > 0 ? after : 0);
  a->period = period;
  return a;
}

/* The nth run is not before its time, and alone. */
static void go_off(void *arg) {
  struct alarm *a = arg;
  CHECK(atomic_fetch_add(&a->inside, 1) == 0);
  int64_t before = a->period * atomic_load(&a->runs);
  CHECK(gort_nanotime() >= a->due + before);
  CHECK(gort_id() != 0 && gort_id() != atomic_exchange(&a->goid, gort_id()));
  gort_sleep(a->work);
  atomic_fetch_sub(&a->inside, 1);
  atomic_fetch_add(&a->runs, 1);
}

static void time_once(void *unused) {
  (void)unused;
  struct alarm *a[COUNT_OF(spans) + 3];
  static const int64_t at_once[] = {0, -1, INT64_MIN};
  for (size_t i = 0; i < COUNT_OF(a); i++) {
    int64_t after = i < 3 ? at_once[i] : spans[i - 3];
    a[i] = new_alarm(after, 0);
    gort_timer_start(after, 0, go_off, a[i]);
  }
  for (size_t i = 0; i < COUNT_OF(a); i++)
    UNTIL(atomic_load(&a[i]->runs) == 1);
  wait_a_little();
  for (size_t i = 0; i < COUNT_OF(a); i++)
    CHECK(atomic_load(&a[i]->runs) == 1);
}

static void test_a_timer_goes_off_once_and_never_early(void **state) {
  (void)state;
  for (int i = 0; i < 20; i++)
    start_job(i % 10 == 9 ? THREAD : GOROUTINE, time_once, NULL);
  time_once(NULL);
  await_jobs();
}

static void time_never(void *unused) {
  (void)unused;
  static const int64_t far[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2};
  for (size_t i = 0; i < COUNT_OF(far); i++)
    for (int64_t period = 0; period < 3; period++) {
      struct alarm *a = new_alarm(HOUR, period);
      gort_timer *t = gort_timer_start(far[i], period == 2 ? INT64_MAX : period, go_off, a);
      gort_sleep(MILLISECOND);
      CHECK(gort_timer_stop(t) && !gort_timer_stop(t));
      CHECK(atomic_load(&a->runs) == 0);
    }
}

static void test_a_timer_after_the_longest_time_never_goes_off(void **state) {
  (void)state;
  on_both(time_never, NULL);
}

static void time_again(void *arg) {
  int64_t period = *(const int64_t *)arg;
  struct alarm *a = new_alarm(period, period);
  gort_timer *t = gort_timer_start(period, period, go_off, a);
  UNTIL(atomic_load(&a->runs) >= 5);
  CHECK(gort_timer_stop(t) && !gort_timer_stop(t));
  int runs = atomic_load(&a->runs);
  wait_a_little();
  CHECK(atomic_load(&a->runs) <= runs + 1); /* the one that had begun */
}

static void test_a_periodic_timer_goes_off_until_it_is_stopped(void **state) {
  (void)state;
  static const int64_t periods[] = {1, 1000, 300000, 2 * MILLISECOND};
  for (size_t i = 0; i < COUNT_OF(periods); i++)
    on_both(time_again, (void *)(uintptr_t)&periods[i]);
}

/* The first run at once, the second after a period that ends never. */
static void test_the_longest_period(void **state) {
  (void)state;
  struct alarm *a = new_alarm(0, 0);
  gort_timer *t = gort_timer_start(0, INT64_MAX, go_off, a);
  UNTIL(atomic_load(&a->runs) == 1);
  wait_a_little();
  assert_int_equal(atomic_load(&a->runs), 1);
  assert_true(gort_timer_stop(t));
}

/* Runs that last longer than the period do not overlap, and those missed are not made up for. */
static void test_missed_runs_are_left_out(void **state) {
  (void)state;
  struct alarm *a = new_alarm(0, MILLISECOND);
  a->work = 4 * MILLISECOND + MILLISECOND / 2;
  gort_timer *t = gort_timer_start(0, MILLISECOND, go_off, a);
  UNTIL(atomic_load(&a->runs) >= 4);
  int64_t runs = atomic_load(&a->runs);
  assert_true(runs <= (gort_nanotime() - a->due) / (5 * MILLISECOND) + 1);
  assert_true(gort_timer_stop(t));
}

/* One run that lasts long, and short ones after it: they do not come all at once. */
static void be_long_once(void *arg) {
  struct alarm *a = arg;
  if (atomic_load(&a->runs) == 0) {
    gort_sleep(50 * a->period);
    a->due = gort_nanotime();
  }
  atomic_fetch_add(&a->runs, 1);
}

static void test_missed_runs_do_not_come_later(void **state) {
  (void)state;
  struct alarm *a = new_alarm(0, MILLISECOND);
  gort_timer *t = gort_timer_start(0, MILLISECOND, be_long_once, a);
  UNTIL(atomic_load(&a->runs) >= 6);
  int64_t runs = atomic_load(&a->runs) - 1;
  assert_true(runs <= (gort_nanotime() - a->due) / MILLISECOND + 1);
  assert_true(gort_timer_stop(t));
}

/* --- Stopping ------------------------------------------------------------------------------- */

static void stop_in_time(void *unused) {
  (void)unused;
  struct alarm *a = new_alarm(0, 0);
  gort_timer *t[100];
  for (int i = 0; i < 100; i++)
    t[i] = gort_timer_start(30 * MILLISECOND + i * 10000, i % 3 * MILLISECOND, set_flag, &a->runs);
  int64_t late = a->due + 30 * MILLISECOND; /* what is stopped after that may have gone off */
  for (int i = 0; i < 100; i++) {
    bool was = gort_timer_stop(t[i]);
    CHECK(was || gort_nanotime() >= late);
    CHECK(!gort_timer_stop(t[i]));
  }
  bool in_time = gort_nanotime() < late;
  gort_sleep(40 * MILLISECOND);
  CHECK(!in_time || atomic_load(&a->runs) == 0);
}

static void test_a_stopped_timer_does_not_go_off(void **state) {
  (void)state;
  for (int i = 0; i < 8; i++)
    start_job(i % 2 ? THREAD : GOROUTINE, stop_in_time, NULL);
  await_jobs();
}

static void stop_too_late(void *unused) {
  (void)unused;
  atomic_int *flag = gort_new(atomic_int);
  gort_timer *t = gort_timer_start(1000, 0, set_flag, flag);
  UNTIL(atomic_load(flag));
  CHECK(!gort_timer_stop(t) && !gort_timer_stop(t));
}

static void test_stopping_a_timer_that_has_gone_off(void **state) {
  (void)state;
  on_both(stop_too_late, NULL);
}

/* True exactly when it does not go off. */
struct contest {
  gort_timer *t;
  atomic_int runs, stopped;
};

static void run_contest(void *arg) { atomic_fetch_add(&((struct contest *)arg)->runs, 1); }

static void stop_contest(void *arg) {
  struct contest *c = arg;
  atomic_fetch_add(&c->stopped, gort_timer_stop(c->t));
}

static void test_a_timer_either_goes_off_or_is_stopped(void **state) {
  (void)state;
  enum { N = 500 / SLOWNESS };
  struct contest *all[N];
  struct rng r = seeded_rng(3);
  for (int i = 0; i < N; i++) {
    struct contest *c = all[i] = gort_new(struct contest);
    c->t = gort_timer_start((int64_t)rng_below(&r, 100000), 0, run_contest, c);
    start_job(i % 50 == 7 ? THREAD : GOROUTINE, stop_contest, c);
    stop_contest(c);
  }
  await_jobs();
  for (int i = 0; i < N; i++) {
    UNTIL(atomic_load(&all[i]->runs) + atomic_load(&all[i]->stopped) >= 1);
    assert_int_equal(atomic_load(&all[i]->runs) + atomic_load(&all[i]->stopped), 1);
  }
}

/* A function may stop its own timer. */
struct self_stop {
  _Atomic(gort_timer *) t;
  atomic_int runs, result;
};

static void stop_myself(void *arg) {
  struct self_stop *s = arg;
  UNTIL(atomic_load(&s->t));
  if (atomic_fetch_add(&s->runs, 1) == 2 || atomic_load(&s->result) == -1)
    atomic_store(&s->result, gort_timer_stop(atomic_load(&s->t)));
}

static void test_a_function_may_stop_its_own_timer(void **state) {
  (void)state;
  struct self_stop *once = gort_new(struct self_stop), *again = gort_new(struct self_stop);
  atomic_store(&once->result, -1);
  atomic_store(&once->t, gort_timer_start(0, 0, stop_myself, once));
  atomic_store(&again->t, gort_timer_start(0, 1000, stop_myself, again));
  UNTIL(atomic_load(&once->result) == 0);
  UNTIL(atomic_load(&again->result) == 1);
  wait_a_little();
  assert_int_equal(atomic_load(&again->runs), 3);
}

/* --- What a run may do ---------------------------------------------------------------------- */

static gort_chan *timer_c;

static void send_from_timer(void *unused) {
  (void)unused;
  send_number(timer_c, 1);
}

/* Each run waits for its receiver. */
static void test_a_run_may_park(void **state) {
  (void)state;
  timer_c = new_numbers(0);
  gort_timer *t = gort_timer_start(0, 1000, send_from_timer, NULL);
  for (int i = 0; i < 50; i++)
    assert_int_equal(recv_number(timer_c), 1);
  assert_true(gort_timer_stop(t));
  int64_t n;
  gort_case k = RECV(timer_c, &n);
  while (gort_select_until(&k, 1, from_now(5 * MILLISECOND)) == 0)
    continue;
}

/* Each starts the next, and sleeps. */
static void start_next(void *left) {
  uintptr_t n = (uintptr_t)left;
  if (n == 0)
    send_number(timer_c, 7);
  else
    gort_timer_start(0, 0, start_next, (void *)(n - 1));
  gort_sleep(MILLISECOND);
}

static void test_a_run_may_start_timers(void **state) {
  (void)state;
  timer_c = new_numbers(0);
  gort_timer_start(0, 0, start_next, (void *)(uintptr_t)100);
  assert_int_equal(recv_number(timer_c), 7);
}

static void end_by_goexit(void *runs) {
  atomic_fetch_add((atomic_int *)runs, 1);
  gort_goexit();
}

static void test_goexit_ends_that_run_alone(void **state) {
  (void)state;
  atomic_int *once = gort_new(atomic_int), *again = gort_new(atomic_int);
  gort_timer_start(0, 0, end_by_goexit, once);
  gort_timer *t = gort_timer_start(0, 1000, end_by_goexit, again);
  UNTIL(atomic_load(once) == 1 && atomic_load(again) >= 5);
  assert_true(gort_timer_stop(t));
}

static void lock_and_end(void *runs) {
  gort_lock_thread();
  gort_sleep(1000);
  atomic_fetch_add((atomic_int *)runs, 1);
}

static void test_a_run_may_end_locked(void **state) {
  (void)state;
  atomic_int *runs = gort_new(atomic_int);
  gort_timer *t = gort_timer_start(0, 1000, lock_and_end, runs);
  UNTIL(atomic_load(runs) >= 5);
  assert_true(gort_timer_stop(t));
}

/* --- Timers on the heap --------------------------------------------------------------------- */

static atomic_int things_seen;

static void look_at_thing(void *arg) {
  struct thing *t = arg;
  CHECK(t->number < MANY && thing_is(t, t->number) && !watched_dead(hide(t)));
  atomic_fetch_add(&things_seen, 1);
}

static NOINLINE void start_with_things(int64_t after, int64_t period, bool keep) {
  for (uint64_t i = 0; i < MANY; i++) {
    gort_timer *t = gort_timer_start(after, period, look_at_thing, new_thing(i));
    if (keep)
      kept[i] = t;
  }
}

static NOINLINE void stop_kept(void) {
  for (int i = 0; i < MANY; i++)
    gort_timer_stop(kept[i]);
}

/* Nothing but the timer points to the argument, and nothing at all to the timer. */
static void test_the_argument_is_kept_until_the_run(void **state) {
  (void)state;
  watch_begin();
  atomic_store(&things_seen, 0);
  start_with_things(30 * MILLISECOND, 0, false);
  for (int i = 0; i < 4; i++) {
    scrub_stack();
    gort_gc();
  }
  UNTIL(atomic_load(&things_seen) == MANY);
  assert_mostly_dead(MANY);
}

/* Runs that have begun end some time. */
static void await_mostly_dead(void) {
  for (int i = 0; i < 1000 && !mostly((size_t)deaths(), MANY); i++)
    wait_a_little();
  assert_mostly_dead(MANY);
}

/* And not any longer, though the timers are held. */
static void test_the_argument_is_not_kept_after_the_last_run(void **state) {
  (void)state;
  watch_begin();
  atomic_store(&things_seen, 0);
  start_with_things(0, 0, true);
  UNTIL(atomic_load(&things_seen) == MANY);
  await_mostly_dead();
  watch_begin();
  start_with_things(HOUR, 0, true);
  assert_none_dead();
  stop_kept();
  await_mostly_dead();
  watch_begin();
  atomic_store(&things_seen, 0);
  start_with_things(0, MILLISECOND, true);
  UNTIL(atomic_load(&things_seen) >= 2 * MANY);
  assert_none_dead();
  stop_kept();
  await_mostly_dead();
  forget_all();
}

static void nothing(void *unused) { (void)unused; }

static atomic_int ended;

static void count_end(void *unused) {
  (void)unused;
  atomic_fetch_add(&ended, 1);
}

static NOINLINE void make_timers(int64_t after, bool stop, int keep) {
  for (int i = 0; i < MANY; i++) {
    gort_timer *t = watch(gort_timer_start(after, 0, count_end, NULL));
    if (stop)
      gort_timer_stop(t);
    if (i % (MANY / 10) < keep)
      kept[i] = t;
  }
}

/* The timers that are held keep none of the others. */
static void test_timers_that_are_over_are_collected(void **state) {
  (void)state;
  for (int keep = 0; keep < 2; keep++) {
    watch_begin();
    make_timers(2 * MILLISECOND, false, keep);
    UNTIL(atomic_load(&ended) == (keep + 1) * MANY);
    assert_mostly_dead(MANY - 10 * keep);
    watch_begin();
    make_timers(HOUR, true, keep);
    assert_mostly_dead(MANY - 10 * keep);
    watch_begin();
    make_timers(INT64_MAX, false, keep);
    assert_mostly_dead(MANY - 10 * keep);
    forget_all();
  }
}

static void start_and_stop(void *number) {
  struct rng r = seeded_rng((uintptr_t)number);
  gort_timer *t[20] = {NULL};
  for (int i = 0; i < 1000 / SLOWNESS; i++) {
    gort_timer **one = &t[rng_below(&r, 20)];
    if (*one)
      gort_timer_stop(*one);
    *one = gort_timer_start((int64_t)rng_below(&r, 200000), rng_below(&r, 2) ? 0 : 20000,
                            look_at_thing, kept[rng_below(&r, MANY)]);
  }
  for (int i = 0; i < 20; i++)
    if (t[i])
      gort_timer_stop(t[i]);
}

static void test_starting_and_stopping_while_collections_run(void **state) {
  (void)state;
  watch_begin();
  for (uint64_t i = 0; i < MANY; i++)
    kept[i] = new_thing(i);
  start_collecting();
  for (uintptr_t i = 0; i < 8; i++)
    start_job(i % 4 == 3 ? THREAD : GOROUTINE, start_and_stop, (void *)i);
  await_jobs();
  stop_collecting();
  wait_a_little();
  forget_all();
}

/* --- Throws, and whole programs ------------------------------------------------------------- */

CASE(negative_period) {
  gort_init();
  gort_timer_start(1, -1, nothing, NULL);
}

CASE(no_function) {
  gort_init();
  gort_timer_start(1, 0, NULL, NULL);
}
CASE(no_timer) {
  gort_init();
  gort_timer_stop(NULL);
}

static void test_nonsense_throws(void **state) {
  (void)state;
  expect_throw_of("gort_timer_start: ", CASE_NAME(negative_period), "");
  expect_throw_of("gort_timer_start: ", CASE_NAME(no_function), "");
  expect_throw_of("gort_timer_stop: ", CASE_NAME(no_timer), "");
}

static atomic_int in_child;

static void must_not_run_in_child(void *unused) {
  (void)unused;
  CHECK(!atomic_load(&in_child));
}

/* What the parent has started does not go off in the child, what the child starts does. */
CASE(forking_with_timers) {
  gort_init();
  gort_timer *t = gort_timer_start(10 * MILLISECOND, 0, must_not_run_in_child, NULL);
  gort_timer_start(10 * MILLISECOND, MILLISECOND, must_not_run_in_child, NULL);
  gort_timer_start(0, 1000, must_not_run_in_child, NULL);
  gort_chan *c = gort_after(15 * MILLISECOND);
  gort_sleep(MILLISECOND);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    atomic_int flag = 0;
    atomic_store(&in_child, 1);
    alarm(100);
    gort_timer_start(MILLISECOND, 0, set_flag, &flag);
    UNTIL(atomic_load(&flag));
    recv_number(c);
    CHECK(!gort_timer_stop(t));
    gort_sleep(20 * MILLISECOND);
    _exit(0);
  }
  await_child(pid);
}

static void test_a_child_of_fork_has_no_timers(void **state) {
  (void)state;
  if (UNDER_TSAN || UNDER_QEMU)
    skip();
  expect_quiet(forking_with_timers);
}

/* Timers do not keep a program from ending. */
static void leave_timers_behind(void *unused) {
  (void)unused;
  gort_timer_start(HOUR, 0, nothing, NULL);
  gort_timer_start(0, 1000, nothing, NULL);
  gort_after(0);
  gort_sleep(5 * MILLISECOND);
}
CASE(ending_with_timers) { gort_main(leave_timers_behind, NULL); }

static void test_timers_keep_no_program_from_ending(void **state) {
  (void)state;
  expect_quiet(ending_with_timers);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_after_gives_its_time_once_and_never_early),
      cmocka_unit_test(test_length_and_capacity_of_after),
      cmocka_unit_test(test_after_0_or_less_is_at_once),
      cmocka_unit_test(test_after_the_longest_time_is_never),
      cmocka_unit_test(test_the_first_to_be_due_wakes_a_select),
      cmocka_unit_test(test_one_of_many_gets_the_value),
      cmocka_unit_test(test_closing_a_channel_of_after),
      cmocka_unit_test(test_after_that_is_dropped_is_collected),
      cmocka_unit_test(test_after_that_was_waited_for_is_collected),
      cmocka_unit_test(test_after_is_kept_while_somebody_waits_for_it),
      cmocka_unit_test(test_sleepers_wake_while_max_procs_changes),
      cmocka_unit_test(test_who_computes_holds_up_no_deadline_of_others),
      cmocka_unit_test(test_time_comes_beside_chatter),
      cmocka_unit_test(test_signals_wake_nobody_early),
      cmocka_unit_test(test_no_time_beside_collections),
      cmocka_unit_test(test_many_short_times),
      cmocka_unit_test(test_a_timer_goes_off_once_and_never_early),
      cmocka_unit_test(test_a_timer_after_the_longest_time_never_goes_off),
      cmocka_unit_test(test_a_periodic_timer_goes_off_until_it_is_stopped),
      cmocka_unit_test(test_the_longest_period),
      cmocka_unit_test(test_missed_runs_are_left_out),
      cmocka_unit_test(test_missed_runs_do_not_come_later),
      cmocka_unit_test(test_a_stopped_timer_does_not_go_off),
      cmocka_unit_test(test_stopping_a_timer_that_has_gone_off),
      cmocka_unit_test(test_a_timer_either_goes_off_or_is_stopped),
      cmocka_unit_test(test_a_function_may_stop_its_own_timer),
      cmocka_unit_test(test_a_run_may_park),
      cmocka_unit_test(test_a_run_may_start_timers),
      cmocka_unit_test(test_goexit_ends_that_run_alone),
      cmocka_unit_test(test_a_run_may_end_locked),
      cmocka_unit_test(test_the_argument_is_kept_until_the_run),
      cmocka_unit_test(test_the_argument_is_not_kept_after_the_last_run),
      cmocka_unit_test(test_timers_that_are_over_are_collected),
      cmocka_unit_test(test_starting_and_stopping_while_collections_run),
      cmocka_unit_test(test_nonsense_throws),
      cmocka_unit_test(test_a_child_of_fork_has_no_timers),
      cmocka_unit_test(test_timers_keep_no_program_from_ending),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
