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

GORT_NORETURN static void lost(int err) {
  throw("cannot wait for descriptors: error %d (%d and %d are the runtime's: were they closed?)",
        -err, poller, breaker);
}

void netpoll_break(void) {
  int err = cas_seqcst(&broken, 0, 1) ? os_eventfd_add(breaker) : 0;
  if (err != 0)
    lost(err);
}

static void end_break(void) {
  os_eventfd_take(breaker);
  store_seqcst(&broken, 0);
}

struct report {
  int n;
  struct os_event events[OS_EVENTS];
};

static void ask(struct report *r, int64_t ns) {
  r->n = os_poller_wait(poller, r->events, ns);
  if (r->n < 0 && r->n != -EINTR)
    lost(r->n);
}

/* A break is left by who only looks to the one who sleeps. */
static void pass_on(const struct report *r, struct waitlist *ready, bool sleeps) {
  for (int i = 0; i < r->n; i++) {
    uint64_t data = r->events[i].data;
    if (data != BREAK)
      polldesc_report(polldesc_of((int)(uint32_t)data), (uint32_t)(data >> 32), r->events[i].events,
                      ready);
    else if (sleeps)
      end_break();
  }
}

/* The collector does not wait for this thread while it sleeps. */
struct waiter *netpoll_sleep(struct m *m, int64_t ns) {
  struct waitlist ready = {NULL, NULL};
  struct report r;
  store_seqcst(&sleeping, 1);
  enterblocked(m, (uintptr_t)__builtin_frame_address(0));
  ask(&r, ns);
  leaveblocked(m);
  store_seqcst(&sleeping, 0);
  pass_on(&r, &ready, true);
  return ready.first;
}

static void look(struct waitlist *ready) {
  struct report r;
  ask(&r, 0);
  pass_on(&r, ready, false);
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
  look(&ready);
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
  if (anyway)
    polldesc_verify(&ready);
  else
    polldesc_verify_some(&ready);
  if (look_is_needed())
    look(&ready);
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
