/* Waiting, for goroutines and attached threads alike. */
#include "sched/waiter.h"

#include "base/kernel.h"
#include "base/switch.h"
#include "gc/stop.h"
#include "sched/sched.h"
#include "sched/timer.h"

struct waiter waiter_self(void) {
  struct m *m = getm();
  return m->curg ? (struct waiter){.g = m->curg} : (struct waiter){.m = m};
}

/* Threads. A thread's note is set by who wakes it, once; between two waits it is clear. */

struct thread_wait {
  struct waiter *w;
  int64_t deadline; /* negative: none */
};

/* False when the time is up. */
static bool sleep_until(struct note *n, int64_t deadline) {
  if (deadline < 0)
    return notesleep(n, -1);
  int64_t left = deadline - nanotime();
  return notesleep(n, left > 0 ? left : 0);
}

/* When the time is up, somebody may be about to wake us all the same. */
static void sleep_blocked(uintptr_t sp, void *arg) {
  struct thread_wait *t = arg;
  struct m *m = t->w->m;
  enterblocked(m, sp);
  bool woken = sleep_until(&m->park, t->deadline);
  t->w->timed_out = !woken && waiter_claim(t->w);
  if (!woken && !t->w->timed_out)
    notesleep(&m->park, -1);
  leaveblocked(m);
}

static void wait_on_thread(struct waiter *w, int64_t deadline, void (*commit)(void *arg),
                           void *arg) {
  struct thread_wait t = {w, deadline};
  wake_after_fork();
  struct m *m = acquirem();
  if (commit)
    commit(arg);
  spill_and_call(sleep_blocked, &t);
  noteclear(&m->park);
  releasem(m);
}

/* Goroutines. */

void waiter_wait(struct waiter *w, void (*commit)(void *arg), void *arg, enum waitreason why) {
  if (w->g)
    gopark(commit, arg, why);
  else
    wait_on_thread(w, -1, commit, arg);
}

struct timed {
  struct timer timer;
  void (*commit)(void *arg);
  void *arg;
};

/* Once the timer is armed it may wake the goroutine, which then may go on when commit has released
 * its locks, or at once. */
static void commit_timed(void *arg) {
  struct timed *t = arg;
  void (*commit)(void *) = t->commit;
  void *commit_arg = t->arg;
  timer_arm(&t->timer);
  if (commit)
    commit(commit_arg);
}

bool waiter_wait_until(struct waiter *w, int64_t deadline, void (*commit)(void *arg), void *arg,
                       enum waitreason why) {
  if (!w->g) {
    wait_on_thread(w, deadline, commit, arg);
  } else if (deadline < 0) {
    gopark(commit, arg, why);
  } else {
    struct timed t = {.timer = {.when = deadline, .waiter = w}, .commit = commit, .arg = arg};
    gopark(commit_timed, &t, why);
    if (!w->timed_out)
      timer_disarm(&t.timer);
  }
  return !w->timed_out;
}

/* Waking. */

void waiter_wake(struct waiter *w) {
  if (w->g)
    ready(w->g);
  else
    notewakeup(&w->m->park);
}

void waiter_wake_list(struct waiter *list) {
  while (list) {
    struct waiter *next = list->link;
    waiter_wake(list);
    list = next;
  }
}
