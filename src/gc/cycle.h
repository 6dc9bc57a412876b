/* One cycle of the collector. */
#ifndef GC_CYCLE_H
#define GC_CYCLE_H

#include "base/base.h"

struct gccycle;

/* Settles whether the program is to run on while the heap is marked. */
enum concurrency {
  GC_STOPPED, /* no */
  GC_BY_SIZE, /* where that would stop it for long, and faults are cheap */
  GC_BESIDE,  /* always */
};
void cycle_init(enum concurrency c);
/* Whether it would if a cycle began now: the kernel has to be able to note which pages are written
 * to. For who runs a cycle, or is about to. */
bool cycle_is_concurrent(void);

/* Cycles begun so far; any thread. */
uint64_t cycles_begun(void);

/* Stops the world with a list of loaded libraries that is true then. */
void stop_with_roots(void);
/* Before the world is stopped for a cycle. */
void cycle_prepare(void);
/* Runs a cycle. Called with the world stopped, and returns so; in between it may have run. The
 * caller is on the system stack and holds no locks; no other cycle runs meanwhile. */
void cycle_run(struct gccycle *c, bool forced);

/* When the world runs again. */
void cycle_end(void);

/* In a child of fork: what was begun is given up. */
void cycle_after_fork(void);

#endif
