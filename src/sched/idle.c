/* Ps and threads that have nothing to do: who holds which P, who sleeps, who is woken.
 *
 * A P is held by one thread at a time (p->m, m->p), or it is on sched.pidle, or its thread is
 * blocked and may come back for it (Psyscall), or it is on the way to a thread: in m->nextp of
 * one that is being woken, or in sched.starting, for which a thread has to be made. A P beyond
 * gort_max_procs() is retired by whoever would put it on the idle list.
 *
 * Threads are never made here, but by sysmon's thread. pthread_create takes locks of the C
 * library, which a thread that stands still for the collector may hold; who waits for these
 * inside acquirem would never stand still itself. sysmon's thread is not attached, so nobody
 * waits for it. What that costs is a few microseconds each time that the number of threads grows.
 *
 * A deadlock is found when the last thread goes to sleep: see checkdead. */
#include "sched/runq.h"

#include "base/kernel.h"
#include "base/random.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "heap/malloc.h"
#include "os/os.h"
#include "sched/sanitizer.h"
#include "special/finq.h"

#include <string.h>

/* Ps. */

static struct p *new_p(uint32_t id) {
  struct p *p = persistentalloc(sizeof *p, CACHE_LINE);
  p->id = id;
  p->status = Pdead;
  timers_init(&p->timers);
  return p;
}

static void note_only_p(void) {
  bool only = sched.gomaxprocs == 1;
  for (uint32_t i = 1; i < sched.nallp; i++)
    only &= load_relaxed(&allp[i]->status) == Pdead;
  store_relaxed(&sched.only_p, only);
}

/* What is left in its queue goes to the others. */
static void retire(struct p *p) {
  runq_to_global(p);
  store_relaxed(&p->status, Pdead);
  note_only_p();
}

void pidleput(struct p *p) {
  if (p_is_retired(p)) {
    retire(p);
    return;
  }
  store_relaxed(&p->status, Pidle);
  p->link = sched.pidle;
  sched.pidle = p;
  add_seqcst(&sched.npidle, 1);
}

/* While all Ps are idle sysmon sleeps. */
struct p *pidleget(void) {
  struct p *p = sched.pidle;
  if (!p)
    return NULL;
  sched.pidle = p->link;
  add_seqcst(&sched.npidle, -1u);
  if (sched.sysmon_waits)
    sysmon_call();
  return p;
}

void acquirep(struct m *m, struct p *p) {
  gassert(m->p == NULL);
  m->p = p;
  store_relaxed(&p->m, m);
  store_relaxed(&p->status, Prunning);
}

struct p *releasep(struct m *m) {
  struct p *p = m->p;
  m->p = NULL;
  store_relaxed(&p->m, NULL);
  return p;
}

/* Threads. */

/* Sleeps in the kernel until m->park is set, for at most ns nanoseconds. The collector does not
 * wait for this thread meanwhile, and it does not come back while the world is stopped. */
void wait_in_kernel(struct m *m, int64_t ns) {
  enterblocked(m, (uintptr_t)__builtin_frame_address(0));
  notesleep(&m->park, ns);
  leaveblocked(m);
}

void stopm(struct m *m) {
  gassert(!m->spinning && !m->p);
  lock_raw(&sched.lock);
  m->schedlink = sched.midle;
  sched.midle = m;
  sched.nmidle++;
  checkdead();
  unlock_raw(&sched.lock);
  wait_in_kernel(m, -1);
  noteclear(&m->park);
  struct p *p = m->nextp;
  m->nextp = NULL;
  acquirep(m, p);
}

/* Under sched.lock. */
static struct m *mget(void) {
  struct m *m = sched.midle;
  if (m) {
    sched.midle = m->schedlink;
    sched.nmidle--;
  }
  return m;
}

/* Under sched.lock: a new thread for p, or m0 where that is the only one there will be. */
static void newm(struct p *p, bool spinning) {
  p->start_spinning = spinning;
  p->link = sched.starting;
  sched.starting = p;
  sched.nm++;
  sysmon_call();
}

/* The caller has raised nmspinning for a thread that will not come. Under sched.lock, so that it
 * is lowered before the next P becomes idle: who makes work after that wakes somebody. */
static void undo_spinning(bool spinning) {
  if (spinning)
    add_seqcst(&sched.nmspinning, -1u);
}

/* Gets a thread to run p, or an idle P when p is NULL. `spinning`: it is already counted. */
void startm(struct p *p, bool spinning) {
  lock_raw(&sched.lock);
  if (!p)
    p = pidleget();
  struct m *m = p ? mget() : NULL;
  if (!p) {
    undo_spinning(spinning);
  } else if (!m && sched.no_more_threads) {
    undo_spinning(spinning);
    pidleput(p);
  } else if (!m) {
    newm(p, spinning);
  }
  unlock_raw(&sched.lock);
  if (!m)
    return;
  m->spinning = spinning;
  m->nextp = p;
  notewakeup(&m->park);
}

/* There is new work: see the top of proc.c. */
static void wake_dozer(void) {
  struct m *m = load_relaxed(&sched.dozer);
  if (m && cas_seqcst(&sched.dozer, m, NULL))
    notewakeup(&m->park);
}

/* An exchange is no full barrier on aarch64, so these loads cannot be relaxed. */
void wakep_put(bool waits) {
  if (waits && unlikely(load_seqcst(&sched.dozer) != NULL))
    wake_dozer();
  if (load_seqcst(&sched.npidle) == 0 || load_seqcst(&sched.nmspinning) != 0)
    return;
  if (cas_seqcst(&sched.nmspinning, 0, 1))
    startm(NULL, true);
}

void wakep(void) {
  full_fence();
  wakep_put(true);
}

/* The thread that had p is blocked or gone: p goes to another if there is anything for it, else
 * it becomes idle. Then all places are looked at, as at the top of proc.c. */
void handoffp(struct p *p) {
  if (!p_is_retired(p) && (!runqempty(p) || load_relaxed(&sched.runqsize) != 0)) {
    startm(p, false);
    return;
  }
  lock_raw(&sched.lock);
  pidleput(p);
  unlock_raw(&sched.lock);
  if (work_waits() || unwatched())
    wakep();
}

/* Making threads: on sysmon's. */

void m_begin(struct m *m) {
  if (!m->g0)
    m->g0 = persistentalloc(sizeof *m->g0, CACHE_LINE);
  m->g0->status = Gidle;
  m->g0->stack = m->hoststack;
  m->stack = (struct stack){0, 0};
  m->systemsp = 0;
  sanitize_thread(m->g0);
}

/* Its goroutine ended while it was locked to the thread, which ends with it. */
static void m_end(struct m *m) {
  handoffp(releasep(m));
  lock_raw(&sched.lock);
  sched.nm--;
  checkdead();
  unlock_raw(&sched.lock);
  releasem(m);
  thread_detach();
}

static uint64_t program_mask[16]; /* what was blocked when the runtime started; constant */

/* A goroutine's code finds the signals of the program, as on a thread that was started first of
 * all: it may raise one, or start a program, which inherits the mask. The kernel still gives what
 * is meant for the process to the main thread, unless that blocks it. */
static void take_signals(void) {
  os_restore_signals(program_mask);
  os_unblock_signal(stop_signal);
}

static void m_main(void *arg) {
  struct p *p = arg;
  struct m *m = thread_attach(true);
  take_signals();
  acquirem();
  m_begin(m);
  m->spinning = p->start_spinning;
  m->spin_until = 0;
  acquirep(m, p);
  schedule_loop(m);
  m_end(m);
}

static struct p *next_starting(void) {
  lock_raw(&sched.lock);
  struct p *p = sched.starting;
  if (p)
    sched.starting = p->link;
  unlock_raw(&sched.lock);
  return p;
}

/* The system has no thread for p. Others will look for work when they have time, and sysmon tries
 * again. If there is only m0, and it waits, it has to run everything from now on. */
static void refused(struct p *p, int err) {
  lock_raw(&sched.lock);
  int others = --sched.nm;
  undo_spinning(p->start_spinning);
  if (others == 0)
    throw("cannot start a thread: %s (%d)", strerror(err), err);
  store_relaxed(&sched.refused, true);
  if (others == 1 && sched.m0_waits) {
    store_relaxed(&sched.no_more_threads, true);
    sched.m0->nextp = p;
    m0_wake();
  } else {
    pidleput(p);
  }
  unlock_raw(&sched.lock);
}

void start_threads(void) {
  struct p *p;
  while ((p = next_starting()) != NULL) {
    int err = os_thread_start(m_main, p, 0, stop_signal, "gort");
    if (err != 0)
      refused(p, err);
  }
}

/* How many Ps. */

static void make_ps(uint32_t n) {
  for (uint32_t i = sched.nallp; i < n; i++)
    allp[i] = new_p(i);
  if (n > sched.nallp)
    store_release(&sched.nallp, n);
}

/* Those that are idle and have become too many are retired now, those in use when their threads
 * next look for work, which they are asked to do soon. */
static void retire_idle(void) {
  struct p *all = sched.pidle;
  sched.pidle = NULL;
  store_seqcst(&sched.npidle, 0);
  for (struct p *p = all, *next; p; p = next) {
    next = p->link;
    pidleput(p);
  }
}

static void adjust_ps(uint32_t n) {
  make_ps(n);
  store_relaxed(&sched.gomaxprocs, n);
  retire_idle();
  for (uint32_t i = 0; i < sched.nallp; i++) {
    struct m *m = load_relaxed(&allp[i]->m);
    if (i < n && load_relaxed(&allp[i]->status) == Pdead)
      pidleput(allp[i]);
    else if (i >= n && m)
      ask_preempt(m);
  }
  note_only_p();
}

static uint32_t in_range(int n) {
  return n < 1 ? 1 : n > MAX_PROCS ? (uint32_t)MAX_PROCS : (uint32_t)n;
}

static void set_max_procs_stopped(void *n) {
  stoptheworld("gort_max_procs");
  lock_raw(&sched.lock);
  adjust_ps(in_range(*(int *)n));
  unlock_raw(&sched.lock);
  starttheworld();
}

int set_max_procs(int n) {
  int old = (int)load_relaxed(&sched.gomaxprocs);
  if (n < 1)
    return old;
  systemstack(set_max_procs_stopped, &n);
  if (work_waits()) {
    struct m *m = acquirem();
    wakep();
    releasem(m);
  }
  return old;
}

void idle_init(int procs) {
  os_blocked_signals(program_mask);
  adjust_ps(in_range(procs));
}

/* Deadlock. */

static bool queues_empty(void) {
  for (uint32_t i = 0; i < sched.nallp; i++)
    if (!runqempty(allp[i]))
      return false;
  return sched.runqsize == 0;
}

/* Whether there are threads that the runtime has not started, other than m0: one that is not
 * attached may still become so. The thread sanitizer has one of its own. */
static bool foreign_threads(void) {
#ifdef GORT_TSAN
  int known = 1;
#else
  int known = 0;
#endif
  return threads_foreign() > 0 || os_num_other_threads() > known + (sched.m0 != NULL);
}

/* Whether something can still come from outside: from a thread that is not the runtime's, from
 * the sweeper, which may queue finalizers, or from time. */
static bool help_may_come(void) {
  return foreign_threads() || !sweep_is_done() || timers_next() != NEVER ||
         (load_relaxed(&fingwait) && load_relaxed(&fingwake));
}

/* Called under sched.lock whenever a thread goes to sleep or ends: when all sleep, only what they
 * wait for could wake them, and that is each other. A thread that watches the deadlines, runs a
 * goroutine or is blocked in one is not asleep; the watch is sent to sleep when there is nothing to
 * watch for any more. While help may come, sysmon looks again now and then. */
void checkdead(void) {
  sched.checkdead_later = false;
  if (!sched.maing || load_relaxed(&sched.main_done))
    return;
  if (sched.nmidle == sched.nm - 1)
    watch_dismiss();
  if (sched.nmidle < sched.nm || sched.starting || !queues_empty())
    return;
  if (help_may_come()) {
    sched.checkdead_later = true;
    if (sched.sysmon_waits)
      sysmon_call();
    return;
  }
  if (sched.main_goexit && num_goroutines() == 0)
    throw("no goroutines (main called gort_goexit) - deadlock!");
  throw("all goroutines are asleep - deadlock!");
}
