/* The scheduler: everybody who can run runs in the end, whatever others do. */
#include "channels.h"

#include <dirent.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static atomic_int flag, finished;

static void start_over(void) {
  atomic_store(&flag, 0);
  atomic_store(&finished, 0);
}

static void set_flag(void *unused) {
  (void)unused;
  atomic_store(&flag, 1);
}

static void finish(void *unused) {
  (void)unused;
  atomic_fetch_add(&finished, 1);
}

static void nothing(void *unused) { (void)unused; }

/* --- A goroutine gives way where it calls the runtime --------------------------------------- */

static gort_chan *spare;

static void by_yield(void) { gort_yield(); }
static void by_try_recv(void) { gort_try_recv(spare, NULL); }
static void by_counting(void) { (void)gort_num_goroutines(); }
static void by_len(void) { (void)gort_chan_len(spare); }
static void by_cap(void) { (void)gort_chan_cap(spare); }

static void by_try_send(void) {
  int64_t n = 1;
  if (!gort_try_send(spare, &n))
    gort_try_recv(spare, &n);
}

static void by_sending_and_receiving(void) {
  send_number(spare, 1);
  recv_number(spare);
}

static void by_try_select(void) {
  gort_case cases[] = {RECV(spare, NULL), RECV(NULL, NULL)};
  gort_try_select(cases, 2);
}

static void by_select(void) {
  int64_t n = 1;
  gort_case cases[] = {SEND(spare, &n), RECV(spare, &n)};
  gort_select(cases, 2);
}

static void by_past_deadline(void) { gort_select_until(NULL, 0, 0); }
static void by_making_channels(void) { new_numbers(1); }
static void by_closing(void) { gort_chan_close(new_numbers(0)); }
static void by_after(void) { gort_recv(gort_after(0), NULL); }
static void by_sleeping_for_no_time(void) { gort_sleep(0); }
static void by_going(void) { gort_go(nothing, NULL); }
static void by_asking_how_many(void) { gort_max_procs(0); }
static void by_polling(void) { gort_poll(-1, 0, 0); }
static void by_reading(void) { gort_read(-1, NULL, 0); }

static void by_timer(void) { gort_timer_stop(gort_timer_start(HOUR, 0, nothing, NULL)); }

static void by_blocking(void) {
  gort_block_enter();
  gort_block_exit();
}

static const struct {
  const char *name;
  void (*fn)(void);
} calls[] = {
    {"gort_yield", by_yield},
    {"gort_try_recv", by_try_recv},
    {"gort_chan_len", by_len},
    {"gort_chan_cap", by_cap},
    {"gort_num_goroutines", by_counting},
    {"gort_try_send", by_try_send},
    {"gort_send", by_sending_and_receiving},
    {"gort_try_select", by_try_select},
    {"gort_select", by_select},
    {"gort_select_until", by_past_deadline},
    {"gort_chan_new", by_making_channels},
    {"gort_chan_close", by_closing},
    {"gort_after", by_after},
    {"gort_sleep", by_sleeping_for_no_time},
    {"gort_go", by_going},
    {"gort_max_procs", by_asking_how_many},
    {"gort_poll", by_polling},
    {"gort_read", by_reading},
    {"gort_timer_start", by_timer},
    {"gort_block_enter", by_blocking},
};

/* On one processor somebody who waits for another by calling nothing but this. */
static void call_until_the_flag_is_set(void *unused) {
  (void)unused;
  spare = new_numbers(2);
  for (size_t i = 0; i < COUNT_OF(calls); i++) {
    if (strcmp(calls[i].name, case_arg) != 0)
      continue;
    start_over();
    gort_go(set_flag, NULL);
    while (!atomic_load(&flag))
      calls[i].fn();
    return;
  }
}
CASE(calling_on_one) { gort_main(call_until_the_flag_is_set, NULL); }

static void test_calls_give_way(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(calls); i++)
    expect_quiet_of("calling_on_one", calls[i].name, ENV("GORTMAXPROCS=1"));
}

static void yield_until_told(void *arg) {
  struct numbered *me = arg;
  if (me->number)
    gort_lock_thread();
  while (gort_try_recv(me->c, NULL) == 0)
    gort_yield();
  signal_on(me->out);
}

static void test_who_yields_lets_others_come_on(void **state) {
  (void)state;
  for (int locked = 0; locked < 2; locked++) {
    gort_chan *c = new_signals(0), *done = new_signals(0);
    start_job(GOROUTINE, yield_until_told, new_numbered(c, done, locked));
    gort_sleep(MILLISECOND);
    signal_on(c);
    await_signal(done);
    await_jobs();
  }
}

static void yield_and_end_locked(void *c) {
  gort_lock_thread();
  for (int i = 0; i < 10; i++) {
    gort_yield();
    gort_sleep(MILLISECOND / 10);
  }
  signal_on(c);
}

static void send_locked(void *c) {
  gort_lock_thread();
  for (int i = 0; i < 10; i++)
    signal_on(c);
  gort_unlock_thread();
}

static void test_locked_goroutines_block_and_yield(void **state) {
  (void)state;
  gort_chan *c = new_signals(0);
  gort_go(yield_and_end_locked, c);
  await_signal(c);
  gort_go(send_locked, c);
  for (int i = 0; i < 10; i++)
    await_signal(c);
}

/* --- Nobody starves ------------------------------------------------------------------------- */

/* Two who are busy with each other, in several ways, so that each makes the other ready and
 * switches to it. */
static gort_chan *ping, *pong;
static atomic_int stop_hogs;

static void hog_ping(void *unused) {
  (void)unused;
  while (!atomic_load(&stop_hogs)) {
    send_number(ping, 1);
    recv_number(pong);
  }
  gort_chan_close(ping);
}

static void hog_pong(void *unused) {
  (void)unused;
  int64_t n;
  while (gort_recv(ping, &n))
    send_number(pong, n);
}

static void hog_by_select(void *unused) {
  (void)unused;
  while (!atomic_load(&stop_hogs)) {
    int64_t n = 1;
    gort_case cases[] = {SEND(ping, &n), RECV(ping, &n)};
    gort_select_until(cases, 2, from_now(HOUR));
  }
  gort_try_recv(ping, NULL);
}

static void hog_by_yield(void *unused) {
  (void)unused;
  while (!atomic_load(&stop_hogs))
    gort_yield();
}

/* Each starts the next, and ends. */
static void hog_by_succession(void *unused) {
  (void)unused;
  if (!atomic_load(&stop_hogs))
    gort_go(hog_by_succession, NULL);
}

static void hog_by_allocation(void *unused) {
  (void)unused;
  while (!atomic_load(&stop_hogs))
    gort_keep_alive(gort_new(uint64_t));
}

/* What never has to wait. */
static void hog_by_writing(void *unused) {
  (void)unused;
  int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  while (!atomic_load(&stop_hogs))
    CHECK(gort_write(null, ".", 1) == 1);
  close(null);
}

static void (*const hogs[][2])(void *) = {
    {hog_ping, hog_pong},         {hog_by_select, hog_by_select},
    {hog_by_yield, hog_by_yield}, {hog_by_succession, hog_by_succession},
    {hog_by_allocation, nothing}, {hog_by_writing, hog_by_writing},
};

static void start_hogs(size_t kind) {
  ping = new_numbers(kind % 2);
  pong = new_numbers(0);
  atomic_store(&stop_hogs, 0);
  gort_go(hogs[kind][0], NULL);
  gort_go(hogs[kind][1], NULL);
}

/* Those who want to run beside them. */
static void count_yields(void *unused) {
  (void)unused;
  for (int i = 0; i < 3; i++)
    gort_yield();
  finish(NULL);
}

static void count_sleeps(void *unused) {
  (void)unused;
  for (int i = 0; i < 3; i++)
    gort_sleep(MILLISECOND / 10);
  finish(NULL);
}

static void count_awaits(void *unused) {
  (void)unused;
  gort_recv(gort_after(MILLISECOND), NULL);
  finish(NULL);
}

static void count_allocations(void *unused) {
  (void)unused;
  for (int i = 0; i < 1000; i++)
    gort_alloc(64);
  finish(NULL);
}

static void count_blocks(void *unused) {
  (void)unused;
  for (int i = 0; i < 3; i++) {
    gort_block_enter();
    usleep(100);
    gort_block_exit();
  }
  finish(NULL);
}

static void count_locked(void *unused) {
  (void)unused;
  gort_lock_thread();
  count_yields(NULL);
}

static void count_collections(void *unused) {
  (void)unused;
  gort_gc();
  finish(NULL);
}

static NOINLINE void make_mortals(void) {
  for (int i = 0; i < MANY; i++)
    gort_set_finalizer_fn(gort_alloc(32), set_flag);
}

static void count_finalizers(void *unused) {
  (void)unused;
  make_mortals();
  scrub_stack();
  gort_gc();
  while (!atomic_load(&flag))
    gort_sleep(MILLISECOND / 10);
  finish(NULL);
}

static void (*const guests[])(void *) = {count_yields,      count_sleeps,    count_awaits,
                                         count_allocations, count_blocks,    count_locked,
                                         count_collections, count_finalizers};

/* The main goroutine waits meanwhile, so that the hogs have its processor to themselves. */
static void be_guests_of(void *kind) {
  start_over();
  start_hogs((uintptr_t)kind);
  gort_sleep(MILLISECOND);
  for (size_t i = 0; i < COUNT_OF(guests); i++)
    gort_go(guests[i], NULL);
  gort_timer_start(MILLISECOND, 0, finish, NULL);
  CHECK(gort_thread_start(count_collections, NULL) == 0);
  while (atomic_load(&finished) < (int)COUNT_OF(guests) + 2)
    gort_sleep(MILLISECOND);
  atomic_store(&stop_hogs, 1);
}
CASE(being_guests) { gort_main(be_guests_of, (void *)(uintptr_t)(case_arg[0] - '0')); }

static void test_nobody_starves_beside_hogs(void **state) {
  (void)state;
  for (size_t kind = 0; kind < COUNT_OF(hogs); kind++) {
    char arg[] = {(char)('0' + kind), 0};
    expect_quiet_of("being_guests", arg, ENV("GORTMAXPROCS=1"));
    expect_quiet_of("being_guests", arg, ENV("GORTMAXPROCS=2"));
  }
}

/* Two pairs, of which one computes long between two turns, and the other shortly: both come on. */
static struct {
  gort_chan *c;
  atomic_int turns;
} pairs[2];

static void take_turns(void *which) {
  size_t me = (uintptr_t)which;
  for (int64_t n; gort_recv(pairs[me].c, &n);) {
    for (volatile int i = me == 0 ? 1000000 / SLOWNESS : 1000; i > 0;)
      i--;
    atomic_fetch_add(&pairs[me].turns, 1);
    if (atomic_load(&stop_hogs))
      return;
    send_number(pairs[me].c, n);
  }
}

static void play_in_pairs(void *unused) {
  (void)unused;
  for (uintptr_t i = 0; i < 2; i++) {
    pairs[i].c = new_numbers(0);
    gort_go(take_turns, (void *)i);
    gort_go(take_turns, (void *)i);
    send_number(pairs[i].c, 1);
  }
  while (atomic_load(&pairs[0].turns) < 10 || atomic_load(&pairs[1].turns) < 10)
    gort_sleep(MILLISECOND);
  atomic_store(&stop_hogs, 1);
}
CASE(playing_in_pairs) { gort_main(play_in_pairs, NULL); }

static void test_two_pairs_share_a_processor(void **state) {
  (void)state;
  expect_quiet_in(playing_in_pairs, ENV("GORTMAXPROCS=1"));
}

/* --- Work spreads --------------------------------------------------------------------------- */

/* What one has started or woken runs, though it does not call the runtime any more itself: others
 * take it over, from whatever place in its queue. */
static void spin_until_finished(int n) {
  while (atomic_load(&finished) < n)
    continue;
}

static void start_and_spin(void *unused) {
  (void)unused;
  for (int n = 1; n < 200 / SLOWNESS; n++) {
    start_over();
    for (int i = 0; i < n % 20 + 1; i++)
      gort_go(finish, NULL);
    spin_until_finished(n % 20 + 1);
  }
}

static void await_and_finish(void *c) {
  while (gort_recv(c, NULL))
    finish(NULL);
}

static void wake_and_spin(void *unused) {
  (void)unused;
  gort_chan *c = new_numbers(0);
  gort_go(await_and_finish, c);
  for (int n = 0; n < 200 / SLOWNESS; n++) {
    start_over();
    send_number(c, n);
    spin_until_finished(1);
  }
}

static atomic_int started;

static void recv_and_finish(void *c) {
  atomic_fetch_add(&started, 1);
  gort_recv(c, NULL);
  finish(NULL);
}

static void close_and_spin(void *unused) {
  (void)unused;
  for (int n = 0; n < 50 / SLOWNESS; n++) {
    gort_chan *c = new_numbers(0);
    start_over();
    atomic_store(&started, 0);
    for (int i = 0; i < 8; i++)
      gort_go(recv_and_finish, c);
    UNTIL(atomic_load(&started) == 8);
    gort_chan_close(c);
    spin_until_finished(8);
  }
}

CASE(starting_and_spinning) { gort_main(start_and_spin, NULL); }
CASE(waking_and_spinning) { gort_main(wake_and_spin, NULL); }
CASE(closing_and_spinning) { gort_main(close_and_spin, NULL); }

static void test_work_spreads(void **state) {
  (void)state;
  expect_quiet_in(starting_and_spinning, ENV("GORTMAXPROCS=2"));
  expect_quiet_in(waking_and_spinning, ENV("GORTMAXPROCS=2"));
  expect_quiet_in(closing_and_spinning, ENV("GORTMAXPROCS=2"));
  expect_quiet_in(starting_and_spinning, ENV("GORTMAXPROCS=5"));
  expect_quiet_in(waking_and_spinning, ENV("GORTMAXPROCS=5"));
}

/* As many as there are processors run at the same time: they hand a number on without calling the
 * runtime. */
enum { AT_ONCE = 4 };
static atomic_int ball;

static void hand_on(void *arg) {
  struct numbered *me = arg;
  for (int i = 0; i < 3; i++) {
    int mine = AT_ONCE * i + (int)me->number;
    while (atomic_load(&ball) != mine)
      sched_yield();
    atomic_store(&ball, mine + 1);
  }
  signal_on(me->c);
}

static void start_two(void *arg) {
  struct numbered *me = arg;
  gort_go(hand_on, me);
  gort_go(hand_on, new_numbered(me->c, NULL, me->number + 1));
}

static void run_at_once(void *unused) {
  (void)unused;
  for (int round = 0; round < 10; round++) {
    gort_chan *c = new_signals(0);
    atomic_store(&ball, 0);
    for (int i = 0; i < AT_ONCE; i += round % 2 + 1)
      gort_go(round % 2 ? start_two : hand_on, new_numbered(c, NULL, i));
    for (int i = 0; i < AT_ONCE; i++)
      await_signal(c);
  }
}
CASE(running_at_once) { gort_main(run_at_once, NULL); }

/* One thread may have to watch descriptors and deadlines meanwhile. */
static void read_in_vain(void *unused) {
  (void)unused;
  int fd[2];
  char c;
  CHECK(pipe(fd) == 0);
  gort_read(fd[0], &c, 1);
}

static void run_at_once_beside_a_reader(void *unused) {
  gort_go(read_in_vain, unused);
  gort_go(read_in_vain, unused);
  gort_timer_start(0, MILLISECOND, nothing, NULL);
  gort_sleep(2 * MILLISECOND);
  run_at_once(NULL);
}
CASE(running_at_once_beside_a_reader) { gort_main(run_at_once_beside_a_reader, NULL); }

static void test_all_processors_are_used(void **state) {
  (void)state;
  expect_quiet_in(running_at_once, ENV("GORTMAXPROCS=4"));
  expect_quiet_in(running_at_once_beside_a_reader, ENV("GORTMAXPROCS=4"));
}

/* --- The world's stop ----------------------------------------------------------------------- */

static void compute(void *unused) {
  (void)unused;
  while (!atomic_load(&flag))
    continue;
  finish(NULL);
}

/* Who computes and calls nothing is stopped for a collection all the same. */
static void collect_beside_computing(void *unused) {
  (void)unused;
  start_over();
  for (int i = 0; i < 4; i++)
    gort_go(compute, NULL);
  for (int i = 0; i < 10; i++) {
    gort_yield();
    gort_gc();
  }
  atomic_store(&flag, 1);
  while (atomic_load(&finished) < 4)
    gort_yield();
}
CASE(collecting_beside_computing) { gort_main(collect_beside_computing, NULL); }

static void test_who_computes_holds_up_no_collection(void **state) {
  (void)state;
  if (UNDER_TSAN) /* which holds signals back until the thread calls something */
    skip();
  expect_quiet_in(collecting_beside_computing, ENV("GORTMAXPROCS=6"));
}

static void collect_often(void *unused) {
  (void)unused;
  for (int i = 0; i < 300 / SLOWNESS; i++)
    gort_gc();
  finish(NULL);
}

static void change_max_procs_often(void *unused) {
  (void)unused;
  for (int i = 0; i < 300 / SLOWNESS; i++)
    gort_max_procs(1 + i % 3);
  finish(NULL);
}

static void print_often(void *unused) {
  (void)unused;
  for (int i = 0; i < 30 / SLOWNESS; i++)
    free(goroutines_text());
  finish(NULL);
}

/* Stops of the world come from several sides, while goroutines come and go. */
static void test_stops_from_several_sides(void **state) {
  (void)state;
  int before = gort_max_procs(3);
  start_over();
  start_hogs(3);
  gort_go(collect_often, NULL);
  gort_go(change_max_procs_often, NULL);
  gort_go(print_often, NULL);
  assert_int_equal(gort_thread_start(print_often, NULL), 0);
  UNTIL(atomic_load(&finished) == 4);
  atomic_store(&stop_hogs, 1);
  gort_max_procs(before);
}

static void allocate_and_count(void *counter) {
  while (!atomic_load(&flag)) {
    gort_keep_alive(gort_alloc_noscan(1024));
    atomic_fetch_add((atomic_int *)counter, 1);
  }
}

/* Collections all the time: each of those who cause them comes on. */
static void collect_fairly(void *unused) {
  (void)unused;
  static atomic_int counter[3];
  start_over();
  gort_set_gc_percent(1);
  for (int i = 0; i < 3; i++)
    gort_go(allocate_and_count, &counter[i]);
  for (int i = 0; i < 3; i++)
    while (atomic_load(&counter[i]) < 100)
      gort_sleep(MILLISECOND);
  set_flag(NULL);
}
CASE(collecting_fairly) { gort_main(collect_fairly, NULL); }

static void test_who_allocates_shares_the_processor(void **state) {
  (void)state;
  expect_quiet_in(collecting_fairly, ENV("GORTMAXPROCS=1"));
}

/* --- Threads -------------------------------------------------------------------------------- */

static void echo_once(void *arg) {
  struct numbered *me = arg;
  send_number(me->out, recv_number(me->c));
}

static void work_on_the_main_thread(void *unused) {
  (void)unused;
  gort_chan *c = new_numbers(0), *out = new_numbers(0);
  gort_lock_thread();
  CHECK(syscall(SYS_gettid) == getpid());
  for (int i = 0; i < 100; i++) {
    start_job(GOROUTINE, echo_once, new_numbered(c, out, i));
    send_number(c, i);
    CHECK(recv_number(out) == i);
    gort_yield();
    gort_sleep(1000);
    gort_recv(gort_after(1000), NULL);
    CHECK(syscall(SYS_gettid) == getpid());
  }
  gort_unlock_thread();
  await_jobs();
}
CASE(working_on_the_main_thread) { gort_main(work_on_the_main_thread, NULL); }

static void test_a_locked_main_stays_on_the_main_thread(void **state) {
  (void)state;
  expect_quiet_in(working_on_the_main_thread, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(working_on_the_main_thread, ENV("GORTMAXPROCS=4"));
}

/* It may end so, before it has parked or after: its thread is the program's, which goes on. */
static void end_main_locked(void *parks) {
  gort_lock_thread();
  if (parks)
    gort_sleep(1000);
}
CASE(main_ends_locked) {
  gort_main(end_main_locked, NULL);
  CHECK(gort_drain(-1));
}
CASE(main_ends_locked_later) {
  gort_main(end_main_locked, &flag);
  CHECK(gort_drain(-1));
}

static void exit_later(void *unused) {
  (void)unused;
  gort_sleep(MILLISECOND);
  exit(0);
}

static void goexit_main_locked(void *other) {
  gort_lock_thread();
  if (other)
    gort_go(exit_later, NULL);
  gort_goexit();
}
CASE(main_goes_locked) { gort_main(goexit_main_locked, &flag); }
CASE(main_goes_locked_alone) { gort_main(goexit_main_locked, NULL); }

static void test_main_may_end_locked(void **state) {
  (void)state;
  expect_quiet(main_ends_locked);
  expect_quiet(main_ends_locked_later);
  expect_quiet(main_goes_locked);
  if (!UNDER_QEMU)
    expect_death("fatal error: no goroutines (main called gort_goexit) - deadlock!",
                 main_goes_locked_alone);
}

/* What a goroutine has done to its thread ends with both, if it was locked. */
static void taint_thread(void *unused) {
  (void)unused;
  gort_lock_thread();
  CHECK(prctl(PR_SET_NAME, "tainted") == 0);
  gort_sleep(1000);
  finish(NULL);
}

static void find_no_taint(void *unused) {
  (void)unused;
  char name[16];
  gort_lock_thread();
  CHECK(prctl(PR_GET_NAME, name) == 0 && strcmp(name, "tainted") != 0);
  gort_sleep(1000);
  gort_unlock_thread();
  finish(NULL);
}

static void spread_no_taint(void *unused) {
  (void)unused;
  start_over();
  for (int i = 0; i < 20; i++) {
    gort_go(taint_thread, NULL);
    for (int k = 0; k < 5; k++)
      gort_go(find_no_taint, NULL);
    gort_sleep(MILLISECOND / 5);
  }
  while (atomic_load(&finished) < 120)
    gort_sleep(MILLISECOND);
}
CASE(spreading_no_taint) { gort_main(spread_no_taint, NULL); }

static void test_a_thread_dies_with_its_locked_goroutine(void **state) {
  (void)state;
  expect_quiet_in(spreading_no_taint, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(spreading_no_taint, ENV("GORTMAXPROCS=4"));
}

/* Nested: traces say that it is locked until it has unlocked as often. */
static bool is_locked(void) {
  char *text = goroutines_text();
  bool locked = strstr(text, " [running, locked to thread]:") != NULL;
  free(text);
  return locked;
}

static void lock_nested(void *unused) {
  (void)unused;
  CHECK(!is_locked());
  gort_lock_thread();
  gort_lock_thread();
  gort_unlock_thread();
  CHECK(is_locked());
  gort_unlock_thread();
  CHECK(!is_locked());
  gort_unlock_thread();
  CHECK(!is_locked());
}

static void test_locking_nests(void **state) {
  (void)state;
  in_goroutine(lock_nested, NULL);
}

/* Who has unlocked waits without a thread. */
static void lock_shortly_and_wait(void *c) {
  gort_lock_thread();
  gort_unlock_thread();
  gort_recv(c, NULL);
}

static int threads_of_process(void) {
  int n = 0;
  DIR *dir = opendir("/proc/self/task");
  CHECK(dir != NULL);
  for (struct dirent *e; (e = readdir(dir)) != NULL;)
    n += e->d_name[0] != '.';
  closedir(dir);
  return n;
}

static void wait_unlocked(void *unused) {
  (void)unused;
  gort_chan *c = new_signals(0);
  for (int i = 0; i < 200; i++)
    gort_go(lock_shortly_and_wait, c);
  await_goroutines_in("chan receive", 200);
  CHECK(threads_of_process() < 50);
}
CASE(waiting_unlocked) { gort_main(wait_unlocked, NULL); }

static void test_who_has_unlocked_needs_no_thread(void **state) {
  (void)state;
  expect_quiet_in(waiting_unlocked, ENV("GORTMAXPROCS=4"));
}

/* Locking while the world is being stopped, and while others are started. */
static void read_stats_all_the_time(void *unused) {
  (void)unused;
  while (!atomic_load(&flag))
    read_stats();
}

static void lock_at_once(void *until) {
  while (gort_nanotime() < *(const int64_t *)until)
    continue;
  gort_go(nothing, NULL);
  gort_lock_thread();
  gort_yield();
  finish(NULL);
}

static void lock_beside_stops(void *unused) {
  (void)unused;
  start_over();
  gort_go(read_stats_all_the_time, NULL);
  for (int n = 2; n <= 20; n += 2) {
    int64_t until = from_now(MILLISECOND / 2);
    gort_go(lock_at_once, &until);
    gort_go(lock_at_once, &until);
    while (atomic_load(&finished) < n)
      gort_sleep(MILLISECOND / 10);
  }
  set_flag(NULL);
}
CASE(locking_beside_stops) { gort_main(lock_beside_stops, NULL); }

static void test_locking_beside_stops(void **state) {
  (void)state;
  expect_quiet_in(locking_beside_stops, ENV("GORTMAXPROCS=4"));
}

/* --- Blocking ------------------------------------------------------------------------------- */

static void block_shortly(void *span) {
  finish(NULL);
  while (!atomic_load(&flag)) {
    gort_block_enter();
    for (int64_t until = from_now(*(const int64_t *)span); gort_nanotime() < until;)
      continue;
    gort_block_exit();
  }
  finish(NULL);
}

/* More who block for a short time than there are processors; each gets its turn. */
static void test_many_who_block_for_a_short_time(void **state) {
  (void)state;
  static const int64_t block_spans[] = {10000, 100000, MILLISECOND};
  int before = gort_max_procs(2);
  for (size_t i = 0; i < COUNT_OF(block_spans); i++) {
    start_over();
    for (int k = 0; k < 8; k++)
      gort_go(block_shortly, (void *)(uintptr_t)&block_spans[i]);
    UNTIL(atomic_load(&finished) == 8);
    set_flag(NULL);
    UNTIL(atomic_load(&finished) == 16);
  }
  gort_max_procs(before);
}

/* --- How many ------------------------------------------------------------------------------- */

/* Whoever is counted is in the traces, and nobody else. */
static void count_traces(void *unused) {
  (void)unused;
  gort_chan *c = new_signals(0);
  for (int i = 0; i < 50; i++)
    gort_go(await_and_finish, c);
  for (int i = 0; i < 20; i++) {
    gort_sleep(MILLISECOND);
    char *text = goroutines_text();
    size_t all = occurrences(text, "\ngoroutine "), system = occurrences(text, ", system]:\n");
    CHECK(all - system == 51 && gort_num_goroutines() == 51);
    free(text);
  }
  gort_chan_close(c);
  while (gort_num_goroutines() > 1)
    gort_yield();
}
CASE(counting_traces) { gort_main(count_traces, NULL); }

static void test_who_is_counted_is_traced(void **state) {
  (void)state;
  expect_quiet(counting_traces);
}

static void use_all_processors(void *unused) {
  (void)unused;
  CHECK(gort_max_procs(0) == 1024);
  CHECK(gort_max_procs(1000000) == 1024 && gort_max_procs(0) == 1024);
  start_over();
  for (int i = 0; i < 2000; i++)
    gort_go(finish, NULL);
  while (atomic_load(&finished) < 2000)
    gort_sleep(MILLISECOND);
}
CASE(using_all_processors) { gort_main(use_all_processors, NULL); }

static void test_as_many_processors_as_can_be(void **state) {
  (void)state;
  expect_quiet_in(using_all_processors, ENV("GORTMAXPROCS=1024"));
}

/* --- Small stacks --------------------------------------------------------------------------- */

static void use_channels_on_a_small_stack(void *arg) {
  struct numbered *me = arg;
  int64_t n;
  CHECK(gort_recv(me->c, &n));
  gort_case cases[20];
  for (int i = 0; i < 20; i++)
    cases[i] = i == 7 ? SEND(me->out, &n) : RECV(NULL, NULL);
  gort_sleep(1000);
  CHECK(gort_select_until(cases, 20, from_now(HOUR)) == 7);
  gort_recv(gort_after(1000), NULL);
  gort_keep_alive(gort_new(uint64_t));
}

static void test_small_stacks_are_enough_for_all_calls(void **state) {
  (void)state;
  gort_chan *c = new_numbers(0), *out = new_numbers(0);
  start_collecting();
  for (int i = 0; i < 200 / SLOWNESS; i++) {
    gort_go_stack(use_channels_on_a_small_stack, new_numbered(c, out, i), 16384);
    send_number(c, i);
    assert_int_equal(recv_number(out), i);
  }
  stop_collecting();
}

/* --- Traces --------------------------------------------------------------------------------- */

/* A goroutine that sleeps with anything in its frame pointer: a program need not have any. */
#if defined(__x86_64__)
void sleep_with_frame(uintptr_t frame, int64_t ns);
__asm__(".pushsection .text\n"
        ".type sleep_with_frame, @function\n"
        "sleep_with_frame:\n\t"
        "pushq %rbp\n\t"
        "movq %rdi, %rbp\n\t"
        "movq %rsi, %rdi\n\t"
        "call gort_sleep@PLT\n\t"
        "popq %rbp\n\t"
        "ret\n"
        ".size sleep_with_frame, . - sleep_with_frame\n"
        ".popsection\n");

#else
static void sleep_with_frame(uintptr_t frame, int64_t ns) {
  (void)frame;
  gort_sleep(ns);
}
#endif

static void sleep_oddly(void *frame) { sleep_with_frame((uintptr_t)frame, 50 * MILLISECOND); }

static void test_traces_survive_odd_frame_pointers(void **state) {
  (void)state;
  uintptr_t odd[] = {0,
                     1,
                     8,
                     4096,
                     (uintptr_t)-8,
                     (uintptr_t)-16,
                     (uintptr_t)-1,
                     (uintptr_t)odd,
                     (uintptr_t)&finished,
                     INTPTR_MAX - 7,
                     (uintptr_t)1 << 63};
  for (size_t i = 0; i < COUNT_OF(odd); i++)
    start_job(GOROUTINE, sleep_oddly, (void *)odd[i]);
  await_goroutines_in("sleep", 1);
  for (int i = 0; i < 10; i++)
    free(goroutines_text());
  await_jobs();
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_calls_give_way),
      cmocka_unit_test(test_who_yields_lets_others_come_on),
      cmocka_unit_test(test_locked_goroutines_block_and_yield),
      cmocka_unit_test(test_nobody_starves_beside_hogs),
      cmocka_unit_test(test_two_pairs_share_a_processor),
      cmocka_unit_test(test_work_spreads),
      cmocka_unit_test(test_all_processors_are_used),
      cmocka_unit_test(test_who_computes_holds_up_no_collection),
      cmocka_unit_test(test_stops_from_several_sides),
      cmocka_unit_test(test_who_allocates_shares_the_processor),
      cmocka_unit_test(test_a_locked_main_stays_on_the_main_thread),
      cmocka_unit_test(test_main_may_end_locked),
      cmocka_unit_test(test_a_thread_dies_with_its_locked_goroutine),
      cmocka_unit_test(test_locking_nests),
      cmocka_unit_test(test_who_has_unlocked_needs_no_thread),
      cmocka_unit_test(test_locking_beside_stops),
      cmocka_unit_test(test_many_who_block_for_a_short_time),
      cmocka_unit_test(test_who_is_counted_is_traced),
      cmocka_unit_test(test_as_many_processors_as_can_be),
      cmocka_unit_test(test_small_stacks_are_enough_for_all_calls),
      cmocka_unit_test(test_traces_survive_odd_frame_pointers),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
