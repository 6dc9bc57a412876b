/* sysmon: the thread that watches the others.
 *
 * It holds no P, runs no goroutine and is not attached, so it goes on whatever the others do, the
 * world's stop included. It
 *
 *   - starts the threads that the scheduler asks for (see idle.c);
 *   - asks a thread that has run one time slice for 10 ms to give way;
 *   - takes the P of a thread that is blocked, if others could use it, or after 10 ms;
 *   - sees to it that a deadline does not pass while nobody waits for it, nor something happen to
 *     a descriptor;
 *   - looks for a deadlock again while help may still come;
 *   - has a collection run when the last one was two minutes ago;
 *   - prints the lines that GORTDEBUG=schedtrace asks for;
 *   - keeps sched.clock;
 *   - gives the memory of idle stacks back;
 *   - prints all traces when SIGQUIT has come.
 *
 * It looks every 20 µs while there is something to do, then less and less, down to every 10 ms;
 * and while all Ps are idle it sleeps until it is called. */
#include "sched/runq.h"

#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "gc/stop.h"
#include "os/os.h"
#include "sched/netpoll.h"
#include "sched/waiter.h"

#include <string.h>

enum {
  MICROSECOND = 1000,
  MILLISECOND = 1000 * MICROSECOND,
  SLICE = 10 * MILLISECOND,
  SHORTEST = 20 * MICROSECOND,
  LONGEST = 10 * MILLISECOND,
  PATIENT_LOOKS = 50,                 /* in vain, before it looks less often */
  CHECKDEAD_FIRST = 10 * MILLISECOND, /* then less and less often */
  CHECKDEAD_LAST = 1000 * MILLISECOND,
};

enum { SYSMON_NONE, SYSMON_STARTED };

/* In sched.sysmon_calls. CALLED is cleared under sched.lock. */
enum { CALLED = 1, QUIT = 2 };

/* The time as it is now, for sched.clock too. */
static int64_t tell_time(void) {
  int64_t now = nanotime() & ~(int64_t)TRIMMED;
  store_relaxed(&sched.clock, now);
  return now;
}

/* Being called. */

static void call_for(uint32_t what) {
  if ((or_relaxed(&sched.sysmon_calls, what) & what) == 0)
    futexwakeup(&sched.sysmon_calls, 1);
}

/* While it has slept the clock stood still. */
void sysmon_call(void) {
  store_relaxed(&sched.sysmon_waits, false);
  tell_time();
  call_for(CALLED);
}

bool sysmon_ask_to_quit(void) {
  if (!load_relaxed(&sched.sysmon_runs))
    return false;
  call_for(QUIT);
  return true;
}

/* Its present nap, in ns; sysmon's; atomic. */
static int64_t nap;

/* Somebody has blocked while others wait for its P. */
void sysmon_hurry(void) {
  if (load_relaxed(&nap) <= MILLISECOND)
    return;
  lock_raw(&sched.lock);
  sysmon_call();
  unlock_raw(&sched.lock);
}

/* Until it is called, or the time is up. */
static uint32_t wait_for_call(int64_t ns) {
  int64_t until = ns < 0 ? 0 : nanotime() + ns, left = ns;
  uint32_t calls;
  while ((calls = load_acquire(&sched.sysmon_calls)) == 0) {
    if (ns >= 0 && (left = until - nanotime()) <= 0)
      break;
    futexsleep(&sched.sysmon_calls, 0, left);
  }
  return calls;
}

/* True when it was called. */
static bool sleep_until_called(int64_t ns) {
  uint32_t calls = wait_for_call(ns);
  if (calls & QUIT)
    quit_stopped();
  lock_raw(&sched.lock);
  bool called = (and_relaxed(&sched.sysmon_calls, ~(uint32_t)CALLED) & CALLED) != 0;
  store_relaxed(&sched.sysmon_waits, false);
  unlock_raw(&sched.lock);
  return called;
}

/* Looking. */

/* The thread is asked in time, not stopped: it gives way when it next calls the runtime. */
static void watch_slice(struct p *p, int64_t now) {
  uint32_t tick = load_relaxed(&p->schedtick);
  struct m *m = load_relaxed(&p->m);
  if (p->seen.schedtick != tick) {
    p->seen.schedtick = tick;
    p->seen.schedwhen = now;
  } else if (now - p->seen.schedwhen >= SLICE && m) {
    ask_preempt(m);
  }
}

/* Whether others could use the P of a thread that is blocked. */
static bool wanted(const struct p *p) {
  if (!runqempty(p) || load_relaxed(&sched.runqsize) != 0 || timers_due())
    return true;
  return load_relaxed(&sched.npidle) + load_relaxed(&sched.nmspinning) == 0;
}

/* True when the P was taken. It must have been blocked at two looks. */
static bool watch_block(struct p *p, int64_t now) {
  uint32_t tick = load_relaxed(&p->syscalltick);
  if (p->seen.syscalltick != tick) {
    p->seen.syscalltick = tick;
    p->seen.syscallwhen = now;
    return false;
  }
  if (!wanted(p) && now - p->seen.syscallwhen < SLICE)
    return false;
  if (!cas_seqcst(&p->status, Psyscall, Pidle))
    return false;
  handoffp(p);
  return true;
}

static bool watch_all(int64_t now) {
  bool did = false;
  for (uint32_t i = 0, n = load_acquire(&sched.nallp); i < n; i++) {
    struct p *p = allp[i];
    uint32_t status = load_relaxed(&p->status);
    if (status == Prunning)
      watch_slice(p, now);
    else if (status == Psyscall)
      did |= watch_block(p, now);
  }
  return did;
}

/* Not by ready(): this thread is not attached. */
static void ready_globally(struct g *g) {
  set_status(g, Grunnable);
  lock_raw(&sched.lock);
  globrunqput(g);
  unlock_raw(&sched.lock);
}

static void watch_descriptors(bool anyway) {
  struct waiter *next, *w = netpoll_watch(nanotime(), anyway);
  for (bool any = w != NULL; any; any = (w = next) != NULL) {
    next = w->link;
    if (w->g)
      ready_globally(w->g);
    else
      waiter_wake(w);
    wakep();
  }
}

/* Threads were refused, and there may be work for more of them; or a deadline has passed that no
 * thread has waited for. */
static void wake_who_is_missing(void) {
  bool missing = load_relaxed(&sched.refused) || (timers_due() && unwatched());
  if (missing && work_waits())
    wakep();
}

static void collect_in_time(int64_t now) {
  if (gc_time_left(now) <= 0)
    background_collect();
}

/* Sleeping. */

/* There is, or will be, work for a thread that was refused: nobody else may be there to see it. */
static bool has_to_try_again(void) {
  return load_relaxed(&sched.refused) && (unwatched() || work_waits());
}

/* Whether to sleep until called, as far as can be seen now; *later: but look for a deadlock
 * meanwhile. */
static bool may_sleep(bool *later) {
  lock_raw(&sched.lock);
  bool idle = all_idle() && !sched.starting && load_relaxed(&sched.sysmon_calls) == 0 &&
              !has_to_try_again();
  if (idle && sched.checkdead_later)
    checkdead();
  *later = sched.checkdead_later;
  store_relaxed(&sched.sysmon_waits, idle);
  unlock_raw(&sched.lock);
  return idle;
}

/* Until a line of schedtrace or a collection is due, `most` at the most; -1: until it is called. */
static int64_t idle_nap(int64_t now, int64_t most) {
  int64_t trace = schedtrace_left(now), gc = gc_time_left(now);
  int64_t ns = trace < gc ? trace : gc;
  ns = ns < most ? ns : most;
  return ns == INT64_MAX ? -1 : ns < SHORTEST ? SHORTEST : ns;
}

/* While nothing runs there is nothing to watch. */
static void sleep_while_idle(void) {
  bool later, called = false;
  for (int64_t ns = CHECKDEAD_FIRST; !called && may_sleep(&later);) {
    watch_descriptors(true);
    int64_t trim = stacks_trim(nanotime());
    called = sleep_until_called(idle_nap(nanotime(), later && ns < trim ? ns : trim));
    schedtrace(nanotime());
    collect_in_time(nanotime());
    ns = ns * 2 < CHECKDEAD_LAST ? ns * 2 : CHECKDEAD_LAST;
  }
}

/* Longer and longer after `idle` looks in vain, but not past a deadline. */
static int64_t next_nap(uint32_t idle, int64_t now) {
  int64_t ns = idle == 0 ? SHORTEST : load_relaxed(&nap);
  if (idle > PATIENT_LOOKS)
    ns *= 2;
  if (ns > LONGEST)
    ns = LONGEST;
  int64_t left = timers_next() - now;
  if (unwatched() && left < ns)
    ns = left < SHORTEST ? SHORTEST : left;
  return ns;
}

static void sysmon(void *unused) {
  (void)unused;
  store_relaxed(&sched.sysmon_runs, true);
  for (uint32_t idle = 0;; idle++) {
    store_relaxed(&nap, next_nap(idle, tell_time()));
    if (sleep_until_called(nap))
      idle = 0;
    start_threads();
    if (all_idle()) {
      sleep_while_idle();
      idle = 0;
      start_threads();
    }
    if (watch_all(tell_time()) || stacks_trim(nanotime()) == 0)
      idle = 0;
    watch_descriptors(false);
    schedtrace(nanotime());
    collect_in_time(nanotime());
    wake_who_is_missing();
  }
}

/* Starting it. */

/* Without it no thread can be made: m0 has to run everything, if there is m0. */
static void refused(int err) {
  lock_raw(&sched.lock);
  if (!sched.m0)
    throw("cannot start a thread: %s (%d)", strerror(err), err);
  store_relaxed(&sched.no_more_threads, true);
  unlock_raw(&sched.lock);
}

/* The collector does not wait for a thread that may wait for a lock of malloc. */
static void start(uintptr_t sp, void *unused) {
  (void)unused;
  struct m *m = acquirem();
  enterblocked(m, sp);
  int err = os_thread_start(sysmon, NULL, 0, 0, "gort-sysmon");
  leaveblocked(m);
  if (err != 0)
    refused(err);
  releasem(m);
}

/* Before the first goroutine is made; in a child of fork, the first after that. Not where the
 * caller holds a lock, nor in a stopped world. */
void sysmon_ensure(void) {
  if (likely(load_acquire(&sched.sysmon_state) == SYSMON_STARTED) || world_is_stopped())
    return;
  if (cas_seqcst(&sched.sysmon_state, SYSMON_NONE, SYSMON_STARTED))
    spill_and_call(start, NULL);
}

/* In a child of fork the runtime's goroutines may be ready, and no thread to run them: if the one
 * thread there is waits, it may well be for these. */
void wake_after_fork(void) {
  if (likely(load_acquire(&sched.sysmon_state) == SYSMON_STARTED))
    return;
  if (load_relaxed(&sched.runqsize) == 0 && !unwatched())
    return;
  sysmon_ensure();
  struct m *m = acquirem();
  wakep();
  releasem(m);
}

/* It is gone, and is started again by who needs it: most children of fork do not. */
void sysmon_after_fork(void) {
  sched.sysmon_state = SYSMON_NONE;
  sched.sysmon_waits = sched.sysmon_runs = false;
  sched.sysmon_calls = 0;
  sched.clock = 0;
  quit_after_fork();
}
