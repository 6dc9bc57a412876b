/* Select: which case goes, that one goes and no other, deadlines, and what throws. */
#include "channels.h"

#include <math.h>

/* --- The forms of select -------------------------------------------------------------------- */

enum form { WAITING, UNTIL_NEVER, UNTIL_LATER, UNTIL_PAST, TRYING, FORMS };

static int select_as(enum form form, gort_case *cases, int n) {
  switch (form) {
  case WAITING:
    return gort_select(cases, n);
  case UNTIL_NEVER:
    return gort_select_until(cases, n, -1);
  case UNTIL_LATER:
    return gort_select_until(cases, n, from_now(HOUR));
  case UNTIL_PAST:
    return gort_select_until(cases, n, from_now(-1));
  default:
    return gort_try_select(cases, n);
  }
}

/* Those that do not wait when no case can go. */
static bool gives_up(enum form form) { return form == UNTIL_PAST || form == TRYING; }

/* --- Which case goes ------------------------------------------------------------------------ */

enum { SCRATCH = -77 };

/* Cases that never go, in all kinds: in them is one that can, at some place. */
struct table {
  gort_case cases[40];
  int64_t elem[40];
  int n;
};

static gort_chan *deaf[4]; /* nobody else uses them */

static void set_up(struct table *t, int n) {
  t->n = n;
  for (int i = 0; i < n; i++) {
    t->elem[i] = SCRATCH;
    gort_chan *c = i % 3 == 0 ? NULL : deaf[i % 4];
    t->cases[i] = i % 2 ? SEND(c, &t->elem[i]) : RECV(c, &t->elem[i]);
  }
}

/* The elements of the other cases have not been touched. */
static void check_others(const struct table *t, int place) {
  for (int i = 0; i < t->n; i++)
    CHECK(i == place || t->elem[i] == SCRATCH);
  for (size_t i = 0; i < COUNT_OF(deaf); i++)
    CHECK(gort_chan_len(deaf[i]) == 0);
}

static void recv_what_is_there(enum form form, struct table *t, int place) {
  gort_chan *c = new_numbers(1);
  send_number(c, 42);
  t->cases[place] = RECV(c, &t->elem[place]);
  CHECK(select_as(form, t->cases, t->n) == place);
  CHECK(t->elem[place] == 42 && t->cases[place].ok && gort_chan_len(c) == 0);
}

static void recv_the_end(enum form form, struct table *t, int place) {
  gort_chan *c = new_numbers(1);
  gort_chan_close(c);
  t->cases[place] = RECV(c, &t->elem[place]);
  t->cases[place].ok = true;
  CHECK(select_as(form, t->cases, t->n) == place);
  CHECK(t->elem[place] == 0 && !t->cases[place].ok);
}

static void send_into_room(enum form form, struct table *t, int place) {
  gort_chan *c = new_numbers(1);
  t->elem[place] = 43;
  t->cases[place] = SEND(c, &t->elem[place]);
  CHECK(select_as(form, t->cases, t->n) == place);
  CHECK(t->cases[place].ok && gort_chan_len(c) == 1 && recv_number(c) == 43);
}

static void discard_what_is_there(enum form form, struct table *t, int place) {
  gort_chan *c = new_numbers(1);
  send_number(c, 44);
  t->cases[place] = RECV(c, NULL);
  CHECK(select_as(form, t->cases, t->n) == place);
  CHECK(t->cases[place].ok && gort_chan_len(c) == 0 && t->elem[place] == SCRATCH);
}

static void use_size_zero(enum form form, struct table *t, int place) {
  gort_chan *c = new_signals(1);
  t->cases[place] = SEND(c, NULL);
  CHECK(select_as(form, t->cases, t->n) == place && gort_chan_len(c) == 1);
  t->cases[place] = RECV(c, NULL);
  CHECK(select_as(form, t->cases, t->n) == place && gort_chan_len(c) == 0);
}

static void (*const ready_cases[])(enum form, struct table *, int) = {
    recv_what_is_there, recv_the_end, send_into_room, discard_what_is_there, use_size_zero};

static void select_what_can_go(void *unused) {
  (void)unused;
  static const int sizes[] = {1, 2, 3, 7, 8, 9, 20, 40};
  struct table t;
  for (enum form form = 0; form < FORMS; form++)
    for (size_t s = 0; s < COUNT_OF(sizes); s++)
      for (int place = 0; place < sizes[s]; place += 1 + sizes[s] / 10)
        for (size_t k = 0; k < COUNT_OF(ready_cases); k++) {
          set_up(&t, sizes[s]);
          ready_cases[k](form, &t, place);
          check_others(&t, place);
        }
}

static void make_deaf(void) {
  for (size_t i = 0; i < COUNT_OF(deaf); i++)
    deaf[i] = new_numbers(0);
}

static void test_the_case_that_can_go_goes(void **state) {
  (void)state;
  make_deaf();
  on_both(select_what_can_go, NULL);
}

static void select_nothing(void *unused) {
  (void)unused;
  struct table t;
  for (int n = 0; n <= 40; n++) {
    set_up(&t, n);
    CHECK(gort_try_select(t.cases, n) == -1);
    CHECK(gort_select_until(t.cases, n, 0) == -1);
    CHECK(gort_select_until(t.cases, n, from_now(0)) == -1);
    check_others(&t, -1);
  }
  CHECK(gort_try_select(NULL, 0) == -1 && gort_select_until(NULL, 0, 0) == -1);
}

static void test_none_goes_where_none_can(void **state) {
  (void)state;
  make_deaf();
  on_both(select_nothing, NULL);
}

/* Every combination of a case that can go and some that cannot, in every order and form. */
enum { CANNOT = 4 };

static void run_combination(unsigned which, int place, bool send, enum form form) {
  gort_chan *c = new_numbers(1), *dummy = deaf[0];
  int64_t elem = 5, other = SCRATCH;
  const gort_case cannot[CANNOT] = {SEND(dummy, &other), RECV(dummy, &other), SEND(NULL, &other),
                                    RECV(NULL, &other)};
  gort_case cases[CANNOT + 1];
  int n = 0, at = -1;
  for (int i = 0; i <= CANNOT; i++) {
    if (i == place)
      cases[at = n++] = send ? SEND(c, &elem) : RECV(c, &elem);
    if (i < CANNOT && (which >> i & 1))
      cases[n++] = cannot[i];
  }
  if (!send)
    send_number(c, 6);
  CHECK(select_as(form, cases, n) == at && cases[at].ok && other == SCRATCH);
  CHECK(send ? recv_number(c) == 5 : elem == 6);
}

static void run_combinations(void *unused) {
  (void)unused;
  for (unsigned which = 0; which < 1 << CANNOT; which++)
    for (int place = 0; place <= CANNOT; place++)
      for (enum form form = 0; form < FORMS; form++) {
        run_combination(which, place, false, form);
        run_combination(which, place, true, form);
      }
}

static void test_combinations_of_cases(void **state) {
  (void)state;
  make_deaf();
  on_both(run_combinations, NULL);
}

/* A case whose channel was set to NULL does not go any more. */
static void turn_cases_off(void *unused) {
  (void)unused;
  gort_chan *a = new_numbers(1), *b = new_numbers(1);
  int64_t one = 1, two = 2;
  gort_case cases[] = {SEND(a, &one), SEND(b, &two)};
  int first = gort_try_select(cases, 2);
  CHECK(first == 0 || first == 1);
  cases[first].chan = NULL;
  CHECK(gort_try_select(cases, 2) == !first);
  cases[!first].chan = NULL;
  CHECK(gort_try_select(cases, 2) == -1);
  CHECK(recv_number(a) == 1 && recv_number(b) == 2);
}

static void test_cases_can_be_turned_off(void **state) {
  (void)state;
  on_both(turn_cases_off, NULL);
}

/* --- Waiting -------------------------------------------------------------------------------- */

/* A select over n channels, half of them to send; somebody makes one of them ready. */
struct wait {
  gort_chan *c[40];
  int n, went;
  bool ok, close;
  enum form form;
  int64_t elem;
};

static void wait_for_any(void *arg) {
  struct wait *w = arg;
  gort_case cases[40];
  int64_t elem[40];
  for (int i = 0; i < w->n; i++) {
    elem[i] = i;
    cases[i] = i % 2 ? SEND(w->c[i], &elem[i]) : RECV(w->c[i], &elem[i]);
  }
  w->went = select_as(w->form, cases, w->n);
  CHECK(w->went >= 0);
  w->ok = cases[w->went].ok;
  w->elem = elem[w->went];
  for (int i = 0; i < w->n; i++)
    CHECK(i == w->went || elem[i] == i);
}

static void make_ready(const struct wait *w, int place) {
  if (w->close)
    gort_chan_close(w->c[place]);
  else if (place % 2)
    CHECK(recv_number(w->c[place]) == place);
  else
    send_number(w->c[place], 1000 + place);
}

/* Nobody waits on any of the channels any more. */
static void check_deserted(const struct wait *w, int place) {
  int64_t n = 0;
  for (int i = 0; i < w->n; i++) {
    if (i == place && w->close)
      continue;
    CHECK(!gort_try_send(w->c[i], &n) && gort_try_recv(w->c[i], &n) == 0);
  }
}

static void be_woken(enum role role, struct wait w, int place) {
  for (int i = 0; i < w.n; i++)
    w.c[i] = new_numbers(0);
  start_job(role, wait_for_any, &w);
  await_one_in(role, "select");
  make_ready(&w, place);
  await_jobs();
  CHECK(w.went == place && w.ok == !w.close);
  CHECK(w.elem == (w.close ? 0 : place % 2 ? place : 1000 + place));
  check_deserted(&w, place);
}

static void test_a_waiting_select_is_woken_by_any_of_its_cases(void **state) {
  (void)state;
  static const int sizes[] = {1, 2, 3, 8, 9, 40};
  for (size_t s = 0; s < COUNT_OF(sizes); s++)
    for (int place = 0; place < sizes[s]; place += 1 + sizes[s] / 4)
      for (enum form form = WAITING; form <= UNTIL_LATER; form++) {
        struct wait w = {.n = sizes[s], .form = form};
        be_woken(GOROUTINE, w, place);
        if (s % 2 == 0)
          be_woken(THREAD, w, place);
        w.close = place % 2 == 0;
        be_woken(GOROUTINE, w, place);
      }
}

static atomic_int passed;

static void pass_by_select(void *unused) {
  (void)unused;
  gort_case cases[] = {RECV(NULL, NULL), SEND(NULL, NULL)};
  gort_select(cases, 2);
  atomic_fetch_add(&passed, 1);
}

static void pass_by_empty_select(void *unused) {
  (void)unused;
  gort_select(NULL, 0);
  atomic_fetch_add(&passed, 1);
}

static void pass_by_empty_select_until(void *deadline) {
  gort_select_until(NULL, 0, deadline ? INT64_MAX : -1);
  atomic_fetch_add(&passed, 1);
}

static void test_without_a_case_that_could_go_it_blocks_for_good(void **state) {
  (void)state;
  atomic_store(&passed, 0);
  for (enum role role = 0; role < ROLES; role++) {
    start_job(role, pass_by_select, NULL);
    start_job(role, pass_by_empty_select, NULL);
    start_job(role, pass_by_empty_select_until, NULL);
    start_job(role, pass_by_empty_select_until, &passed);
  }
  await_goroutines_in("select (no cases)", 4);
  gort_gc();
  wait_a_little();
  assert_int_equal(atomic_load(&passed), 0);
  atomic_store(&jobs, 0); /* they stay */
}

/* --- Deadlines ------------------------------------------------------------------------------ */

static const int64_t spans[] = {0, 1, 1000, 50000, MILLISECOND, 5 * MILLISECOND};

static void be_late(gort_case *cases, int n) {
  for (size_t i = 0; i < COUNT_OF(spans); i++) {
    int64_t deadline = from_now(spans[i]);
    CHECK(gort_select_until(cases, n, deadline) == -1);
    CHECK(gort_nanotime() >= deadline);
  }
}

static void wait_until_deadlines(void *unused) {
  (void)unused;
  struct table t;
  for (int n = 0; n < 12; n++) {
    set_up(&t, n);
    be_late(t.cases, n);
    check_others(&t, -1);
  }
  be_late(NULL, 0);
}

/* A deadline is never early, and no case has gone then. */
static void test_deadlines_are_never_early(void **state) {
  (void)state;
  make_deaf();
  for (int i = 0; i < 20; i++)
    start_job(i % 7 == 6 ? THREAD : GOROUTINE, wait_until_deadlines, NULL);
  wait_until_deadlines(NULL);
  await_jobs();
}

static void prefer_what_is_ready(void *unused) {
  (void)unused;
  static const int64_t past[] = {0, 1, 1000000};
  for (int i = 0; i < 1000 / SLOWNESS; i++) {
    gort_chan *c = new_numbers(1);
    int64_t n = 7;
    gort_case send = SEND(c, &n), recv = RECV(c, &n);
    int64_t deadline = i % 4 == 3 ? from_now(-1) : past[i % 4];
    CHECK(gort_select_until(&send, 1, deadline) == 0);
    CHECK(gort_select_until(&send, 1, deadline) == -1);
    CHECK(gort_select_until(&recv, 1, deadline) == 0 && recv.ok);
    CHECK(gort_select_until(&recv, 1, deadline) == -1);
    gort_chan_close(c);
    CHECK(gort_select_until(&recv, 1, deadline) == 0 && !recv.ok);
  }
}

static void test_what_is_ready_wins_over_a_deadline_that_is_past(void **state) {
  (void)state;
  on_both(prefer_what_is_ready, NULL);
}

/* A value and a deadline at the same moment: either it goes and is there, or it does not and is
 * not. */
enum { RACES = 1000 / SLOWNESS };

static struct {
  gort_chan *c;
  atomic_int sent, received, senders;
} race;

/* Somewhere about the time that another select takes. */
static int64_t short_span(struct rng *r) { return (int64_t)rng_below(r, 60000); }

static void send_or_give_up(void *number) {
  struct rng r = seeded_rng((uintptr_t)number);
  for (int i = 0; i < RACES; i++) {
    int64_t n = i;
    gort_case cases[] = {SEND(race.c, &n), RECV(NULL, NULL)};
    if (gort_select_until(cases, i % 2 + 1, from_now(short_span(&r))) == 0)
      atomic_fetch_add(&race.sent, 1);
  }
  if (atomic_fetch_sub(&race.senders, 1) == 1)
    gort_chan_close(race.c);
}

static void receive_or_give_up(void *number) {
  struct rng r = seeded_rng((uintptr_t)number);
  for (;;) {
    int64_t n = -1;
    gort_case cases[] = {RECV(race.c, &n), SEND(NULL, NULL)};
    int went = gort_select_until(cases, rng_below(&r, 2) ? 2 : 1, from_now(short_span(&r)));
    CHECK(went == 0 ? !cases[0].ok || (n >= 0 && n < RACES) : went == -1 && n == -1);
    if (went == 0 && !cases[0].ok)
      return;
    atomic_fetch_add(&race.received, went == 0);
  }
}

static void test_a_value_and_a_deadline_at_the_same_moment(void **state) {
  (void)state;
  for (size_t capacity = 0; capacity < 3; capacity++) {
    race.c = new_numbers(capacity);
    atomic_store(&race.sent, 0);
    atomic_store(&race.received, 0);
    atomic_store(&race.senders, 4);
    for (uintptr_t i = 0; i < 4; i++) {
      start_job(i == 3 ? THREAD : GOROUTINE, send_or_give_up, (void *)i);
      start_job(i == 2 ? THREAD : GOROUTINE, receive_or_give_up, (void *)(i + 4));
    }
    await_jobs();
    assert_int_equal(atomic_load(&race.received), atomic_load(&race.sent));
  }
}

/* Without cases it is a sleep, also when the time is nearly up as it begins. */
static void sleep_by_select(void *number) {
  struct rng r = seeded_rng((uintptr_t)number);
  gort_case none = RECV(NULL, NULL);
  for (int i = 0; i < 500 / SLOWNESS; i++) {
    int64_t deadline = from_now((int64_t)rng_below(&r, 3000));
    CHECK(gort_select_until(&none, i % 2, deadline) == -1 && gort_nanotime() >= deadline);
  }
}

static void test_many_sleep_by_select(void **state) {
  (void)state;
  int before = gort_max_procs(4);
  for (uintptr_t i = 0; i < 50; i++)
    start_job(i % 25 ? GOROUTINE : THREAD, sleep_by_select, (void *)i);
  await_jobs();
  gort_max_procs(before);
}

/* --- Fairness ------------------------------------------------------------------------------- */

/* Each of k got about its share of n: one run in a thousand million has such a deviation. */
static void check_fair(const int *count, int k, int n) {
  double p = 1.0 / k;
  for (int i = 0; i < k; i++)
    CHECK(fabs(count[i] - n * p) <= 6.5 * sqrt(n * p * (1 - p)));
}

enum { DRAWS = 10000 / SLOWNESS };

/* Half of them send and half receive; all can go at all times. */
static void draw(int k, enum form form) {
  int count[40] = {0};
  gort_case cases[40];
  for (int i = 0; i < k; i++) {
    gort_chan *c = new_signals(SIZE_MAX);
    for (int n = 0; n < DRAWS; n++)
      CHECK(gort_try_send(c, NULL));
    cases[i] = i % 2 ? SEND(c, NULL) : RECV(c, NULL);
  }
  for (int n = 0; n < DRAWS; n++)
    count[select_as(form, cases, k)]++;
  check_fair(count, k, DRAWS);
}

static void draw_all(void *unused) {
  (void)unused;
  static const int ks[] = {2, 3, 4, 5, 8, 9, 17};
  for (size_t i = 0; i < COUNT_OF(ks); i++)
    draw(ks[i], (enum form)(i % FORMS));
}

static void test_each_of_those_that_can_go_is_as_likely(void **state) {
  (void)state;
  on_both(draw_all, NULL);
}

/* Also when all cases are on one channel, and when some are closed. */
static void test_each_case_counts_whatever_its_channel(void **state) {
  (void)state;
  gort_chan *c = new_signals(SIZE_MAX), *closed = new_signals(0);
  int count[5] = {0};
  gort_chan_close(closed);
  for (int n = 0; n < DRAWS; n++)
    signal_on(c);
  gort_case cases[] = {RECV(c, NULL), SEND(c, NULL), RECV(closed, NULL), RECV(c, NULL),
                       RECV(closed, NULL)};
  for (int n = 0; n < DRAWS; n++)
    count[gort_select(cases, 5)]++;
  check_fair(count, 5, DRAWS);
}

/* The same beside cases that cannot go. */
static void test_those_that_cannot_go_do_not_change_the_odds(void **state) {
  (void)state;
  make_deaf();
  for (int n = 3; n <= 12; n++) {
    struct table t;
    int count[2] = {0};
    set_up(&t, n);
    t.cases[0] = t.cases[2] = RECV(new_signals(0), NULL);
    gort_chan_close(t.cases[0].chan);
    for (int i = 0; i < DRAWS; i++)
      count[gort_try_select(t.cases, n) / 2]++;
    check_fair(count, 2, DRAWS);
  }
}

static struct { gort_chan *full[2], *empty[2], *out, *done; } fairness;

static void forward_any(void *unused) {
  (void)unused;
  for (;;) {
    int64_t n = -1;
    gort_case in[] = {RECV(fairness.empty[0], &n), RECV(fairness.empty[1], &n),
                      RECV(fairness.full[0], &n), RECV(fairness.full[1], &n)};
    CHECK(gort_select(in, 4) >= 2 && (n == 0 || n == 1));
    gort_case out[] = {SEND(fairness.out, &n), RECV(fairness.done, NULL)};
    if (gort_select(out, 2) == 1)
      return;
  }
}

static void test_somebody_who_forwards_is_fair(void **state) {
  (void)state;
  int count[2] = {0};
  for (int i = 0; i < 2; i++) {
    fairness.full[i] = new_numbers(DRAWS + 1);
    fairness.empty[i] = new_numbers(0);
    for (int n = 0; n < DRAWS + 1; n++)
      send_number(fairness.full[i], i);
  }
  fairness.out = new_numbers(0);
  fairness.done = new_signals(0);
  start_job(GOROUTINE, forward_any, NULL);
  for (int i = 0; i < DRAWS; i++)
    count[recv_number(fairness.out)]++;
  check_fair(count, 2, DRAWS);
  gort_chan_close(fairness.done);
  await_jobs();
}

static void count_sent(void *arg) {
  gort_chan **c = arg;
  int64_t count[2] = {0}, n;
  while (gort_recv(c[0], &n))
    count[n]++;
  gort_send(c[1], count);
}

/* Which of two values is sent on the same channel, whether somebody waits for it or not. */
static void test_the_value_that_is_sent_is_random(void **state) {
  (void)state;
  for (size_t capacity = 0; capacity <= 100; capacity += 50) {
    int64_t zero = 0, one = 1, count[2];
    gort_chan **c = gort_new_array(gort_chan *, 2);
    c[0] = new_numbers(capacity);
    c[1] = gort_chan_new(sizeof count, 0);
    start_job(GOROUTINE, count_sent, c);
    gort_case cases[] = {SEND(c[0], &zero), SEND(c[0], &one)};
    for (int i = 0; i < 1000; i++)
      gort_select(cases, 2);
    gort_chan_close(c[0]);
    assert_true(gort_recv(c[1], count));
    check_fair((int[]){(int)count[0], (int)count[1]}, 2, 1000);
    await_jobs();
  }
}

/* --- One goes and no other ------------------------------------------------------------------ */

enum { OUTLETS = 4, DOUBLES = 5000 / SLOWNESS };

static struct {
  gort_chan *outlet[OUTLETS], *all;
  atomic_int open;
} doubles;

/* Each number is sent on one of the outlets. */
static void send_on_any(void *unused) {
  (void)unused;
  for (int64_t i = 0; i < DOUBLES; i++) {
    gort_case cases[OUTLETS];
    for (int k = 0; k < OUTLETS; k++)
      cases[k] = SEND(doubles.outlet[k], &i);
    gort_select(cases, OUTLETS);
  }
  for (int k = 0; k < OUTLETS; k++)
    gort_chan_close(doubles.outlet[k]);
}

static void forward_outlet(void *c) {
  int64_t n;
  while (gort_recv(c, &n))
    send_number(doubles.all, n);
  if (atomic_fetch_sub(&doubles.open, 1) == 1)
    gort_chan_close(doubles.all);
}

static void test_two_cases_never_go_together(void **state) {
  (void)state;
  for (enum role role = 0; role < ROLES; role++) {
    static bool seen[DOUBLES];
    int64_t n, received = 0;
    memset(seen, 0, sizeof seen);
    doubles.all = new_numbers(0);
    atomic_store(&doubles.open, OUTLETS);
    for (int k = 0; k < OUTLETS; k++) {
      doubles.outlet[k] = new_numbers(0);
      start_job(role == THREAD && k == 0 ? THREAD : GOROUTINE, forward_outlet, doubles.outlet[k]);
    }
    start_job(role, send_on_any, NULL);
    for (; gort_recv(doubles.all, &n); received++) {
      assert_false(seen[n]);
      seen[n] = true;
    }
    assert_int_equal(received, DOUBLES);
    await_jobs();
  }
}

/* Two that both send and receive on one channel meet, but none meets himself. */
static gort_chan *mirror;

static void meet_others(void *me) {
  for (int i = 0; i < 1000 / SLOWNESS; i++) {
    int64_t mine = (int64_t)(uintptr_t)me, other = -1;
    gort_case cases[] = {SEND(mirror, &mine), RECV(mirror, &other)};
    if (mine == 1 && i % 2) {
      cases[0] = RECV(mirror, &other);
      cases[1] = SEND(mirror, &mine);
    }
    int went = gort_select(cases, 2);
    CHECK(cases[went].dir == GORT_SEND || gort_chan_cap(mirror) > 0 || other == !mine);
  }
}

static void test_nobody_receives_from_himself(void **state) {
  (void)state;
  for (size_t capacity = 0; capacity < 20; capacity += 10)
    for (enum role role = 0; role < ROLES; role++) {
      mirror = new_numbers(capacity);
      start_job(role, meet_others, (void *)(uintptr_t)0);
      start_job(GOROUTINE, meet_others, (void *)(uintptr_t)1);
      await_jobs();
    }
}

/* From its start on one of two channels is ready, first this and then that: it is to see them at
 * one moment. */
static gort_chan *pair[2], *verdict;

static void try_both(void *unused) {
  (void)unused;
  gort_case cases[] = {RECV(pair[0], NULL), RECV(pair[1], NULL)};
  send_number(verdict, gort_try_select(cases, 2));
}

static void test_trying_sees_all_channels_at_one_moment(void **state) {
  (void)state;
  verdict = new_numbers(1);
  for (int i = 0; i < 4000 / SLOWNESS; i++) {
    bool close = i % 2;
    pair[0] = new_numbers(1);
    pair[1] = new_numbers(close ? 0 : 1);
    send_number(pair[0], 1);
    start_job(i % 32 == 31 ? THREAD : GOROUTINE, try_both, NULL);
    if (close)
      gort_chan_close(pair[1]);
    else
      send_number(pair[1], 1);
    gort_try_recv(pair[0], NULL);
    assert_true(recv_number(verdict) >= 0);
    await_jobs();
  }
}

/* --- Queues --------------------------------------------------------------------------------- */

static gort_chan *queue_c, *queue_d, *queue_e;

static void recv_c(void *unused) {
  (void)unused;
  CHECK(recv_number(queue_c) == 8);
}

static void select_c_twice_or_d(void *unused) {
  (void)unused;
  gort_case cases[] = {RECV(queue_c, NULL), RECV(queue_c, NULL), RECV(queue_d, NULL)};
  CHECK(gort_select(cases, 3) == 2);
  send_number(queue_e, 9);
}

/* A select that is woken leaves the queues of its other channels, where others wait before and
 * behind it. */
static void leave_queues(int before, int behind) {
  queue_c = new_numbers(0);
  queue_d = new_numbers(0);
  queue_e = new_numbers(0);
  for (int i = 0; i < before; i++)
    start_job(GOROUTINE, recv_c, NULL);
  await_goroutines_in("chan receive", before);
  start_job(GOROUTINE, select_c_twice_or_d, NULL);
  await_goroutines_in("select", 1);
  for (int i = 0; i < behind; i++)
    start_job(GOROUTINE, recv_c, NULL);
  await_goroutines_in("chan receive", before + behind);
  send_number(queue_d, 7);
  assert_int_equal(recv_number(queue_e), 9);
  for (int i = 0; i < before + behind; i++)
    send_number(queue_c, 8);
  await_jobs();
}

static void test_a_woken_select_leaves_the_other_queues(void **state) {
  (void)state;
  for (int before = 0; before < 3; before++)
    for (int behind = 0; behind < 3; behind++)
      leave_queues(before, behind);
}

/* The one that is woken by its time as well. */
static void select_until_soon(void *c) {
  gort_case cases[] = {RECV(c, NULL), RECV(c, NULL)};
  CHECK(gort_select_until(cases, 2, from_now(MILLISECOND)) == -1);
}

static void test_a_select_whose_time_is_up_leaves_its_queues(void **state) {
  (void)state;
  for (int i = 0; i < 20; i++) {
    queue_c = new_numbers(0);
    start_job(i % 2 ? THREAD : GOROUTINE, select_until_soon, queue_c);
    await_jobs();
    start_job(GOROUTINE, recv_c, NULL);
    send_number(queue_c, 8);
    await_jobs();
    int64_t n = 8;
    assert_false(gort_try_send(queue_c, &n));
  }
}

/* --- Forms of both sides -------------------------------------------------------------------- */

/* How somebody sends and receives on two channels. */
enum way { PLAIN, BY_TRYING, BY_SELECT, BY_DEADLINES, BY_TRYING_TO_SELECT, WAYS };

enum { MATRIX_SENDERS = 2, MATRIX_EACH = 20 };

static struct {
  gort_chan *c[2];
  enum way send, recv;
  atomic_int senders, seen[MATRIX_SENDERS * MATRIX_EACH];
} matrix;

static void send_in_a_way(enum way way, int64_t n) {
  gort_case cases[] = {SEND(matrix.c[0], &n), SEND(matrix.c[1], &n)};
  switch (way) {
  case PLAIN:
    gort_send(matrix.c[n % 2], &n);
    return;
  case BY_TRYING:
    while (!gort_try_send(matrix.c[n % 2], &n))
      gort_yield();
    return;
  case BY_SELECT:
    gort_select(cases, 2);
    return;
  case BY_DEADLINES:
    while (gort_select_until(cases, 2, from_now(20000)) < 0)
      continue;
    return;
  default:
    while (gort_try_select(cases, 2) < 0)
      gort_yield();
  }
}

/* False: the channel is closed. */
static bool recv_in_a_way(enum way way, int which, int64_t *n) {
  gort_case cases[] = {RECV(matrix.c[which], n), RECV(NULL, n)};
  int got;
  switch (way) {
  case PLAIN:
    return gort_recv(matrix.c[which], n);
  case BY_TRYING:
    while ((got = gort_try_recv(matrix.c[which], n)) == 0)
      gort_yield();
    return got > 0;
  case BY_SELECT:
    CHECK(gort_select(cases, 2) == 0);
    return cases[0].ok;
  case BY_DEADLINES:
    while (gort_select_until(cases, 2, from_now(10000)) < 0)
      continue;
    return cases[0].ok;
  default:
    while (gort_try_select(cases, 2) < 0)
      gort_yield();
    return cases[0].ok;
  }
}

static void matrix_sender(void *number) {
  int64_t first = (int64_t)(uintptr_t)number * MATRIX_EACH;
  for (int64_t i = first; i < first + MATRIX_EACH; i++)
    send_in_a_way(matrix.send, i);
  if (atomic_fetch_sub(&matrix.senders, 1) == 1) {
    gort_chan_close(matrix.c[0]);
    gort_chan_close(matrix.c[1]);
  }
}

static void matrix_receiver(void *which) {
  int64_t n;
  while (recv_in_a_way(matrix.recv, (int)(uintptr_t)which, &n))
    atomic_fetch_add(&matrix.seen[n], 1);
}

/* Those who do not wait meet nobody like them where there is no room. */
static bool only_tries(enum way way) { return way == BY_TRYING || way == BY_TRYING_TO_SELECT; }

static void run_matrix(enum role from, enum role to, size_t capacity) {
  matrix.c[0] = new_numbers(capacity);
  matrix.c[1] = new_numbers(capacity / 2);
  atomic_store(&matrix.senders, MATRIX_SENDERS);
  for (size_t i = 0; i < COUNT_OF(matrix.seen); i++)
    atomic_store(&matrix.seen[i], 0);
  for (uintptr_t i = 0; i < 2; i++) {
    start_job(to, matrix_receiver, (void *)i);
    start_job(from, matrix_sender, (void *)i);
  }
  await_jobs();
  for (size_t i = 0; i < COUNT_OF(matrix.seen); i++)
    assert_int_equal(atomic_load(&matrix.seen[i]), 1);
}

static void test_all_ways_of_sending_meet_all_ways_of_receiving(void **state) {
  (void)state;
  for (matrix.send = 0; matrix.send < WAYS; matrix.send++)
    for (matrix.recv = 0; matrix.recv < WAYS; matrix.recv++)
      for (unsigned roles = 0; roles < 4; roles++)
        for (size_t capacity = only_tries(matrix.send) && only_tries(matrix.recv) ? 3 : 0;
             capacity < 8; capacity += 3)
          run_matrix(roles % 2 ? THREAD : GOROUTINE, roles / 2 ? THREAD : GOROUTINE, capacity);
}

/* --- Many at once --------------------------------------------------------------------------- */

enum { KINDS = 4, STRESS = 5000 / SLOWNESS };
static gort_chan *kinds[KINDS];

static void send_kind(void *c) {
  for (int i = 0; i < STRESS; i++)
    signal_on(c);
}

static void recv_kind(void *c) {
  for (int i = 0; i < STRESS; i++)
    await_signal(c);
}

/* As many on each channel as those who use one alone. */
static void select_kinds(gort_dir dir) {
  gort_case cases[KINDS];
  int done[KINDS] = {0};
  for (int k = 0; k < KINDS; k++)
    cases[k] = (gort_case){.dir = dir, .chan = kinds[(k + 2) % KINDS]};
  for (int i = 0; i < KINDS * STRESS; i++) {
    int went = gort_select(cases, KINDS);
    CHECK(went >= 0 && cases[went].ok);
    if (++done[went] == STRESS)
      cases[went].chan = NULL;
  }
}

static void send_kinds(void *unused) {
  (void)unused;
  select_kinds(GORT_SEND);
}

static void recv_kinds(void *unused) {
  (void)unused;
  select_kinds(GORT_RECV);
}

static void run_kinds(unsigned threads) {
  static const size_t capacity[KINDS] = {0, 0, 2, 3};
  for (unsigned k = 0; k < KINDS; k++)
    kinds[k] = new_signals(capacity[k]);
  for (unsigned k = 0; k < KINDS; k++) {
    start_job(threads >> k & 1 ? THREAD : GOROUTINE, send_kind, kinds[k]);
    start_job(threads >> (k + 4) & 1 ? THREAD : GOROUTINE, recv_kind, kinds[k]);
  }
  start_job(threads >> 8 & 1 ? THREAD : GOROUTINE, send_kinds, NULL);
  start_job(threads >> 9 & 1 ? THREAD : GOROUTINE, recv_kinds, NULL);
  await_jobs();
  for (int k = 0; k < KINDS; k++)
    assert_int_equal(gort_chan_len(kinds[k]), 0);
}

static void test_selects_among_many(void **state) {
  (void)state;
  int before = gort_max_procs(10);
  run_kinds(0);
  run_kinds(1 << 8 | 1 << 2);
  run_kinds(1 << 9 | 1 << 5);
  gort_max_procs(before);
}

/* Selects on the same channels in different orders do not wait for each other. */
static gort_chan *many[60];

static void exchange_in_any_order(void *number) {
  struct rng r = seeded_rng((uintptr_t)number);
  gort_dir dir = (uintptr_t)number % 2 ? GORT_SEND : GORT_RECV;
  for (int i = 0; i < 300 / SLOWNESS; i++) {
    gort_case cases[COUNT_OF(many)];
    int n = 1 + (int)rng_below(&r, COUNT_OF(many));
    for (int k = 0; k < n; k++)
      cases[k] = (gort_case){.dir = dir, .chan = many[rng_below(&r, COUNT_OF(many))]};
    cases[n - 1].chan = many[0];
    CHECK(gort_select(cases, n) >= 0);
  }
}

static void test_the_order_of_cases_does_not_matter(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(many); i++)
    many[i] = new_signals(0);
  for (uintptr_t i = 0; i < 12; i++)
    start_job(i / 2 == 5 ? THREAD : GOROUTINE, exchange_in_any_order, (void *)i);
  await_jobs();
}

/* --- Memory --------------------------------------------------------------------------------- */

static gort_chan *fed, *dumb;

static void recv_beside_dumb(void *unused) {
  (void)unused;
  gort_case cases[] = {RECV(fed, NULL), RECV(dumb, NULL)};
  for (int i = 0; i < 20000 / SLOWNESS; i++)
    CHECK(gort_select(cases, 2) == 0);
}

static uint64_t heap_after_selects(void) {
  start_job(GOROUTINE, recv_beside_dumb, NULL);
  for (int i = 0; i < 20000 / SLOWNESS; i++)
    send_number(fed, i);
  await_jobs();
  gort_gc();
  return read_stats().heap_alloc;
}

static void test_selects_leave_no_memory_behind(void **state) {
  (void)state;
  fed = new_numbers(0);
  dumb = new_numbers(0);
  uint64_t first = heap_after_selects(), second = heap_after_selects();
  assert_true(second < first + 100000);
}

/* A thing that only the buffer of a select that waits points to; on the stack, or on the heap where
 * only the case points to it. */
static NOINLINE void select_to_send(void *arg) {
  struct numbered *me = arg;
  int n = me->number % 3 == 0 ? 1 : me->number % 3 == 1 ? 8 : 20;
  struct thing *t = NULL, **elem = me->number % 2 ? &t : gort_alloc(sizeof *elem);
  *elem = new_thing((uint64_t)me->number);
  gort_case cases[20];
  for (int i = 0; i < n; i++)
    cases[i] = i == n - 1 ? SEND(me->c, elem) : RECV(deaf[i % 4], NULL);
  elem = NULL;
  CHECK(gort_select(cases, n) == n - 1);
}

static void test_waiting_selects_keep_their_elements(void **state) {
  (void)state;
  enum { N = 120 };
  bool seen[N] = {false};
  gort_chan *c = gort_chan_new_of(gort_type_ptr(gort_type_uint64), 0);
  make_deaf();
  watch_begin();
  for (int i = 0; i < N; i++)
    start_job(i % 10 == 9 ? THREAD : GOROUTINE, select_to_send, new_numbered(c, NULL, i));
  await_goroutines_in("select", N - N / 10);
  wait_a_little();
  assert_none_dead();
  for (int i = 0; i < N; i++) {
    struct thing *t;
    assert_true(gort_recv(c, &t));
    assert_true(t->number < N && thing_is(t, t->number) && !seen[t->number]);
    seen[t->number] = true;
  }
  await_jobs();
}

/* --- Throws --------------------------------------------------------------------------------- */

static void select_closed(void *form) {
  int64_t n = 1;
  gort_chan *c = new_numbers(1);
  gort_case cases[] = {RECV(NULL, NULL), SEND(c, &n)};
  gort_chan_close(c);
  select_as((enum form)(uintptr_t)form, cases, 2);
}

static void close_soon(void *c) {
  wait_a_little();
  gort_chan_close(c);
}

static void select_and_be_closed(void *form) {
  int64_t n = 1;
  gort_chan *c = new_numbers(0);
  gort_case cases[] = {RECV(NULL, NULL), SEND(c, &n), RECV(new_numbers(0), NULL)};
  gort_go(close_soon, c);
  select_as((enum form)(uintptr_t)form, cases, 3);
}

/* The argument: form and place, two digits. */
static void do_what_throws(void (*fn)(void *)) {
  void *form = (void *)(uintptr_t)(case_arg[0] - '0');
  gort_init();
  if (case_arg[1] == '0')
    fn(form);
  else
    in_goroutine(fn, form);
}

/* The argument: the form. */
static gort_case nonsense = {.dir = (gort_dir)7};

CASE(selecting_fewer_than_none) {
  gort_init();
  select_as((enum form)(case_arg[0] - '0'), NULL, -1);
}
CASE(selecting_a_bad_direction) {
  gort_init();
  select_as((enum form)(case_arg[0] - '0'), &nonsense, 1);
}

static void test_nonsense_throws(void **state) {
  (void)state;
  static const char *const names[] = {"gort_select: ", "gort_select_until: ", "gort_select_until: ",
                                      "gort_select_until: ", "gort_try_select: "};
  for (int form = 0; form < FORMS; form++) {
    char arg[] = {(char)('0' + form), 0};
    expect_throw_of(names[form], CASE_NAME(selecting_fewer_than_none), arg);
    expect_throw_of(names[form], CASE_NAME(selecting_a_bad_direction), arg);
  }
}

CASE(selecting_what_is_closed) { do_what_throws(select_closed); }
CASE(being_closed_in_select) { do_what_throws(select_and_be_closed); }

static void test_sending_on_a_closed_channel_throws(void **state) {
  (void)state;
  const char *text = "fatal error: send on closed channel";
  for (enum form form = 0; form < FORMS; form++)
    for (int place = 0; place < 2; place++) {
      char arg[] = {(char)('0' + form), (char)('0' + place), 0};
      expect_death_of(text, CASE_NAME(selecting_what_is_closed), arg, NO_ENV);
      if (!gives_up(form))
        expect_death_of(text, CASE_NAME(being_closed_in_select), arg, NO_ENV);
    }
}

/* --- Whoever sends and receives in some way ------------------------------------------------- */

static void recv_plainly(void *c) { gort_recv(c, NULL); }

static void recv_by_select(void *c) {
  gort_case k = RECV(c, NULL);
  gort_select(&k, 1);
}

static void recv_by_select_of_two(void *c) {
  gort_case cases[] = {RECV(c, NULL), RECV(new_numbers(0), NULL)};
  CHECK(gort_select(cases, 2) == 0);
}

static void send_plainly(void *c) { send_number(c, 1); }

static void send_by_select(void *c) {
  int64_t n = 1;
  gort_case k = SEND(c, &n);
  gort_select(&k, 1);
}

static void send_by_select_of_two(void *c) {
  int64_t n = 1;
  gort_case cases[] = {SEND(c, &n), SEND(new_numbers(0), &n)};
  CHECK(gort_select(cases, 2) == 0);
}

static void test_discarding_receivers_meet_all_senders(void **state) {
  (void)state;
  static void (*const recv[])(void *) = {recv_plainly, recv_by_select, recv_by_select_of_two};
  static void (*const send[])(void *) = {send_plainly, send_by_select, send_by_select_of_two};
  for (size_t i = 0; i < COUNT_OF(recv); i++)
    for (size_t k = 0; k < COUNT_OF(send); k++)
      for (enum role role = 0; role < ROLES; role++) {
        gort_chan *c = new_numbers(0);
        start_job(role, recv[i], c);
        await_one_in(role, i == 0 ? "chan receive" : "select");
        send[k](c);
        await_jobs();
      }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_case_that_can_go_goes),
      cmocka_unit_test(test_none_goes_where_none_can),
      cmocka_unit_test(test_combinations_of_cases),
      cmocka_unit_test(test_cases_can_be_turned_off),
      cmocka_unit_test(test_a_waiting_select_is_woken_by_any_of_its_cases),
      cmocka_unit_test(test_without_a_case_that_could_go_it_blocks_for_good),
      cmocka_unit_test(test_deadlines_are_never_early),
      cmocka_unit_test(test_what_is_ready_wins_over_a_deadline_that_is_past),
      cmocka_unit_test(test_a_value_and_a_deadline_at_the_same_moment),
      cmocka_unit_test(test_many_sleep_by_select),
      cmocka_unit_test(test_each_of_those_that_can_go_is_as_likely),
      cmocka_unit_test(test_each_case_counts_whatever_its_channel),
      cmocka_unit_test(test_those_that_cannot_go_do_not_change_the_odds),
      cmocka_unit_test(test_somebody_who_forwards_is_fair),
      cmocka_unit_test(test_the_value_that_is_sent_is_random),
      cmocka_unit_test(test_two_cases_never_go_together),
      cmocka_unit_test(test_nobody_receives_from_himself),
      cmocka_unit_test(test_trying_sees_all_channels_at_one_moment),
      cmocka_unit_test(test_a_woken_select_leaves_the_other_queues),
      cmocka_unit_test(test_a_select_whose_time_is_up_leaves_its_queues),
      cmocka_unit_test(test_all_ways_of_sending_meet_all_ways_of_receiving),
      cmocka_unit_test(test_selects_among_many),
      cmocka_unit_test(test_the_order_of_cases_does_not_matter),
      cmocka_unit_test(test_selects_leave_no_memory_behind),
      cmocka_unit_test(test_waiting_selects_keep_their_elements),
      cmocka_unit_test(test_nonsense_throws),
      cmocka_unit_test(test_sending_on_a_closed_channel_throws),
      cmocka_unit_test(test_discarding_receivers_meet_all_senders),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
