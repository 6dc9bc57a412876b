/* mcache: each thread's spans, one for each class, and the runs it allocates from. */
#ifndef HEAP_MCACHE_H
#define HEAP_MCACHE_H

#include "base/m.h"
#include "heap/mspan.h"

/* Fills an m's cache with the empty span. */
void mcache_init(struct m *m);
/* Gives all spans and the tiny block back. The owner within acquirem, or the collector while
 * the owner is stopped. */
void mcache_flush(struct m *m);
/* One slot of the class for m, zeroed: from the run, the next run of the span, or a new span. 0:
 * out of memory. Within acquirem. */
uintptr_t mcache_alloc(struct m *m, spanclass_t spc);

#endif
