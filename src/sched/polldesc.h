/* Descriptors that are waited for: one entry for each number.
 *
 *   look     what is remembered of an entry before something is tried with the descriptor
 *   attempt  a system call that does not wait
 *   wait     until the poller reports an event after the look, or time is up, or gort_close
 *   turn     the right to make a call that might block; for those that the kernel offers no form of
 *            that does not wait
 *
 *   for (;;) {
 *     look = polldesc_look(pd);
 *     r = attempt;
 *     if (r != -EAGAIN)
 *       return r;
 *     err = polldesc_wait(pd, look, POLLIN, deadline);
 *     if (err != 0)
 *       return err;
 *   }
 *
 * The argument is at the top of polldesc.c. */
#ifndef SCHED_POLLDESC_H
#define SCHED_POLLDESC_H

#include "base/atomic.h"
#include "base/lock.h"
#include "sched/waiter.h"

#include <errno.h>

struct pollwaiter; /* somebody who waits; on its stack */

struct polldesc {
  struct mutex lock;           /* taken inside acquirem, or by sysmon */
  int fd;                      /* constant */
  uint32_t closings;           /* calls of gort_close; changed under lock; atomic */
  uint32_t reports;            /* events reported; changed under lock; atomic */
  uint32_t registered;         /* for which events the poller knows it; 0: not; under lock */
  uint32_t generation;         /* of that; what it reports of an older one is stale; under lock */
  struct pollwaiter *waiters;  /* under lock */
  struct polldesc *unverified; /* in the list of those, if listed; under lock */
  uint32_t proven;             /* reports when sysmon last went through that list; under lock */
  uint32_t drained;            /* reports before a read that left nothing; atomic */
  int write_error;             /* to be returned by the next gort_write; 0: none; atomic */
  bool listed;                 /* under lock */
  bool busy;                   /* somebody has the turn; under lock */
  bool not_socket;             /* a guess; atomic */
  bool plain_tcp;              /* nothing but data was reported of this connection; changed under
                                  lock; atomic */
} __attribute__((aligned(CACHE_LINE)));
_Static_assert(sizeof(struct polldesc) == CACHE_LINE, "no entry shares its line");

/* The entry of a number, which stays for good; NULL for a negative one and without memory. */
struct polldesc *polldesc_of(int fd);
/* What every call begins with: others may want to run. The entry, or -errno. */
int polldesc_begin(int fd, struct polldesc **pd);

struct look {
  uint32_t closings, reports;
};

static inline struct look polldesc_look(const struct polldesc *pd) {
  return (struct look){load_acquire(&pd->closings), load_acquire(&pd->reports)};
}

/* What a call returns that began with the look: when it finds the descriptor closed, it may have
 * been closed meanwhile. */
static inline long polldesc_result(const struct polldesc *pd, struct look look, long r) {
  return r == -EBADF && load_acquire(&pd->closings) != look.closings ? -ECANCELED : r;
}

/* A read after the look gave less than was asked for. */
static inline void polldesc_note_short_read(struct polldesc *pd, struct look look) {
  if (load_relaxed(&pd->plain_tcp))
    store_relaxed(&pd->drained, look.reports);
}

/* A read would find nothing, as far as was reported before the look. */
static inline bool polldesc_is_drained(const struct polldesc *pd, struct look look) {
  return load_relaxed(&pd->drained) == look.reports && load_relaxed(&pd->plain_tcp);
}

/* Whether a deadline has passed; negative: there is none. */
bool polldesc_is_over(int64_t deadline);
/* Waits until something may have changed since the look: 0. -ETIMEDOUT, -ECANCELED (gort_close);
 * -EPERM: it cannot be waited for; or what the poller has against it. events: POLLIN and so on. */
int polldesc_wait(struct polldesc *pd, struct look look, uint32_t events, int64_t deadline);
/* The same until `until` at the latest, when it is 0 as well. */
int polldesc_nap(struct polldesc *pd, struct look look, int64_t until);

/* Waits for the turn: 0, -ETIMEDOUT or -ECANCELED. */
int polldesc_begin_turn(struct polldesc *pd, struct look look, int64_t deadline);
void polldesc_end_turn(struct polldesc *pd, struct look look);

/* The number stands for a new descriptor. */
void polldesc_renew(struct polldesc *pd);
/* gort_close, before and after the descriptor is closed: who is to be woken after that, by link. */
struct waiter *polldesc_closing(struct polldesc *pd);
struct waiter *polldesc_closed(struct polldesc *pd);

/* Keeps an error for the next gort_write, and takes it: 0 when there is none. */
void polldesc_keep_error(struct polldesc *pd, int err);
int polldesc_take_error(struct polldesc *pd);

/* For the poller. Those who are to be woken are added to a list; called inside acquirem, or by
 * sysmon. */

struct waitlist {
  struct waiter *first, *last; /* by link */
};

static inline void waitlist_add(struct waitlist *l, struct waiter *w) {
  w->link = NULL;
  if (l->last)
    l->last->link = w;
  else
    l->first = w;
  l->last = w;
}

/* Events were reported of the registration of that generation. */
void polldesc_report(struct polldesc *pd, uint32_t generation, uint32_t events,
                     struct waitlist *ready);
/* Makes sure that all who wait wait for what is registered. */
void polldesc_verify(struct waitlist *ready);
/* That some more of them do, of whom nothing was reported since the last time. sysmon's. */
void polldesc_verify_some(struct waitlist *ready);

void polldesc_after_fork(void);
void polltable_after_fork(void);

#endif
