/* The process as a whole: gort_main, its end and what may follow, exit() at any time, fork. */
#include "check.h"

#include <link.h>
#include <sys/syscall.h>

/* --- gort_main ------------------------------------------------------------------------------ */

static int given;
static atomic_int ran;

static void check_main_goroutine(void *arg) {
  CHECK(arg == &given);
  CHECK(gort_id() == 1);
  CHECK(gort_num_goroutines() == 1);
  CHECK(gort_alloc(100) != NULL);
  atomic_fetch_add(&ran, 1);
}

CASE(main_runs) {
  CHECK(gort_main(check_main_goroutine, &given) == 0);
  CHECK(atomic_load(&ran) == 1);
}

CASE(main_after_init) {
  gort_init();
  CHECK(gort_main(check_main_goroutine, &given) == 0);
  CHECK(atomic_load(&ran) == 1);
}

static void init_inside(void *unused) {
  (void)unused;
  gort_init();
  CHECK(gort_id() == 1);
}

CASE(init_in_main) {
  CHECK(gort_main(init_inside, NULL) == 0);
  gort_init();
}

static void test_main_runs_the_main_goroutine(void **state) {
  (void)state;
  expect_quiet(main_runs);
  expect_quiet(main_after_init);
  expect_quiet(init_in_main);
}

static void do_nothing(void *unused) { (void)unused; }

CASE(main_twice) {
  gort_main(do_nothing, NULL);
  gort_main(do_nothing, NULL);
}

static void call_main(void *unused) {
  (void)unused;
  gort_main(do_nothing, NULL);
}
CASE(main_in_main) { gort_main(call_main, NULL); }

static void test_main_twice_throws(void **state) {
  (void)state;
  expect_death("fatal error: gort_main: called twice", main_twice);
  expect_death("fatal error: gort_main: called twice", main_in_main);
}

/* --- After gort_main ------------------------------------------------------------------------ */

static atomic_int turns;

static void turn_for_good(void *unused) {
  (void)unused;
  for (;;) {
    atomic_fetch_add(&turns, 1);
    gort_yield();
  }
}

static void start_turning(void *unused) {
  (void)unused;
  for (int i = 0; i < 4; i++)
    gort_go(turn_for_good, NULL);
  while (atomic_load(&turns) < 1000)
    gort_yield();
}

CASE(others_stop) {
  gort_main(start_turning, NULL);
  for (int i = 0; i < 20; i++) /* one that is running may go on to its next call */
    nap();
  int before = atomic_load(&turns);
  for (int i = 0; i < 100; i++)
    nap();
  CHECK(atomic_load(&turns) == before);
}

static void test_other_goroutines_do_not_run_any_more(void **state) {
  (void)state;
  expect_quiet(others_stop);
}

static NOINLINE void make_watched(void *unused) {
  (void)unused;
  for (int i = 0; i < MANY; i++)
    watch(gort_alloc(40));
}

CASE(drain_after_main) {
  watch_begin();
  gort_main(make_watched, NULL);
  CHECK(mostly((size_t)deaths(), MANY));
  CHECK(!gort_thread_attach());
  CHECK(gort_id() == 0);
  make_watched(NULL);
  CHECK(mostly((size_t)deaths(), 2 * MANY));
}

static void test_the_thread_stays_attached_after_main(void **state) {
  (void)state;
  expect_quiet(drain_after_main);
}

/* What the other goroutines held when they were stopped is still theirs. */
static atomic_int parked;

static void hold_and_sleep(void *unused) {
  (void)unused;
  void *mine = watch(gort_alloc(40));
  atomic_fetch_add(&parked, 1);
  gort_sleep(INT64_C(1000000000000));
  gort_keep_alive(mine);
}

static void start_holders(void *unused) {
  (void)unused;
  for (int i = 0; i < 50; i++)
    gort_go(hold_and_sleep, NULL);
  while (atomic_load(&parked) < 50)
    gort_yield();
}

CASE(holders_hold) {
  watch_begin();
  gort_main(start_holders, NULL);
  CHECK(deaths() == 0);
}

static void test_stopped_goroutines_keep_what_they_hold(void **state) {
  (void)state;
  expect_quiet(holders_hold);
}

/* --- exit() --------------------------------------------------------------------------------- */

static void exit_7(void *unused) {
  (void)unused;
  exit(7);
}

static void allocate_for_good(void *unused) {
  (void)unused;
  for (;;) {
    for (int i = 0; i < 100; i++)
      gort_alloc(200);
    gort_set_finalizer_fn(gort_alloc(200), do_nothing);
  }
}

static void busy_background(void) {
  for (int i = 0; i < 2; i++) {
    gort_go(allocate_for_good, NULL);
    CHECK(gort_thread_start(allocate_for_good, NULL) == 0);
  }
  start_collecting();
}

static void exit_in_goroutine(void *unused) {
  (void)unused;
  busy_background();
  gort_go(exit_7, NULL);
  for (;;)
    gort_sleep(1000000);
}

static void exit_in_main_goroutine(void *unused) {
  (void)unused;
  busy_background();
  gort_sleep(20000000);
  exit(7);
}

CASE(exit_from_main_goroutine) { gort_main(exit_in_main_goroutine, NULL); }
CASE(exit_from_goroutine) { gort_main(exit_in_goroutine, NULL); }
CASE(exit_from_thread) {
  gort_init();
  busy_background();
  gort_thread_start(exit_7, NULL);
  for (;;)
    nap();
}
CASE(exit_from_finalizer) {
  gort_init();
  busy_background();
  for (;;)
    gort_set_finalizer_fn(gort_alloc(40), exit_7);
}
CASE(exit_from_program) {
  gort_init();
  busy_background();
  for (int i = 0; i < 20; i++)
    nap();
  exit(7);
}

static void use_the_heap(void) {
  for (int i = 0; i < 10000; i++)
    memset(gort_alloc(1000), 1, 1000);
  gort_gc();
}

CASE(exit_with_handler) {
  gort_init();
  atexit(use_the_heap);
  busy_background();
  exit(7);
}

static void test_exit_at_any_time(void **state) {
  (void)state;
  static const char *const names[] = {"exit_from_main_goroutine", "exit_from_goroutine",
                                      "exit_from_thread",         "exit_from_finalizer",
                                      "exit_from_program",        "exit_with_handler"};
  for (size_t i = 0; i < COUNT_OF(names); i++)
    for (int round = 0; round < 5; round++) {
      const struct outcome *o = run_case(names[i], "", NO_ENV);
      if (o->hung || !WIFEXITED(o->status) || WEXITSTATUS(o->status) != 7 || o->err[0]) {
        print_outcome(names[i], o);
        fail();
      }
    }
}

/* --- fork ----------------------------------------------------------------------------------- */

struct link {
  struct link *next;
  uint64_t number;
};

static NOINLINE struct link *make_list(size_t n) {
  struct link *head = NULL;
  for (size_t i = 0; i < n; i++) {
    struct link *l = gort_new(struct link);
    *l = (struct link){head, i};
    head = l;
  }
  return head;
}

static void check_list(const struct link *l, size_t n) {
  for (; l; l = l->next)
    CHECK(l->number == --n);
  CHECK(n == 0);
}

/* In the child: what the parent made is there, and the heap goes on as before, collections of its
 * own accord included: it has grown by 6 MB in the end. */
static void live_in_child(const struct link *inherited, size_t n) {
  check_list(inherited, n);
  gort_gc();
  for (int i = 0; i < 20; i++) {
    struct link *mine = make_list(1000);
    for (int j = 0; j < 100; j++)
      memset(gort_alloc(3000), 0xaa, 3000);
    check_list(mine, 1000);
  }
  gort_gc();
  check_list(inherited, n);
}

static void fork_once(const struct link *list, size_t n) {
  fflush(NULL);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    live_in_child(list, n);
    _exit(0);
  }
  await_child(pid);
}

#ifdef GORT_TORTURE
enum { FORKS = 3 }; /* the children collect all the time, each on its own */
#else
enum { FORKS = 10 };
#endif

static void fork_often(void *unused) {
  (void)unused;
  struct link *list = make_list(1000);
  for (int i = 0; i < FORKS; i++)
    fork_once(list, 1000);
  check_list(list, 1000);
}

CASE(fork_from_thread) {
  gort_init();
  busy_background();
  fork_often(NULL);
}
CASE(fork_from_main_goroutine) { gort_main(fork_often, NULL); }

static void fork_while_busy(void *unused) {
  busy_background();
  fork_often(unused);
}
CASE(fork_from_busy_goroutine) { gort_main(fork_while_busy, NULL); }

static void test_a_child_of_fork_uses_the_heap(void **state) {
  (void)state;
  if (UNDER_QEMU)
    skip();
  expect_quiet(fork_from_thread);
  expect_quiet(fork_from_main_goroutine);
  if (!UNDER_ASAN) /* its own allocator may be locked in the child */
    expect_quiet(fork_from_busy_goroutine);
}

/* Types stay for good, so only some are new. */
static void *make_types(void *unused) {
  for (unsigned i = 0;; i++)
    if (i % 256 == 0)
      gort_type_scalar("number", 8, 8);
    else
      gort_type_func(&gort_type_int8, 1, NULL, 0, false);
  return unused;
}

/* A thread that is not attached is in the middle of making a type, as a rule. */
CASE(fork_while_types_are_made) {
  gort_init();
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, make_types, NULL) == 0);
  for (int i = 0; i < 100; i++) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      alarm(10);
      CHECK(gort_type_func(&gort_type_int16, 1, NULL, 0, false) != NULL);
      _exit(0);
    }
    await_child(pid);
  }
}

static void test_a_child_of_fork_makes_types(void **state) {
  (void)state;
  if (!UNDER_ASAN)
    expect_quiet(fork_while_types_are_made);
}

/* Somebody else walks the loaded objects at the fork, and so holds a lock of the dynamic linker's
 * that nobody will release in the child. The child collects, asks for static data, and comes to the
 * end of main. */
static int take_time(struct dl_phdr_info *info, size_t size, void *unused) {
  (void)info, (void)size, (void)unused;
  for (int i = 0; i < 3; i++)
    nap();
  return 1;
}

static void *walk_the_objects(void *unused) {
  (void)unused;
  for (;;) {
    dl_iterate_phdr(take_time, NULL);
    nap();
  }
  return NULL;
}

static void live_without_the_loader(const struct link *inherited) {
  live_in_child(inherited, 1000);
  CHECK(gort_try_set_finalizer_fn(&given, do_nothing) == 0);
  int local;
  CHECK(gort_try_set_finalizer_fn(&local, do_nothing) != 0);
  fork_once(inherited, 1000);
}

static void fork_beside_a_walker(void *unused) {
  (void)unused;
  pthread_t walker;
  struct link *list = make_list(1000);
  CHECK(pthread_create(&walker, NULL, walk_the_objects, NULL) == 0);
  for (int i = 0; i < 10; i++) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
      return live_without_the_loader(list);
    await_child(pid);
  }
}
CASE(fork_beside_walker) { gort_main(fork_beside_a_walker, NULL); }

static void test_a_child_does_not_need_the_linkers_lock(void **state) {
  (void)state;
  if (!UNDER_ASAN && !UNDER_QEMU) /* it needs that lock itself to start a thread */
    expect_quiet(fork_beside_walker);
}

/* Several at the same time, each between gort_block_enter and _exit. */
static atomic_int forkers;

static void fork_blocked(void *unused) {
  (void)unused;
  struct link *list = make_list(100);
  for (int i = 0; i < FORKS; i++) {
    gort_block_enter();
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      gort_block_exit();
      live_in_child(list, 100);
      _exit(0);
    }
    await_child(pid);
    gort_block_exit();
    check_list(list, 100);
  }
  atomic_fetch_sub(&forkers, 1);
}

CASE(fork_while_blocked) {
  gort_init();
  atomic_store(&forkers, 4);
  for (int i = 0; i < 2; i++) {
    gort_go(fork_blocked, NULL);
    CHECK(gort_thread_start(fork_blocked, NULL) == 0);
  }
  start_collecting();
  WAIT_UNTIL(atomic_load(&forkers) == 0);
}

static void test_fork_while_blocked(void **state) {
  (void)state;
  if (!UNDER_ASAN && !UNDER_QEMU)
    expect_quiet(fork_while_blocked);
}

/* A goroutine that is tied to its thread lives on in the child, and needs others to be woken. */
static void fork_locked(void *unused) {
  (void)unused;
  gort_lock_thread();
  gort_sleep(1000000); /* on a thread of its own by now */
  pid_t pid = fork();
  CHECK(pid >= 0);
  for (int i = 0; i < 3; i++) {
    gort_sleep(1000000);
    gort_yield();
  }
  if (pid == 0)
    _exit(0);
  await_child(pid);
  atomic_fetch_sub(&forkers, 1);
}

static void fork_locked_twice(void *unused) {
  atomic_store(&forkers, 2);
  gort_go(fork_locked, NULL);
  fork_locked(unused);
  while (atomic_load(&forkers) != 0)
    gort_sleep(1000000);
}
CASE(fork_from_locked_goroutine) { gort_main(fork_locked_twice, NULL); }

static void test_a_locked_goroutine_forks(void **state) {
  (void)state;
  if (!UNDER_ASAN && !UNDER_QEMU)
    expect_quiet(fork_from_locked_goroutine);
}

/* In the child of a child as well. */
CASE(fork_in_fork) {
  gort_init();
  struct link *list = make_list(100);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    fork_once(list, 100);
    _exit(0);
  }
  await_child(pid);
}

static void test_a_child_may_fork(void **state) {
  (void)state;
  expect_quiet(fork_in_fork);
}

/* A thread that the child's program makes is one that may come, however few the parent had. */
static void *come_later(void *unused) {
  (void)unused;
  for (int i = 0; i < 100; i++)
    nap();
  CHECK(gort_thread_attach());
  exit(0);
}

static void leave_main_in_child(void *unused) {
  (void)unused;
  gort_sleep(1000000);
  gort_gc();
  pid_t pid = fork();
  CHECK(pid >= 0);
  pthread_t thread;
  if (pid == 0 && pthread_create(&thread, NULL, come_later, NULL) == 0)
    gort_goexit();
  await_child(pid);
}
CASE(somebody_may_come_in_child) { gort_main(leave_main_in_child, NULL); }

static void test_a_child_is_not_dead_while_somebody_may_come(void **state) {
  (void)state;
  if (UNDER_QEMU)
    skip();
  expect_quiet(somebody_may_come_in_child);
}

/* --- The main thread ------------------------------------------------------------------------ */

static void stay_on_the_main_thread(void *unused) {
  (void)unused;
  gort_lock_thread();
  for (int i = 0; i < 50; i++) {
    CHECK(syscall(SYS_gettid) == getpid());
    gort_sleep(100000);
    gort_yield();
  }
  gort_unlock_thread();
}

static void stay_with_others(void *unused) {
  (void)unused;
  gort_lock_thread();
  for (int i = 0; i < 20; i++)
    gort_go(turn_for_good, NULL);
  stay_on_the_main_thread(NULL);
}

/* Giving way does not move it before it parks. */
static void stay_after_work(void *unused) {
  (void)unused;
  for (int i = 0; i < 20; i++)
    gort_go(turn_for_good, NULL);
  for (int64_t end = gort_nanotime() + 50000000; gort_nanotime() < end;)
    for (int i = 0; i < 100; i++)
      gort_alloc(100);
  stay_on_the_main_thread(NULL);
}

CASE(lock_main_after_work) { gort_main(stay_after_work, NULL); }
CASE(lock_main) { gort_main(stay_on_the_main_thread, NULL); }
CASE(lock_main_among_others) { gort_main(stay_with_others, NULL); }

static void test_main_can_be_held_to_the_main_thread(void **state) {
  (void)state;
  expect_quiet(lock_main);
  expect_quiet(lock_main_among_others);
  expect_quiet(lock_main_after_work);
}

/* --- Core dumps ------------------------------------------------------------------------------ */

/* What is mapped by the gigabyte is mostly never touched, and would still be looked at, page by
 * page, for a dump. */
CASE(large_mappings) {
  gort_init();
  static void *one;
  one = gort_alloc(32);
  gort_set_finalizer_fn(one, do_nothing);
  FILE *maps = fopen("/proc/self/smaps", "r");
  CHECK(maps != NULL);
  unsigned long kilobytes = 0;
  int large = 0;
  for (char line[1024]; fgets(line, sizeof line, maps);) {
    (void)sscanf(line, "Size: %lu kB", &kilobytes);
    if (strncmp(line, "VmFlags:", 8) != 0 || kilobytes < 1 << 20 || !strstr(line, " rd "))
      continue;
    large++;
    CHECK(strstr(line, " dd ") != NULL);
  }
  fclose(maps);
  CHECK(large > 0);
}

static void test_core_dumps_leave_the_tables_out(void **state) {
  (void)state;
  if (UNDER_QEMU)
    skip();
  expect_quiet(large_mappings);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_main_runs_the_main_goroutine),
      cmocka_unit_test(test_main_twice_throws),
      cmocka_unit_test(test_other_goroutines_do_not_run_any_more),
      cmocka_unit_test(test_the_thread_stays_attached_after_main),
      cmocka_unit_test(test_stopped_goroutines_keep_what_they_hold),
      cmocka_unit_test(test_exit_at_any_time),
      cmocka_unit_test(test_a_child_of_fork_uses_the_heap),
      cmocka_unit_test(test_a_child_of_fork_makes_types),
      cmocka_unit_test(test_a_child_does_not_need_the_linkers_lock),
      cmocka_unit_test(test_fork_while_blocked),
      cmocka_unit_test(test_a_locked_goroutine_forks),
      cmocka_unit_test(test_a_child_may_fork),
      cmocka_unit_test(test_a_child_is_not_dead_while_somebody_may_come),
      cmocka_unit_test(test_main_can_be_held_to_the_main_thread),
      cmocka_unit_test(test_core_dumps_leave_the_tables_out),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
