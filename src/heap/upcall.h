/* Where lower parts must call up: one small table of functions that the upper parts install
 * when the runtime starts, instead of including them. Each has a default that does nothing. */
#ifndef HEAP_UPCALL_H
#define HEAP_UPCALL_H

#include "base/base.h"

struct m;
struct mspan;

struct gccycle;

struct upcalls {
  /* gc, for heap: */
  /* The span is the caller's (sweepgen is h - 1): sweeps it, to generation h. Then it is listed in
   * its mcentral, or freed when nothing is left (true); with `preserve` neither. */
  bool (*sweep)(struct mspan *s, bool preserve);
  void (*swept)(void);             /* some may have been swept, nothing is held any more */
  void (*gc_trigger)(void);        /* the heap has grown to its goal: a cycle may begin. Called
                                      without locks, the thread may be stopped in it */
  bool (*gc_for_memory)(void);     /* no memory is left: collect; false when that is useless */
  void (*large_allocated)(size_t); /* bytes of a large object, before it is allocated: sweep as
                                      much */
  void (*object_moved)(uintptr_t from, uintptr_t to); /* by gort_realloc, which gives zerobase
                                      for size 0: a root object stays one */
  /* sched, for gc: */
  bool (*safepoint)(struct m *m); /* m, inside acquirem, was asked to give way; whether it did */
  void (*scan_goroutines)(void (*scan)(uintptr_t lo, uintptr_t hi)); /* stopped world: stacks and
                                        saved registers of all goroutines that do not run, and
                                        fn and arg of those that have not begun */
  void (*entersyscall)(struct m *m); /* m blocks: its P may go to another thread */
  void (*exitsyscall)(struct m *m);  /* it is back (not stopped): get a P again, or wait for one */
  void (*world_stopped)(void);       /* sched takes its chance to tidy up */
  void (*world_started)(void);
  void (*release_stacks)(void);  /* the memory of free stacks goes back to the system */
  void (*wake_finalizers)(void); /* something was queued: get fing running; no locks held */
  /* special, for gc: */
  bool (*sweep_specials)(struct mspan *s); /* before the bits are swapped; sets mark bits of what
                                        finalizers keep; true when something was queued */
  /* Marks what the finalizers' objects reach (not the objects) and the functions, for one of
   * special_shards() parts of the heap; workers share these. */
  size_t (*special_shards)(void);
  void (*mark_special_shard)(size_t shard);
  bool (*has_finalizer)(struct mspan *s, size_t i); /* whether a slot does; any thread */
  void (*mark_queues)(void (*scan)(uintptr_t lo, uintptr_t hi)); /* queued finalizers are roots */
  /* sched, for special: */
  void (*createfing)(void);   /* starts the finalizer goroutine, the first time */
  char **(*last_error)(void); /* where the calling goroutine keeps its last refusal; NULL:
                                 on a thread, in its m */
  void (*set_last_error)(const char *text); /* special, for heap: copies it for gort_last_error */
  bool (*on_fing)(void);                    /* whether the caller is the finalizer goroutine */
  /* debug, for gc and heap: */
  void (*cycle_done)(const struct gccycle *);    /* a line of gctrace; world running */
  void (*verify_heap)(const char *when);         /* the heap walker; world stopped; throws */
  void (*trace_alloc)(uintptr_t p, size_t size); /* allocfreetrace */
  void (*trace_free)(uintptr_t p, size_t size);
};

extern struct upcalls upcalls;

#endif
