/* Channels: what arrives, who waits, what happens when they are closed, and what throws. */
#include "channels.h"

#include <sched.h>

/* --- Making one ----------------------------------------------------------------------------- */

static void fill_and_empty(size_t capacity) {
  gort_chan *c = new_numbers(capacity);
  for (size_t i = 0; i < capacity; i++) {
    CHECK(gort_chan_len(c) == i && gort_chan_cap(c) == capacity);
    send_number(c, (int64_t)i);
  }
  CHECK(gort_chan_len(c) == capacity && gort_chan_cap(c) == capacity);
  gort_chan_close(c);
  for (size_t i = 0; i < capacity; i++) {
    CHECK(gort_chan_len(c) == capacity - i && gort_chan_cap(c) == capacity);
    CHECK(recv_number(c) == (int64_t)i);
  }
  CHECK(gort_chan_len(c) == 0 && gort_chan_cap(c) == capacity);
}

static void look_at_lengths(void *unused) {
  (void)unused;
  for (size_t capacity = 0; capacity < 100; capacity++)
    fill_and_empty(capacity);
}

static void test_length_and_capacity(void **state) {
  (void)state;
  on_both(look_at_lengths, NULL);
}

static void look_at_null(void *unused) {
  (void)unused;
  int64_t n = 5;
  CHECK(gort_chan_len(NULL) == 0 && gort_chan_cap(NULL) == 0);
  CHECK(!gort_try_send(NULL, &n));
  CHECK(gort_try_recv(NULL, &n) == 0 && n == 5);
}

static void test_null_has_no_length_and_never_goes(void **state) {
  (void)state;
  on_both(look_at_null, NULL);
}

static gort_chan *make_one_too_large(int which) {
  switch (which) {
  case 0:
    return gort_chan_new(8, SIZE_MAX / 8);
  case 1:
    return gort_chan_new(SIZE_MAX, 1);
  case 2:
    return gort_chan_new(SIZE_MAX / 4, 7);
  case 3:
    return gort_chan_new(1, SIZE_MAX / 8 + 1); /* each takes 8 bytes */
  case 4:
    return gort_chan_new_of(gort_type_uintptr, SIZE_MAX / 8);
  default:
    return gort_chan_new_of(gort_type_ptr(gort_type_uintptr), SIZE_MAX / 8);
  }
}
CASE(too_large) {
  gort_init();
  make_one_too_large(atoi(case_arg));
}

static void test_what_has_no_such_size_throws(void **state) {
  (void)state;
  static const char *const which[] = {"0", "1", "2", "3", "4", "5"};
  for (size_t i = 0; i < COUNT_OF(which); i++)
    expect_throw_of("gort_chan_new", "too_large", which[i]);
}

/* --- Elements of all sizes ------------------------------------------------------------------ */

static const size_t sizes[] = {0, 1, 3, 8, 12, 24, 100, 5000};
enum { LARGEST = 5000, MARGIN = 16 };

static unsigned char pattern_at(uint64_t number, size_t i) {
  return (unsigned char)(number * 151 + i * 7 + (i >> 8) + 1);
}

/* Where elements of every size fit, at an address that is good for nothing. */
struct room {
  unsigned char bytes[MARGIN + LARGEST + MARGIN];
};

static void *elem_in(struct room *r) { return r->bytes + MARGIN + 1; }

static void put_pattern(struct room *r, size_t size, uint64_t number) {
  unsigned char *elem = elem_in(r);
  for (size_t i = 0; i < size; i++)
    elem[i] = pattern_at(number, i);
}

static void soil(struct room *r) { memset(r, 0xee, sizeof *r); }

/* The element is there, or zero, and nothing beside it has changed. */
static void check_room(const struct room *r, size_t size, bool zero, uint64_t number) {
  for (size_t i = 0; i < sizeof r->bytes; i++) {
    size_t at = i - (MARGIN + 1);
    unsigned char expected = at >= size ? 0xee : zero ? 0 : pattern_at(number, at);
    CHECK(r->bytes[i] == expected);
  }
}

struct stream {
  gort_chan *c;
  size_t size;
  uint64_t begin, end;
};

static void send_stream(void *arg) {
  struct stream *s = arg;
  struct room r;
  for (uint64_t i = s->begin; i < s->end; i++) {
    put_pattern(&r, s->size, i);
    gort_send(s->c, s->size == 0 && i % 2 ? NULL : elem_in(&r));
  }
}

/* Every fifth is discarded. */
static void recv_stream(void *arg) {
  struct stream *s = arg;
  struct room r;
  for (uint64_t i = s->begin; i < s->end; i++) {
    soil(&r);
    if (i % 5 == 4) {
      CHECK(gort_recv(s->c, NULL));
      continue;
    }
    CHECK(gort_recv(s->c, elem_in(&r)));
    check_room(&r, s->size, false, i);
  }
}

static void through_the_ring(size_t size) {
  enum { ROOM = 7 };
  struct stream s = {gort_chan_new(size, ROOM), size, 0, ROOM};
  for (int lap = 0; lap < 3; lap++) {
    send_stream(&s);
    recv_stream(&s);
    struct stream one = {s.c, size, 0, 1}; /* so that the next lap begins elsewhere */
    send_stream(&one);
    recv_stream(&one);
  }
}

static void to_a_waiting_receiver(size_t size, size_t capacity, enum role role) {
  struct stream s = {gort_chan_new(size, capacity), size, 0, 1};
  start_job(role, recv_stream, &s);
  await_one_in(role, "chan receive");
  send_stream(&s);
  await_jobs();
}

/* The ring is full, so that the sender's element moves up. */
static void from_a_waiting_sender(size_t size, size_t capacity, enum role role) {
  struct stream full = {gort_chan_new(size, capacity), size, 0, capacity};
  struct stream one = {full.c, size, capacity, capacity + 1};
  struct stream all = {full.c, size, 0, capacity + 1};
  send_stream(&full);
  start_job(role, send_stream, &one);
  await_one_in(role, "chan send");
  recv_stream(&all);
  await_jobs();
}

static void test_elements_of_all_sizes_arrive_whole(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    through_the_ring(sizes[i]);
    for (size_t capacity = 0; capacity < 3; capacity++)
      for (enum role role = 0; role < ROLES; role++) {
        to_a_waiting_receiver(sizes[i], capacity, role);
        from_a_waiting_sender(sizes[i], capacity, role);
      }
  }
}

static void test_streams_of_elements_of_all_sizes(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(sizes); i++)
    for (size_t capacity = 0; capacity < 8; capacity++) {
      struct stream s = {gort_chan_new(sizes[i], capacity), sizes[i], 0, 40};
      start_job(capacity % 2 ? THREAD : GOROUTINE, send_stream, &s);
      recv_stream(&s);
      await_jobs();
    }
}

/* Of size 0 there is room for any number. */
static void use_zero_size(gort_chan *c, size_t capacity) {
  CHECK(gort_chan_cap(c) == capacity);
  for (int i = 0; i < 1000; i++) {
    gort_send(c, NULL);
    CHECK(gort_try_send(c, NULL));
  }
  CHECK(gort_chan_len(c) == 2000);
  for (int i = 0; i < 1000; i++) {
    CHECK(gort_recv(c, NULL));
    CHECK(gort_try_recv(c, NULL) == 1);
  }
  CHECK(gort_try_recv(c, NULL) == 0);
  gort_chan_close(c);
  CHECK(!gort_recv(c, NULL) && gort_try_recv(c, NULL) == -1);
}

static void test_zero_size(void **state) {
  (void)state;
  const gort_type *nothing = gort_type_scalar("nothing", 0, 1);
  use_zero_size(gort_chan_new(0, SIZE_MAX), SIZE_MAX);
  use_zero_size(gort_chan_new_of(nothing, SIZE_MAX), SIZE_MAX);
  use_zero_size(gort_chan_new(0, 2000), 2000);
}

/* --- Closed channels ------------------------------------------------------------------------ */

static void recv_zero(void *arg) {
  struct stream *s = arg;
  struct room r;
  soil(&r);
  CHECK(!gort_recv(s->c, elem_in(&r)));
  check_room(&r, s->size, true, 0);
}

static void try_recv_zero(struct stream *s) {
  struct room r;
  soil(&r);
  CHECK(gort_try_recv(s->c, elem_in(&r)) == -1);
  check_room(&r, s->size, true, 0);
  CHECK(gort_try_recv(s->c, NULL) == -1 && !gort_recv(s->c, NULL));
}

static void close_and_receive(void *unused) {
  (void)unused;
  for (size_t i = 0; i < COUNT_OF(sizes); i++)
    for (size_t capacity = 0; capacity < 5; capacity++) {
      struct stream s = {gort_chan_new(sizes[i], capacity), sizes[i], 0, capacity};
      send_stream(&s);
      gort_chan_close(s.c);
      recv_stream(&s);
      for (int times = 0; times < 3; times++) {
        recv_zero(&s);
        try_recv_zero(&s);
      }
    }
}

static void test_a_closed_channel_gives_what_it_holds_and_then_zero(void **state) {
  (void)state;
  on_both(close_and_receive, NULL);
}

/* None is forgotten, whatever it runs on. */
static void test_closing_wakes_all_receivers(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    struct stream s = {gort_chan_new(sizes[i], i % 3), sizes[i], 0, 0};
    for (int n = 0; n < 20; n++)
      start_job(n % 7 == 0 ? THREAD : GOROUTINE, recv_zero, &s);
    await_goroutines_in("chan receive", 17);
    gort_chan_close(s.c);
    await_jobs();
  }
}

static void recv_and_end(void *c) { gort_recv(c, NULL); }

/* What receivers wait for may come or never come. */
static void test_closing_while_values_and_receivers_come(void **state) {
  (void)state;
  for (int round = 0; round < 200 / SLOWNESS; round++) {
    gort_chan *c = new_numbers((size_t)round % 3);
    for (int n = 0; n < 8; n++)
      start_job(n == 0 ? THREAD : GOROUTINE, recv_and_end, c);
    for (int n = 0; n < round % 6; n++)
      send_number(c, n);
    gort_chan_close(c);
    await_jobs();
  }
}

/* --- Who waits ------------------------------------------------------------------------------ */

static atomic_int passed;

static void recv_and_pass(void *c) {
  gort_recv(c, NULL);
  atomic_fetch_add(&passed, 1);
}

static void send_and_pass(void *c) {
  int64_t n = 0;
  gort_send(c, &n);
  atomic_fetch_add(&passed, 1);
}

/* One each, on a goroutine and on a thread. */
static void start_both(void (*fn)(void *), void *arg) {
  for (enum role role = 0; role < ROLES; role++)
    start_job(role, fn, arg);
}

static void test_receiving_from_an_empty_channel_waits(void **state) {
  (void)state;
  for (size_t capacity = 0; capacity < 4; capacity++) {
    gort_chan *c = new_numbers(capacity);
    atomic_store(&passed, 0);
    start_both(recv_and_pass, c);
    await_goroutines_in("chan receive", 1);
    wait_a_little();
    assert_int_equal(atomic_load(&passed), 0);
    int64_t n = 7;
    assert_int_equal(gort_try_recv(c, &n), 0);
    assert_int_equal(n, 7);
    send_number(c, 0);
    send_number(c, 0);
    await_jobs();
  }
}

/* Those who wait do not count in the length. */
static void test_sending_to_a_full_channel_waits(void **state) {
  (void)state;
  for (size_t capacity = 0; capacity < 4; capacity++) {
    gort_chan *c = new_numbers(capacity);
    fill(c);
    atomic_store(&passed, 0);
    start_both(send_and_pass, c);
    await_goroutines_in("chan send", 1);
    wait_a_little();
    assert_int_equal(atomic_load(&passed), 0);
    int64_t n = 7;
    assert_false(gort_try_send(c, &n));
    assert_int_equal(gort_chan_len(c), capacity);
    for (size_t i = 0; i < capacity; i++)
      assert_int_equal(recv_number(c), i);
    recv_number(c);
    recv_number(c);
    await_jobs();
  }
}

/* While there is room no sender waits, while there are values no receiver does. */
static void fill_by_trying(void *unused) {
  (void)unused;
  for (size_t capacity = 0; capacity < 20; capacity++) {
    gort_chan *c = new_numbers(capacity);
    for (int64_t i = 0; i < (int64_t)capacity; i++)
      CHECK(gort_try_send(c, &i));
    int64_t more = -1;
    CHECK(!gort_try_send(c, &more));
    for (int64_t i = 0; i < (int64_t)capacity; i++) {
      int64_t n = -1;
      CHECK(gort_try_recv(c, &n) == 1 && n == i);
    }
    CHECK(gort_try_recv(c, &more) == 0);
  }
}

static void test_trying_goes_as_far_as_there_is_room(void **state) {
  (void)state;
  on_both(fill_by_trying, NULL);
}

static void wait_for_null(void *send) {
  if (send)
    gort_send(NULL, NULL);
  else
    gort_recv(NULL, NULL);
  atomic_fetch_add(&passed, 1);
}

static void test_null_blocks_for_good(void **state) {
  (void)state;
  atomic_store(&passed, 0);
  for (enum role role = 0; role < ROLES; role++) {
    start_job(role, wait_for_null, NULL);
    start_job(role, wait_for_null, &passed);
  }
  await_goroutines_in("chan send (nil chan)", 1);
  await_goroutines_in("chan receive (nil chan)", 1);
  gort_gc();
  wait_a_little();
  assert_int_equal(atomic_load(&passed), 0);
  atomic_store(&jobs, 0); /* they stay */
}

/* --- Trying while others work --------------------------------------------------------------- */

static void try_one(void *c) {
  while (gort_try_recv(c, NULL) == 0)
    gort_yield();
}

static void try_to_send_one(void *c) {
  int64_t n = 123;
  while (!gort_try_send(c, &n))
    gort_yield();
}

/* Who tries again and again meets who waits. */
static void test_trying_meets_who_waits(void **state) {
  (void)state;
  for (int round = 0; round < 40; round++) {
    enum role role = round % 2 ? THREAD : GOROUTINE;
    gort_chan *c = new_numbers((size_t)round / 2 % 2);
    start_job(role, try_to_send_one, c);
    assert_int_equal(recv_number(c), 123);
    start_job(role, try_one, c);
    send_number(c, 1);
    await_jobs();
  }
}

/* Two threads that are at the same channel at the same moment, as often as that can be had. */
enum { MOMENTS = 3000 / SLOWNESS };
static gort_chan *at_moment[MOMENTS];
static atomic_int arrived;

/* Who yields at once may be given the other one's processor, and then they never meet. */
static void meet(int moment) {
  atomic_fetch_add(&arrived, 1);
  for (int i = 0; atomic_load(&arrived) < 2 * (moment + 1); i++)
    if (i > 1000)
      sched_yield();
}

/* One comes a little before the other. */
static void hesitate(struct rng *r) {
  for (volatile size_t spins = rng_below(r, 300); spins > 0;)
    spins--;
}

static void try_at_each_moment(void *unused) {
  (void)unused;
  struct rng r = seeded_rng(1);
  for (int i = 0; i < MOMENTS; i++) {
    meet(i);
    hesitate(&r);
    CHECK(gort_try_recv(at_moment[i], NULL) != 0);
  }
}

/* It holds a value, then it is closed, then it is empty: never is it open and empty. */
static void test_trying_beside_closing_finds_the_value_or_the_end(void **state) {
  (void)state;
  struct rng r = seeded_rng(2);
  atomic_store(&arrived, 0);
  for (int i = 0; i < MOMENTS; i++) {
    at_moment[i] = new_numbers(1);
    send_number(at_moment[i], 1);
  }
  start_job(THREAD, try_at_each_moment, NULL);
  for (int i = 0; i < MOMENTS; i++) {
    meet(i);
    hesitate(&r);
    gort_chan_close(at_moment[i]);
    gort_recv(at_moment[i], NULL);
  }
  await_jobs();
  memset(at_moment, 0, sizeof at_moment);
}

enum { CROWD = 1000 };
static atomic_int crowd_left;

static void recv_half_of_the_crowd(void *c) {
  for (int i = 0; i < CROWD / 2; i++)
    CHECK(gort_try_recv(c, NULL) == 1);
  atomic_fetch_sub(&crowd_left, 1);
}

/* While senders wait a channel is full, whoever looks. */
static void test_a_channel_for_which_senders_wait_is_full(void **state) {
  (void)state;
  for (int round = 0; round < 8 / SLOWNESS + 1; round++) {
    gort_chan *c = new_numbers(1);
    send_number(c, 0);
    for (int i = 0; i < CROWD; i++)
      start_job(GOROUTINE, send_and_pass, c);
    await_goroutines_in("chan send", CROWD);
    atomic_store(&crowd_left, 2);
    start_both(recv_half_of_the_crowd, c);
    while (atomic_load(&crowd_left) > 0)
      assert_int_equal(gort_chan_len(c), 1);
    recv_number(c);
    await_jobs();
  }
}

/* --- Throws --------------------------------------------------------------------------------- */

static void send_to_closed(void *unused) {
  (void)unused;
  gort_chan *c = new_numbers(2);
  gort_chan_close(c);
  send_number(c, 1);
}

static void try_to_send_to_closed(void *unused) {
  (void)unused;
  gort_chan *c = new_numbers(2);
  int64_t n = 1;
  CHECK(gort_try_send(c, &n) && gort_try_send(c, &n));
  gort_chan_close(c);
  gort_try_send(c, &n);
}

static void try_to_send_to_closed_without_room(void *unused) {
  (void)unused;
  gort_chan *c = new_numbers(0);
  int64_t n = 1;
  gort_chan_close(c);
  gort_try_send(c, &n);
}

static void close_soon(void *c) {
  wait_a_little();
  gort_chan_close(c);
}

static void be_sending_when_it_is_closed(void *unused) {
  (void)unused;
  gort_chan *c = new_numbers(1);
  fill(c);
  gort_go(close_soon, c);
  send_number(c, 1);
}

static void close_closed(void *unused) {
  (void)unused;
  gort_chan *c = new_numbers(0);
  gort_chan_close(c);
  gort_chan_close(c);
}

static void close_null(void *unused) {
  (void)unused;
  gort_chan_close(NULL);
}

static const struct throwing {
  const char *name, *text;
  void (*fn)(void *);
} throwing[] = {
    {"send_to_closed", "fatal error: send on closed channel", send_to_closed},
    {"try_to_send_to_closed", "fatal error: send on closed channel", try_to_send_to_closed},
    {"try_to_send_to_closed_without_room", "fatal error: send on closed channel",
     try_to_send_to_closed_without_room},
    {"be_sending_when_it_is_closed", "fatal error: send on closed channel",
     be_sending_when_it_is_closed},
    {"close_closed", "fatal error: close of closed channel", close_closed},
    {"close_null", "fatal error: close of nil channel", close_null},
};

static void do_what_throws(void (*run)(void (*fn)(void *), void *arg)) {
  for (size_t i = 0; i < COUNT_OF(throwing); i++)
    if (strcmp(throwing[i].name, case_arg) == 0)
      run(throwing[i].fn, NULL);
}

static void run_here(void (*fn)(void *), void *arg) { fn(arg); }
static void run_main(void (*fn)(void *), void *arg) { gort_main(fn, arg); }

CASE(on_a_thread) {
  gort_init();
  do_what_throws(run_here);
}
CASE(on_a_goroutine) {
  gort_init();
  do_what_throws(in_goroutine);
}
CASE(on_main) { do_what_throws(run_main); }

static void test_throws(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(throwing); i++) {
    expect_death_of(throwing[i].text, "on_a_thread", throwing[i].name, NO_ENV);
    expect_death_of(throwing[i].text, "on_a_goroutine", throwing[i].name, NO_ENV);
    expect_death_of(throwing[i].text, "on_main", throwing[i].name, NO_ENV);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_length_and_capacity),
      cmocka_unit_test(test_null_has_no_length_and_never_goes),
      cmocka_unit_test(test_what_has_no_such_size_throws),
      cmocka_unit_test(test_elements_of_all_sizes_arrive_whole),
      cmocka_unit_test(test_streams_of_elements_of_all_sizes),
      cmocka_unit_test(test_zero_size),
      cmocka_unit_test(test_a_closed_channel_gives_what_it_holds_and_then_zero),
      cmocka_unit_test(test_closing_wakes_all_receivers),
      cmocka_unit_test(test_closing_while_values_and_receivers_come),
      cmocka_unit_test(test_receiving_from_an_empty_channel_waits),
      cmocka_unit_test(test_sending_to_a_full_channel_waits),
      cmocka_unit_test(test_trying_goes_as_far_as_there_is_room),
      cmocka_unit_test(test_null_blocks_for_good),
      cmocka_unit_test(test_trying_meets_who_waits),
      cmocka_unit_test(test_trying_beside_closing_finds_the_value_or_the_end),
      cmocka_unit_test(test_a_channel_for_which_senders_wait_is_full),
      cmocka_unit_test(test_throws),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
