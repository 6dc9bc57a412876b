/* gort_main: the main goroutine, and the thread that waits for it.
 *
 * The thread that calls gort_main, m0, has the caller's frames on its stack, and has to come back
 * to them when the main goroutine has ended, at once and whatever other goroutines do. So it runs
 * the main goroutine alone: until that parks for the first time, or for as long as it is locked
 * to its thread. Then other threads take over, and m0 waits. Only where the system has no thread
 * to give, m0 runs everything.
 *
 * When the main goroutine's function returns, no user goroutine runs any more. main_done keeps the
 * scheduler from running those that are ready, those that park stay parked, and those that are
 * blocked park when they come back. Those that run on other threads are stopped with the world,
 * and their threads then stay frozen where they are, for good. That must not be in the middle of
 * malloc or while holding the lock of stdout, which the program still needs to end: who was
 * interrupted in an object that has such functions is let run on and stopped anew a little later;
 * and if that does not help, it is halted when it next calls the runtime. (In a program that is
 * linked statically all code is in one object, so there only the latter happens.) What they all
 * hold stays reachable. */
#define _GNU_SOURCE
#include "sched/sched.h"

#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/objects.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "gort/goroutine.h"
#include "gort/start.h"
#include "os/os.h"

#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

struct main_call {
  void (*fn)(void *);
  void *arg;
};

/* Waiting for the main goroutine. */

/* Under sched.lock; m0 waits. */
void m0_wake(void) {
  sched.m0_waits = false;
  sched.nmidle--;
  notewakeup(&sched.m0->park);
}

/* Until the main goroutine has ended, or m0 has to run goroutines itself: then it has a P. In a
 * child of fork this may be the first time that another thread is needed. */
static void wait_for_main(struct m *m) {
  sysmon_ensure();
  if (m->p)
    handoffp(releasep(m));
  lock_raw(&sched.lock);
  bool wait = !sched.main_ended && !sched.no_more_threads;
  if (wait) {
    sched.m0_waits = true;
    sched.nmidle++;
    checkdead();
  }
  unlock_raw(&sched.lock);
  if (!wait)
    return;
  wait_in_kernel(m, -1);
  noteclear(&m->park);
  struct p *p = m->nextp;
  m->nextp = NULL;
  if (p)
    acquirep(m, p);
}

static void run_until_main_ends(struct m *m) {
  while (!load_acquire(&sched.main_ended)) {
    if (m->lockedg || load_relaxed(&sched.no_more_threads))
      schedule_once(m);
    else
      wait_for_main(m);
  }
}

/* Starting. */

static void main_goroutine(void *arg) {
  struct main_call *call = arg;
  call->fn(call->arg);
  main_returned();
}

static size_t main_stack_size(void) {
  uint64_t limit = os_stack_limit();
  return limit < MAX_MAIN_STACK ? (size_t)limit : (size_t)MAX_MAIN_STACK;
}

/* Tied to m0 until it parks. */
static struct g *new_main(struct m *m, struct main_call *call) {
  struct g *g = new_g(main_goroutine, call, main_stack_size(), false);
  g->goid = 1;
  g->lockedm = m;
  m->lockedg = g;
  lock_raw(&sched.lock);
  store_release(&sched.maing, g);
  unlock_raw(&sched.lock);
  return g;
}

/* Where all Ps are busy, with goroutines of attached threads, the main goroutine waits for one
 * like others. */
static void run_first(struct m *m, struct g *g) {
  lock_raw(&sched.lock);
  struct p *p = pidleget();
  if (!p)
    globrunqput(g);
  unlock_raw(&sched.lock);
  if (!p)
    return;
  acquirep(m, p);
  execute(m, g, false);
}

/* sp: the caller's frames begin there. They are roots as long as goroutines run on this thread. */
static void become_m0(struct m *m, uintptr_t sp) {
  m->under = (struct stack){sp, m->stack.hi};
  store_relaxed(&m->runtime_owned, true);
  m_begin(m);
  lock_raw(&sched.lock);
  store_relaxed(&sched.m0, m);
  sched.nm++;
  unlock_raw(&sched.lock);
}

static void be_a_thread_again(struct m *m, struct stack stack, uintptr_t systemsp) {
  if (m->p)
    handoffp(releasep(m));
  m->lockedg = NULL;
  lock_raw(&sched.lock);
  store_relaxed(&sched.m0, NULL);
  sched.nm--;
  store_relaxed(&sched.no_more_threads, false);
  unlock_raw(&sched.lock);
  m->stack = stack;
  m->under = (struct stack){0, 0};
  m->systemsp = systemsp;
  store_relaxed(&m->runtime_owned, false);
}

static void run_main(uintptr_t sp, void *call) {
  struct m *m = acquirem();
  struct stack stack = m->stack;
  uintptr_t systemsp = m->systemsp;
  become_m0(m, sp);
  sysmon_ensure();
  run_first(m, new_main(m, call));
  run_until_main_ends(m);
  be_a_thread_again(m, stack, systemsp);
  releasem(m);
}

int gort_main(void (*fn)(void *), void *arg) {
  static uint32_t called;
  if (xchg_seqcst(&called, 1) != 0)
    throw("gort_main: called twice");
  if (!fn)
    throw("gort_main: fn is nil");
  gort_runtime_start();
  if (getg())
    throw("gort_main: called on a goroutine");
  struct main_call call = {fn, arg};
  spill_and_call(run_main, &call);
  return 0;
}

/* Ending. */

/* The code of objects in which no thread must be frozen. */
static struct {
  uintptr_t of[5]; /* an address in each */
  struct stack text[32];
  size_t ntext;
} keep_out;

static bool segment_holds(const struct dl_phdr_info *info, const ElfW(Phdr) * ph, uintptr_t at) {
  return ph->p_type == PT_LOAD && at - (info->dlpi_addr + ph->p_vaddr) < ph->p_memsz;
}

static bool object_holds(const struct dl_phdr_info *info, uintptr_t at) {
  for (int i = 0; i < info->dlpi_phnum; i++)
    if (segment_holds(info, &info->dlpi_phdr[i], at))
      return true;
  return false;
}

static void keep_out_of(const struct dl_phdr_info *info) {
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
    uintptr_t lo = info->dlpi_addr + ph->p_vaddr;
    if (ph->p_type == PT_LOAD && (ph->p_flags & PF_X) && keep_out.ntext < COUNT_OF(keep_out.text))
      keep_out.text[keep_out.ntext++] = (struct stack){lo, lo + ph->p_memsz};
  }
}

static int look_at_object(struct dl_phdr_info *info, size_t size, void *unused) {
  (void)size, (void)unused;
  for (size_t i = 0; i < COUNT_OF(keep_out.of); i++)
    if (object_holds(info, keep_out.of[i])) {
      keep_out_of(info);
      break;
    }
  return 0;
}

/* Allocation, streams, locks, exit, and the dynamic linker. */
static void find_keep_out(void) {
  keep_out.of[0] = (uintptr_t)malloc;
  keep_out.of[1] = (uintptr_t)fwrite;
  keep_out.of[2] = (uintptr_t)pthread_mutex_lock;
  keep_out.of[3] = (uintptr_t)exit;
  keep_out.of[4] = getauxval(AT_BASE);
  objects_each(look_at_object, NULL);
}

static bool must_not_freeze_at(uintptr_t pc) {
  for (size_t i = 0; i < keep_out.ntext; i++)
    if (pc >= keep_out.text[i].lo && pc < keep_out.text[i].hi)
      return true;
  return false;
}

/* The world is stopped, and m does not come back: its P goes to others. */
static void freeze(struct m *m) {
  store_release(&m->frozen, 1);
  if (!m->p)
    return;
  struct p *p = releasep(m);
  lock_raw(&sched.lock);
  runq_to_global(p);
  pidleput(p);
  unlock_raw(&sched.lock);
}

/* True when m runs a user goroutine and could not be frozen where it is. One that is blocked is
 * halted when it comes back. pc is 0 at a safe point of the runtime's. */
static bool halt_thread(struct m *m) {
  struct g *g = m->curg;
  if (!load_relaxed(&m->in_use) || !g || !halted(g) || m == getm() || m->frozen)
    return false;
  ask_preempt(m);
  if (load_acquire(&m->status) != M_STOPPED)
    return false;
  if (m->pc != 0 && must_not_freeze_at(m->pc))
    return true;
  freeze(m);
  return false;
}

static bool halt_threads(void) {
  bool again = false;
  stoptheworld("gort_main has returned");
  for (struct m *m = load_acquire(&allm); m; m = m->alllink)
    again |= halt_thread(m);
  starttheworld();
  return again;
}

/* A call of malloc is over in no time. One that blocks in the C library is not: it is stopped when
 * it calls the runtime. This thread keeps its P while it waits, for the others may have all the
 * rest and not give way. */
static void halt_others(void) {
  enum { TRIES = 20 };
  find_keep_out();
  for (int i = 0; i < TRIES && halt_threads(); i++)
    os_sleep((int64_t)10000 << (i / 2));
}

static void end_main(struct m *m, struct g *g) {
  goroutine_end(m, g);
  lock_raw(&sched.lock);
  store_release(&sched.main_ended, true);
  if (sched.m0_waits)
    m0_wake();
  unlock_raw(&sched.lock);
}

/* On the main goroutine. In a child of fork that another thread than m0 has made, the frames that
 * gort_main would return to belong to nobody: the process ends as it would after that. */
void main_returned(void) {
  struct m *m = acquirem();
  struct g *g = m->curg;
  count_goroutine(m, -1);
  releasem(m);
  g->system = true; /* it is not halted with the others */
  store_seqcst(&sched.main_done, true);
  halt_others();
  if (!load_relaxed(&sched.m0))
    exit(0);
  free(g->last_error);
  g->last_error = NULL;
  acquirem();
  mcall(end_main);
  __builtin_unreachable();
}

/* The others go on. */
void main_goexit(void) {
  struct m *m = acquirem();
  lock_raw(&sched.lock);
  sched.main_goexit = true;
  unlock_raw(&sched.lock);
  releasem(m);
}
