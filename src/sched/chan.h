/* Channels, as select sees them.
 *
 * A channel (Go's hchan) is a ring of elements, and two queues of those who wait. Who waits is
 * there as a sudog, on its own stack, one for each channel it waits on. Invariants, under the lock:
 *
 *   - sendq is empty or recvq is, but for a select that waits to send and to receive on the same
 *     channel;
 *   - while there is room no sender waits, while there are values no receiver does: a receiver that
 *     comes when senders wait makes room and lets the first of them fill it, at once.
 *
 * So values are handed over from stack to stack: who wakes a waiter has already copied its element,
 * and a woken one has nothing to do any more. */
#ifndef SCHED_CHAN_H
#define SCHED_CHAN_H

#include "gort/channel.h"
#include "sched/waiter.h"

struct sudog {
  struct waiter *waiter;
  gort_chan *c;
  void *elem;                /* where the element comes from or goes to; may be NULL */
  struct sudog *next, *prev; /* in a queue of c; under its lock */
  bool queued;               /* it is in that queue; under the lock */
  bool shared;               /* others may wake the waiter: it has to be claimed */
  bool success; /* the element was handed over; false: the channel was closed. Who wakes's */
};

struct waitq {
  struct sudog *first, *last; /* under the channel's lock; first: atomic for who only looks */
};

struct gort_chan {
  struct spinlock lock;
  bool closed;     /* under lock; atomic for who only looks */
  size_t qcount;   /* elements in the ring; under lock; atomic for who only looks */
  size_t dataqsiz; /* room for so many; constant, like the next three */
  size_t elemsize;
  size_t stride; /* elemsize, rounded up */
  size_t ring;   /* where the ring begins, in bytes from the channel: behind it or in `object`;
                    no pointer, which in a traced channel would be one to itself */
  void *object;  /* the ring of a type with pointers: an object of its own */
  size_t sendx, recvx;       /* where the next goes and comes from; under lock */
  struct waitq recvq, sendq; /* under lock */
  uint32_t forks;            /* chan_forks as the queues were last looked at; under lock */
  int64_t when; /* gort_after: when the value is due; NEVER: no more; under lock; atomic */
};

/* Returns the thread's m, which does not change while the lock is held. */
static inline struct m *lock_chan(gort_chan *c) {
  struct m *m = acquirem();
  spin_lock(&c->lock);
  return m;
}

static inline void unlock_chan(gort_chan *c) {
  spin_unlock(&c->lock);
  releasem(getm());
}

/* How many forks this process comes from. In a child nobody who waited before is there any more. */
extern uint32_t chan_forks;

/* With the lock held: the first that waits and could be claimed; NULL: nobody. */
struct sudog *chan_dequeue(struct waitq *q);
void chan_enqueue(struct waitq *q, struct sudog *s);
/* Takes it out if it is still in. */
void chan_remove(struct waitq *q, struct sudog *s);

/* What a step of sending or receiving, with the lock held, has come to. */
enum outcome {
  WOULD_BLOCK,
  DONE,
  CLOSED, /* and empty, for a receiver */
};
/* *wake: whom to wake when the lock has been released, or NULL. */
enum outcome chan_send_step(gort_chan *c, const void *elem, struct waiter **wake);
enum outcome chan_recv_step(gort_chan *c, void *elem, struct waiter **wake);

/* The value that gort_after's channel has, or will have, by itself: what is due is sent. */
void chan_ripen(gort_chan *c);

GORT_NORETURN void throw_send_on_closed(void);

#endif
