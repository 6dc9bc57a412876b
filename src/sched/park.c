/* Leaving a goroutine's stack and coming back to it: parking, making ready, giving way.
 *
 * A goroutine leaves by mcall(leave): its registers are saved on its stack, the thread goes on with
 * what is next, and there, first of all, leave(m, g) is called. Only then the goroutine's fate is
 * sealed (Gwaiting, or into a queue), so that another thread which takes it up at once finds it
 * whole. What is next is a goroutine out of the P's own queue, to which the thread switches
 * directly; or, if there is none or something else has to be looked at first, the scheduler on g0.
 *
 * So leave runs on the stack of somebody else, inside acquirem, and must content itself with little
 * of it. */
#include "sched/leave.h"

#include "base/random.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "sched/runq.h"
#include "sched/sanitizer.h"
#include "special/finq.h"

/* First thing on a goroutine's stack after a switch; m->locks is 1. */
void arrive_on(struct g *g) {
  after_switch(g);
  struct m *m = getm();
  if (m->leaving)
    finish_leaving(m);
  else
    m->systemsp = ALIGN_DOWN(m->g0->sp, (uintptr_t)16); /* below the scheduler's frames */
#ifdef GORT_TORTURE
  ask_preempt(m);
#endif
}

static bool fing_is_wanted(void) { return load_relaxed(&fingwait) && load_relaxed(&fingwake); }

/* What comes before the goroutines of this P. */
static bool look_around(const struct p *p) {
  return p_is_retired(p) || (p->schedtick % GLOBAL_EVERY == 0 && load_relaxed(&sched.runqsize)) ||
         fing_is_wanted() || timers_due_in(&p->timers);
}

/* The goroutine to switch to directly; NULL: the scheduler has to say. m0 runs the main goroutine
 * alone, and a thread that is locked its own. */
static struct g *next_here(struct m *m, const struct g *g) {
  bool inherit;
  if (g->lockedm || m == load_relaxed(&sched.m0) || look_around(m->p))
    return NULL;
  struct g *next = runqget(m->p, &inherit);
  if (!next)
    return NULL;
  if (unlikely(next->lockedm || halted(next))) {
    m->nextg = next;
    return NULL;
  }
  become(m, next, inherit);
  return next;
}

static SWITCHES void leave_stack(struct g *g, struct g *to) {
  before_switch(g, to, g->leave == goroutine_end);
  switch_to(&g->sp, to->sp);
}

/* Leaves for next, or, if that is NULL, for the scheduler. */
static inline void leave_for(struct m *m, struct g *g, struct g *next,
                             void (*leave)(struct m *m, struct g *g)) {
  gassert(m->systemsp != 0); /* not on the system stack */
  g->leave = leave;
  m->leaving = g;
  leave_stack(g, next ? next : m->g0);
  arrive_on(g);
}

/* acquirem is held, once; and it is held when this returns, of another thread perhaps. */
void mcall(void (*leave)(struct m *m, struct g *g)) {
  struct m *m = getm();
  struct g *g = m->curg;
  leave_for(m, g, next_here(m, g), leave);
}

/* The same where the thread has no P. */
void mcall_g0(void (*leave)(struct m *m, struct g *g)) {
  struct m *m = getm();
  leave_for(m, m->curg, NULL, leave);
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
  void (*commit)(void *) = g->commit;
  set_status(g, Gwaiting);
  if (commit)
    commit(g->commit_arg);
}

/* acquirem is held, once, and when this returns. */
static void park(struct m *m, void (*commit)(void *arg), void *arg, enum waitreason why) {
  struct g *g = m->curg;
  untie_main(m, g);
  g->commit = commit;
  g->commit_arg = arg;
  g->waitreason = (uint8_t)why;
  store_relaxed(&g->waitsince, load_relaxed(&sched.clock));
  mcall(park_commit);
}

void gopark(void (*commit)(void *arg), void *arg, enum waitreason why) {
  park(acquirem(), commit, arg, why);
  releasem(getm());
}

/* unlock() gives back the acquirem of lock(), on the same thread. */
static void commit_unlock(void *l) { unlock(l); }

void goparkunlock(struct mutex *l, enum waitreason why) { gopark(commit_unlock, l, why); }

void ready(struct g *g) {
  struct m *m = acquirem();
  if (load_acquire(&g->status) != Gwaiting)
    throw("ready: goroutine %llu is not parked", (unsigned long long)g->goid);
  set_status(g, Grunnable);
  runqput_here(m, g);
  releasem(m);
}

/* Giving way. */

static void yield_commit(struct m *m, struct g *g) {
  set_status(g, Grunnable);
  runqput(m->p, g, false);
}

/* Behind all others, of other Ps too: to the global queue. */
static void preempt_commit(struct m *m, struct g *g) {
  (void)m;
  set_status(g, Grunnable);
  lock_raw(&sched.lock);
  globrunqput(g);
  unlock_raw(&sched.lock);
}

/* Others wait for this P, though not in its queue. */
static bool others_want(const struct m *m) {
  return load_relaxed(&sched.runqsize) != 0 || p_is_retired(m->p) || fing_is_wanted() ||
         timers_due_in(&m->p->timers);
}

/* Nobody is in the queue, or the scheduler has to look. */
static NOINLINE void goyield_slow(struct m *m, struct g *g) {
  untie_main(m, g);
  if (m->nextg || m == load_relaxed(&sched.m0) || !runqempty(m->p) || others_want(m))
    leave_for(m, g, NULL, yield_commit);
}

void goyield(void) {
  struct m *m = acquirem();
  struct g *g = m->curg;
  struct g *next = next_here(m, g);
  if (likely(next != NULL))
    leave_for(m, g, next, yield_commit);
  else
    goyield_slow(m, g);
  releasem(getm());
}

/* One that is tied to its thread goes on: that would be a detour by other threads. */
void yield_to_next(void) {
  struct m *m = acquirem();
  struct g *g = m->curg;
  if (g && !g->lockedm && load_relaxed(&m->p->runnext))
    mcall(yield_commit);
  releasem(getm());
}

void park_halted(void) { gopark(NULL, NULL, waitReasonHalted); }

#ifdef GORT_TORTURE
/* One in eight safe points, whether anybody waits or not; and the next one is asked to come by. */
static bool should_yield(struct m *m) {
  ask_preempt(m);
  return m->p && random_below(&m->random, 8) == 0;
}
#else
static bool should_yield(const struct m *m) { return m->p && (!runqempty(m->p) || others_want(m)); }
#endif

/* Upcall: the calling thread was asked to give way. acquirem is held, and nothing else. */
bool safepoint(struct m *m) {
  struct g *g = m->curg;
  if (!g || m->systemsp == 0)
    return false;
  if (halted(g)) {
    park(m, NULL, NULL, waitReasonHalted);
    m = getm();
  }
  if (!should_yield(m))
    return false;
  mcall(preempt_commit);
  return true;
}
