/* The scheduler: goroutines (G) run on threads (M) that hold a processor (P).
 *
 *   G  what runs                                     g.h
 *   M  a thread                                      base/m.h
 *   P  the right to run goroutines; there are gort_max_procs() of them. It has a queue of
 *      goroutines that are ready.
 *
 * A thread of the runtime's own runs the scheduler on its own stack, called g0 here, inside
 * acquirem; from there it switches to a goroutine's stack, and back when the goroutine parks or
 * ends. The counter m->locks belongs to the thread: who switches holds acquirem once, and what
 * is switched to gives it back. A goroutine holds no lock of the runtime when it switches, other
 * than the one that goparkunlock releases for it.
 *
 * Which thread sleeps and which is woken is told at the top of proc.c and idle.c. */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include "base/atomic.h"
#include "base/base.h"
#include "base/lock.h"
#include "base/m.h"
#include "sched/g.h"
#include "sched/magazine.h"
#include "sched/timer.h"

struct waiter;

enum {
  MAX_PROCS = 1024,
#ifdef GORT_TORTURE
  RUNQ_SIZE = 4,
#else
  RUNQ_SIZE = 256,
#endif
  DEFAULT_STACK = 256 << 10,
  MIN_STACK = 16 << 10,
  STACK_GUARD = 64 << 10,
  MAX_MAIN_STACK = 64 << 20,
  GLOBAL_EVERY = 61, /* time slices; then the global queue goes first */
};

enum pstatus {
  Pidle,    /* on sched.pidle, or about to be */
  Prunning, /* p->m has it */
  Psyscall, /* its thread is between gort_block_enter and _exit and will take it back, unless
               somebody is faster */
  Pdead,    /* beyond gort_max_procs() */
};

struct p {
  uint32_t id;          /* constant */
  uint32_t status;      /* enum pstatus; atomic: from Psyscall it is taken by compare and swap */
  struct m *m;          /* who has it; atomic for sysmon */
  struct p *link;       /* in sched.pidle or sched.starting; under sched.lock */
  uint32_t schedtick;   /* grows with each time slice; the owner's; atomic for sysmon */
  uint32_t syscalltick; /* grows with each block; the owner's; atomic for sysmon */
  bool start_spinning;  /* in sched.starting: how its new thread begins; under sched.lock */

  /* What sysmon saw last; sysmon's. */
  struct {
    uint32_t schedtick, syscalltick;
    int64_t schedwhen, syscallwhen;
  } seen;

  /* The queue: runq.c. */
  uint32_t runqhead __attribute__((aligned(CACHE_LINE))); /* atomic: moved by compare and swap */
  uint32_t runqtail;                                      /* atomic: moved by the owner */
  struct g *runnext;                                      /* atomic: goes before the queue */
  struct g *runq[RUNQ_SIZE];                              /* atomic */

  struct timers timers; /* timer.h */

  /* The owner's: */
  struct magazines gfree;  /* dead goroutines: goroutine.c */
  struct magazines stacks; /* free ones: stackpool.c */
  uint64_t goid, goidend;  /* ids that it may give */
  int32_t ngoroutines;     /* made here less ended here; atomic for who counts them */
  int32_t npollers;        /* waits for descriptors begun here less ended here; likewise */
};

struct sched {
  /* Taken with acquirem held, or by sysmon, which is not attached; nothing is called under it
   * that could block. */
  struct mutex lock;

  /* Under the lock; the counters are atomic for those who only look. */
  struct p *pidle;    /* Ps that nobody has */
  uint32_t npidle;    /* how many */
  struct m *midle;    /* threads that wait for a P */
  int32_t nm;         /* threads that run goroutines, those about to start included */
  int32_t nmidle;     /* of these, waiting in stopm, stoplockedm or wait_for_main */
  struct g *runqhead; /* the global queue, by schedlink */
  struct g *runqtail;
  uint32_t runqsize;
  struct p *starting;   /* Ps for which sysmon is to start a thread */
  uint32_t gomaxprocs;  /* Ps with a smaller id may be used */
  uint32_t nallp;       /* Ps there are in allp; grows */
  bool only_p;          /* gomaxprocs is 1, and no other P is in use: nobody steals. Becomes true
                           under the lock, and false with the world stopped as well, so that nobody is
                           in the middle of what relies on it; atomic */
  bool no_more_threads; /* the system refused one when there was none: m0 runs everything;
                           atomic */
  bool m0_waits;        /* m0 waits for the main goroutine to end, or to be ready for it */
  bool checkdead_later; /* everybody sleeps, but help may still come */
  bool refused;         /* the system refused a thread; sysmon tries again; atomic */

  uint32_t nmspinning; /* threads that look for work and have none; atomic */
  struct m *dozer;     /* one of them, which sleeps for a moment; who sets it to NULL wakes it;
                          atomic */
  uint64_t goidgen;    /* the last id given to a P or a goroutine; atomic */
  int32_t ngoroutines; /* user goroutines made without a P, less ended; atomic */

  /* gort_main: */
  struct m *m0;     /* the thread that called it, while it is there; atomic */
  struct g *maing;  /* the main goroutine; constant once set; atomic */
  bool main_done;   /* its function has returned: user goroutines run no more; atomic */
  bool main_ended;  /* and m0 may return; atomic */
  bool main_goexit; /* it called gort_goexit; under the lock */

  /* sysmon: sysmon.c */
  uint32_t sysmon_state; /* none, started; atomic */
  bool sysmon_waits;     /* it sleeps until it is woken; under the lock; atomic */
  bool sysmon_runs;      /* its thread is there; atomic */
  uint32_t sysmon_calls; /* what it is called for, as bits, see sysmon.c; atomic; it sleeps on it */

  /* nanotime() a short while ago, for who has no time to ask: at most 10 ms, or as long as sysmon
   * is late. 0: nobody keeps it. On a line of its own, for all read it. Atomic. */
  int64_t clock __attribute__((aligned(CACHE_LINE)));
};

extern struct sched sched;
extern struct p *allp[MAX_PROCS]; /* the first sched.nallp are there; atomic */

/* Nobody has a P. Under sched.lock that stays so. */
static inline bool all_idle(void) {
  return load_relaxed(&sched.npidle) == load_relaxed(&sched.gomaxprocs);
}
/* It is beyond gort_max_procs(). */
static inline bool p_is_retired(const struct p *p) {
  return unlikely(p->id >= load_relaxed(&sched.gomaxprocs));
}
/* User goroutines do not run any more when gort_main has returned. */
static inline bool halted(const struct g *g) {
  return unlikely(load_acquire(&sched.main_done)) && !g->system;
}

/* --- For other parts ----------------------------------------------------------------------- */

/* Starts the scheduler; no thread is started before it is needed. */
void sched_init(int procs);
/* In a child of fork, the world stopped: only the calling thread and its goroutine live on, and
 * the runtime's goroutines that were not running. */
void sched_after_fork(void);
/* How many user goroutines there are: true of a moment if none is made or ends meanwhile. */
int num_goroutines(void);

/* A line about the scheduler every ms milliseconds on standard error; 0: none. From `begin` on,
 * which an attached thread calls. */
void schedtrace_init(int ms);
void schedtrace_begin(void);

extern uint64_t stack_inuse; /* bytes of goroutine stacks mapped; atomic */

/* A new goroutine that runs fn(arg), ready to run. Any attached thread. stack_size 0: the
 * default. System goroutines are not counted and go on after gort_main has returned. */
struct g *newproc(void (*fn)(void *), void *arg, size_t stack_size, bool system);

/* Parks the calling goroutine and releases the lock, once it can be made ready. */
void goparkunlock(struct mutex *l, enum waitreason why);
/* Parks the calling goroutine. commit(arg) is called when it has left its stack, and releases what
 * guards it from being made ready; NULL: nothing does. */
void gopark(void (*commit)(void *arg), void *arg, enum waitreason why);
/* Makes a parked goroutine run again. Any attached thread, locks held or not. */
void ready(struct g *g);

/* runfinq.c: the finalizer goroutine. */
void fing_init(void);       /* installs upcalls.createfing and upcalls.on_fing */
void fing_after_fork(void); /* makes a new fing where the old one was running */

/* --- Within the scheduler ------------------------------------------------------------------ */

/* idle.c */
void idle_init(int procs);
void pidleput(struct p *p); /* under sched.lock */
struct p *pidleget(void);   /* under sched.lock */
void acquirep(struct m *m, struct p *p);
struct p *releasep(struct m *m);
void wakep(void);
void wakep_put(bool waits); /* after runqput with next; waits: it returned true */
void startm(struct p *p, bool spinning);
void stopm(struct m *m);
void handoffp(struct p *p);
void start_threads(void); /* sysmon's: those that newm has asked for */
void wait_in_kernel(struct m *m, int64_t ns);
int set_max_procs(int n);  /* returns the old */
void checkdead(void);      /* under sched.lock */
void m_begin(struct m *m); /* makes m's thread one that can run schedule_loop */

/* proc.c */
void schedule_loop(struct m *m); /* returns when the thread has to end */
void schedule_once(struct m *m); /* finds a goroutine and runs it until it leaves its stack */
void execute(struct m *m, struct g *g, bool inherit);
bool work_waits(void);

/* park.c */
void mcall(void (*leave)(struct m *m, struct g *g));
void mcall_g0(void (*leave)(struct m *m, struct g *g));
void arrive_on(struct g *g);
void goyield(void);       /* on a goroutine: behind all others */
void yield_to_next(void); /* lets the goroutine go first that was made ready just now */
bool safepoint(struct m *m);
void park_halted(void);

/* syscall.c */
void entersyscall(struct m *m);
void exitsyscall(struct m *m);
bool stoplockedm(struct m *m); /* whether its locked goroutine is ready */
void startlockedm(struct m *m, struct g *g);

/* runq.c, and runq.h */
void runqput_here(struct m *m, struct g *g); /* g is ready; wakes who may be needed for it */
struct g *runqsteal(struct p *to, struct p *from, bool runnext_too);
void globrunqput(struct g *g);                    /* under sched.lock */
struct g *globrunqget(struct p *p, uint32_t max); /* under sched.lock; max 0: a fair share */
void runq_to_global(struct p *p);                 /* under sched.lock */

/* stack.c */
void stack_init(void);
void stack_alloc(struct g *g,
                 size_t size);     /* of a size of its own; throws when there is no memory */
void stack_unmap(struct g *g);     /* one from stack_alloc */
uintptr_t stack_map(size_t bytes); /* 0 when there is no memory */
GORT_NORETURN void stack_no_memory(size_t size);

/* stackpool.c: stacks of the default size. With acquirem held. */
void stack_take(struct p *p, struct g *g); /* throws when there is no memory */
void stack_give(struct p *p, struct g *g);
void stackpool_after_fork(void);
/* Makes some of them cold that nobody has wanted for long; how long until there may be more to do,
 * in ns; INT64_MAX: nothing before one is given back. sysmon's. */
int64_t stackpool_trim(int64_t now);
void stackpool_trim_all(void); /* makes all of them cold */
void stackpool_flush(void); /* empties the Ps' caches; with the world stopped, under sched.lock */

/* trim.c: memory of stacks that is not needed */
extern int64_t trim_patience; /* how long a goroutine has to wait first, in ns; tests change it */
void trim_init(void);
int64_t stacks_trim(int64_t now); /* sysmon's: does some of what is due; ns until more is */
void trim_after_fork(void);

/* goroutine.c */
void goroutine_end(struct m *m, struct g *g); /* on g0 */
struct g *new_g(void (*fn)(void *), void *arg, size_t stack_size, bool system);
void prepare_stack(struct m *m, struct g *g); /* before it runs for the first time */
void count_goroutine(struct m *m, int n);     /* n more user goroutines */
void gfree_after_fork(void);
void bury_goroutine(struct g *g); /* after fork: it is dead and can be used anew */
GORT_NORETURN void end_goroutine(void);
/* Calls fn(arg), then d->fn(d); this also when fn ends by gort_goexit. Goroutines and threads. */
void call_deferring(void (*fn)(void *), void *arg, struct deferred *d);

/* watch.c */
bool unwatched(void);          /* time or descriptors are waited for, and no thread does it */
void watch_call(int64_t when); /* there is something new to wait for, until then at most */
void watch_ensure(void);       /* there is, without a deadline */
bool watch_wait(struct m *m, struct waiter **ready); /* waits for it; false: not our business.
                                                      *ready: who is to be woken for descriptors */
void watch_dismiss(void);                            /* unless there is something to wait for */
void watch_after_fork(void);

/* chan.c */
void chan_after_fork(void);

/* gotimer.c */
void gotimers_after_fork(void);

/* schedtrace.c */
int64_t schedtrace_left(int64_t now); /* ns until the next line; INT64_MAX: none */
void schedtrace(int64_t now);         /* prints it if it is time; sysmon's */

/* sysmon.c */
void sysmon_ensure(void);
void sysmon_call(void); /* under sched.lock: wakes it; who ends its sleep sets sched.clock so */
void sysmon_hurry(void);
bool sysmon_ask_to_quit(void); /* in a signal handler; false: it does not run */
void sysmon_after_fork(void);
void wake_after_fork(void); /* on a thread that is about to wait */

/* main.c */
void m0_wake(void); /* under sched.lock */
GORT_NORETURN void main_returned(void);
void main_goexit(void); /* the main goroutine ends by itself */

/* quit.c: SIGQUIT */
void quit_init(void);
void quit_after_fork(void);
GORT_NORETURN void quit_stopped(void); /* sysmon's: prints all traces and ends the process */

/* traceback.c: on standard error */
void traceback_all(void);
void traceback_stopped(void); /* of a stopped world */
/* In a signal handler that will not return: this thread's trace is that of what it interrupted. */
void traceback_of(void *ucontext);

/* symbol.c: writes the name of the function at pc and the offset in it, or the object's name and
 * the offset in that, to buf. returns_there: pc stands behind a call. Takes no lock and calls no
 * malloc; between symbols_begin and symbols_end, which one thread at a time has for itself, it
 * knows more names. */
void symbols_begin(void);
void symbols_end(void);
void symbol_name(uintptr_t pc, bool returns_there, char *buf, size_t size);

#endif
