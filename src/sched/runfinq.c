/* The finalizer goroutine, fing: it runs what the sweeper has queued, one after the other.
 *
 * What it works on is not on its stack but here, in `fin`: the blocks that it took from finq, the
 * first of which it empties from its end. The entry of the finalizer that runs stays in its block,
 * where the collector finds function and object, until it has returned; only then it is cleared and
 * the block's cnt goes down. So a finalizer that ends by gort_goexit, or whose thread is gone after
 * a fork, is finished like any other: by the next step of somebody else.
 *
 * After that nothing may keep the object: the frame of its argument is memory without pointers for
 * the collector, the finalizer is called by a function of its own, and what calls have left on the
 * stack below runfinq is wiped.
 *
 * Beginning and finishing an entry happen inside acquirem: when the world is stopped, a finalizer
 * is running if and only if finstats.running_since is set. */
#include <setjmp.h>
#include <string.h>

#include "base/atomic.h"
#include "base/kernel.h"
#include "base/throw.h"
#include "heap/malloc.h"
#include "heap/upcall.h"
#include "sched/sched.h"
#include "special/finq.h"
#include "special/special.h"
#include "type/type.h"

enum { ARGS_SIZE = 2 * PTR_SIZE }; /* room for a gort_any or gort_iface; results follow */

/* fing's alone; another's only while fing cannot run. */
static struct {
  struct finblock *work; /* taken from finq and not done; under finlock where blocks change hands */
  char *frame;           /* arguments and results; on the heap, noscan */
  size_t framecap;
  jmp_buf next; /* where a finalizer that ends by gort_goexit leads */
} fin;

static uint32_t fingcreate; /* 1 once there is to be a fing; atomic */

static void grow_frame(size_t size) {
  fin.frame = mallocgc_or_throw(size, 16, GORT_NOSCAN, NULL, "runfinq");
  fin.framecap = size;
}

static void put_interface(void *args, const struct finalizer *f) {
  gort_any value = {f->ot, f->arg};
  if (type_methods(f->fint)->n == 0)
    *(gort_any *)args = value;
  else
    *(gort_iface *)args = assertE2I(f->fint, value, "runfinq");
}

static void put_argument(void *args, const struct finalizer *f) {
  switch (f->fint->kind) {
  case GORT_KIND_PTR:
    *(void **)args = f->arg;
    break;
  case GORT_KIND_INTERFACE:
    put_interface(args, f);
    break;
  default:
    throw("bad kind in runfinq");
  }
}

static void call_func(const struct finalizer *f) {
  if (fin.framecap < ARGS_SIZE + f->nret)
    grow_frame(ARGS_SIZE + f->nret);
  char *results = fin.frame + ARGS_SIZE;
  memset(results, 0, f->nret);
  put_argument(fin.frame, f);
  f->fn->call(f->fn, fin.frame, f->nret ? results : NULL);
}

static NOINLINE void run_last_entry(void) {
  const struct finalizer *f = &fin.work->fin[fin.work->cnt - 1];
  if (f->fint == NULL)
    throw("missing type in runfinq");
  store_relaxed(&finstats.running_since, nanotime_coarse());
  if (f->fint == &plain_function)
    ((void (*)(void *))(uintptr_t)f->fn)(f->arg);
  else
    call_func(f);
}

/* Cleared before the count, which the collector trusts. Who sees `run` sees what was done. */
static NOINLINE void finish_last_entry(void) {
  struct m *m = acquirem();
  uint32_t i = fin.work->cnt - 1;
  fin.work->fin[i] = (struct finalizer){0};
  store_release(&fin.work->cnt, i);
  store_relaxed(&finstats.running_since, 0);
  store_release(&finstats.run, finstats.run + 1);
  releasem(m);
}

static NOINLINE void put_block_back(void) {
  lock(&finlock);
  struct finblock *b = fin.work;
  fin.work = b->next;
  b->next = finc;
  finc = b;
  unlock(&finlock);
}

/* Takes all there is; parks when that is nothing. */
static NOINLINE void take_queue(void) {
  lock(&finlock);
  fin.work = finq;
  finq = NULL;
  if (fin.work != NULL) {
    store_relaxed(&fingwake, false);
    unlock(&finlock);
    return;
  }
  store_relaxed(&fingwait, true);
  goparkunlock(&finlock, waitReasonFinalizerWait);
}

/* What was called from the caller of this left pointers in its frames. The next calls lie there,
 * and would show them to the collector in what they do not write. Done when a block is through, and
 * before parking: an object that ran amid others may be kept for a moment by the next ones. */
static NOINLINE UNSANITIZED void wipe_stack_below(void) {
  volatile uint64_t dirt[256];
  for (size_t i = 0; i < COUNT_OF(dirt); i++)
    dirt[i] = 0;
}

/* The outermost of what fing has deferred: what the finalizer had has been done before. */
static void finalizer_goexit(struct deferred *d) {
  getg()->deferred = d;
  longjmp(fin.next, 1);
}

static struct deferred goexit = {finalizer_goexit, NULL};

static void runfinq(void *unused) {
  (void)unused;
  store_release(&fing, getg());
  getg()->deferred = &goexit;
  if (_setjmp(fin.next) != 0)
    finish_last_entry();
  for (;;) {
    if (fin.work == NULL) {
      wipe_stack_below();
      take_queue();
    } else if (fin.work->cnt == 0) {
      wipe_stack_below();
      put_block_back();
    } else {
      run_last_entry();
      finish_last_entry();
    }
  }
}

/* Inside acquirem, so that with the world stopped there is either no fing or it is known. */
static void start(void) {
  struct m *m = acquirem();
  store_release(&fing, newproc(runfinq, NULL, 0, true));
  releasem(m);
}

static void createfing(void) {
  if (load_relaxed(&fingcreate) == 0 && cas_seqcst(&fingcreate, 0, 1))
    start();
}

static bool on_fing(void) {
  struct g *g = getg();
  return g != NULL && g == load_acquire(&fing);
}

void fing_init(void) {
  upcalls.createfing = createfing;
  upcalls.on_fing = on_fing;
}

/* For whoever starts the first thread in the child. */
static void make_fing_ready(void) {
  fing = new_g(runfinq, NULL, 0, true);
  lock_raw(&sched.lock);
  globrunqput(fing);
  unlock_raw(&sched.lock);
}

static bool fing_is_gone(void) {
  uint32_t status = load_relaxed(&fing->status);
  return fing != getg() && (status == Grunning || status == Gsyscall);
}

/* Of a fing that ran on another thread nothing is left but its work; the finalizer that it was in
 * counts as run. And who was to make the first may not have come to it. */
void fing_after_fork(void) {
  if (fing == NULL ? !fingcreate : !fing_is_gone())
    return;
  if (finstats.running_since != 0)
    finish_last_entry();
  make_fing_ready();
}
