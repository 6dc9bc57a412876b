/* The poller: an epoll instance, and an eventfd that ends a wait.
 *
 * Who asks it for events: the watch, which sleeps in it (watch.c); while no thread sleeps in it,
 * each thread that has run out of work, before it takes work from others; and sysmon, when nobody
 * has asked for 10 ms, for goroutines that switch to each other never come by there. */
#include "sched/netpoll.h"

#include "base/kernel.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "os/io.h"
#include "os/poll.h"
#include "sched/polldesc.h"
#include "sched/sched.h"

#include <errno.h>
#include <poll.h>

enum { PAUSE = 20000, PATIENCE = 10000000 }; /* ns */
#define BREAK UINT64_MAX                     /* stands for the eventfd */

static struct mutex making;
static uint32_t inited; /* atomic */
static int poller = -1; /* both constant once it is there */
static int breaker = -1;
static uint32_t broken;   /* the eventfd is not 0, or about to be; atomic */
static int32_t npollers;  /* waits begun on threads without a P, less ended; atomic */
static uint32_t sleeping; /* a thread sleeps in the poller; atomic */
static int64_t looked;    /* nanotime() of the last look while none did; atomic */

/* Making it. */

static int add_breaker(void) {
  breaker = os_eventfd();
  return breaker < 0 ? breaker : os_poller_add_level(poller, breaker, POLLIN, BREAK);
}

static void unmake(void) {
  if (breaker >= 0)
    os_close(breaker);
  if (poller >= 0)
    os_close(poller);
  poller = breaker = -1;
}

/* Under the lock. */
static int make(void) {
  poller = os_poller();
  int err = poller < 0 ? poller : add_breaker();
  if (err < 0) {
    unmake();
    return err;
  }
  store_release(&inited, 1);
  return 0;
}

/* A watch that sleeps on its note is called to sleep in the poller instead. */
int netpoll_ensure(void) {
  if (likely(load_acquire(&inited)))
    return 0;
  sysmon_ensure();
  lock(&making);
  bool first = !inited;
  int err = first ? make() : 0;
  unlock(&making);
  if (first && err == 0)
    watch_call(0);
  return err;
}

bool netpoll_inited(void) { return load_acquire(&inited); }
int netpoll_fd(void) { return poller; }

/* Asking it. */

static void count(int n) {
  struct m *m = acquirem();
  if (m->p)
    store_relaxed(&m->p->npollers, m->p->npollers + n);
  else
    add_relaxed(&npollers, n);
  releasem(m);
}

void netpoll_begin_wait(void) {
  count(1);
  watch_ensure();
}

void netpoll_end_wait(void) { count(-1); }

/* While waits begin and end the sum may be wrong; a thread that runs a goroutine then looks again
 * when it has nothing to do. */
bool netpoll_waited(void) {
  int n = load_relaxed(&npollers);
  for (uint32_t i = 0, nallp = load_acquire(&sched.nallp); i < nallp; i++)
    n += load_relaxed(&allp[i]->npollers);
  return n != 0;
}

void netpoll_break(void) {
  if (cas_seqcst(&broken, 0, 1))
    os_eventfd_add(breaker);
}

static void end_break(void) {
  os_eventfd_take(breaker);
  store_seqcst(&broken, 0);
}

static int ask(struct os_event events[OS_EVENTS], int64_t ns) {
  int n = os_poller_wait(poller, events, ns);
  if (n < 0 && n != -EINTR)
    throw("cannot wait for descriptors: error %d (was descriptor %d of the runtime's closed?)", -n,
          poller);
  return n;
}

/* A break is left by who only looks to the one who sleeps. */
static void poll_for(struct waitlist *ready, int64_t ns, bool sleeps) {
  struct os_event events[OS_EVENTS];
  int n = ask(events, ns);
  for (int i = 0; i < n; i++) {
    uint64_t data = events[i].data;
    if (data == BREAK && sleeps)
      end_break();
    else if (data != BREAK)
      polldesc_report(polldesc_of((int)(uint32_t)data), (uint32_t)(data >> 32), events[i].events,
                      ready);
  }
}

struct waiter *netpoll_sleep(int64_t ns) {
  struct waitlist ready = {NULL, NULL};
  store_seqcst(&sleeping, 1);
  poll_for(&ready, ns, true);
  store_seqcst(&sleeping, 0);
  return ready.first;
}

static bool look_is_needed(void) {
  return load_acquire(&inited) && !load_relaxed(&sleeping) && netpoll_waited();
}

struct waiter *netpoll_look(bool patient) {
  struct waitlist ready = {NULL, NULL};
  if (!look_is_needed())
    return NULL;
  int64_t now = nanotime();
  if (patient && now - load_relaxed(&looked) < PAUSE)
    return NULL;
  store_relaxed(&looked, now);
  poll_for(&ready, 0, false);
  return ready.first;
}

bool netpoll_unlooked_since(int64_t when) {
  return load_relaxed(&looked) < when && netpoll_waited();
}

struct waiter *netpoll_verify(void) {
  struct waitlist ready = {NULL, NULL};
  polldesc_verify(&ready);
  return ready.first;
}

struct waiter *netpoll_watch(int64_t now, bool anyway) {
  static int64_t last;
  struct waitlist ready = {NULL, NULL};
  if ((now - last < PATIENCE && !anyway) || !netpoll_inited())
    return NULL;
  last = now;
  polldesc_verify(&ready);
  if (look_is_needed())
    poll_for(&ready, 0, false);
  return ready.first;
}

/* The epoll instance is the parent's too. */
void netpoll_after_fork(void) {
  making = (struct mutex){0};
  if (inited)
    unmake();
  inited = broken = sleeping = 0;
  npollers = 0;
  for (uint32_t i = 0; i < sched.nallp; i++)
    allp[i]->npollers = 0;
  polldesc_after_fork();
}
