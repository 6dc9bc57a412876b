/* The watch: of the threads that have nothing to do, one does not sleep in stopm, but until the
 * nearest deadline, and until something happens to a descriptor that somebody waits for.
 *
 * Why no deadline passes unnoticed. Who arms a timer that is the first of its heap calls the watch,
 * if that waits for a later deadline, and if there is no watch, wakep(): then there is a spinning
 * thread or no idle P. A thread that has given up its P and does not spin any more, and found
 * nothing to do, becomes the watch if there is none. Both write first and read then, with a full
 * barrier between:
 *
 *   who arms:     the heap's next_when;               watch.m and watch.when
 *   the watch:    watch.m, and watch.when = NEVER;    all heaps' next_when
 *
 * so one of the two sees what the other has done. watch.when is NEVER until the watch has looked,
 * so that it is called rather than not. When all Ps are busy there need not be a watch: each thread
 * comes by findrunnable sooner or later, and sysmon asks them to. The same goes for who begins to
 * wait for a descriptor.
 *
 * The watch sleeps in the poller, if descriptors are in use, else on its note; whoever calls it
 * ends either. */
#include "base/kernel.h"
#include "sched/netpoll.h"
#include "sched/sched.h"
#include "sched/timer.h"
#include "sched/waiter.h"

static struct {
  struct mutex lock;
  struct m *m;    /* the thread that waits, or NULL; written under lock; atomic */
  int64_t when;   /* until when; CALLED: it was called; written under lock; atomic */
  bool in_poller; /* how it is called; under lock */
} watch;

enum { CALLED = -1 };

static bool watch_needed(void) { return timers_next() != NEVER || netpoll_waited(); }

bool unwatched(void) { return watch_needed() && !load_seqcst(&watch.m); }

/* Under the lock, and once for each sleep. */
static void call(void) {
  store_relaxed(&watch.when, CALLED);
  if (watch.in_poller)
    netpoll_break();
  else
    notewakeup(&watch.m->park);
}

void watch_call(int64_t when) {
  full_fence();
  if (load_relaxed(&watch.m) && load_relaxed(&watch.when) <= when)
    return;
  struct m *m = acquirem();
  lock_raw(&watch.lock);
  bool there = watch.m != NULL;
  if (there && watch.when > when)
    call();
  unlock_raw(&watch.lock);
  if (!there)
    wakep();
  releasem(m);
}

/* What the watch waited for may have been taken away: who disarms a timer does not call it. Once
 * all others sleep it has to know, or a deadlock would be found when that time has come. */
void watch_dismiss(void) {
  lock_raw(&watch.lock);
  if (watch.m && watch.when != CALLED && !watch_needed())
    call();
  unlock_raw(&watch.lock);
}

/* A thread that spins or dozes comes by soon. */
void watch_ensure(void) {
  full_fence();
  if (load_relaxed(&watch.m))
    return;
  struct m *m = acquirem();
  wakep_put(false);
  releasem(m);
}

/* False when there is a watch. */
static bool begin(struct m *m) {
  lock_raw(&watch.lock);
  bool free = !watch.m;
  if (free) {
    watch.in_poller = netpoll_inited();
    store_relaxed(&watch.when, NEVER);
    store_relaxed(&watch.m, m);
  }
  unlock_raw(&watch.lock);
  full_fence();
  return free;
}

/* Until when to sleep: not at all when it was called meanwhile. */
static int64_t nearest(void) {
  int64_t when = timers_next();
  lock_raw(&watch.lock);
  if (watch.when == CALLED)
    when = CALLED;
  else
    store_relaxed(&watch.when, when);
  unlock_raw(&watch.lock);
  return when;
}

/* Nobody calls it after this, and the note can be cleared. */
static void end(struct m *m) {
  lock_raw(&watch.lock);
  store_relaxed(&watch.m, NULL);
  noteclear(&m->park);
  unlock_raw(&watch.lock);
}

static int64_t left_until(int64_t when) {
  int64_t left = when == NEVER ? -1 : when - nanotime();
  return when != NEVER && left < 0 ? 0 : left;
}

/* m has no P. */
static struct waiter *wait_for_something(struct m *m, int64_t ns) {
  if (watch.in_poller)
    return netpoll_sleep(m, ns);
  wait_in_kernel(m, ns);
  return NULL;
}

bool watch_wait(struct m *m, struct waiter **ready) {
  *ready = NULL;
  if (!watch_needed() || !begin(m))
    return false;
  *ready = wait_for_something(m, left_until(nearest()));
  end(m);
  return true;
}

void watch_after_fork(void) {
  watch.lock = (struct mutex){0};
  watch.m = NULL;
}
