/* The registry of threads.
 *
 * Each thread's m lies in one mapping with the stacks that the runtime gives it, from the lowest
 * address up: a guard, the signal stack, a guard, the system stack, the m. All of it stays with
 * the m when the thread ends, and goes to the next thread that is attached.
 *
 * allm_lock makes coming and going and a stopped world exclude each other. A thread that comes is
 * not attached yet and simply waits for the lock. A thread that goes is attached, and the stopper
 * waits for it, perhaps with the lock held already; so it waits as a blocked one.
 *
 * A thread that ends is detached by the destructor of its thread-specific data. Other such
 * destructors may still use the collected heap, so ours asks for another round until the last one
 * that the system grants. */
#include "gc/threads.h"

#include "base/atomic.h"
#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "gort/start.h"
#include "heap/malloc.h"
#include "heap/mcache.h"
#include "heap/mheap.h"
#include "heap/torture.h"
#include "os/os.h"
#include "os/tls.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

/* The sanitizers' own destructor uses the last round, and after it nothing that they instrument
 * may run. */
#ifdef GORT_SANITIZED
enum { DESTRUCTOR_ROUNDS = PTHREAD_DESTRUCTOR_ITERATIONS - 1 };
#else
enum { DESTRUCTOR_ROUNDS = PTHREAD_DESTRUCTOR_ITERATIONS };
#endif

enum {
  SIGNAL_STACK_SIZE = 64 << 10,
  SYSTEM_STACK_SIZE = 128 << 10,
};

struct m *allm;
struct mutex allm_lock;

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* of the m; its destructor detaches */

/* What `size` bytes need of a mapping of whole pages. */
static size_t pages(size_t size) { return ALIGN_UP(size, os_page_size()); }

static void guard(uintptr_t p) { (void)os_guard((void *)p, os_page_size()); }

/* A guard that cannot be made is done without. */
static struct m *new_m(void) {
  size_t page = os_page_size();
  size_t alt = pages(SIGNAL_STACK_SIZE + os_min_sigaltstack()), sys = pages(SYSTEM_STACK_SIZE);
  size_t size = page + alt + page + sys + pages(sizeof(struct m));
  uintptr_t p = (uintptr_t)os_map(size, page);
  if (p == 0)
    throw("out of memory: cannot map %zu bytes for a thread", size);
  add_relaxed(&persistent_sys, size);
  guard(p);
  guard(p + page + alt);
  struct m *m = (struct m *)(p + page + alt + page + sys);
  m->altstack = (struct stack){p + page, p + page + alt};
  m->sysstack = (struct stack){(uintptr_t)m - sys, (uintptr_t)m};
  m->status = M_BLOCKED;
  mcache_init(m);
  m->alllink = allm;
  store_release(&allm, m);
  return m;
}

static struct m *free_m(void) {
  for (struct m *m = allm; m != NULL; m = m->alllink)
    if (!m->in_use)
      return m;
  return new_m();
}

/* What the kernel and libc know of the calling thread. */
struct self {
  int tid;
  struct stack host, tls;
  uintptr_t tcb;
};

static struct self look_at_self(void) {
  struct self s = {.tid = os_gettid(), .tcb = os_thread_pointer()};
  os_thread_stack(&s.host.lo, &s.host.hi);
  os_static_tls(s.tcb, &s.tls.lo, &s.tls.hi);
  return s;
}

static void take_m(struct m *m, const struct self *s, bool runtime_owned) {
  struct stack none = {0, 0};
  m->tid = s->tid;
  m->hoststack = s->host;
  m->tls = s->tls;
  m->tcb = s->tcb;
  m->stack = runtime_owned ? none : s->host;
  m->under = m->regs = none;
  m->sp = m->stack.lo;
  m->systemsp = m->sysstack.hi;
  m->locks = m->blocked = m->exiting = 0;
  store_relaxed(&m->stands, 0);
  m->stop_warned = false;
  store_relaxed(&m->runtime_owned, runtime_owned);
  m->random = thread_seed();
  store_relaxed(&m->cache.stop, 0);
  store_relaxed(&m->in_use, true);
  store_seqcst(&m->status, M_RUNNING);
}

/* The signal stack that a thread has already is as good as ours. */
static void set_signal_stack(struct m *m) {
  struct stack present;
  os_set_sigaltstack((void *)m->altstack.lo, m->altstack.hi - m->altstack.lo, &present.lo,
                     &present.hi);
}

static void end_of_thread(void *arg) {
  struct m *m = arg;
  if (++m->exiting < DESTRUCTOR_ROUNDS) {
    pthread_setspecific(key, m);
    return;
  }
  if (m->curg != NULL)
    throw("pthread_exit: called on a goroutine");
  thread_detach();
}

static void make_key(void) {
  int err = pthread_key_create(&key, end_of_thread);
  if (err != 0)
    throw("cannot create a key for thread-specific data: error %d", err);
}

/* While allm_lock is held no world is being stopped; as it is released the m is complete, the
 * signal unblocked, and the handler finds the m. */
struct m *thread_attach(bool runtime_owned) {
  gassert(!attached());
  pthread_once(&key_once, make_key);
  struct self self = look_at_self();
  lock_raw(&allm_lock);
  struct m *m = free_m();
  take_m(m, &self, runtime_owned);
  setm(m);
  unlock_raw(&allm_lock);
  set_signal_stack(m);
  pthread_setspecific(key, m);
  os_unblock_signal(stop_signal);
  return m;
}

static void leave_heap(struct m *m) {
  mcache_flush(m);
  lock(&mheap.lock);
  mstats_merge(&mheap.dead, &m->stats);
  unlock(&mheap.lock);
}

static void leave_registry(uintptr_t sp, void *arg) {
  struct m *m = arg;
  enterblocked(m, sp);
  lock_raw(&allm_lock);
  setm(NULL);
  store_relaxed(&m->in_use, false);
  unlock_raw(&allm_lock);
}

/* free may wait for a thread that is stopped, so it is called outside acquirem. */
void thread_detach(void) {
  struct m *m = getm();
  free(m->last_error);
  m->last_error = NULL;
  acquirem();
  pthread_setspecific(key, NULL);
  os_clear_sigaltstack((void *)m->altstack.lo);
  leave_heap(m);
  spill_and_call(leave_registry, m);
}

int threads_foreign(void) {
  int n = 0;
  for (struct m *m = load_acquire(&allm); m != NULL; m = m->alllink)
    n += load_relaxed(&m->in_use) && !load_relaxed(&m->runtime_owned);
  return n;
}

/* Nothing of the others is scanned any more: their stacks are memory of nobody. */
void threads_after_fork(void) {
  struct m *self = getm();
  os_threads_after_fork();
  for (struct m *m = allm; m != NULL; m = m->alllink) {
    if (m == self || !m->in_use)
      continue;
    m->status = M_BLOCKED;
    leave_heap(m);
    m->in_use = false;
  }
  if (self != &m_unattached)
    self->tid = os_gettid();
}

bool gort_thread_attach(void) {
  if (attached())
    return false;
  gort_runtime_start();
  if (!attached())
    thread_attach(false);
  return true;
}

void gort_thread_detach(void) {
  CHECK_ATTACHED("gort_thread_detach");
  if (getm()->curg != NULL)
    throw("gort_thread_detach: called on a goroutine");
  thread_detach();
}

/* gort_thread_start: the new thread attaches itself, takes fn and arg over from the stack of who
 * starts it, where arg is seen by the collector, and lets that one go on. */
struct start {
  void (*fn)(void *);
  void *arg;
  uint64_t mask[16]; /* signals that the starter blocks, and so the new thread */
  int err;
  struct note taken;
};

static void thread_main(void *p) {
  struct start *s = p;
  thread_attach(false);
  void (*fn)(void *) = s->fn;
  void *arg = s->arg;
  os_restore_signals(s->mask);
  os_unblock_signal(stop_signal);
  notewakeup(&s->taken);
  fn(arg);
}

static void start_and_wait(uintptr_t sp, void *arg) {
  struct start *s = arg;
  struct m *m = acquirem();
  enterblocked(m, sp);
  s->err = os_thread_start(thread_main, s, 0, 0, NULL);
  if (s->err == 0)
    notesleep(&s->taken, -1);
  leaveblocked(m);
  releasem(m);
}

int gort_thread_start(void (*fn)(void *), void *arg) {
  CHECK_ATTACHED("gort_thread_start");
  if (fn == NULL)
    throw("gort_thread_start: fn is nil");
  struct start s = {.fn = fn, .arg = arg};
  os_blocked_signals(s.mask);
  spill_and_call(start_and_wait, &s);
  return s.err;
}
