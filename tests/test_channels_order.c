/* Channels among many: in which order values arrive, that each arrives once, and what has happened
 * before. */
#include "channels.h"

/* --- Order ---------------------------------------------------------------------------------- */

static void send_my_number(void *arg) {
  struct numbered *n = arg;
  send_number(n->c, n->number);
}

static void check_my_number(void *arg) {
  struct numbered *n = arg;
  CHECK(recv_number(n->c) == n->number);
}

/* Who came first is served first. */
static void test_senders_are_served_in_turn(void **state) {
  (void)state;
  for (int capacity = 0; capacity < 3; capacity++) {
    gort_chan *c = new_numbers((size_t)capacity);
    fill(c);
    for (int i = 0; i < 20; i++) {
      start_job(GOROUTINE, send_my_number, new_numbered(c, NULL, capacity + i));
      await_goroutines_in("chan send", i + 1);
    }
    for (int i = 0; i < capacity + 20; i++)
      assert_int_equal(recv_number(c), i);
    await_jobs();
  }
}

static void test_receivers_are_served_in_turn(void **state) {
  (void)state;
  for (int capacity = 0; capacity < 3; capacity++) {
    gort_chan *c = new_numbers((size_t)capacity);
    for (int i = 0; i < 20; i++) {
      start_job(GOROUTINE, check_my_number, new_numbered(c, NULL, i));
      await_goroutines_in("chan receive", i + 1);
    }
    for (int i = 0; i < 20; i++)
      send_number(c, i);
    await_jobs();
  }
}

/* Each waits for its turn, receives, and passes the turn on. */
static void take_turn(void *arg) {
  struct numbered *n = arg;
  gort_chan **turns = (gort_chan **)(void *)n->out;
  await_signal(turns[0]);
  CHECK(recv_number(n->c) == n->number);
  signal_on(turns[1]);
}

static void test_a_daisy_chain_receives_in_order(void **state) {
  (void)state;
  enum { N = 30 };
  gort_chan *c = new_numbers(0), **turns = gort_new_array(gort_chan *, N + 1);
  for (int i = 0; i <= N; i++)
    turns[i] = new_signals(0);
  for (int i = 0; i < N; i++)
    start_job(i % 10 == 3 ? THREAD : GOROUTINE, take_turn,
              new_numbered(c, (gort_chan *)(void *)&turns[i], i));
  signal_on(turns[0]);
  for (int i = 0; i < N; i++)
    send_number(c, i);
  await_signal(turns[N]);
  await_jobs();
}

static void send_100(void *c) {
  for (int i = 0; i < 100; i++)
    send_number(c, i);
}

static void recv_100(void *c) {
  for (int i = 0; i < 100; i++)
    CHECK(recv_number(c) == i);
}

static void test_values_arrive_in_the_order_in_which_they_were_sent(void **state) {
  (void)state;
  static const size_t capacities[] = {0, 1, 2, 3, 10, 99, 100, 199};
  for (size_t i = 0; i < COUNT_OF(capacities); i++)
    for (enum role to = 0; to < ROLES; to++)
      for (enum role from = 0; from < ROLES; from++) {
        gort_chan *c = new_numbers(capacities[i]);
        start_job(to, recv_100, c);
        start_job(from, send_100, c);
        await_jobs();
      }
}

/* --- Nothing is lost, nothing comes twice --------------------------------------------------- */

enum { EACH = 1000 / SLOWNESS, SENDERS = 4 };

static struct {
  gort_chan *c;
  atomic_int seen[EACH];
} exchange;

static void send_each(void *unused) {
  (void)unused;
  for (int i = 0; i < EACH; i++)
    send_number(exchange.c, i);
}

static void recv_each(void *unused) {
  (void)unused;
  for (int i = 0; i < EACH; i++)
    atomic_fetch_add(&exchange.seen[recv_number(exchange.c)], 1);
}

static void exchange_all(size_t capacity, int threads) {
  exchange.c = new_numbers(capacity);
  for (int i = 0; i < EACH; i++)
    atomic_store(&exchange.seen[i], 0);
  for (int i = 0; i < SENDERS; i++) {
    start_job(i < threads ? THREAD : GOROUTINE, send_each, NULL);
    start_job(i > 1 && i < threads + 1 ? THREAD : GOROUTINE, recv_each, NULL);
  }
  await_jobs();
  for (int i = 0; i < EACH; i++)
    assert_int_equal(atomic_load(&exchange.seen[i]), SENDERS);
  assert_int_equal(gort_chan_len(exchange.c), 0);
}

static void test_many_to_many(void **state) {
  (void)state;
  static const size_t capacities[] = {0, 1, 2, 5, 100};
  for (size_t i = 0; i < COUNT_OF(capacities); i++)
    for (int threads = 0; threads < SENDERS; threads++)
      exchange_all(capacities[i], threads);
}

/* Workers take from one channel and give to another, until the first is closed; the last of them
 * closes the second. */
enum { WORKERS = 23, ITEMS = 10000 / SLOWNESS * 10 };
static const int64_t primes[] = {2, 3, 7, 11, 13, 17, 19, 23, 27, 31};
static atomic_int workers;

static void work(void *arg) {
  struct numbered *me = arg;
  int64_t v;
  while (gort_recv(me->c, &v)) {
    if (primes[me->number % 10] == v)
      gort_yield();
    send_number(me->out, v);
  }
  if (atomic_fetch_sub(&workers, 1) == 1)
    gort_chan_close(me->out);
}

static void feed(void *c) {
  for (int i = 0; i < ITEMS; i++)
    send_number(c, primes[i % 10]);
  gort_chan_close(c);
}

static void test_many_workers(void **state) {
  (void)state;
  gort_chan *c = new_numbers(WORKERS * 3), *out = new_numbers(WORKERS * 3);
  atomic_store(&workers, WORKERS);
  for (int i = 0; i < WORKERS; i++)
    start_job(i % 8 == 7 ? THREAD : GOROUTINE, work, new_numbered(c, out, i));
  start_job(GOROUTINE, feed, c);
  int64_t v, n = 0, sum = 0;
  for (; gort_recv(out, &v); n++)
    sum += v;
  assert_int_equal(n, ITEMS);
  assert_int_equal(sum, ITEMS / 10 * (2 + 3 + 7 + 11 + 13 + 17 + 19 + 23 + 27 + 31));
  await_jobs();
}

/* --- What has been done before is seen after ------------------------------------------------ */

/* Plain memory: the thread sanitizer would see a race. */
static int64_t plain[100];

static void write_and_send(void *c) {
  for (int i = 0; i < 100; i++) {
    plain[i] = i + 1;
    send_number(c, i);
  }
}

static void test_a_send_happens_before_its_receive(void **state) {
  (void)state;
  for (size_t capacity = 0; capacity < 6; capacity++)
    for (enum role role = 0; role < ROLES; role++) {
      gort_chan *c = new_numbers(capacity);
      memset(plain, 0, sizeof plain);
      start_job(role, write_and_send, c);
      for (int i = 0; i < 100; i++) {
        assert_int_equal(recv_number(c), i);
        assert_int_equal(plain[i], i + 1);
      }
      await_jobs();
    }
}

/* The nth receive happens before the send of n + capacity returns. */
static void read_and_receive(void *c) {
  for (int i = 0; i < 100; i++) {
    plain[i] = i + 1;
    await_signal(c);
  }
}

static void test_a_receive_happens_before_the_send_that_gets_its_room(void **state) {
  (void)state;
  for (int capacity = 0; capacity < 6; capacity++)
    for (enum role role = 0; role < ROLES; role++) {
      gort_chan *c = new_signals((size_t)capacity);
      memset(plain, 0, sizeof plain);
      start_job(role, read_and_receive, c);
      for (int i = 0; i < 100; i++) {
        signal_on(c);
        for (int n = 0; n <= i - capacity; n++)
          assert_int_equal(plain[n], n + 1);
      }
      await_jobs();
    }
}

static void write_and_close(void *c) {
  plain[0]++;
  gort_chan_close(c);
}

static void test_a_close_happens_before_the_receive_that_sees_it(void **state) {
  (void)state;
  plain[0] = 0;
  for (int i = 0; i < 100; i++) {
    gort_chan *c = new_signals((size_t)i % 3);
    start_job(i % 10 ? GOROUTINE : THREAD, write_and_close, c);
    if (i % 2)
      while (gort_try_recv(c, NULL) == 0)
        gort_yield();
    assert_false(gort_recv(c, NULL));
    assert_int_equal(plain[0], i + 1);
    await_jobs();
  }
}

/* A channel of capacity 1 is a lock, of capacity 3 a semaphore. */
static atomic_int inside;

static void count_under_lock(void *c) {
  for (int i = 0; i < 200 / SLOWNESS; i++) {
    signal_on(c);
    int n = atomic_fetch_add(&inside, 1);
    CHECK(n < (int)gort_chan_cap(c));
    if (gort_chan_cap(c) == 1)
      plain[0]++;
    if (i % 16 == 0)
      gort_yield();
    atomic_fetch_sub(&inside, 1);
    await_signal(c);
  }
}

static void test_a_channel_is_a_semaphore(void **state) {
  (void)state;
  for (size_t capacity = 1; capacity < 4; capacity++) {
    gort_chan *c = new_signals(capacity);
    plain[0] = 0;
    for (int i = 0; i < 12; i++)
      start_job(i % 4 ? GOROUTINE : THREAD, count_under_lock, c);
    await_jobs();
    assert_int_equal(plain[0], capacity == 1 ? 12 * (200 / SLOWNESS) : 0);
  }
}

/* --- Programs ------------------------------------------------------------------------------- */

/* A chain of goroutines; a value runs through all of it. */
static void pass_on(void *arg) {
  struct numbered *me = arg;
  send_number(me->out, recv_number(me->c) + 1);
}

static void test_a_long_chain(void **state) {
  (void)state;
  int links = ROOM_FOR(10000 / SLOWNESS);
  gort_chan *leftmost = new_numbers(0), *left = leftmost;
  for (int i = 0; i < links; i++) {
    gort_chan *right = new_numbers(0);
    start_job(GOROUTINE, pass_on, new_numbered(right, left, 0));
    left = right;
  }
  send_number(left, 0);
  assert_int_equal(recv_number(leftmost), links);
  await_jobs();
}

/* The sieve: each prime has a goroutine that passes on what it does not divide. The end of the
 * numbers ends all. */
static void filter(void *arg) {
  struct numbered *me = arg;
  int64_t v;
  while (gort_recv(me->c, &v))
    if (v % me->number != 0)
      send_number(me->out, v);
  gort_chan_close(me->out);
}

static void count_up(void *arg) {
  struct numbered *me = arg;
  for (int64_t i = 2; i < me->number; i++)
    send_number(me->c, i);
  gort_chan_close(me->c);
}

static void sieve(void *capacity) {
  gort_chan *c = new_numbers((size_t)capacity);
  int64_t prime, n = 0, sum = 0;
  start_job(GOROUTINE, count_up, new_numbered(c, NULL, 1000));
  for (; gort_recv(c, &prime); n++) {
    gort_chan *out = new_numbers((size_t)capacity);
    start_job(n % 40 == 39 ? THREAD : GOROUTINE, filter, new_numbered(c, out, prime));
    c = out;
    sum += prime;
  }
  CHECK(n == 168 && sum == 76127);
  await_jobs();
}

static void test_the_sieve(void **state) {
  (void)state;
  sieve((void *)(uintptr_t)0);
  sieve((void *)(uintptr_t)5);
  in_goroutine(sieve, (void *)(uintptr_t)1);
}

/* A goroutine that is locked to its thread, and main, take part like others. */
static void echo_locked(void *arg) {
  struct numbered *me = arg;
  gort_lock_thread();
  int64_t v;
  while (gort_recv(me->c, &v))
    send_number(me->out, v);
  gort_chan_close(me->out);
}

static void talk(void *locked) {
  gort_chan *c = new_numbers(0), *out = new_numbers(0);
  if (locked)
    gort_lock_thread();
  gort_go(echo_locked, new_numbered(c, out, 0));
  for (int i = 0; i < 1000 / SLOWNESS; i++) {
    send_number(c, i);
    CHECK(recv_number(out) == i);
  }
  gort_chan_close(c);
  CHECK(!gort_recv(out, NULL));
}

CASE(talk_from_main) { gort_main(talk, NULL); }
CASE(talk_from_locked_main) { gort_main(talk, &jobs); }

static void test_locked_goroutines_and_main(void **state) {
  (void)state;
  on_both(talk, NULL);
  expect_quiet(talk_from_main);
  expect_quiet(talk_from_locked_main);
  expect_quiet_in(talk_from_main, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(talk_from_locked_main, ENV("GORTMAXPROCS=1"));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_senders_are_served_in_turn),
      cmocka_unit_test(test_receivers_are_served_in_turn),
      cmocka_unit_test(test_a_daisy_chain_receives_in_order),
      cmocka_unit_test(test_values_arrive_in_the_order_in_which_they_were_sent),
      cmocka_unit_test(test_many_to_many),
      cmocka_unit_test(test_many_workers),
      cmocka_unit_test(test_a_send_happens_before_its_receive),
      cmocka_unit_test(test_a_receive_happens_before_the_send_that_gets_its_room),
      cmocka_unit_test(test_a_close_happens_before_the_receive_that_sees_it),
      cmocka_unit_test(test_a_channel_is_a_semaphore),
      cmocka_unit_test(test_a_long_chain),
      cmocka_unit_test(test_the_sieve),
      cmocka_unit_test(test_locked_goroutines_and_main),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
