/* Stopping the world.
 *
 * C code has no safepoints. A thread is stopped wherever it is, by a signal whose handler
 * publishes where its stack and registers lie and waits. Who stops the world
 *
 *   1. takes worldsema (one at a time) and allm_lock (no thread comes or goes);
 *   2. sets gcwaiting, and STOP_WORLD in the cache.stop of each thread;
 *   3. signals each thread that is M_RUNNING;
 *   4. waits until none is M_RUNNING.
 *
 * Why every thread gets there. The handler finds one of three states. At work on the runtime's
 * own structures (locks > 0, or mallocing): it returns, and the request in cache.stop is honoured
 * when that work ends, by releasem or the inline allocation path. Blocked, or in the middle of
 * becoming so: it returns, the status is M_BLOCKED or will be. Else it stops here. A thread that
 * never comes back from the runtime would hold up everybody, so waiting happens as M_BLOCKED.
 *
 * Why nobody runs in a stopped world. A thread that is M_BLOCKED or M_STOPPED changes to M_RUNNING
 * by itself, while the stopper relies on what it read. Both sides write first and read then, all
 * sequentially consistent:
 *
 *   thread:   status = M_RUNNING;  if (gcwaiting) back to where it was, and wait
 *   stopper:  gcwaiting = 1;       if (status == M_RUNNING) signal it, and wait
 *
 * At least one of the two sees what the other wrote. If the thread does, it has touched nothing
 * but its status and takes that back. If only the stopper does, the thread is one that runs. In
 * between a stopper may see M_BLOCKED although the thread is about to write M_RUNNING: then the
 * thread will see gcwaiting. What it published before stays as it is through all of this.
 *
 * Why no request is lost. STOP_WORLD is written by the stopper alone. It is set before the status
 * is read, and cleared while the world stands, so a thread that runs on finds it clear, unless
 * the next stopper has set it. A thread tests it after its last locks--, and the handler tests
 * locks: a signal that came too early was preceded by the bit. STOP_PREEMPT is cleared only just
 * before its request is carried out.
 *
 * Why everybody gets on. A thread that the world was stopped for has to be woken by the kernel. Who
 * stops the world again and again could be at its next stop by then, each time, and the thread
 * would never run. So who is about to stop the world waits until all have left the last stop, and
 * have had some time for themselves (let_others_go_on).
 *
 * Fork needs less: that nobody is inside the runtime while the memory is copied. And it must not
 * ask for more, for fork takes locks of libc that a stopped thread may hold. So for a fork the
 * bit is STOP_FORK, which acquirem honours at the entrance, and a thread that is not inside only
 * promises to stay out (m->outside) and runs on. It makes the promise after it has seen that the
 * fork of this number has begun, and that was made known after the bit was set; so whatever it
 * does next, it finds the bit. One that still stands where the collector stopped it goes on, too.
 * The inline allocation path may be cut at any point by a fork: the thread is gone in the child,
 * and an object taken or not taken is all the difference.
 *
 * What is published: m->sp, from which up m->stack is scanned, and m->regs. Where the handler
 * itself runs on m->stack (the program has taken the signal stack away, or a sanitizer delivers
 * signals late, by an ordinary call), its own frame lies below all that matters and the
 * registers are spilled there. Else the kernel's frame on the signal stack has them. If what was
 * interrupted did not run on m->stack either, it is a handler of the program's on the signal
 * stack: all of both stacks is scanned. Stacks that only the program knows are not. */
#include "gc/stop.h"

#include "base/atomic.h"
#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/threads.h"
#include "heap/upcall.h"
#include "os/os.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>

enum { RED_ZONE = 128 }; /* bytes below the stack pointer that a leaf function may use */

int stop_signal = SIGURG;

static struct mutex worldsema; /* held while the world is stopped or being stopped */
static uint32_t gcwaiting;     /* STOP_WORLD while it is stopped or being stopped, STOP_FORK for a
                                  fork, else 0; atomic; a futex that stopped threads wait on;
                                  changed under worldsema */
static struct m *stopper;      /* who holds worldsema for a stop; atomic; NULL: nobody */
static int64_t
    stopping_since;      /* nanotime() when the world was last asked to stop; under worldsema */
static bool stopped;     /* all have stopped; the stopper's; atomic for others */
static uint32_t forks;   /* counted, under worldsema */
static uint32_t forking; /* the number of the fork that goes on, or 0; under worldsema; atomic */
static const char *stop_why; /* under worldsema */
static bool queue_was_full;  /* some signal could not be sent yet; the stopper\'s */

/* Threads that ceased to be M_RUNNING while gcwaiting was set, counted; the stopper sleeps on it.
 * Atomic. */
static uint32_t arrivals;
static uint32_t stopper_sleeps; /* atomic */

/* nanotime() when the world was last let run on, 0 if nobody waited for it; under worldsema. */
static int64_t started_at;

/* 1 while the stopper looks for running threads and signals them; atomic. */
static uint32_t signalling;

static void arrive(void) {
  add_seqcst(&arrivals, 1);
  if (load_seqcst(&stopper_sleeps) != 0)
    futexwakeup(&arrivals, 1);
}

static bool within(struct stack s, uintptr_t p) { return p >= s.lo && p < s.hi; }

static void sleep_while_waiting(struct m *m, uint32_t what) {
  uint32_t now;
  store_seqcst(&m->stands, 1);
  while (((now = load_seqcst(&gcwaiting)) & what) != 0)
    futexsleep(&gcwaiting, now, -1);
  store_seqcst(&m->stands, 0);
}

/* Stands still as M_STOPPED while gcwaiting is one of `what`. What to scan has been published. */
static void stand_still(struct m *m, uint32_t what) {
  do {
    store_seqcst(&m->status, M_STOPPED);
    arrive();
    sleep_while_waiting(m, what);
    while (unlikely(load_acquire(&m->frozen) != 0))
      futexsleep(&m->frozen, 1, -1);
    store_seqcst(&m->status, M_RUNNING);
  } while ((load_seqcst(&gcwaiting) & what) != 0);
}

/* sp is below all that the thread needs, unless it is not on m->stack: on the system stack then,
 * and m->sp has been published, or on one that is not known. */
static void publish_sp(struct m *m, uintptr_t sp) {
  if (within(m->stack, sp))
    m->sp = sp;
  else if (m->systemsp != 0)
    m->sp = m->stack.lo;
}

static bool may_stop(const struct m *m) {
  return m->locks == 0 && m->blocked == 0 && m != &m_unattached;
}

static bool asked(const struct m *m, uint32_t what) {
  return unlikely((load_relaxed(&m->cache.stop) & what) != 0);
}

/* At a point of the thread's own choosing, its registers spilled at sp. */
static void publish_spilled(struct m *m, uintptr_t sp) {
  const struct frame_record *r = saved_frame(sp);
  publish_sp(m, sp);
  m->pc = 0;
  m->at = (struct frame){.pc = r->pc, .sp = sp + SAVED_FRAME, .fp = r->fp};
}

static void stop_spilled(uintptr_t sp, void *arg) {
  struct m *m = arg;
  publish_spilled(m, sp);
  stand_still(m, STOP_WORLD);
}

/* locks keeps the handler out meanwhile. */
static void stop_here(struct m *m) {
  m->locks++;
  signal_fence();
  spill_and_call(stop_spilled, m);
  signal_fence();
  m->locks--;
  signal_fence();
}

/* Promises not to enter the runtime before the fork is done. Called outside of it. */
static void promise_to_stay_outside(struct m *m) {
  uint32_t fork = load_acquire(&forking);
  if (fork == 0 || m->outside == fork)
    return;
  store_seqcst(&m->outside, fork);
  arrive();
}

void stop_if_asked(struct m *m) {
  while (asked(m, STOP_WORLD) && may_stop(m))
    stop_here(m);
  if (asked(m, STOP_FORK) && may_stop(m))
    promise_to_stay_outside(m);
}

static void wait_spilled(uintptr_t sp, void *arg) {
  struct m *m = arg;
  publish_spilled(m, sp);
  stand_still(m, STOP_WORLD | STOP_FORK);
}

/* Who is blocked is about to fork, too: the one thing that the program may do between
 * gort_block_enter and _exit. It waits for worldsema, and touches nothing of the runtime's before.
 */
void wait_for_fork(struct m *m) {
  if (m->blocked > 0)
    return;
  while (asked(m, STOP_FORK))
    spill_and_call(wait_spilled, m);
}

/* Whether it was asked to, and did: it may be back on another thread then. */
static bool give_way(struct m *m) {
  if (!asked(m, STOP_PREEMPT) || !may_stop(m))
    return false;
  and_relaxed(&m->cache.stop, ~(uint32_t)STOP_PREEMPT);
  acquirem();
  bool gave_way = upcalls.safepoint(m);
  getm()->locks--;
  signal_fence();
  return gave_way;
}

void gort_stop_here(void) {
  do
    stop_if_asked(getm());
  while (give_way(getm()));
  stop_if_asked(getm());
}

void ask_preempt(struct m *m) { or_relaxed(&m->cache.stop, STOP_PREEMPT); }

/* The signal. */

/* A scheduler holds no roots, on its stack or in registers. What is in them is left over from the
 * goroutine that ran before, or from whoever started the thread. */
static bool is_scheduler(const struct m *m, uintptr_t sp) {
  return m->stack.hi == 0 && within(m->hoststack, sp);
}

/* The stack and the registers of what the signal interrupted. */
static void publish_frame(struct m *m, void *ucontext) {
  uintptr_t sp = os_ucontext_sp(ucontext) - RED_ZONE;
  struct stack alt;
  m->pc = os_ucontext_pc(ucontext);
  m->at = os_ucontext_frame(ucontext);
  if (is_scheduler(m, sp)) {
    m->regs = (struct stack){0, 0};
    return;
  }
  os_ucontext_registers(ucontext, &m->regs.lo, &m->regs.hi);
  m->sp = within(m->stack, sp) ? sp : m->stack.lo;
  if (!within(m->stack, sp) && os_ucontext_sigaltstack(ucontext, &alt.lo, &alt.hi) &&
      within(alt, sp))
    m->regs.hi = alt.hi;
}

/* Whether the kernel called the handler, and not a sanitizer, later, with a copy of the context:
 * the kernel's frame lies right above the handler's own. */
static bool is_signal_frame(void *ucontext) {
  const uintptr_t near = 64 << 10;
  return (uintptr_t)ucontext - (uintptr_t)__builtin_frame_address(0) < near;
}

/* Publishes what the signal has interrupted, and stands still. */
static void stop_interrupted(struct m *m, void *ucontext) {
  if (within(m->stack, (uintptr_t)__builtin_frame_address(0)) || !is_signal_frame(ucontext)) {
    stop_here(m);
  } else {
    publish_frame(m, ucontext);
    stand_still(m, STOP_WORLD);
  }
}

/* Nothing here takes a lock or changes errno. What m had published before is put back, for the
 * interrupted code may be just about to block. */
static void stop_handler(int sig, void *info, void *ucontext) {
  (void)sig, (void)info;
  struct m *m = getm();
  if (!may_stop(m) || load_seqcst(&gcwaiting) == 0)
    return;
  promise_to_stay_outside(m);
  if (m->cache.mallocing != 0 || !asked(m, STOP_WORLD))
    return;
  uintptr_t sp = m->sp;
  struct stack regs = m->regs;
  stop_interrupted(m, ucontext);
  m->sp = sp;
  m->regs = regs;
}

void stop_for_good(void *ucontext) {
  struct m *m = getm();
  if (!may_stop(m) || m->cache.mallocing != 0)
    return;
  store_release(&m->frozen, 1);
  stop_interrupted(m, ucontext);
}

/* Blocking. */

void enterblocked(struct m *m, uintptr_t sp) {
  m->locks++;
  signal_fence();
  if (m->blocked++ == 0) {
    publish_sp(m, sp);
    store_seqcst(&m->status, M_BLOCKED);
    if (load_seqcst(&gcwaiting) != 0)
      arrive();
  }
  signal_fence();
  m->locks--;
}

/* A stopper that saw this thread run may still be about to signal it, or the signal may be on its
 * way: it comes at the end of the next system call. */
void await_signal(struct m *m) {
  while (load_seqcst(&signalling) != 0)
    osyield();
  if (load_seqcst(&m->signalled) != 0) {
    store_seqcst(&m->signalled, 0);
    osyield();
  }
}

/* The stopper may itself block and go on in the world that it has stopped. */
static bool may_run(struct m *m) {
  return load_seqcst(&gcwaiting) == 0 || load_relaxed(&stopper) == m;
}

static void run_again(struct m *m) {
  for (;;) {
    store_seqcst(&m->status, M_RUNNING);
    if (likely(may_run(m)))
      return;
    store_seqcst(&m->status, M_BLOCKED);
    arrive();
    sleep_while_waiting(m, STOP_WORLD | STOP_FORK);
  }
}

void leaveblocked(struct m *m) {
  gassert(m->blocked > 0);
  m->locks++;
  signal_fence();
  if (m->blocked == 1) {
    run_again(m);
    m->regs = (struct stack){0, 0};
  }
  m->blocked--;
  signal_fence();
  m->locks--;
  signal_fence();
  stop_if_asked(m);
}

/* Stopping and starting. */

static void await_worldsema(uintptr_t sp, void *arg) {
  struct m *m = arg;
  enterblocked(m, sp);
  lock_raw(&worldsema);
  leaveblocked(m);
}

/* Whether it still has to be waited for. */
static bool is_running(const struct m *m) {
  return load_relaxed(&m->in_use) && m != stopper && load_seqcst(&m->status) == M_RUNNING &&
         (forking == 0 || load_seqcst(&m->outside) != forking);
}

/* The thread has ended and nobody was told: by a system call of its own, say. Its memory may be
 * gone, so nothing of it is scanned any more. */
static void bury(struct m *m) {
  struct stack none = {0, 0};
  m->stack = m->under = m->regs = m->tls = m->hoststack = none;
  m->tcb = 0;
  m->blocked = 1;
  store_seqcst(&m->status, M_BLOCKED);
}

/* A queue of signals that is full may have room again, so that is an error only the last time. */
static void signal_thread(struct m *m, bool last) {
  store_seqcst(&m->signalled, 1);
  int err = os_signal_thread(m->tid, stop_signal);
  if (err == 0 || !is_running(m))
    return;
  if (err == -EAGAIN && !last) {
    queue_was_full = true;
    return;
  }
  if (err != -ESRCH)
    throw("cannot stop thread %d for %s: signal %d: error %d", m->tid, stop_why, stop_signal, -err);
  warn("thread %d cannot be signalled to stop: error %d (it ended without being detached)\n",
       m->tid, ESRCH);
  bury(m);
}

static void ask_all(uint32_t what) {
  for (struct m *m = load_acquire(&allm); m != NULL; m = m->alllink)
    or_relaxed(&m->cache.stop, what);
}

static void ask_nobody(uint32_t what) {
  for (struct m *m = load_acquire(&allm); m != NULL; m = m->alllink)
    and_relaxed(&m->cache.stop, ~what);
}

/* How many still run; each is signalled. */
static int signal_all(bool last) {
  int n = 0;
  queue_was_full = false;
  store_seqcst(&signalling, 1);
  for (struct m *m = load_acquire(&allm); m != NULL; m = m->alllink)
    if (is_running(m)) {
      signal_thread(m, last);
      n++;
    }
  store_seqcst(&signalling, 0);
  return n;
}

static bool all_stopped(void) {
  for (struct m *m = load_acquire(&allm); m != NULL; m = m->alllink)
    if (is_running(m))
      return false;
  return true;
}

/* Names, once each, the threads that will never stop. */
static void name_the_blocking(void) {
  for (struct m *m = load_acquire(&allm); m != NULL; m = m->alllink)
    if (is_running(m) && !m->stop_warned && os_thread_blocks_signal(m->tid, stop_signal)) {
      m->stop_warned = true;
      warn("thread %d blocks signal %d and holds up the collector\n", m->tid, stop_signal);
    }
}

/* Waits for the next arrival after `seen` of them: for a short time awake, for that is how long
 * a thread takes that has a processor. */
static void await_arrival(uint32_t seen, int64_t ns) {
  enum { SPINS = 100 };
  for (int i = 0; i < SPINS; i++) {
    if (load_acquire(&arrivals) != seen)
      return;
    cpu_relax();
  }
  store_seqcst(&stopper_sleeps, 1);
  futexsleep(&arrivals, seen, ns);
  store_relaxed(&stopper_sleeps, 0);
}

/* A signal may be lost where the program plays with its handler; it is sent anew each second. */
static void await_all(void) {
  const int64_t patience = 1000000000;
  for (int64_t since = nanotime();;) {
    uint32_t seen = load_seqcst(&arrivals);
    if (all_stopped())
      return;
    await_arrival(seen, queue_was_full ? patience / 100 : patience / 10);
    bool over = nanotime() - since >= patience;
    if (over) {
      since = nanotime();
      name_the_blocking();
    }
    if (over || queue_was_full)
      signal_all(over);
  }
}

static void take_worldsema(struct m *m) {
  if (m == NULL)
    lock_raw(&worldsema);
  else
    spill_and_call(await_worldsema, m);
}

/* Whether a thread waits for the world to run on, or has not noticed yet that it does. */
static bool anybody_stands(void) {
  for (struct m *m = load_acquire(&allm); m != NULL; m = m->alllink)
    if (load_relaxed(&m->in_use) && load_seqcst(&m->stands) != 0)
      return true;
  return false;
}

/* Under worldsema, the world running. They need a processor: this one, if there is no other. */
static void let_others_go_on(void) {
  enum { YIELDS = 100 };
  const int64_t a_while = 20000;
  int64_t until = started_at + a_while;
  for (int i = 0; anybody_stands(); i++) {
    if (i < YIELDS)
      osyield();
    else
      futexsleep(&gcwaiting, 0, a_while);
    until = nanotime() + a_while;
  }
  while (nanotime() < until)
    osyield();
}

/* Makes the caller the only one that may stop others. A thread that is not attached has no m to
 * be inside of. */
static void become_stopper(const char *why) {
  struct m *m = attached() ? acquirem() : NULL;
  take_worldsema(m);
  let_others_go_on();
  lock_raw(&allm_lock);
  stop_why = why;
  store_relaxed(&stopper, m);
}

static void cease_to_be_stopper(void) {
  struct m *m = load_relaxed(&stopper);
  store_relaxed(&stopper, NULL);
  started_at = anybody_stands() ? nanotime() : 0;
  store_seqcst(&gcwaiting, 0);
  futexwakeup(&gcwaiting, INT_MAX);
  unlock_raw(&allm_lock);
  unlock_raw(&worldsema);
  if (m != NULL)
    releasem(m);
}

void stoptheworld(const char *why) {
  become_stopper(why);
  stopping_since = nanotime();
  store_seqcst(&gcwaiting, STOP_WORLD);
  ask_all(STOP_WORLD);
  if (signal_all(false) > 0)
    await_all();
  store_relaxed(&stopped, true);
  upcalls.world_stopped();
}

void starttheworld(void) {
  if (!load_relaxed(&stopped))
    throw("starttheworld: the world is not stopped");
  upcalls.world_started();
  store_relaxed(&stopped, false);
  ask_nobody(STOP_WORLD);
  cease_to_be_stopper();
}

void stop_for_fork(void) {
  become_stopper("fork");
  if (++forks == 0) /* 0 stands for none */
    forks = 1;
  ask_all(STOP_FORK);
  store_seqcst(&forking, forks);
  store_seqcst(&gcwaiting, STOP_FORK);
  if (signal_all(false) > 0)
    await_all();
}

void start_after_fork(void) {
  store_seqcst(&forking, 0);
  ask_nobody(STOP_FORK);
  cease_to_be_stopper();
}

int64_t world_stopping_since(void) { return stopping_since; }
bool world_is_stopped(void) { return load_relaxed(&stopped); }

void stop_init(void) {
  int err = os_sigaction(stop_signal, stop_handler);
  if (err == 0)
    return;
  warn("signal %d cannot be handled: error %d; using %d\n", stop_signal, -err, SIGURG);
  stop_signal = SIGURG;
  err = os_sigaction(stop_signal, stop_handler);
  if (err != 0)
    throw("cannot handle signal %d: error %d", stop_signal, -err);
}
