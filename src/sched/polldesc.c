/* Waiting for descriptors.
 *
 * Who waits has a struct pollwaiter on its stack, in the list of the descriptor's entry. It is
 * woken by whoever is the first to claim its waiter: the poller, with an event that it waits for;
 * gort_close; or its timer.
 *
 * Why no event is lost. The poller reports an event once (EPOLLET), when it comes about after the
 * descriptor was registered, or when it is there as it is registered, anew or again. Each report is
 * counted in the entry. Who waits has looked at the count first, then has tried in vain, and then,
 * under the lock, compares: if there was a report after the look, it tries again. If not, all that
 * was reported had come about before the look, and the attempt has seen it. What comes about after
 * the attempt is reported later, and finds the waiter in the list, for the report is counted and
 * the list is gone through under the lock.
 *
 * Why a read may be left out. A read from a TCP connection that gives less than was asked for has
 * taken all that there was. What has come since is reported, or will be; so if the count is still
 * what it was before that read, the next one would find nothing, and waiting begins at once. That
 * is so for data. At the end, at an error and at urgent data a read stops short as well. These are
 * registered for, too, and once they have been reported no read is left out any more.
 *
 * Why a registration that is gone does no harm. The program may close a descriptor without our
 * knowing, and open another one of the same number; then the entry says that it is registered, and
 * nothing will ever be reported. So an entry that was trusted is listed as unverified. The list is
 * gone through by a thread that has run out of work, before it gives up its P, and by sysmon before
 * it sleeps, and in part every 10 ms while others run. To register again what is registered does
 * not hurt, and reports what is there; what is not is found out. sysmon passes an entry over if
 * something was reported since it last came by: if the descriptor has been replaced after that,
 * nothing more is reported, and it is seen to the next time. What sysmon does in 10 ms is bounded,
 * for a thousand connections that are busy in turn would have it register one for each of their
 * waits; one that was replaced among so many is found later. An entry is trusted only by
 * goroutines, which have a P, so that sysmon is awake; and a new connection, which the runtime has
 * made itself, is known not to be registered.
 *
 * What was duplicated stays registered under the number that has been closed. Its reports carry the
 * generation of that registration, which is not the entry's any more; before that is found out they
 * make waiters try in vain, no more.
 *
 * Whose memory is whose. In the list, and with the lock held, a pollwaiter is there: it is taken
 * out by whoever claims its waiter under the lock, or, if time was first, by the waiter itself,
 * which takes the lock for that when it has woken. The waiter in it is that of the same stack. Once
 * it is claimed, it is there until it is woken; by then it is out of the list. */
#define _GNU_SOURCE
#include "sched/polldesc.h"

#include "base/kernel.h"
#include "gc/stop.h"
#include "os/io.h"
#include "os/poll.h"
#include "sched/netpoll.h"
#include "sched/sched.h"
#include "sched/waiter.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>

struct pollwaiter {
  struct waiter *w;
  uint32_t events;                /* what it waits for */
  int result;                     /* 0, or a negative errno value; set by who claims the waiter */
  bool in_list;                   /* under the entry's lock, as are: */
  struct pollwaiter *next, *prev; /* around in a circle */
};

enum {
  ALWAYS = POLLERR | POLLHUP,                         /* reported whatever one waits for */
  NOT_DATA = POLLERR | POLLHUP | POLLRDHUP | POLLPRI, /* other than that there is data */
  TURN = 1 << 29,                                     /* waits for its turn; no event of poll's */
  NAP = 1 << 30,                                      /* for nothing */
};
#define ANYTHING (~UINT32_C(0))

/* The list. Under the entry's lock. */

static void append(struct polldesc *pd, struct pollwaiter *pw) {
  struct pollwaiter *first = pd->waiters;
  pw->in_list = true;
  pw->next = first ? first : pw;
  pw->prev = first ? first->prev : pw;
  pw->prev->next = pw->next->prev = pw;
  if (!first)
    pd->waiters = pw;
}

static void take_out(struct polldesc *pd, struct pollwaiter *pw) {
  if (pd->waiters == pw)
    pd->waiters = pw->next == pw ? NULL : pw->next;
  pw->prev->next = pw->next;
  pw->next->prev = pw->prev;
  pw->in_list = false;
}

/* Claims those who wait for one of the events, max at the most, the oldest first. */
static void claim(struct polldesc *pd, uint32_t events, int max, int result,
                  struct waitlist *ready) {
  struct pollwaiter *pw = pd->waiters, *last = pw ? pw->prev : NULL;
  for (bool more = pw != NULL; more && max > 0;) {
    struct pollwaiter *next = pw->next;
    more = pw != last;
    if ((pw->events & events) && waiter_claim(pw->w)) {
      take_out(pd, pw);
      pw->result = result;
      waitlist_add(ready, pw->w);
      max--;
    }
    pw = next;
  }
}

static uint32_t waited_for(const struct polldesc *pd) {
  const struct pollwaiter *first = pd->waiters, *pw = first;
  uint32_t events = 0;
  if (!pw)
    return 0;
  do
    events |= pw->events;
  while ((pw = pw->next) != first);
  return events & ~(uint32_t)(TURN | NAP);
}

/* Registering. Under the entry's lock. */

static uint64_t data_of(const struct polldesc *pd) {
  return (uint64_t)pd->generation << 32 | (uint32_t)pd->fd;
}

/* Nothing that is remembered holds for the new registration. */
static void begin_generation(struct polldesc *pd) {
  pd->generation++;
  store_release(&pd->reports, pd->reports + 1);
  store_release(&pd->plain_tcp, os_is_tcp(pd->fd));
}

/* Sees to it that the poller knows the descriptor of this number, for these events, those that were
 * registered and those that are waited for; what of it is there is reported, once more. */
static int register_for(struct polldesc *pd, uint32_t events) {
  int poller = netpoll_fd(), err = -ENOENT;
  events |= waited_for(pd) | NOT_DATA;
  if (pd->registered) {
    events |= pd->registered;
    err = os_poller_change(poller, pd->fd, events, data_of(pd));
  }
  if (err == -ENOENT) {
    begin_generation(pd);
    err = os_poller_add(poller, pd->fd, events, data_of(pd));
  }
  if (err == -EEXIST)
    err = os_poller_change(poller, pd->fd, events, data_of(pd));
  pd->registered = err == 0 ? events : 0;
  return err;
}

static struct polldesc *unverified; /* by that field; any thread adds one, or takes all; atomic */

static void list_unverified(struct polldesc *pd) {
  if (pd->listed)
    return;
  pd->listed = true;
  pd->unverified = load_relaxed(&unverified);
  while (!cas_seqcst(&unverified, pd->unverified, pd))
    pd->unverified = load_relaxed(&unverified);
}

/* What sysmon does at a time. */
enum { SOME = 256, SYSTEM_CALL = 16 };

/* Who finds out here that it cannot wait tries again, and is told so. */
static void verify(struct polldesc *pd, struct waitlist *ready) {
  if (register_for(pd, 0) != 0)
    claim(pd, ~(uint32_t)(TURN | NAP), INT_MAX, 0, ready);
}

/* Something was reported since sysmon last came by. */
static bool is_reported_on(struct polldesc *pd) {
  bool reported = pd->reports != pd->proven;
  pd->proven = pd->reports;
  return reported;
}

/* True when it was registered again. Lazily: unless something was reported meanwhile; then it stays
 * in the list. */
static bool verify_listed(struct polldesc *pd, struct waitlist *ready, bool lazily) {
  lock_raw(&pd->lock);
  pd->listed = false;
  bool waited = waited_for(pd) != 0, proven = waited && lazily && is_reported_on(pd);
  if (proven)
    list_unverified(pd);
  else if (waited)
    verify(pd, ready);
  unlock_raw(&pd->lock);
  return waited && !proven;
}

static void verify_all(struct polldesc *pd, struct waitlist *ready) {
  for (struct polldesc *next; pd; pd = next) {
    next = pd->unverified;
    verify_listed(pd, ready, false);
  }
}

/* Returns those that are left. */
static struct polldesc *verify_some(struct polldesc *pd, struct waitlist *ready) {
  for (int cost = 0; pd && cost < SOME;) {
    struct polldesc *next = pd->unverified;
    cost += verify_listed(pd, ready, true) ? SYSTEM_CALL : 1;
    pd = next;
  }
  return pd;
}

static struct polldesc *take(struct polldesc **list) {
  return load_relaxed(list) ? xchg_seqcst(list, NULL) : NULL;
}

/* Those that sysmon has taken and not come to yet; only it puts some there; atomic. */
static struct polldesc *in_turn;

void polldesc_verify(struct waitlist *ready) {
  verify_all(take(&in_turn), ready);
  verify_all(take(&unverified), ready);
}

void polldesc_verify_some(struct waitlist *ready) {
  struct polldesc *first = take(&in_turn);
  store_release(&in_turn, verify_some(first ? first : take(&unverified), ready));
}

/* A thread without a P does not trust. */
static int arm(struct polldesc *pd, uint32_t events) {
  if (!getm()->p || (events & ~pd->registered))
    return register_for(pd, events);
  list_unverified(pd);
  return 0;
}

/* Waiting. */

static void release(void *l) { unlock(l); }

/* Releases the entry's lock. When time was first, the waiter may still be in the list. */
static int wait(struct polldesc *pd, uint32_t events, int64_t deadline) {
  struct waiter w = waiter_self();
  struct pollwaiter pw = {.w = &w, .events = events};
  if (deadline == NEVER)
    deadline = -1;
  append(pd, &pw);
  if (waiter_wait_until(&w, deadline, release, &pd->lock, waitReasonIOWait))
    return pw.result;
  lock(&pd->lock);
  if (pw.in_list)
    take_out(pd, &pw);
  unlock(&pd->lock);
  return 0;
}

bool polldesc_is_over(int64_t deadline) { return deadline >= 0 && nanotime() >= deadline; }

/* 0: nothing has changed since the look, and what comes will be reported. Under the lock. */
enum { CHANGED = 1 };
static int prepare(struct polldesc *pd, struct look look, uint32_t events) {
  if (pd->closings != look.closings)
    return -ECANCELED;
  return pd->reports != look.reports ? CHANGED : arm(pd, events);
}

int polldesc_wait(struct polldesc *pd, struct look look, uint32_t events, int64_t deadline) {
  if (polldesc_is_over(deadline))
    return -ETIMEDOUT;
  int err = netpoll_ensure();
  if (err != 0)
    return err;
  lock(&pd->lock);
  netpoll_begin_wait();
  err = prepare(pd, look, events | ALWAYS);
  if (err == 0)
    err = wait(pd, events | ALWAYS, deadline);
  else
    unlock(&pd->lock);
  netpoll_end_wait();
  return err == CHANGED ? 0 : err;
}

int polldesc_nap(struct polldesc *pd, struct look look, int64_t until) {
  lock(&pd->lock);
  if (pd->closings == look.closings)
    return wait(pd, NAP, until);
  unlock(&pd->lock);
  return -ECANCELED;
}

/* Turns. */

/* -EAGAIN: somebody else has it. Under the lock. */
static int try_turn(struct polldesc *pd, struct look look) {
  if (pd->closings != look.closings)
    return -ECANCELED;
  if (pd->busy)
    return -EAGAIN;
  pd->busy = true;
  return 0;
}

int polldesc_begin_turn(struct polldesc *pd, struct look look, int64_t deadline) {
  for (;;) {
    lock(&pd->lock);
    int err = try_turn(pd, look);
    if (err == -EAGAIN && polldesc_is_over(deadline))
      err = -ETIMEDOUT;
    if (err != -EAGAIN) {
      unlock(&pd->lock);
      return err;
    }
    if ((err = wait(pd, TURN, deadline)) != 0)
      return err;
  }
}

/* gort_close has ended it already. */
void polldesc_end_turn(struct polldesc *pd, struct look look) {
  struct waitlist next = {NULL, NULL};
  lock(&pd->lock);
  if (pd->closings == look.closings) {
    pd->busy = false;
    claim(pd, TURN, 1, 0, &next);
  }
  unlock(&pd->lock);
  waiter_wake_list(next.first);
}

/* Beginning a call; beginning and end of a descriptor. */

int polldesc_begin(int fd, struct polldesc **pd) {
  safe_point();
  *pd = polldesc_of(fd);
  return likely(*pd != NULL) ? 0 : fd < 0 ? -EBADF : -ENOMEM;
}

static void forget(struct polldesc *pd) {
  pd->registered = 0;
  store_relaxed(&pd->plain_tcp, false);
  pd->write_error = 0;
  store_relaxed(&pd->not_socket, false);
}

void polldesc_renew(struct polldesc *pd) {
  lock(&pd->lock);
  forget(pd);
  unlock(&pd->lock);
}

/* Who waits now waits for what is to be closed. What was duplicated stays open, so the poller must
 * be told. */
struct waiter *polldesc_closing(struct polldesc *pd) {
  struct waitlist waited = {NULL, NULL};
  lock(&pd->lock);
  store_release(&pd->closings, pd->closings + 1);
  if (pd->registered)
    (void)os_poller_remove(netpoll_fd(), pd->fd);
  forget(pd);
  pd->busy = false;
  claim(pd, ANYTHING, INT_MAX, -ECANCELED, &waited);
  unlock(&pd->lock);
  return waited.first;
}

/* Who has come since may have tried before it was closed, and then waits for nothing. */
struct waiter *polldesc_closed(struct polldesc *pd) {
  struct waitlist waited = {NULL, NULL};
  lock(&pd->lock);
  if (pd->waiters && register_for(pd, 0) == -EBADF)
    claim(pd, ANYTHING, INT_MAX, -ECANCELED, &waited);
  unlock(&pd->lock);
  return waited.first;
}

/* Errors of gort_write. The next descriptor of the same number must not get it: the error is of
 * the one that is registered. */

void polldesc_keep_error(struct polldesc *pd, int err) {
  if (netpoll_ensure() != 0)
    return;
  lock(&pd->lock);
  if (register_for(pd, 0) == 0)
    store_relaxed(&pd->write_error, err);
  unlock(&pd->lock);
}

int polldesc_take_error(struct polldesc *pd) {
  if (likely(load_relaxed(&pd->write_error) == 0))
    return 0;
  lock(&pd->lock);
  int err = pd->write_error;
  store_relaxed(&pd->write_error, 0);
  if (pd->registered == 0 ||
      os_poller_change(netpoll_fd(), pd->fd, pd->registered, data_of(pd)) != 0)
    err = 0;
  unlock(&pd->lock);
  return err;
}

/* For the poller. */

void polldesc_report(struct polldesc *pd, uint32_t generation, uint32_t events,
                     struct waitlist *ready) {
  lock_raw(&pd->lock);
  if (pd->generation == generation) {
    if (events & NOT_DATA)
      store_relaxed(&pd->plain_tcp, false);
    store_release(&pd->reports, pd->reports + 1);
    claim(pd, events, INT_MAX, 0, ready);
  }
  unlock_raw(&pd->lock);
}

void polldesc_after_fork(void) {
  unverified = in_turn = NULL;
  polltable_after_fork();
}
