/* Locks for goroutines and attached threads together.
 *
 * They are ready when zeroed, may lie anywhere (memory that the collector does not know included),
 * and need no end. One that has to wait parks the goroutine, or blocks the thread. A lock does not
 * belong to who took it: another may give it back. The memory may be used anew as soon as the last
 * call on it has returned; while it is in use it must not be moved or copied.
 *
 * What was done before an unlock has been done for who locks next, and likewise for what wakes
 * and who is woken. */
#ifndef GORT_LOCK_H
#define GORT_LOCK_H

#include "gort/base.h"

GORT_BEGIN_DECLS

/* --- Mutex ---------------------------------------------------------------------------------- */

typedef struct {
  uint32_t state;
} gort_mutex;
#define GORT_MUTEX_INIT                                                                            \
  { 0 }

/* An unlock wakes who has waited longest, and whoever is first takes the lock; but who has waited
 * for longer than a millisecond is handed it, before all who come meanwhile. Not recursive. Throws
 * `unlock of unlocked mutex`. */
GORT_API void gort_mutex_lock(gort_mutex *m);
GORT_API bool gort_mutex_try_lock(gort_mutex *m);
GORT_API void gort_mutex_unlock(gort_mutex *m);

/* --- Readers and writers -------------------------------------------------------------------- */

typedef struct {
  uint64_t state;
} gort_rwmutex;
#define GORT_RWMUTEX_INIT                                                                          \
  { 0 }

/* Many readers or one writer. A writer that waits goes before readers that come later; readers
 * that wait go when the writer has unlocked. So a reader must not take it for reading again: a
 * writer may have come in between. Throws `runlock of unlocked rwmutex`, `unlock of unlocked
 * rwmutex`. */
GORT_API void gort_rwmutex_rlock(gort_rwmutex *rw);
GORT_API bool gort_rwmutex_try_rlock(gort_rwmutex *rw);
GORT_API void gort_rwmutex_runlock(gort_rwmutex *rw);
GORT_API void gort_rwmutex_lock(gort_rwmutex *rw);
GORT_API bool gort_rwmutex_try_lock(gort_rwmutex *rw);
GORT_API void gort_rwmutex_unlock(gort_rwmutex *rw);

/* --- Condition ------------------------------------------------------------------------------ */

typedef struct {
  uint32_t state;
} gort_cond;
#define GORT_COND_INIT                                                                             \
  { 0 }

/* Unlocks m, waits until woken, locks m. It is woken by a signal or broadcast alone, in the order
 * of waiting; what it waits for must be looked at anew all the same. Signals need not hold m. */
GORT_API void gort_cond_wait(gort_cond *c, gort_mutex *m);
GORT_API void gort_cond_signal(gort_cond *c);
GORT_API void gort_cond_broadcast(gort_cond *c);

/* --- Waiting for a group -------------------------------------------------------------------- */

typedef struct {
  uint64_t state;
} gort_wait_group;
#define GORT_WAIT_GROUP_INIT                                                                       \
  { 0 }

/* A counter, and waiting until it is 0. Throws `negative wait group counter`. Adding to a counter
 * that is 0 must happen before waiting. */
GORT_API void gort_wait_group_add(gort_wait_group *wg, int n);
GORT_API void gort_wait_group_done(gort_wait_group *wg);
GORT_API void gort_wait_group_wait(gort_wait_group *wg);
/* Counts one up and runs fn(arg) on a new goroutine; counts down when that has ended, by
 * gort_goexit as well. */
GORT_API void gort_wait_group_go(gort_wait_group *wg, void (*fn)(void *), void *arg);

/* --- Once ----------------------------------------------------------------------------------- */

typedef struct {
  uint32_t state;
} gort_once;
#define GORT_ONCE_INIT                                                                             \
  { 0 }

/* The first call runs fn(arg); all return when that has ended, by gort_goexit as well. */
GORT_API void gort_once_do(gort_once *o, void (*fn)(void *), void *arg);

GORT_END_DECLS

#endif
