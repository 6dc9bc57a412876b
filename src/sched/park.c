/* Leaving a goroutine's stack and coming back to it: parking, making ready, giving way.
 *
 * A goroutine leaves by mcall(leave): its registers are saved on its stack, and leave(m, g) is
 * called on the thread's g0. Only there the goroutine's fate is sealed (Gwaiting, or into a
 * queue), so that another thread which takes it up at once finds it whole. */
#include "sched/sched.h"

#include "base/random.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "sched/sanitizer.h"
#include "special/finq.h"

/* First thing on a goroutine's stack after a switch; m->locks is 1. The system stack begins below
 * the frames of the scheduler that wait on g0. */
void arrive_on(struct g *g) {
  after_switch(g);
  struct m *m = getm();
  m->systemsp = ALIGN_DOWN(m->g0->sp, (uintptr_t)16);
#ifdef GORT_TORTURE
  ask_preempt(m);
#endif
}

static SWITCHES void leave_stack(struct g *g0, struct g *g) {
  before_switch(g, g0, g->leave == goroutine_end);
  switch_to(&g->sp, g0->sp);
}

/* acquirem is held, once; and it is held when this returns, of another thread perhaps. */
void mcall(void (*leave)(struct m *m, struct g *g)) {
  struct m *m = getm();
  struct g *g = m->curg;
  gassert(m->systemsp != 0); /* not on the system stack */
  g->leave = leave;
  leave_stack(m->g0, g);
  arrive_on(g);
}

/* Main is tied to its first thread until it parks, so that it can still tie itself to it. */
static void untie_main(struct m *m, struct g *g) {
  if (likely(g->lockedm == NULL) || g->locked > 0)
    return;
  g->lockedm = NULL;
  m->lockedg = NULL;
}

/* Parking. */

/* The goroutine may run again elsewhere as soon as commit has released what guards it. */
static void park_commit(struct m *m, struct g *g) {
  (void)m;
  bool (*commit)(struct g *, void *) = g->commit;
  store_release(&g->status, Gwaiting);
  if (!commit || commit(g, g->commit_arg))
    return;
  store_relaxed(&g->status, Grunnable);
  lock_raw(&sched.lock);
  globrunqput(g);
  unlock_raw(&sched.lock);
}

static void park(struct g *g, bool (*commit)(struct g *g, void *arg), void *arg,
                 enum waitreason why) {
  g->commit = commit;
  g->commit_arg = arg;
  g->waitreason = (uint8_t)why;
  mcall(park_commit);
}

void gopark(bool (*commit)(struct g *g, void *arg), void *arg, enum waitreason why) {
  struct m *m = acquirem();
  untie_main(m, m->curg);
  park(m->curg, commit, arg, why);
  releasem(getm());
}

/* unlock() gives back the acquirem of lock(), on g0 of the same thread. */
static bool commit_unlock(struct g *g, void *l) {
  (void)g;
  unlock(l);
  return true;
}

void goparkunlock(struct mutex *l, enum waitreason why) { gopark(commit_unlock, l, why); }

void ready(struct g *g) {
  struct m *m = acquirem();
  if (load_acquire(&g->status) != Gwaiting)
    throw("ready: goroutine %llu is not parked", (unsigned long long)g->goid);
  store_relaxed(&g->status, Grunnable);
  if (m->p) {
    runqput(m->p, g, true);
  } else {
    lock_raw(&sched.lock);
    globrunqput(g);
    unlock_raw(&sched.lock);
  }
  wakep();
  releasem(m);
}

/* Giving way. */

/* Behind all others: to the global queue. */
static void yield_commit(struct m *m, struct g *g) {
  (void)m;
  store_relaxed(&g->status, Grunnable);
  lock_raw(&sched.lock);
  globrunqput(g);
  unlock_raw(&sched.lock);
}

/* acquirem is held. */
static void give_way(void) {
  mcall(yield_commit);
  releasem(getm());
}

void goyield(void) {
  struct m *m = acquirem();
  untie_main(m, m->curg);
  give_way();
}

void park_halted(void) { gopark(NULL, NULL, waitReasonHalted); }

#ifdef GORT_TORTURE
/* One in eight safe points, whether anybody waits or not; and the next one is asked to come by. */
static bool should_yield(struct m *m) {
  ask_preempt(m);
  return m->p && random_below(&m->random, 8) == 0;
}
#else
/* Others wait for this P: in its own ring or for anybody. */
static bool should_yield(const struct m *m) {
  if (!m->p)
    return false;
  if (!runqempty(m->p) || load_relaxed(&sched.runqsize) != 0 || p_is_retired(m->p))
    return true;
  return timers_due() || (load_relaxed(&fingwait) && load_relaxed(&fingwake));
}
#endif

/* Upcall: the calling thread was asked to give way, and holds no locks. */
void safepoint(struct m *m) {
  struct g *g = m->curg;
  if (!g || m->systemsp == 0)
    return;
  if (halted(g))
    park_halted();
  if (should_yield(m)) {
    acquirem();
    give_way();
  }
}
