/* Channels on the collected heap: what they keep alive, and when they die. */
#include "channels.h"

/* --- What the ring keeps alive -------------------------------------------------------------- */

enum { LARGEST = 5000 };

/* An element all of whose whole words, or those named by offsets, are things. */
struct shape {
  size_t size, words;
  const size_t *offsets; /* NULL: word by word */
};

static size_t offset_of_word(const struct shape *s, size_t i) {
  return s->offsets ? s->offsets[i] : i * sizeof(void *);
}

static NOINLINE void make_element(const struct shape *s, char *elem, uint64_t number) {
  memset(elem, 0, s->size);
  for (size_t i = 0; i < s->words; i++) {
    struct thing *t = new_thing(number + i);
    memcpy(elem + offset_of_word(s, i), &t, sizeof t);
  }
}

static void check_element(const struct shape *s, const char *elem, uint64_t number) {
  for (size_t i = 0; i < s->words; i++) {
    struct thing *t;
    memcpy(&t, elem + offset_of_word(s, i), sizeof t);
    CHECK(thing_is(t, number + i));
  }
}

/* Makes and sends n elements. */
static NOINLINE void send_things(gort_chan *c, const struct shape *s, size_t n) {
  char elem[LARGEST];
  for (size_t i = 0; i < n; i++) {
    make_element(s, elem, i * s->words);
    gort_send(c, elem);
  }
  memset(elem, 0, sizeof elem);
  __asm__ __volatile__("" : : "r"(elem) : "memory");
}

static NOINLINE void recv_things(gort_chan *c, const struct shape *s, size_t n) {
  char elem[LARGEST];
  for (size_t i = 0; i < n; i++) {
    CHECK(gort_recv(c, elem));
    check_element(s, elem, i * s->words);
  }
  memset(elem, 0, sizeof elem);
  __asm__ __volatile__("" : : "r"(elem) : "memory");
}

/* Kept while they are in the ring, and not any longer, though the channel lives on. */
static void keep_in_ring(gort_chan *c, const struct shape *s) {
  size_t n = gort_chan_cap(c) - 1;
  kept[0] = c;
  send_things(c, s, 1); /* the ring begins in its middle */
  recv_things(c, s, 1);
  watch_begin();
  send_things(c, s, n);
  CHECK(deaths() == 0);
  recv_things(c, s, n);
  CHECK(mostly((size_t)deaths(), n * s->words));
  gort_keep_alive(kept[0]);
  kept[0] = NULL;
}

static void test_the_ring_keeps_what_it_holds_and_no_longer(void **state) {
  (void)state;
  static const size_t sizes[] = {8, 12, 24, 100, LARGEST};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    struct shape s = {sizes[i], sizes[i] / sizeof(void *), NULL};
    keep_in_ring(gort_chan_new(s.size, MANY / s.words + 2), &s);
  }
}

static const size_t at_0[] = {0}, at_8[] = {8}, at_some[] = {0, 8, 48, 88};
static const size_t at_last[] = {0, 4992};

static const struct shape typed[] = {{8, 1, at_0},      {12, 1, at_0},      {24, 1, at_8},
                                     {100, 4, at_some}, {5000, 2, at_last}, {104, 4, at_some}};

static gort_chan *new_typed(const struct shape *s, size_t capacity) {
  size_t align = s->size % 8 == 0 ? 8 : 4;
  const gort_type *t = gort_type_struct("shape", s->size, align, s->offsets, s->words);
  return gort_chan_new_of(t, capacity);
}

static void test_the_ring_of_a_type_keeps_what_it_holds_and_no_longer(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(typed); i++)
    keep_in_ring(new_typed(&typed[i], MANY / typed[i].words + 2), &typed[i]);
}

/* What is no pointer by its type keeps nothing alive. */
static void keep_nothing(gort_chan *c, const struct shape *s) {
  size_t n = gort_chan_cap(c);
  kept[0] = c;
  watch_begin();
  send_things(c, s, n);
  CHECK(mostly((size_t)deaths(), n * s->words));
  gort_keep_alive(kept[0]);
  kept[0] = NULL;
}

static void test_a_ring_is_traced_as_its_type_says(void **state) {
  (void)state;
  static const size_t at_0_and_16[] = {0, 16};
  struct shape word = {8, 1, NULL}, others = {24, 2, at_0_and_16};
  const gort_type *t = gort_type_struct("middle", 24, 8, at_8, 1);
  keep_nothing(gort_chan_new_of(gort_type_uintptr, MANY), &word);
  keep_nothing(gort_chan_new_of(t, MANY), &others);
}

/* Discarding drops as well. */
static NOINLINE void discard_all(gort_chan *c) {
  for (size_t i = 0; gort_chan_len(c) > 0; i++)
    if (i % 2)
      CHECK(gort_recv(c, NULL));
    else
      CHECK(gort_try_recv(c, NULL) == 1);
}

static void test_what_is_discarded_is_not_kept(void **state) {
  (void)state;
  struct shape word = {8, 1, NULL};
  gort_chan *c = gort_chan_new(8, MANY);
  watch_begin();
  send_things(c, &word, MANY);
  assert_none_dead();
  discard_all(c);
  assert_mostly_dead(MANY);
  gort_chan_close(c);
}

/* Closed or not, it keeps what nobody has received. */
static void test_a_closed_channel_keeps_what_it_holds(void **state) {
  (void)state;
  struct shape word = {8, 1, NULL};
  gort_chan *c = gort_chan_new(8, MANY);
  kept[0] = c;
  watch_begin();
  send_things(c, &word, MANY);
  gort_chan_close(c);
  assert_none_dead();
  recv_things(c, &word, MANY);
  assert_false(gort_recv(c, NULL));
  assert_mostly_dead(MANY);
  forget_all();
}

/* --- What those who wait keep alive --------------------------------------------------------- */

static NOINLINE void send_thing_on_stack(void *arg) {
  struct numbered *me = arg;
  struct thing *t = new_thing((uint64_t)me->number);
  gort_send(me->c, &t);
}

/* The pointer is on the heap, and only the call knows where. */
static NOINLINE void send_thing_on_heap(void *arg) {
  struct numbered *me = arg;
  struct thing **elem = gort_alloc(sizeof *elem);
  *elem = new_thing((uint64_t)me->number);
  gort_send(me->c, elem);
}

static void await_senders(gort_chan *c, int goroutines) {
  await_goroutines_in("chan send", goroutines);
  for (int i = 0; i < 10; i++)
    wait_a_little();
  gort_keep_alive(c);
}

static void test_waiting_senders_keep_their_elements(void **state) {
  (void)state;
  enum { N = 200 };
  for (size_t capacity = 0; capacity < 3; capacity++) {
    gort_chan *c = gort_chan_new(sizeof(void *), capacity);
    bool seen[N] = {false};
    watch_begin();
    for (int i = 0; i < N; i++)
      start_job(i % 8 == 5 ? THREAD : GOROUTINE, i % 2 ? send_thing_on_stack : send_thing_on_heap,
                new_numbered(c, NULL, i));
    await_senders(c, N - N / 8 - (int)capacity);
    assert_none_dead();
    for (int i = 0; i < N; i++) {
      struct thing *t;
      assert_true(gort_recv(c, &t));
      assert_true(t->number < N && thing_is(t, t->number) && !seen[t->number]);
      seen[t->number] = true;
    }
    await_jobs();
  }
}

static void recv_thing_and_check(void *c) {
  struct thing *t;
  CHECK(gort_recv(c, &t));
  gort_yield();
  CHECK(t->number < MANY && t->check == ~t->number);
  CHECK(!watched_dead(hide(t)));
  await_signal(kept[1]);
  CHECK(t->check == ~t->number);
}

static NOINLINE void give_things(gort_chan *c, int n) {
  for (int i = 0; i < n; i++) {
    struct thing *t = new_thing((uint64_t)i);
    gort_send(c, &t);
  }
}

/* A value that was handed over to somebody who has not run since. */
static void test_what_was_handed_over_is_kept(void **state) {
  (void)state;
  enum { N = 200 };
  gort_chan *c = gort_chan_new(sizeof(void *), 0);
  kept[1] = new_signals(0);
  watch_begin();
  for (int i = 0; i < N; i++)
    start_job(i % 10 == 9 ? THREAD : GOROUTINE, recv_thing_and_check, c);
  await_goroutines_in("chan receive", N - N / 10);
  give_things(c, N);
  assert_none_dead();
  gort_chan_close(new_numbers(0));
  for (int i = 0; i < N; i++)
    signal_on(kept[1]);
  await_jobs();
  forget_all();
}

/* --- Channels die --------------------------------------------------------------------------- */

static NOINLINE void make_channels(gort_chan *(*make)(void)) {
  for (uint64_t i = 0; i < MANY; i++) {
    gort_chan *c = watch(make());
    struct thing *t = new_thing(i);
    gort_send(c, &t);
    if (i % 3 == 0)
      gort_chan_close(c);
    if (i < 10)
      kept[i] = c;
  }
}

static gort_chan *make_untyped(void) { return gort_chan_new(sizeof(void *), 2); }
static gort_chan *make_typed(void) { return gort_chan_new_of(gort_type_ptr(gort_type_uint64), 2); }

static void test_channels_are_collected_with_what_they_hold(void **state) {
  (void)state;
  static gort_chan *(*const make[])(void) = {make_untyped, make_typed};
  for (size_t i = 0; i < COUNT_OF(make); i++) {
    watch_begin();
    make_channels(make[i]);
    int dead = deaths();
    assert_true(mostly((size_t)dead, 2 * (MANY - 10)));
    assert_true(dead <= 2 * (MANY - 10));
    for (int k = 0; k < 10; k++) {
      struct thing *t;
      assert_true(gort_recv(kept[k], &t));
      assert_true(thing_is(t, (uint64_t)k));
    }
    forget_all();
  }
}

static void send_one(void *c) { send_number(c, 1); }

static void use_and_forget(void *unused) {
  (void)unused;
  gort_chan *c = watch(new_numbers(0));
  start_job(GOROUTINE, send_one, c);
  recv_number(c);
}

/* Also those on which somebody waited. */
static void test_channels_that_were_used_are_collected(void **state) {
  (void)state;
  watch_begin();
  for (int i = 0; i < MANY; i++)
    start_job(i % 50 ? GOROUTINE : THREAD, use_and_forget, NULL);
  await_jobs();
  assert_mostly_dead(MANY);
}

struct self {
  gort_chan *c;
  struct thing *t;
};

static NOINLINE void make_channels_that_hold_themselves(void) {
  for (uint64_t i = 0; i < MANY; i++) {
    struct self s = {gort_chan_new(sizeof s, 1), new_thing(i)};
    gort_send(s.c, &s);
  }
}

static void test_a_channel_that_holds_itself_is_collected(void **state) {
  (void)state;
  watch_begin();
  make_channels_that_hold_themselves();
  assert_mostly_dead(MANY);
}

/* --- While collections run ------------------------------------------------------------------ */

static void send_made_things(void *arg) {
  struct numbered *me = arg;
  for (int64_t i = 0; i < me->number; i++) {
    struct thing *t = gort_new_noscan(struct thing);
    *t = (struct thing){(uint64_t)i, ~(uint64_t)i};
    gort_send(me->c, &t);
  }
}

static void recv_made_things(void *arg) {
  struct numbered *me = arg;
  for (int64_t i = 0; i < me->number; i++) {
    struct thing *t;
    CHECK(gort_recv(me->c, &t));
    CHECK(t->check == ~t->number);
  }
}

static void test_things_arrive_whole_while_collections_run(void **state) {
  (void)state;
  start_collecting();
  for (size_t capacity = 0; capacity < 4; capacity++) {
    gort_chan *c = gort_chan_new_of(gort_type_ptr(gort_type_uint64), capacity);
    for (int i = 0; i < 4; i++) {
      start_job(i == 1 ? THREAD : GOROUTINE, send_made_things,
                new_numbered(c, NULL, 1000 / SLOWNESS));
      start_job(i == 2 ? THREAD : GOROUTINE, recv_made_things,
                new_numbered(c, NULL, 1000 / SLOWNESS));
    }
    await_jobs();
  }
  stop_collecting();
}

/* Finalizers may use channels; what they send is alive again. */
static gort_chan *resurrected;

static void send_myself(void *p) {
  struct thing *t = p;
  gort_send(resurrected, &t);
}

static NOINLINE void make_senders_of_themselves(void) {
  for (uint64_t i = 0; i < MANY; i++) {
    struct thing *t = gort_alloc_noscan(sizeof *t);
    *t = (struct thing){i, ~i};
    gort_set_finalizer_fn(t, send_myself);
  }
}

static void test_finalizers_may_send(void **state) {
  (void)state;
  size_t n = 0;
  resurrected = gort_chan_new(sizeof(void *), 3);
  make_senders_of_themselves();
  scrub_stack();
  gort_gc();
  for (; n < MANY / 10 * 9; n++) {
    struct thing *t;
    assert_true(gort_recv(resurrected, &t));
    assert_true(t->check == ~t->number);
  }
  while (!gort_drain(MILLISECOND))
    discard_all(resurrected);
  resurrected = NULL;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_ring_keeps_what_it_holds_and_no_longer),
      cmocka_unit_test(test_the_ring_of_a_type_keeps_what_it_holds_and_no_longer),
      cmocka_unit_test(test_a_ring_is_traced_as_its_type_says),
      cmocka_unit_test(test_what_is_discarded_is_not_kept),
      cmocka_unit_test(test_a_closed_channel_keeps_what_it_holds),
      cmocka_unit_test(test_waiting_senders_keep_their_elements),
      cmocka_unit_test(test_what_was_handed_over_is_kept),
      cmocka_unit_test(test_channels_are_collected_with_what_they_hold),
      cmocka_unit_test(test_channels_that_were_used_are_collected),
      cmocka_unit_test(test_a_channel_that_holds_itself_is_collected),
      cmocka_unit_test(test_things_arrive_whole_while_collections_run),
      cmocka_unit_test(test_finalizers_may_send),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
