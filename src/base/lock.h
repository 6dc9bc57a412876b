/* Locks for the runtime itself. A thread that holds one must not be stopped, so lock() stands
 * inside acquirem()/releasem() (base/m.h) and does both itself: a lock held is a thread that
 * runs on.
 *
 * struct mutex: three states in one word (free, held, held and somebody waits), the kernel is
 * asked only when there is somebody to wait for or to wake. struct note: a one-shot event. */
#ifndef BASE_LOCK_H
#define BASE_LOCK_H

#include "base/base.h"

struct mutex {
  uint32_t state; /* 0 free, 1 held, 2 held with waiters; atomic */
};

void lock(struct mutex *l);
void unlock(struct mutex *l);

/* Without acquirem: for threads that are not attached (the collector's workers, and the
 * registry of threads before a thread is in it). */
void lock_raw(struct mutex *l);
void unlock_raw(struct mutex *l);

/* For any thread: an attached one is inside acquirem while it holds the lock. Who forks holds such
 * locks, since others cannot keep all threads outside meanwhile. */
void lock_any(struct mutex *l);
void unlock_any(struct mutex *l);

struct note {
  uint32_t set; /* 0 or 1; atomic */
};

void noteclear(struct note *n);
void notewakeup(struct note *n);
/* Waits until the note is set; at most ns nanoseconds when ns >= 0. True when it was set. */
bool notesleep(struct note *n, int64_t ns);

#endif
