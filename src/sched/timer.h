/* Timers: each P has a heap of those that were armed on it. */
#ifndef SCHED_TIMER_H
#define SCHED_TIMER_H

#include "base/atomic.h"
#include "base/base.h"
#include "base/kernel.h"
#include "base/lock.h"

struct m;
struct waiter;

/* What is to happen when the time has come: a waiter is woken, or a function called. It lies
 * wherever its owner likes, and must stay there while it is armed. */
struct timer {
  int64_t when;          /* ns of nanotime(); constant while armed */
  struct waiter *waiter; /* constant; who has claimed it already is not woken; NULL: none, but */
  void (*fire)(struct timer *t); /* constant; called inside acquirem, without locks */
  struct timers *in;             /* where it is armed, or NULL; changed under in->lock; atomic */
  struct timer *child, *sibling, *prev; /* of the heap; under in->lock */
};

/* The timers of a P. */
struct timers {
  struct mutex lock;
  struct timer *heap; /* under lock */
  int64_t
      next_when; /* when the first is due; INT64_MAX: there is none; written under lock; atomic */
};

#define NEVER INT64_MAX

/* `when` of a timer that is armed is below NEVER. Inside acquirem. */
void timer_arm(struct timer *t);
/* True when it will not fire any more; false when it has fired, or was not armed. When it returns
 * nobody touches a timer that has a waiter; one with a function may be firing. */
bool timer_disarm(struct timer *t);

/* nanotime() in ns nanoseconds, at most NEVER - 1. */
int64_t deadline_in(int64_t ns);

/* For the scheduler. */
struct p;
void timers_init(struct timers *ts);
void timers_run(struct timers *ts); /* fires what is due in these; inside acquirem */
void timers_run_all(void);          /* likewise, of all Ps */
bool timers_due(void);              /* whether something is due anywhere */
int64_t timers_next(void);          /* the nearest deadline anywhere; NEVER: none */
void timers_after_fork(void);       /* nothing is armed any more */

/* Whether something in these is due. */
static inline bool timers_due_in(const struct timers *ts) {
  int64_t when = load_seqcst(&ts->next_when);
  return unlikely(when != NEVER) && when <= nanotime();
}

#endif
