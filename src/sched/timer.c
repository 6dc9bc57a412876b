/* Timers: each P has a heap of those that were armed on it, ordered by deadline.
 *
 * A timer stays in its heap until it fires or is disarmed. The thread that has the P fires what is
 * due when it next looks for work; thieves look into the heaps of others before they take away
 * runnexts; and when nobody has anything to do one idle thread, the watch, sleeps until the nearest
 * deadline of all (watch.c). The heaps of Ps that are out of use are looked into like the others.
 *
 * Firing has two steps, for under a heap's lock nothing else may be locked. With the lock held what
 * is due is taken out, and waiters are claimed; so when timer_disarm has had the lock, nobody knows
 * a waiter's timer any more. Without it they are woken, and functions called.
 *
 * The heap is a pairing heap: a node is nearer than all its children, which hang on it as a list;
 * two heaps are joined in one step; taking the first joins its children in pairs. It needs no
 * memory but what is in each timer. prev is the sibling before, or of the first child its parent.
 */
#include "sched/timer.h"

#include "base/kernel.h"
#include "base/throw.h"
#include "gort/goroutine.h"
#include "sched/sched.h"
#include "sched/waiter.h"

/* The heap. */

static struct timer *join(struct timer *a, struct timer *b) {
  if (!a || !b)
    return a ? a : b;
  if (b->when < a->when) {
    struct timer *t = a;
    a = b;
    b = t;
  }
  b->sibling = a->child;
  if (a->child)
    a->child->prev = b;
  b->prev = a;
  a->child = b;
  return a;
}

/* Makes a heap of its own of the first in a list; returns the rest. */
static struct timer *split(struct timer *first) {
  struct timer *rest = first->sibling;
  first->sibling = first->prev = NULL;
  return rest;
}

/* Pairs from the left, kept as a stack; then all of them from the right. */
static struct timer *join_all(struct timer *list) {
  struct timer *pairs = NULL, *heap = NULL;
  while (list) {
    struct timer *a = list, *b = split(a);
    list = b ? split(b) : NULL;
    a = join(a, b);
    a->sibling = pairs;
    pairs = a;
  }
  while (pairs) {
    struct timer *a = pairs;
    pairs = split(a);
    heap = join(heap, a);
  }
  return heap;
}

static void set_heap(struct timers *ts, struct timer *heap) {
  ts->heap = heap;
  store_seqcst(&ts->next_when, heap ? heap->when : NEVER);
}

static void cut_from_siblings(struct timer *t) {
  if (t->prev->child == t)
    t->prev->child = t->sibling;
  else
    t->prev->sibling = t->sibling;
  if (t->sibling)
    t->sibling->prev = t->prev;
  t->sibling = t->prev = NULL;
}

static void take_out(struct timers *ts, struct timer *t) {
  struct timer *children = join_all(t->child);
  t->child = NULL;
  if (t == ts->heap) {
    set_heap(ts, children);
  } else {
    cut_from_siblings(t);
    set_heap(ts, join(ts->heap, children));
  }
  store_release(&t->in, NULL);
}

/* Arming and disarming. */

void timers_init(struct timers *ts) { ts->next_when = NEVER; }

static struct timers *timers_here(void) {
  struct p *p = getm()->p;
  return p ? &p->timers : &allp[0]->timers;
}

void timer_arm(struct timer *t) {
  struct timers *ts = timers_here();
  int64_t when = t->when;
  gassert(when < NEVER);
  lock_raw(&ts->lock);
  t->in = ts;
  t->child = t->sibling = t->prev = NULL;
  set_heap(ts, join(ts->heap, t));
  bool first = ts->heap == t;
  unlock_raw(&ts->lock);
  if (first)
    watch_call(when);
}

bool timer_disarm(struct timer *t) {
  struct timers *ts = load_acquire(&t->in);
  if (!ts)
    return false;
  lock(&ts->lock);
  bool armed = t->in == ts;
  if (armed)
    take_out(ts, t);
  unlock(&ts->lock);
  return armed;
}

int64_t deadline_in(int64_t ns) {
  int64_t now = nanotime();
  return ns < NEVER - 1 - now ? now + ns : NEVER - 1;
}

/* Firing. */

struct due {
  struct waiter *waiters; /* by link */
  struct timer *calls;    /* by sibling */
};

static void put_waiter(struct waiter *w, struct due *due) {
  if (!waiter_claim(w))
    return;
  w->timed_out = true;
  w->link = due->waiters;
  due->waiters = w;
}

static void put_call(struct timer *t, struct due *due) {
  t->sibling = due->calls;
  due->calls = t;
}

static struct due take_due(struct timers *ts, int64_t now) {
  struct due due = {NULL, NULL};
  lock_raw(&ts->lock);
  while (ts->heap && ts->heap->when <= now) {
    struct timer *t = ts->heap;
    bool calls = t->waiter == NULL;
    if (!calls)
      put_waiter(t->waiter, &due);
    take_out(ts, t); /* after this a timer whose waiter somebody else has claimed may be gone */
    if (calls)
      put_call(t, &due);
  }
  unlock_raw(&ts->lock);
  return due;
}

void timers_run(struct timers *ts) {
  if (!timers_due_in(ts))
    return;
  struct due due = take_due(ts, nanotime());
  waiter_wake_list(due.waiters);
  while (due.calls) {
    struct timer *t = due.calls;
    due.calls = t->sibling;
    t->sibling = NULL; /* or it would keep the others alive */
    t->fire(t);
  }
}

void timers_run_all(void) {
  for (uint32_t i = 0, n = load_acquire(&sched.nallp); i < n; i++)
    timers_run(&allp[i]->timers);
}

int64_t timers_next(void) {
  int64_t next = NEVER;
  for (uint32_t i = 0, n = load_acquire(&sched.nallp); i < n; i++) {
    int64_t when = load_seqcst(&allp[i]->timers.next_when);
    next = when < next ? when : next;
  }
  return next;
}

bool timers_due(void) {
  int64_t when = timers_next();
  return when != NEVER && when <= nanotime();
}

/* All who waited are gone, and timers of the program's are not inherited, as POSIX has it for its
 * own. Those on the heap are found unarmed. */
void timers_after_fork(void) {
  for (uint32_t i = 0; i < sched.nallp; i++) {
    struct timers *ts = &allp[i]->timers;
    ts->lock = (struct mutex){0};
    set_heap(ts, NULL);
  }
}

/* Sleeping. */

void gort_sleep(int64_t ns) {
  CHECK_ATTACHED("gort_sleep");
  if (ns <= 0) {
    safe_point();
    return;
  }
  int64_t until = deadline_in(ns);
  struct waiter w = waiter_self();
  waiter_wait_until(&w, until, NULL, NULL, waitReasonSleep);
}
