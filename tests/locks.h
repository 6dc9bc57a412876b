/* What the tests of locks share: who locks (goroutines, threads, or both side by side), waiting
 * until somebody waits, and memory that nobody may touch any more. */
#ifndef GORT_TESTS_LOCKS_H
#define GORT_TESTS_LOCKS_H

#include "check.h"

#include <sys/mman.h>
#include <sys/syscall.h>

/* On goroutines and threads. */
SHARED_HELPER void pause_ns(int64_t ns) { gort_sleep(ns); }

#define AWAIT(cond)                                                                                \
  do {                                                                                             \
    while (!(cond))                                                                                \
      pause_ns(50000);                                                                             \
  } while (0)

/* Of these all wait at the same time, where there is ROOM_FOR them. */
enum { CROWD = UNDER_TSAN ? 500 : UNDER_ASAN || UNDER_TORTURE ? 2000 : 20000 };

/* Keeps its processor. */
SHARED_HELPER void work_ns(int64_t ns) {
  for (int64_t end = gort_nanotime() + ns; gort_nanotime() < end;)
    continue;
}

/* --- Who -------------------------------------------------------------------------------------- */

enum who { GOROUTINES, THREADS, BOTH, KINDS };

/* The i-th of them runs fn(arg). */
SHARED_HELPER void start(enum who who, size_t i, void (*fn)(void *), void *arg) {
  if (who == THREADS || (who == BOTH && i % 2))
    CHECK(gort_thread_start(fn, arg) == 0);
  else
    gort_go(fn, arg);
}

struct team {
  void (*fn)(size_t i);
  atomic_size_t started, ended;
};

SHARED_HELPER void run_in_team(void *p) {
  struct team *t = p;
  t->fn(atomic_fetch_add(&t->started, 1));
  atomic_fetch_add(&t->ended, 1);
}

/* n of them run fn, which gets a number below n; returns when all have ended. */
SHARED_HELPER void run_team(enum who who, size_t n, void (*fn)(size_t i)) {
  struct team t = {.fn = fn};
  for (size_t i = 0; i < n; i++)
    start(who, i, run_in_team, &t);
  AWAIT(atomic_load(&t.ended) == n);
}

/* fn(n) with every kind, on several numbers of processors. */
SHARED_HELPER void for_all_kinds(void (*fn)(enum who who)) {
  static const int procs[] = {1, 2, 4};
  int before = gort_max_procs(0);
  for (size_t i = 0; i < COUNT_OF(procs); i++) {
    gort_max_procs(procs[i]);
    for (int who = 0; who < KINDS; who++)
      fn((enum who)who);
  }
  gort_max_procs(before);
}

/* --- Waiting until somebody waits ---------------------------------------------------------------
 */

/* How many goroutines are parked for this reason. */
SHARED_HELPER size_t parked(const char *why) {
  int fd = memfd_create("goroutines", MFD_CLOEXEC);
  CHECK(fd >= 0);
  gort_print_goroutines(fd);
  size_t size = (size_t)lseek(fd, 0, SEEK_END);
  char *text = calloc(size + 1, 1), short_wait[64], long_wait[64];
  CHECK(pread(fd, text, size, 0) == (ssize_t)size);
  close(fd);
  snprintf(short_wait, sizeof short_wait, " [%s]:\n", why);
  snprintf(long_wait, sizeof long_wait, " [%s, ", why);
  size_t n = occurrences(text, short_wait) + occurrences(text, long_wait);
  free(text);
  return n;
}

/* Nobody runs during a look, so most of the time is left for pauses. */
SHARED_HELPER void await_parked(const char *why, size_t n) {
  for (int64_t began = gort_nanotime(); parked(why) != n; began = gort_nanotime())
    pause_ns(4 * (gort_nanotime() - began));
}

struct sleeper {
  void (*fn)(void *);
  void *arg;
  atomic_int tid;
};

SHARED_HELPER void run_sleeper(void *p) {
  struct sleeper *s = p;
  void (*fn)(void *) = s->fn;
  void *arg = s->arg;
  atomic_store(&s->tid, (int)syscall(SYS_gettid));
  fn(arg);
}

/* Whether the thread sleeps in the kernel: from time to time, so that it does for good. */
SHARED_HELPER bool asleep(int tid) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
  for (int i = 0; i < 3; i++) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    CHECK(n > 0);
    text[n] = 0;
    if (strrchr(text, ')')[2] != 'S')
      return false;
    gort_sleep(300000);
  }
  return true;
}

/* Starts fn(arg), which has to wait for a lock; returns when it waits. */
SHARED_HELPER void start_waiter(enum who who, void (*fn)(void *), void *arg, const char *why) {
  if (who == GOROUTINES) {
    size_t before = parked(why);
    gort_go(fn, arg);
    await_parked(why, before + 1);
    return;
  }
  struct sleeper *s = gort_new(struct sleeper);
  s->fn = fn;
  s->arg = arg;
  CHECK(gort_thread_start(run_sleeper, s) == 0);
  AWAIT(atomic_load(&s->tid) != 0 && asleep(atomic_load(&s->tid)));
}

/* --- Memory that goes ---------------------------------------------------------------------------
 */

/* Two of them meet on pages, one after the other. The giver puts a lock there, offers the page, and
 * gives the lock back. The taker waits for the lock, and when it has been given it the page is
 * gone: whatever the giver still does with it is the end of the program. */
enum { PAGE = 4096, PAGES = 1000 / SLOWNESS };

struct relay {
  void (*give)(void *page); /* calls offer(page) when the taker may come */
  void (*take)(void *page);
  char *pages;
  atomic_int ended;
};

static _Atomic(void *) offered;
static atomic_size_t taken;

SHARED_HELPER void offer(void *page) {
  static struct rng r;
  atomic_store(&offered, page);
  switch (rng_below(&r, 100) / 33) {
  case 0:
    break;
  case 1:
    work_ns((int64_t)rng_below(&r, 20000));
    break;
  case 2:
    gort_yield();
    break;
  default:
    gort_sleep(1500000); /* long enough to be handed a mutex */
  }
}

/* For a taker: to come at the very moment that the lock is given back, now and then, so that it has
 * not been waited for. */
SHARED_HELPER void come_late(void) {
  static struct rng r;
  work_ns((int64_t)rng_below(&r, 3000));
}

/* In haste, but not for long. */
#define SOON(cond)                                                                                 \
  do {                                                                                             \
    for (int i_ = 0; !(cond); i_++)                                                                \
      if (i_ < 30)                                                                                 \
        gort_yield();                                                                              \
      else                                                                                         \
        gort_sleep(20000);                                                                         \
  } while (0)

SHARED_HELPER void give_all(void *p) {
  struct relay *r = p;
  for (size_t i = 0; i < PAGES; i++) {
    r->give(r->pages + i * PAGE);
    SOON(atomic_load(&taken) > i);
  }
  atomic_fetch_add(&r->ended, 1);
}

SHARED_HELPER void take_all(void *p) {
  struct relay *r = p;
  for (size_t i = 0; i < PAGES; i++) {
    void *page = r->pages + i * PAGE;
    SOON(atomic_load(&offered) == page);
    r->take(page);
    CHECK(mprotect(page, PAGE, PROT_NONE) == 0);
    atomic_fetch_add(&taken, 1);
  }
  atomic_fetch_add(&r->ended, 1);
}

SHARED_HELPER void run_relay(enum who giver, enum who taker, void (*give)(void *page),
                             void (*take)(void *page)) {
  struct relay r = {.give = give, .take = take};
  r.pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(r.pages != MAP_FAILED);
  atomic_store(&taken, 0);
  start(giver, 0, give_all, &r);
  start(taker, 0, take_all, &r);
  WAIT_UNTIL(atomic_load(&r.ended) == 2);
  munmap(r.pages, PAGES * PAGE);
}

SHARED_HELPER void run_relays(void (*give)(void *page), void (*take)(void *page)) {
  run_relay(GOROUTINES, GOROUTINES, give, take);
  run_relay(GOROUTINES, THREADS, give, take);
  run_relay(THREADS, GOROUTINES, give, take);
  run_relay(THREADS, THREADS, give, take);
}

/* --- Calls on a thread that is not attached -----------------------------------------------------
 */

struct call {
  const char *name;
  void (*fn)(void);
};

SHARED_HELPER void *call_here(void *p) {
  ((const struct call *)p)->fn();
  return NULL;
}

/* For a case: the function that its argument names. */
SHARED_HELPER void call_unattached(const struct call *calls, size_t n) {
  pthread_t t;
  gort_init();
  for (size_t i = 0; i < n; i++)
    if (strcmp(calls[i].name, case_arg) == 0) {
      CHECK(pthread_create(&t, NULL, call_here, (void *)(uintptr_t)&calls[i]) == 0);
      pthread_join(t, NULL);
    }
}

SHARED_HELPER void expect_unattached(const struct call *calls, size_t n, const char *case_name) {
  for (size_t i = 0; i < n; i++) {
    char text[100];
    snprintf(text, sizeof text, "fatal error: %s: thread is not attached", calls[i].name);
    expect_death_of(text, case_name, calls[i].name, NO_ENV);
  }
}

/* --- Ends ---------------------------------------------------------------------------------------
 */

/* The case throws because the main goroutine, which waits for this, waits for ever. */
SHARED_HELPER void expect_deadlock(const char *case_name, const char *arg, const char *why) {
  if (UNDER_QEMU)
    return;
  const struct outcome *o = run_case(case_name, arg, NO_ENV);
  char header[100];
  snprintf(header, sizeof header, "goroutine 1 [%s]:", why);
  if (aborted(o) && has_line(o->err, "fatal error: all goroutines are asleep - deadlock!") &&
      has_line(o->err, header))
    return;
  print_outcome(case_name, o);
  fail_msg("expected a deadlock of goroutine 1 [%s]", why);
}

#endif
