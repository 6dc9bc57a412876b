/* Waiting on an address: for what becomes of the word of a lock that lies there.
 *
 * A lock is a word in the program's memory, and knows nothing of who waits for it. These are in a
 * table here, semtable, in a queue for each address, in the order in which they came. The table
 * consists of roots; each address belongs to one, and its lock protects the queues of all its
 * addresses.
 *
 *   waits:   root = sema_lock(addr); looks at the word, and marks it as waited for; sema_queue;
 *            sema_wait, which unlocks the root
 *   wakes:   root = sema_lock(addr); sema_dequeue; changes the word; sema_wake, which unlocks the
 * root
 *
 * Marks are set and removed under the root's lock alone. So who finds the word unmarked knows that
 * nobody waits, and needs no root.
 *
 * Why a lock's memory may go as soon as somebody has got the lock. The word changes hands by one
 * atomic operation; after that whoever gave it touches the table only, in which the address is
 * but a number, and the waiters that it has taken out, which stay in their calls until they are
 * woken. While somebody waits on an address its memory is there: a call on it has not returned.
 * Each file of a lock says which operation it is.
 *
 * In a child of fork a word may be marked although nobody waits: who was in the queue is gone. So a
 * queue that is empty in spite of the mark is no error, but the mark is to be removed. */
#ifndef SCHED_SEMA_H
#define SCHED_SEMA_H

#include "base/atomic.h"
#include "base/base.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "sched/waiter.h"

struct semaroot;

/* One who waits; it lies on its stack. The queue's fields are under the root's lock. */
struct semawaiter {
  struct waiter w;
  const void *addr;
  struct semawaiter *next; /* in its queue, or in the list that was taken out */
  /* Of the first in a queue: */
  struct semawaiter *last, *child[2];
  size_t n; /* how many are in the queue */
};

/* The root of an address, locked, inside acquirem. Addresses in the same eight bytes, on an
 * eight-byte boundary, have the same root: a lock may have several queues. */
struct semaroot *sema_lock(const void *addr);
void sema_unlock(struct semaroot *root);

/* The others are called with the address's root locked. */

void sema_queue(struct semaroot *root, struct semawaiter *w, const void *addr);
void sema_queue_first(struct semaroot *root, struct semawaiter *w, const void *addr);
/* The first, who stays in the queue, and the first, taken out; NULL: nobody waits. */
struct semawaiter *sema_first(struct semaroot *root, const void *addr);
struct semawaiter *sema_dequeue(struct semaroot *root, const void *addr);
/* All of them, by next. */
struct semawaiter *sema_dequeue_all(struct semaroot *root, const void *addr);
size_t sema_waiting(struct semaroot *root, const void *addr);

/* Unlocks the root and waits to be woken. w->w is waiter_self(). */
void sema_wait(struct semaroot *root, struct semawaiter *w, enum waitreason why);
/* Unlocks the root and wakes all in the list, which were taken out; NULL: nobody. The caller does
 * not give way before it has woken the first. */
void sema_wake(struct semaroot *root, struct semawaiter *list);

/* In a child of fork: see fork.c. */
void sema_after_fork(void);
extern bool sema_forked; /* this is such a child; set while there is one thread */

/* What a public function begins with, unless it gives something back. A loop that does nothing but
 * locking has to give way, too. */
static inline void sema_enter(const char *name) {
  struct m *m = getm();
  if (unlikely(m == &m_unattached))
    throw("%s: thread is not attached", name);
  if (unlikely(load_relaxed(&m->cache.stop) != 0))
    gort_stop_here();
}

/* Whether it makes sense to spin for the i-th time: the holder runs elsewhere, and nothing waits
 * for this processor. */
bool sema_can_spin(int i);
void sema_spin(void);

#endif
