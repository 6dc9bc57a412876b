/* The threads that mark beside the one that collects. */
#ifndef GC_WORKERS_H
#define GC_WORKERS_H

#include "base/base.h"

/* How many workers are wanted, the collecting thread included; at most 16. */
void workers_init(int n);
/* Starts those that are not there yet; world running. With fewer than asked for marking works. */
void workers_prepare(void);
/* How many there are, the collecting thread included. */
int workers_count(void);

/* Runs fn on n of them at the same time, n at most workers_count(), the caller included; returns
 * when all have returned. What the caller did before is seen by all, and what they did by the
 * caller afterwards. One such call at a time. */
void workers_run(void (*fn)(void), int n);

/* Between hold and release nobody is in the middle of a round but in workers_may_pause, which those
 * who are in one call where they hold nothing. */
void workers_hold(void);
void workers_release(void);
void workers_may_pause(void);

/* In a child of fork they are gone. */
void workers_after_fork(void);

#endif
