/* Doing something once.
 *
 * The word is 0, RUNNING, or DONE; WAITERS marks that somebody waits for the end of the run.
 *
 * When the memory may go: the step to DONE is the last time that the one who ran touches it; if
 * somebody waits, it is taken with the root locked. Those who wait do not look at it again. */
#include "gort/lock.h"
#include "sched/sched.h"
#include "sched/sema.h"

enum { RUNNING = 1, WAITERS = 2, DONE = 4 };

struct run {
  struct deferred end; /* first */
  gort_once *once;
};

static void end_run(struct deferred *d) {
  gort_once *o = ((struct run *)d)->once;
  if (likely(cas_seqcst(&o->state, RUNNING, DONE)))
    return;
  struct semaroot *root = sema_lock(o);
  store_release(&o->state, DONE);
  sema_wake(root, sema_dequeue_all(root, o));
}

/* False when the run has ended. */
static bool mark(gort_once *o) {
  uint32_t s;
  do {
    s = load_acquire(&o->state);
    if (s == DONE)
      return false;
  } while (!cas_seqcst(&o->state, s, s | WAITERS));
  return true;
}

static void wait(gort_once *o) {
  struct semawaiter w = {.w = waiter_self()};
  struct semaroot *root = sema_lock(o);
  if (!mark(o)) {
    sema_unlock(root);
    return;
  }
  sema_queue(root, &w, o);
  sema_wait(root, &w, waitReasonOnce);
}

static NOINLINE void do_slow(gort_once *o, void (*fn)(void *), void *arg) {
  struct run r = {{end_run, NULL}, o};
  if (!fn)
    throw("gort_once_do: fn is nil");
  if (cas_seqcst(&o->state, 0, RUNNING))
    call_deferring(fn, arg, &r.end);
  else
    wait(o);
}

void gort_once_do(gort_once *o, void (*fn)(void *), void *arg) {
  sema_enter("gort_once_do");
  if (unlikely(load_acquire(&o->state) != DONE))
    do_slow(o, fn, arg);
}
