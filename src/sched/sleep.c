/* Sleeping: goroutines that wait for a time.
 *
 * They are in one heap, ordered by deadline; the nearest deadline is in next_when too, for those
 * who only look. Whoever looks for work makes ready those whose time has come. When there is no
 * work at all, one of the idle threads becomes the watch: it does not sleep in stopm, but until
 * the nearest deadline.
 *
 * Why no deadline passes unnoticed. Who goes to sleep as the nearest calls the watch, if its
 * deadline is a later one, and if there is no watch, wakep(): then there is a spinning thread or
 * no idle P. A thread that has given up its P and does not spin any more, and found nothing to
 * do, becomes the watch if there is none: it looks at the heap under the lock that the sleeper
 * has put itself in under, after it has lowered nmspinning and raised npidle, so that one of the
 * two sees the other. When all Ps are busy there need not be a watch: each thread comes by
 * findrunnable sooner or later, and sysmon asks them to.
 *
 * The heap is a pairing heap: a node is nearer than all its children, which hang on it as a list;
 * two heaps are joined in one step; taking the first joins its children in pairs. It needs no
 * memory but two words in each struct g. */
#include "sched/sched.h"

#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "gort/goroutine.h"
#include "os/os.h"

static const int64_t NEVER = INT64_MAX;

static struct {
  struct mutex lock;
  struct g *heap;     /* under lock */
  int64_t next_when;  /* of the first; NEVER: there is none; written under lock; atomic */
  struct m *watch;    /* the thread that waits for the nearest deadline; under lock; atomic */
  int64_t watch_when; /* for which one it waits; written under lock; atomic */
} timers = {.next_when = INT64_MAX};

/* The heap. */

static struct g *join(struct g *a, struct g *b) {
  if (!a || !b)
    return a ? a : b;
  if (b->when < a->when) {
    struct g *t = a;
    a = b;
    b = t;
  }
  b->sibling = a->child;
  a->child = b;
  return a;
}

/* Pairs from the left, kept as a stack; then all of them from the right. */
static struct g *join_all(struct g *list) {
  struct g *pairs = NULL, *heap = NULL;
  while (list) {
    struct g *a = list, *b = a->sibling;
    list = b ? b->sibling : NULL;
    a->sibling = NULL;
    if (b)
      b->sibling = NULL;
    a = join(a, b);
    a->sibling = pairs;
    pairs = a;
  }
  while (pairs) {
    struct g *rest = pairs->sibling;
    pairs->sibling = NULL;
    heap = join(heap, pairs);
    pairs = rest;
  }
  return heap;
}

static void set_heap(struct g *heap) {
  timers.heap = heap;
  store_seqcst(&timers.next_when, heap ? heap->when : NEVER);
}

static void heap_push(struct g *g) {
  g->child = g->sibling = NULL;
  set_heap(join(timers.heap, g));
}

static struct g *heap_pop(void) {
  struct g *g = timers.heap;
  set_heap(join_all(g->child));
  g->child = NULL;
  return g;
}

/* For the scheduler. */

int64_t timers_next(void) { return load_seqcst(&timers.next_when); }

bool timers_due(void) {
  int64_t when = timers_next();
  return when != NEVER && when <= nanotime();
}

bool timers_unwatched(void) { return timers_next() != NEVER && !load_relaxed(&timers.watch); }

/* All whose time has come, as a list in the order of their deadlines. */
static struct g *take_due(int64_t now) {
  struct g *first = NULL, **end = &first;
  lock(&timers.lock);
  while (timers.heap && timers.heap->when <= now) {
    *end = heap_pop();
    end = &(*end)->schedlink;
  }
  *end = NULL;
  unlock(&timers.lock);
  return first;
}

void timers_run(void) {
  if (!timers_due())
    return;
  struct g *g = take_due(nanotime());
  while (g) {
    struct g *next = g->schedlink;
    ready(g);
    g = next;
  }
}

/* The watch. */

static bool become_watch(struct m *m) {
  lock(&timers.lock);
  bool free = timers.heap && !timers.watch;
  if (free) {
    store_relaxed(&timers.watch_when, timers.heap->when);
    store_relaxed(&timers.watch, m);
  }
  unlock(&timers.lock);
  return free;
}

/* Who calls the watch does it under the lock: nobody will call it after this, and the note can be
 * cleared. */
static void end_watch(struct m *m) {
  lock(&timers.lock);
  store_relaxed(&timers.watch, NULL);
  noteclear(&m->park);
  unlock(&timers.lock);
}

bool timers_watch(struct m *m) {
  if (!become_watch(m))
    return false;
  int64_t left = load_relaxed(&timers.watch_when) - nanotime();
  wait_in_kernel(m, left > 0 ? left : 0);
  end_watch(m);
  return true;
}

/* Under the lock: a watch that waits for a later deadline has to look again. It is called at most
 * once, for it waits for nothing then. */
static void call_watch(int64_t when) {
  if (!timers.watch || timers.watch_when <= when)
    return;
  store_relaxed(&timers.watch_when, 0);
  notewakeup(&timers.watch->park);
}

/* Sleeping. */

static bool commit_sleep(struct g *g, void *unused) {
  (void)g, (void)unused;
  bool unwatched = !timers.watch;
  call_watch(timers_next());
  unlock(&timers.lock);
  if (unwatched)
    wakep();
  return true;
}

static void sleep_goroutine(int64_t until) {
  struct g *g = getg();
  lock(&timers.lock);
  g->when = until;
  heap_push(g);
  gopark(commit_sleep, NULL, waitReasonSleep);
}

static int64_t deadline(int64_t ns) {
  int64_t now = nanotime();
  return ns < NEVER - 1 - now ? now + ns : NEVER - 1;
}

static void sleep_thread(uintptr_t sp, void *arg) {
  int64_t until = *(int64_t *)arg;
  struct m *m = acquirem();
  enterblocked(m, sp);
  for (int64_t left; (left = until - nanotime()) > 0;)
    os_sleep(left);
  leaveblocked(m);
  releasem(m);
}

void gort_sleep(int64_t ns) {
  CHECK_ATTACHED("gort_sleep");
  if (ns <= 0)
    return;
  int64_t until = deadline(ns);
  if (getg()) {
    sleep_goroutine(until);
  } else {
    wake_after_fork();
    spill_and_call(sleep_thread, &until);
  }
}

/* Of the sleepers, the runtime's goroutines are left, and the caller cannot be one. */
void timers_after_fork(void) {
  timers.lock = (struct mutex){0};
  timers.watch = NULL;
  struct g *all = NULL;
  set_heap(NULL);
  for (struct g *g = load_acquire(&allgs); g; g = g->alllink)
    if (load_relaxed(&g->status) == Gwaiting && g->waitreason == waitReasonSleep && g->system) {
      g->schedlink = all;
      all = g;
    }
  for (; all; all = all->schedlink)
    heap_push(all);
}
