/* M: a thread that the runtime knows.
 *
 * Each attached thread has one `struct m` (from persistent memory, used anew after the thread
 * has ended). Its first member is the cache of the inline allocation path; the thread-local
 * `gort_tls` points to it. Every part of the runtime has its fields here, in one place, beside
 * who may touch them; the part's own types are only named.
 *
 * Where a thread may be stopped. C code has no safepoints, so the collector stops a thread
 * anywhere by a signal, except between acquirem() and releasem(): there the thread is at work
 * on the runtime's own structures, and is only asked to stop (cache.stop); releasem() honours
 * that. The counter is plain: its one other reader is the signal handler on the same thread.
 * lock()/unlock() count as acquirem()/releasem(). */
#ifndef BASE_M_H
#define BASE_M_H

#include "base/base.h"
#include "base/lock.h"
#include "base/switch.h"
#include "gort/memory.h"

struct g;
struct p;
struct mspan;

struct stack {
  uintptr_t lo, hi;
};

/* Whether the collector has to stop this thread; `status` of a thread. */
enum {
  M_RUNNING, /* executes; must be signalled */
  M_BLOCKED, /* waits in the kernel or parked, its stack published; cannot run on while the
                world is stopped: see gc/stop.c */
  M_STOPPED, /* stopped by the collector, its stack published */
};

/* What m->cache.stop asks for, as bits; the inline allocation path only tests it against 0. Each
 * bit has one side that sets it and one that clears it, so that no request is lost. */
enum {
  STOP_WORLD = 1,   /* set and cleared by who stops the world */
  STOP_PREEMPT = 2, /* set by ask_preempt; cleared by the owner as it calls upcalls.safepoint */
  STOP_FORK = 4,    /* set and cleared by who forks: nobody enters the runtime */
};

enum { M_SAVED_WORDS = 256 };

struct mstats {
  uint64_t nmalloc[GORT_NUM_SPAN_CLASSES]; /* objects allocated, by span class */
  uint64_t nfree[GORT_NUM_SPAN_CLASSES];   /* objects swept away, by span class */
  uint64_t tinyallocs;                     /* objects combined into tiny blocks */
  uint64_t large_alloc, nlarge_alloc;      /* bytes and count of large objects */
  uint64_t large_free, nlarge_free;
  uint64_t finalizers_set;
};

struct m {
  struct gort_cache cache; /* must be first; the owner's, but for `stop` */
  uint32_t locks;          /* acquirem depth; the owner's alone */

  /* heap: the owner's; the collector's while the world is stopped */
  uintptr_t tiny;    /* start of the current tiny block, or 0 */
  size_t tinyoffset; /* where it goes on */
  int64_t uncounted; /* bytes of runs that are not in mheap.live yet */
  struct mstats stats;
  void *finrecords; /* free finalizer records (special/), linked by their first word */
  uint32_t nfinrecords;

  /* gc/stop: */
  uint32_t status;  /* M_...; atomic; written by the owner */
  uint32_t blocked; /* depth of entersyscall; the owner's */
  uint32_t outside; /* number of the last fork that it promised to stay outside for; atomic;
                       written by the owner */
  int tid;          /* the kernel's name of the thread */
  /* What to scan while the thread is blocked or stopped; written by the owner before it changes
   * its status (release), read by the collector after it has seen that (acquire). */
  uintptr_t sp;           /* stack pointer, the red zone taken off */
  struct stack stack;     /* what it runs on now: its own stack, a goroutine's, or {0, 0} for
                             the scheduler of a runtime thread, which holds no roots */
  struct stack under;     /* the suspended stack beneath a goroutine: of the thread that called
                             gort_main, from there up; else {0, 0} */
  struct stack regs;      /* saved registers (of a signal frame), or {0, 0} */
  struct stack hoststack; /* the thread's own stack, static thread-local storage included */
  struct stack tls;       /* static thread-local storage and the thread's descriptor */
  uintptr_t tcb;          /* the thread pointer, from which dynamic thread-local storage is found */
  struct stack altstack;  /* the signal stack, unless the thread brought its own */
  uintptr_t systemsp;     /* where systemstack() begins; 0 while on the system stack */
  struct stack sysstack;  /* mapped system stack of a thread that is not the runtime's own */
  uintptr_t pc;           /* where the signal interrupted it; 0: it stopped by itself; valid while
                             M_STOPPED */
  struct frame at;        /* from where its callers can be followed; likewise */
  uint32_t frozen;        /* 1: it does not run on when the world does, for good: set by the
                             scheduler in the stopped world, or by the owner */
  uint32_t signalled;     /* the stop signal has been sent since the thread last blocked; atomic */
  uint32_t stands;        /* 1: it waits for the world to run on; atomic */
  bool stop_warned;       /* it was named as the one that holds up the collector; who stops the
                             world */
  uintptr_t saved[M_SAVED_WORDS]; /* gort_block_enter: registers and the lowest part of the stack
                             as they were then; in m->regs while the thread is blocked */

  /* gc/threads: the registry; guarded by allm_lock */
  struct m *alllink;  /* all Ms ever made */
  bool in_use;        /* belongs to a thread now */
  bool runtime_owned; /* a thread that the runtime started to run goroutines or to sweep */
  uint32_t exiting;   /* how often its destructor of thread-specific data has run; the owner's */

  /* sched: the owner's, or under sched.lock while parked */
  struct g *g0, *curg;
  struct g *leaving; /* has left its stack, or is just doing so: park.c */
  struct g *nextg;   /* to be run next, out of a queue: not by switching to it directly */
  struct p *p, *nextp;
  struct g *lockedg;
  bool spinning;
  int64_t spin_until; /* nanotime() */
  uint32_t dozes;     /* how often it may still doze */
  struct note park;
  struct m *schedlink;
  uint64_t random;
  void *tsan_fiber; /* the thread's own context, for the sanitizers */

  /* refusals on a thread that is no goroutine */
  char *last_error;
};

_Static_assert(offsetof(struct m, cache) == 0, "gort_tls points to the m");

/* The calling thread's m. For a thread that is not attached: a dummy with empty caches. */
static inline struct m *getm(void) { return (struct m *)gort_this_cache(); }
extern struct m m_unattached;
static inline bool attached(void) { return getm() != &m_unattached; }
/* Makes m the calling thread's (NULL: none). */
void setm(struct m *m);

/* Throws `NAME: thread is not attached` where it is not. */
#define CHECK_ATTACHED(name)                                                                       \
  do {                                                                                             \
    if (unlikely(!attached()))                                                                     \
      throw("%s: thread is not attached", (name));                                                 \
  } while (0)

/* Waits at the entrance while a thread forks; m->locks is 1. In gc/stop.c. */
void wait_for_fork(struct m *m);

static inline struct m *acquirem(void) {
  struct m *m = getm();
  uint32_t depth = m->locks++;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  if (unlikely((__atomic_load_n(&m->cache.stop, __ATOMIC_RELAXED) & STOP_FORK) != 0) && depth == 0)
    wait_for_fork(m);
  return m;
}

/* m is the calling thread's: a thread does not change between acquirem and releasem. */
static inline void releasem(struct m *m) {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  m->locks--;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  if (m->locks == 0 && unlikely(__atomic_load_n(&m->cache.stop, __ATOMIC_RELAXED) != 0))
    gort_stop_here();
}

/* For calls that would not come by acquirem: a loop of them has to stop and to give way, too. */
static inline void safe_point(void) {
  if (unlikely(__atomic_load_n(&getm()->cache.stop, __ATOMIC_RELAXED) != 0))
    gort_stop_here();
}

#endif
