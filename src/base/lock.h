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

/* For a few instructions, such as copying a value: to release it is a plain store, for nobody has
 * to be woken. Who waits spins, then gives way, then sleeps for ever longer times, for the holder
 * may have lost its processor. Inside acquirem. */
struct spinlock {
  uint32_t held; /* 0 or 1; atomic */
};

void spin_lock_slow(struct spinlock *l);

static inline void spin_lock(struct spinlock *l) {
  if (unlikely(__atomic_exchange_n(&l->held, 1, __ATOMIC_ACQUIRE) != 0))
    spin_lock_slow(l);
}

static inline void spin_unlock(struct spinlock *l) {
  __atomic_store_n(&l->held, 0, __ATOMIC_RELEASE);
}

struct note {
  uint32_t set; /* 0 or 1; atomic */
};

void noteclear(struct note *n);
void notewakeup(struct note *n);
/* Waits until the note is set; at most ns nanoseconds when ns >= 0. True when it was set. */
bool notesleep(struct note *n, int64_t ns);

#endif
