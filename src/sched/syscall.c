/* Threads that block, and goroutines that are tied to a thread.
 *
 * Between gort_block_enter and gort_block_exit a goroutine is Gsyscall and its thread has no P. The
 * P stays Psyscall for a while and remembers nobody: the thread remembers it (m->nextp), and
 * takes it back by compare and swap when it returns soon. If it does not, sysmon takes the P by
 * compare and swap, and hands it to another thread.
 *
 * A locked goroutine runs on no other thread than its own (g->lockedm), and that thread runs
 * nothing else (m->lockedg). When it parks, its thread gives its P away and sleeps; who finds the
 * goroutine in a queue hands its own P to that thread. Where the system has no other thread to
 * give, m0 does not sleep: it runs everything, its locked goroutine as one of them. */
#include "sched/runq.h"

#include "base/throw.h"

/* Blocking. */

/* Upcall: the thread is about to block. Others that wait here should not wait for sysmon's next
 * look, which may be far when it has seen nothing to do for a while. */
void entersyscall(struct m *m) {
  struct g *g = m->curg;
  if (!g || !m->p)
    return;
  struct p *p = releasep(m);
  bool others = !runqempty(p);
  store_relaxed(&g->waitsince, load_relaxed(&sched.clock));
  set_status(g, Gsyscall);
  m->nextp = p;
  store_relaxed(&p->syscalltick, p->syscalltick + 1);
  store_seqcst(&p->status, Psyscall);
  if (others)
    sysmon_hurry();
}

/* The P it had, if it is still there; else any that is idle. */
static bool p_for_return(struct m *m) {
  struct p *p = m->nextp;
  m->nextp = NULL;
  if (cas_seqcst(&p->status, Psyscall, Prunning)) {
    acquirep(m, p);
    return true;
  }
  if (load_relaxed(&sched.npidle) == 0)
    return false;
  lock_raw(&sched.lock);
  p = pidleget();
  unlock_raw(&sched.lock);
  if (p)
    acquirep(m, p);
  return p != NULL;
}

/* No P is left: the goroutine waits in the global queue for one. */
static void return_commit(struct m *m, struct g *g) {
  (void)m;
  set_status(g, Grunnable);
  lock_raw(&sched.lock);
  globrunqput(g);
  unlock_raw(&sched.lock);
  wakep();
}

/* Upcall: the thread is back, and holds no locks. */
void exitsyscall(struct m *m) {
  struct g *g = m->curg;
  if (!g || load_relaxed(&g->status) != Gsyscall)
    return;
  acquirem();
  if (p_for_return(m)) {
    set_status(g, Grunning);
    releasem(m);
  } else {
    mcall_g0(return_commit);
    releasem(getm());
  }
  if (halted(g))
    park_halted();
}

/* Locked goroutines. */

static bool runs_everything(const struct m *m) {
  return m == load_relaxed(&sched.m0) && load_relaxed(&sched.no_more_threads);
}

/* The locked thread's goroutine does not run: sleeps until somebody brings a P for it, or, false,
 * for whatever there is to do. In a child of fork this may be the first time that another thread is
 * needed. */
bool stoplockedm(struct m *m) {
  sysmon_ensure();
  if (runs_everything(m))
    return false;
  if (m->p)
    handoffp(releasep(m));
  lock_raw(&sched.lock);
  sched.nmidle++;
  if (m == sched.m0)
    sched.m0_waits = m->nextp == NULL; /* startlockedm may have come first */
  checkdead();
  unlock_raw(&sched.lock);
  wait_in_kernel(m, -1);
  noteclear(&m->park);
  struct p *p = m->nextp;
  m->nextp = NULL;
  acquirep(m, p);
  return !runs_everything(m);
}

/* g, taken from a queue, is locked to another thread, which sleeps or is about to: it gets our P.
 */
void startlockedm(struct m *m, struct g *g) {
  struct m *to = g->lockedm;
  lock_raw(&sched.lock);
  sched.nmidle--;
  if (to == sched.m0)
    sched.m0_waits = false;
  to->nextp = releasep(m);
  unlock_raw(&sched.lock);
  notewakeup(&to->park);
  stopm(m);
}
