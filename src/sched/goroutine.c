/* Making and ending goroutines, and the public functions on them.
 *
 * A dead goroutine stays in allgs for good and is used anew; a few are with each P, more in a
 * common list. It has no stack: one of the default size goes to the pool. A new goroutine gets its
 * stack when it first runs. Until then its function and argument are roots, after that its stack
 * is. */
#include "sched/sched.h"

#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "gort/goroutine.h"
#include "heap/malloc.h"
#include "heap/upcall.h"
#include "os/os.h"
#include "sched/sanitizer.h"

#include <stdlib.h>

enum { GOIDS = 16 };

struct g *allgs;

static struct depot gfree; /* dead goroutines */

/* p may be NULL. */
static void gfput(struct p *p, struct g *g) {
  if (p)
    magazine_put(&p->gfree, &gfree, g);
  else
    depot_put(&gfree, g);
}

static struct g *gfget(struct p *p) {
  if (!p)
    return depot_get(&gfree);
  struct g *g = magazine_get(&p->gfree, &gfree);
  prefetch_g(magazine_next(&p->gfree));
  return g;
}

static struct g *make_g(void) {
  struct g *g = persistentalloc(sizeof *g, CACHE_LINE);
  g->status = Gdead;
  g->alllink = load_relaxed(&allgs);
  while (!__atomic_compare_exchange_n(&allgs, &g->alllink, g, false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_RELAXED))
    continue;
  return g;
}

/* Beginning. */

/* The lowest frame of every goroutine. From here on fn and arg are the goroutine's own: what it
 * drops is garbage. */
static void goroutine_main(void *self) {
  struct g *g = self;
  arrive_on(g);
  void (*fn)(void *) = g->fn;
  void *arg = g->arg;
  g->begun = true;
  g->fn = NULL;
  g->arg = NULL;
  releasem(getm());
  fn(arg);
  end_goroutine();
}

void prepare_stack(struct m *m, struct g *g) {
  if (g->stack.hi == 0)
    stack_take(m->p, g);
  g->sp = stack_prepare(g->stack.hi, goroutine_main, g);
}

/* Each P takes some ids at a time. */
static uint64_t new_goid(struct p *p) {
  if (!p)
    return add_relaxed(&sched.goidgen, 1);
  if (p->goid == p->goidend) {
    p->goidend = add_relaxed(&sched.goidgen, GOIDS);
    p->goid = p->goidend - GOIDS;
  }
  return ++p->goid;
}

void count_goroutine(struct m *m, int n) {
  if (m->p)
    store_relaxed(&m->p->ngoroutines, m->p->ngoroutines + n);
  else
    add_relaxed(&sched.ngoroutines, n);
}

int num_goroutines(void) {
  int n = load_relaxed(&sched.ngoroutines);
  for (uint32_t i = 0, nallp = load_acquire(&sched.nallp); i < nallp; i++)
    n += load_relaxed(&allp[i]->ngoroutines);
  return n;
}

/* Not in any queue yet. */
struct g *new_g(void (*fn)(void *), void *arg, size_t stack_size, bool system) {
  struct m *m = acquirem();
  struct g *g = gfget(m->p);
  if (!g)
    g = make_g();
  if (stack_size != 0 && stack_size != DEFAULT_STACK)
    stack_alloc(g, stack_size);
  sanitize_new(g);
  g->goid = new_goid(m->p);
  g->system = system;
  g->begun = false;
  g->fn = fn;
  g->arg = arg;
  set_status(g, Grunnable);
  if (!system)
    count_goroutine(m, 1);
  releasem(m);
  return g;
}

struct g *newproc(void (*fn)(void *), void *arg, size_t stack_size, bool system) {
  sysmon_ensure();
  struct g *g = new_g(fn, arg, stack_size, system);
  struct m *m = acquirem();
  runqput_here(m, g);
  releasem(m);
  return g;
}

/* Ending. */

static void drop_stack(struct p *p, struct g *g) {
  if (g->slot)
    stack_give(p, g);
  else if (g->stack.hi != 0)
    stack_unmap(g);
}

/* It has left its stack. */
void goroutine_end(struct m *m, struct g *g) {
  bool locked = g->locked > 0;
  if (!g->system)
    count_goroutine(m, -1);
  if (g->lockedm)
    m->lockedg = NULL;
  g->lockedm = NULL;
  g->locked = 0;
  set_status(g, Gdead);
  sanitize_end(g);
  drop_stack(m->p, g);
  gfput(m->p, g);
  if (locked)
    m->g0->status = Gdead;
}

/* free() takes locks, so it must be done before acquirem. */
void end_goroutine(void) {
  struct g *g = getg();
  free(g->last_error);
  g->last_error = NULL;
  if (g == load_relaxed(&sched.maing))
    main_goexit();
  acquirem();
  mcall(goroutine_end);
  __builtin_unreachable();
}

/* A thread has no gort_goexit. */
void call_deferring(void (*fn)(void *), void *arg, struct deferred *d) {
  struct g *g = getg();
  if (g) {
    d->outer = g->deferred;
    g->deferred = d;
  }
  fn(arg);
  if (g)
    g->deferred = d->outer;
  d->fn(d);
}

static void run_deferred(struct g *g) {
  struct deferred *d;
  while ((d = g->deferred) != NULL) {
    g->deferred = d->outer;
    d->fn(d);
  }
}

void gfree_after_fork(void) { gfree = (struct depot){0}; }

/* Its slot is free again when all have been buried: stackpool_after_fork. */
void bury_goroutine(struct g *g) {
  g->lockedm = NULL;
  g->locked = 0;
  g->deferred = NULL;
  g->last_error = NULL;
  g->status = Gdead;
  if (g->slot)
    stack_give(NULL, g);
  else if (g->stack.hi != 0)
    stack_unmap(g);
  gfput(NULL, g);
}

/* For the collector. */

/* The world is stopped: goroutines that run are scanned with their threads. */
static void scan_goroutines(void (*scan)(uintptr_t lo, uintptr_t hi)) {
  for (struct g *g = load_acquire(&allgs); g; g = g->alllink) {
    uint32_t status = load_relaxed(&g->status);
    if (status != Grunnable && status != Gwaiting)
      continue;
    if (g->begun)
      scan(g->sp, g->stack.hi);
    else
      scan((uintptr_t)&g->fn, (uintptr_t)(&g->arg + 1));
  }
}
_Static_assert(offsetof(struct g, arg) == offsetof(struct g, fn) + PTR_SIZE, "scanned as one");

static char **last_error(void) {
  struct g *g = getg();
  return g ? &g->last_error : NULL;
}

/* Finalizers have been queued. Without a spinning thread nobody might look for a long time. */
static void wake_finalizers(void) {
  sysmon_ensure();
  struct m *m = acquirem();
  wakep();
  releasem(m);
}

void sched_init(int procs) {
  sched.goidgen = 1;
  idle_init(procs);
  stack_init();
  trim_init();
  throw_traceback = traceback_all;
  upcalls.safepoint = safepoint;
  upcalls.scan_goroutines = scan_goroutines;
  upcalls.entersyscall = entersyscall;
  upcalls.exitsyscall = exitsyscall;
  upcalls.wake_finalizers = wake_finalizers;
  upcalls.last_error = last_error;
  fing_init();
}

/* The public functions. */

void gort_go_stack(void (*fn)(void *), void *arg, size_t stack_size) {
  CHECK_ATTACHED("gort_go_stack");
  if (!fn)
    throw("gort_go_stack: fn is nil");
  newproc(fn, arg, stack_size, false);
}

void gort_go(void (*fn)(void *), void *arg) {
  CHECK_ATTACHED("gort_go");
  if (!fn)
    throw("gort_go: fn is nil");
  newproc(fn, arg, 0, false);
}

void gort_yield(void) {
  if (likely(getg() != NULL)) {
    goyield();
    return;
  }
  CHECK_ATTACHED("gort_yield");
  wake_after_fork();
  osyield();
}

void gort_goexit(void) {
  CHECK_ATTACHED("gort_goexit");
  struct g *g = getg();
  if (!g)
    throw("gort_goexit: not on a goroutine");
  run_deferred(g);
  end_goroutine();
}

uint64_t gort_id(void) {
  CHECK_ATTACHED("gort_id");
  struct g *g = getg();
  return g ? g->goid : 0;
}

int gort_num_goroutines(void) {
  CHECK_ATTACHED("gort_num_goroutines");
  safe_point();
  return num_goroutines();
}

int gort_max_procs(int n) {
  CHECK_ATTACHED("gort_max_procs");
  safe_point();
  return set_max_procs(n);
}

int64_t gort_nanotime(void) { return nanotime(); }

void gort_lock_thread(void) {
  CHECK_ATTACHED("gort_lock_thread");
  struct m *m = acquirem();
  struct g *g = m->curg;
  if (g && g->locked++ == 0) {
    g->lockedm = m;
    m->lockedg = g;
  }
  releasem(m);
}

void gort_unlock_thread(void) {
  CHECK_ATTACHED("gort_unlock_thread");
  struct m *m = acquirem();
  struct g *g = m->curg;
  if (g && g->locked > 0 && --g->locked == 0) {
    g->lockedm = NULL;
    m->lockedg = NULL;
  }
  releasem(m);
}
