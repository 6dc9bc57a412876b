/* Waiting, for goroutines and attached threads alike: where a goroutine parks, the thread sleeps.
 *
 * A waiter lies on the stack of who waits, and is known by those who may wake it: a queue of a
 * channel, of a lock, of a descriptor; a timer. Where several may, the first to claim it does, and
 * nobody else may touch it any more: it is gone as soon as it has been woken.
 *
 *   waits:   w = waiter_self(); shows it around, under locks;
 *            waiter_wait(&w, commit, ...), where commit releases the locks
 *   wakes:   waiter_claim(&w), under one of those locks; then waiter_wake(&w), at any time */
#ifndef SCHED_WAITER_H
#define SCHED_WAITER_H

#include "base/atomic.h"
#include "sched/g.h"

struct waiter {
  struct g *g;         /* who waits: a goroutine, or when NULL */
  struct m *m;         /* an attached thread */
  uint32_t claimed;    /* somebody is going to wake it; atomic */
  void *by;            /* for whoever wakes it to say what it was woken by */
  bool timed_out;      /* time was the first to claim it */
  struct waiter *link; /* in a list of some to be woken; whose who has claimed it */
};

/* The caller, who is not waiting yet. */
struct waiter waiter_self(void);

/* Waits until woken. commit(arg) is called when it can be: it releases the locks under which others
 * find the waiter. It is not called on the caller's stack, and once it has released the last lock
 * it must not touch that any more. NULL: nothing is to be released. */
void waiter_wait(struct waiter *w, void (*commit)(void *arg), void *arg, enum waitreason why);
/* The same, until the deadline at most (negative: none). False when that came first. The locks that
 * commit releases, if any, are such that a waiter that has been woken has to take them. */
bool waiter_wait_until(struct waiter *w, int64_t deadline, void (*commit)(void *arg), void *arg,
                       enum waitreason why);

/* True for one of those who would wake it. */
static inline bool waiter_claim(struct waiter *w) {
  return load_relaxed(&w->claimed) == 0 && cas_seqcst(&w->claimed, 0, 1);
}

/* Any attached thread, inside acquirem or not, locks held or not. */
void waiter_wake(struct waiter *w);
/* All in the list. */
void waiter_wake_list(struct waiter *list);

#endif
