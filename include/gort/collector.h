/* The collector: asking for collections, setting its pace, reading its statistics.
 *
 * Environment, read once when the runtime starts: GORTGC (a percent, or `off`), GORTMEMLIMIT
 * (bytes, with an optional B, KiB, MiB, GiB or TiB; or `off`), GORTMAXPROCS, GORTSIGNAL and
 * GORTDEBUG. What cannot be understood is reported once on standard error; the default is
 * used. */
#ifndef GORT_COLLECTOR_H
#define GORT_COLLECTOR_H

#include "gort/base.h"

GORT_BEGIN_DECLS

/* Returns after a whole collection that began after the call, with the heap swept: what was
 * unreachable is free or has its finalizer queued. May be called in a finalizer. */
GORT_API void gort_gc(void);

/* Collects until nothing new dies and every finalizer has run, those that these set off
 * included; what they did is visible afterwards. False when timeout_ns nanoseconds have
 * passed (negative: no limit; 0: one collection, no waiting). Called in a finalizer it
 * returns false at once. */
GORT_API bool gort_drain(int64_t timeout_ns);

/* A collection starts when the heap has grown by this percentage of what was live after the
 * last one (100 unless GORTGC says otherwise). Negative: off, but for the memory limit.
 * Returns the old setting, -1 when it was off. */
GORT_API int gort_set_gc_percent(int percent);

/* A soft limit, in bytes, on all memory that the runtime holds: as it comes near, collections
 * come more often and memory goes back to the system. INT64_MAX unless GORTMEMLIMIT says
 * otherwise. Negative: only asks. Returns the old limit. */
GORT_API int64_t gort_set_memory_limit(int64_t bytes);

/* Collects, and gives as much memory as possible back to the system. */
GORT_API void gort_free_os_memory(void);

/* Go's MemStats. All in bytes, nanoseconds or counts; counters count from the start. */
typedef struct gort_mem_stats {
  uint64_t alloc;       /* bytes of allocated objects; the same as heap_alloc */
  uint64_t total_alloc; /* bytes allocated so far, freed ones included */
  uint64_t sys;         /* bytes obtained from the system, all kinds together */
  uint64_t mallocs;     /* objects allocated so far */
  uint64_t frees;       /* objects freed so far; mallocs - frees are live or unswept */

  uint64_t heap_alloc;    /* bytes of allocated objects, those not swept yet included */
  uint64_t heap_sys;      /* address space of the heap that was ever in use */
  uint64_t heap_idle;     /* bytes in free spans */
  uint64_t heap_inuse;    /* bytes in spans in use; heap_sys = heap_idle + heap_inuse */
  uint64_t heap_released; /* bytes of heap_idle that the system has back */
  uint64_t heap_objects;  /* mallocs - frees */
  uint64_t stack_inuse;   /* bytes of goroutine stacks mapped */
  uint64_t gc_sys;        /* bytes of the collector's own tables */

  uint64_t next_gc;           /* heap size, in bytes, at which the next cycle begins */
  uint64_t last_gc_ns;        /* end of the last cycle, CLOCK_REALTIME; 0: none yet */
  uint64_t pause_total_ns;    /* time that the world was stopped, in sum */
  uint64_t pause_ns[256];     /* of the last cycles: that of cycle n is at (n + 255) % 256 */
  uint64_t pause_end_ns[256]; /* likewise, when the pause ended, CLOCK_REALTIME */
  uint64_t num_gc;            /* cycles completed */
  uint64_t num_forced_gc;     /* of these, those that the program asked for */
  double gc_cpu_fraction;     /* share of the processors' time that collecting took */

  uint64_t pause_max_ns;      /* the longest pause so far */
  uint64_t finalizers_set;    /* finalizers set so far */
  uint64_t finalizers_queued; /* of these, queued because their object died */
  uint64_t finalizers_run;    /* of these, run to their end (or to gort_goexit) */
  uint64_t cleanups_added;    /* likewise for cleanups */
  uint64_t cleanups_queued;
  uint64_t cleanups_run;
  uint64_t weak_live;            /* handles of weak pointers */
  uint64_t finalizer_running_ns; /* how long the finalizer that runs now has been at it */
  uint64_t num_concurrent_gc;    /* cycles that marked while the program ran, of num_gc */
} gort_mem_stats;

/* Stops the world for a moment and fills *out, or the first `size` bytes of it, so that the
 * structure may grow. */
GORT_API void gort_read_mem_stats_sized(gort_mem_stats *out, size_t size);
#define gort_read_mem_stats(out) gort_read_mem_stats_sized((out), sizeof *(out))

GORT_END_DECLS

#endif
