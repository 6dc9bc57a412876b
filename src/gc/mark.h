/* Marking: from the roots to everything that they reach. */
#ifndef GC_MARK_H
#define GC_MARK_H

#include "base/base.h"

/* How many workers are to mark, the collecting thread included; mark_prepare, with the world
 * running, starts those that are not there yet. With fewer threads than asked for marking works. */
void mark_init(int nworkers);
void mark_prepare(void);
/* Marks everything reachable with all workers; world stopped. Returns the bytes marked. */
uint64_t mark_all(void);
/* In a child of fork: the helpers are gone. */
void mark_after_fork(void);
int mark_workers(void);

#endif
