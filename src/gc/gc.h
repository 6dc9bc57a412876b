/* The collector's cycle: phases, marking, sweeping, pacing, as the other parts see them. */
#ifndef GC_GC_H
#define GC_GC_H

#include "heap/mspan.h"

enum gcphase { GCoff, GCmark, GCmarktermination };
extern uint32_t gcphase; /* changed with the world stopped; atomic */

void gc_init(void);
/* In a child of fork: the collector's own threads are gone. */
void gc_after_fork(void);

/* Runs a whole cycle that begins after the call and sweeps the heap; for gort_gc and drain.
 * The caller is an attached thread or a goroutine, without locks. sp: see systemstack_from. */
void gc_collect(uintptr_t sp);
/* Runs a cycle if the heap has reached its goal. */
void gc_trigger(void);
/* Runs a cycle if the pacer has asked the background thread for one, or if the last one ended
 * gc_period ago, or earlier; and how long until the latter may be so. */
void gc_when_due(void);
int64_t gc_time_left(int64_t now);
extern int64_t gc_period; /* ns; constant but for tests */

/* Sweeping: sweep.c. */
/* Sweeps one span that nobody has swept yet: its pages, or SIZE_MAX when there is none. */
size_t sweepone(void);
bool sweep_some(void); /* a few; false: none was left */
/* Sweeps all that is left and waits for those who sweep. */
void sweep_finish(void);
/* Whether nothing is left to sweep, and nobody sweeps. */
bool sweep_is_done(void);
/* Wakes who runs finalizers if sweeping has queued some. No locks are held, the world runs. */
void sweep_wake(void);
void sweep_init(void);
/* What the collector has to do for processors that have nothing else to: a small part of it, or
 * false when there is nothing; whether there is something. Inside acquirem. */
bool gc_idle_work(void);
bool gc_has_idle_work(void);

/* The thread that sweeps in the background and gives memory back: background.c. */
void background_init(void);
void background_wake(void);
void background_collect(void); /* has it run gc_when_due(); any thread, attached or not */
bool background_runs(void);
void background_after_fork(void);

/* For finalizers, while marking: marks what objects reach, but not them: those in word w of the
 * span's bits whose bits are set in `which`; and an object that p points to. */
void gc_scan_objects(const struct mspan *s, size_t w, uint64_t which);
void gc_mark_word(uintptr_t p);

/* What gctrace says of a cycle. Times in ns. */
struct gccycle {
  uint64_t number;
  int64_t start;                        /* nanotime() when the world was asked to stop */
  uint64_t stop_ns, longest_ns;         /* how long it stood still: in all, and the longest */
  uint64_t mark_ns;                     /* marking */
  uint64_t before, goal, marked, roots; /* bytes: heap at the start, its goal, live, of roots */
  uint64_t allocated;                   /* bytes allocated while marking went on */
  bool concurrent;                      /* the world ran meanwhile */
  int rounds;                           /* how often it looked again at pages written to */
  uint64_t cpu;                         /* processor time of all cycles so far */
  int nworkers;
  bool forced;
};

struct gcstats {
  uint64_t num_gc, num_forced, num_concurrent;
  uint64_t pause_total, pause_max;
  uint64_t pause[256], pause_end[256];
  uint64_t last_end;     /* CLOCK_REALTIME */
  int64_t last_end_mono; /* nanotime(); 0: there was none; atomic */
  uint64_t cpu;          /* ns of processor time that collecting took */
  uint64_t marked;       /* bytes live after the last cycle; atomic */
  uint64_t pages_swept;  /* since then; atomic */
};
extern struct gcstats gcstats; /* under worldsema, or with the world stopped */

/* Pacer. */
extern int gc_percent;          /* -1: off; atomic */
extern int64_t gc_memory_limit; /* bytes */
/* At least this, times the percentage, is the goal of a small heap. */
enum { HEAP_MINIMUM = 4 << 20 };
/* Sets mheap.trigger from what the last cycle left, the percentage and the limit. */
void pacer_set_goal(void);
uint64_t pacer_goal(void);
/* Marking begins beside the program, with so many bytes in the heap; it ends, so many more were
 * allocated meanwhile. With the world stopped. */
void pacer_begin_mark(uint64_t live);
void pacer_end_mark(uint64_t allocated);
/* Who allocates now: marks for itself first; or not at all before the cycle has ended. Any time. */
bool pacer_is_behind(void);
bool pacer_must_wait(void);
/* Gives free memory back to the system while the runtime holds more than the limit. */
void pacer_obey_limit(void);
/* Gives all free memory back. */
void scavenge_all(void);

#endif
