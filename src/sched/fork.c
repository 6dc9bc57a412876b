/* The scheduler in a child of fork.
 *
 * Only the calling thread is there. If it was on a goroutine, that one lives on; other user
 * goroutines are dead, for half of them were in the middle of something on threads that are gone,
 * and as in any child of fork nothing is known of what they held. The runtime's own goroutines
 * live on where they were parked or ready.
 *
 * The world was stopped for the fork, so goroutines and threads are in a known state; but sysmon
 * does not stop, so lists that it touches may be half written. So all lists are made anew from
 * what cannot be: allp and allgs. No thread is started here: most children do not live long. */
#include "sched/sched.h"

#include "gc/threads.h"
#include "sched/netpoll.h"
#include "sched/sema.h"

/* The thread is gone, and the m will be another's. */
static void reset_m(struct m *m) {
  m->p = m->nextp = NULL;
  m->curg = m->lockedg = m->leaving = m->nextg = NULL;
  m->spinning = false;
  m->frozen = 0;
  noteclear(&m->park);
}

/* m0, if it was another thread, does not exist any more. */
static void reset_threads(struct m *self) {
  for (struct m *m = allm; m; m = m->alllink)
    if (m != self)
      reset_m(m);
  bool runs = self->curg != NULL; /* a thread of the scheduler's */
  sched.lock = (struct mutex){0};
  sched.midle = NULL;
  sched.starting = NULL;
  sched.nm = runs;
  sched.nmidle = 0;
  sched.nmspinning = 0;
  sched.dozer = NULL;
  sched.m0_waits = sched.refused = sched.no_more_threads = sched.checkdead_later = false;
  if (sched.m0 != self)
    sched.m0 = NULL;
}

static void empty_queue(struct p *p) {
  p->runqhead = p->runqtail = 0;
  p->runnext = NULL;
  p->gfree = p->stacks = (struct magazines){NULL, NULL};
  p->ngoroutines = 0;
}

/* All but the caller's become idle. */
static void reset_ps(struct m *self) {
  sched.pidle = NULL;
  sched.npidle = 0;
  sched.runqhead = sched.runqtail = NULL;
  sched.runqsize = 0;
  for (uint32_t i = 0; i < sched.nallp; i++) {
    struct p *p = allp[i];
    empty_queue(p);
    if (p == self->p)
      continue;
    p->m = NULL;
    pidleput(p);
  }
}

/* One of the runtime's own that was running is abandoned as it is: fing_after_fork makes a new one
 * of it. */
static void sort_out(struct g *g, const struct g *caller) {
  if (g == caller)
    return;
  if (!g->system || g->status == Gdead)
    bury_goroutine(g);
  else if (g->status == Grunnable)
    globrunqput(g);
}

void sched_after_fork(void) {
  struct m *self = getm();
  reset_threads(self);
  reset_ps(self);
  sema_after_fork();
  sysmon_after_fork();
  gfree_after_fork();
  timers_after_fork();
  gotimers_after_fork();
  watch_after_fork();
  netpoll_after_fork();
  chan_after_fork();
  sched.ngoroutines = 0;
  for (struct g *g = allgs; g; g = g->alllink)
    sort_out(g, self->curg);
  stackpool_after_fork();
  trim_after_fork();
  if (self->curg && !self->curg->system)
    sched.ngoroutines = 1;
  if (sched.maing != self->curg)
    sched.main_goexit = true;
  fing_after_fork();
}
