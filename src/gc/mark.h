/* Marking: from the roots to everything that they reach. */
#ifndef GC_MARK_H
#define GC_MARK_H

#include "base/base.h"

void mark_init(void);
/* In a child of fork: whoever marked is gone. */
void mark_after_fork(void);

/* Marks everything reachable with all workers; world stopped. Returns the bytes marked. */
uint64_t mark_all(void);

/* The same in steps (gc/cycle.c): */
void mark_begin(void);         /* world stopped: reads the roots */
void mark_concurrently(int n); /* marks from them, with n workers, the caller included */
void mark_noted(int n);        /* looks again at pages that are noted as written (gc/written.h) */
uint64_t mark_finish(void);    /* world stopped: roots and written pages once more */
/* Helps those who mark with some hundred objects; false: there is nothing to do now. Inside
 * acquirem, or blocked. */
bool mark_help(void);
uint64_t mark_cputime(void);  /* ns of processor time that marking has taken so far */
uint64_t mark_progress(void); /* bytes marked so far; about that, at any time */

#endif
