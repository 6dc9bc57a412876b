/* G: a goroutine.
 *
 * A goroutine is a stack, the place where it goes on (sp, when it does not run), and a status:
 *
 *   Gidle      just made
 *   Grunnable  in a run queue, or on the way into one
 *   Grunning   on the thread g->m; its sp is not valid
 *   Gsyscall   likewise, between gort_block_enter and gort_block_exit, without a P
 *   Gwaiting   parked: somebody has to call ready()
 *   Gdead      ended; on the list of free ones, or about to be
 *
 * The status changes only on the scheduler's stack (g0) of the thread that has the goroutine: who
 * parks is Gwaiting only after its registers have been saved, so that who makes it ready cannot
 * run it on two threads. It is written by one thread at a time, by turns: the owner of the
 * goroutine, then who calls ready(), then the owner of the run queue. The collector reads it
 * while the world stands; others for messages only.
 *
 * A struct g is never freed, but used anew: pointers to it stay pointers to some goroutine. */
#ifndef SCHED_G_H
#define SCHED_G_H

#include "base/base.h"
#include "base/m.h"

enum gstatus { Gidle, Grunnable, Grunning, Gsyscall, Gwaiting, Gdead };

enum waitreason {
  waitReasonNone,
  waitReasonSleep,
  waitReasonChanReceive,
  waitReasonChanSend,
  waitReasonChanReceiveNilChan,
  waitReasonChanSendNilChan,
  waitReasonSelect,
  waitReasonSelectNoCases,
  waitReasonMutexLock,
  waitReasonRWMutexRLock,
  waitReasonRWMutexLock,
  waitReasonCondWait,
  waitReasonWaitGroupWait,
  waitReasonOnce,
  waitReasonIOWait,
  waitReasonFinalizerWait,
  waitReasonGCWait,
  waitReasonHalted, /* gort_main has returned */
  waitReasons       /* how many */
};

/* What is to be done at the end of a function, also when that is gort_goexit. It lies in the frame
 * of who called the function. fn need not return. */
struct deferred {
  void (*fn)(struct deferred *d);
  struct deferred *outer;
};

/* In g->waitsince: the idle part of its stack has been given back. */
enum { TRIMMED = 1 };

struct g {
  /* Where it is: read and written whenever it is made, runs and ends. */
  uintptr_t sp;        /* where switch_to goes on; valid when it does not run. Before it has begun:
                          one to be prefetched, if any (runq.c) */
  struct stack stack;  /* constant from its first run on; none before, if of the default size */
  uint32_t status;     /* enum gstatus; atomic, see above */
  uint8_t waitreason;  /* of Gwaiting; written before the status */
  bool system;         /* the runtime's own: not counted, and runs on when gort_main has returned */
  bool begun;          /* fn has been called; before, fn and arg are roots */
  struct g *schedlink; /* next in the global queue or in a list; its owner's */
  void (*fn)(void *);  /* what it runs; cleared when it begins */
  void *arg;
  uint64_t goid; /* constant while the goroutine lives */

  struct m *m;            /* the thread it runs on; the owner's; atomic for messages */
  struct m *lockedm;      /* the one thread that may run it, or NULL; with locked 0 main's, until it
                             parks; the owner's */
  struct stackslot *slot; /* of a stack of the default size: stackpool.c */
  /* What its thread does on another stack after the goroutine has left its own: set by the
   * goroutine just before it switches. */
  void (*leave)(struct m *m, struct g *g);
  void (*commit)(void *arg); /* for gopark */
  void *commit_arg;
  int64_t waitsince; /* sched.clock as it began to wait, in Gwaiting and Gsyscall, or 0; its lowest
                        bit: TRIMMED; atomic for messages */
  char *last_error;  /* the text of its last refusal, malloc'ed; freed with the goroutine */
  struct deferred *deferred; /* what gort_goexit does first, the innermost first; the goroutine's */

  uint32_t locked;                    /* depth of gort_lock_thread; the goroutine's */
  struct g *alllink;                  /* next in allgs; constant */
  void *asan_fake_stack, *tsan_fiber; /* sanitizer.h */
};
_Static_assert(offsetof(struct g, m) == CACHE_LINE, "what making a goroutine needs is in one line");

/* With release: who sees the status, a trace of a world that runs on, sees what goes with it, too.
 */
static inline void set_status(struct g *g, enum gstatus status) {
  __atomic_store_n(&g->status, status, __ATOMIC_RELEASE);
}

/* It is going to be run, or made, soon: perhaps another processor had it last. Or NULL. */
static inline void prefetch_g(const struct g *g) {
  __builtin_prefetch(g, 1);
  __builtin_prefetch((const void *)((uintptr_t)g + offsetof(struct g, m)), 1);
}

/* All goroutines there ever were, by alllink. Grows at its head only; atomic. */
extern struct g *allgs;

/* The goroutine that runs here; NULL on a thread, and in the scheduler. */
static inline struct g *getg(void) { return getm()->curg; }

#endif
