/* gort_timer: functions that run at their time, each on a goroutine of its own.
 *
 * A timer that is to go off is in the list `timers`, through which the collector finds it: like all
 * static data its head is a root, and the timers are traced. One that has gone off for the last
 * time, or was stopped, is not; nor one that never will, which its holder alone keeps.
 *
 * A periodic timer is armed again when its run has ended, so runs do not overlap. */
#include "base/kernel.h"
#include "base/throw.h"
#include "gort/channel.h"
#include "heap/malloc.h"
#include "sched/sched.h"

enum state {
  WAITING, /* for its time */
  RUNNING, /* periodic; its run has begun */
  OVER,    /* it has gone off and is not periodic, or was stopped */
};

struct gort_timer {
  struct timer timer;
  int64_t period;
  void (*fn)(void *);
  void *arg;
  enum state state;               /* under the lock */
  struct gort_timer *next, *prev; /* in the list; under the lock */
};

static struct {
  struct mutex lock;
  struct gort_timer *first; /* under lock */
} timers;

static void link_timer(struct gort_timer *t) {
  t->next = timers.first;
  t->prev = NULL;
  if (t->next)
    t->next->prev = t;
  timers.first = t;
}

static void end_timer(struct gort_timer *t) {
  t->state = OVER;
  if (t->next)
    t->next->prev = t->prev;
  if (t->prev)
    t->prev->next = t->next;
  else if (timers.first == t)
    timers.first = t->next;
  t->next = t->prev = NULL;
}

/* Under the lock. Whole periods, from the time that it was to go off at: those missed are left out.
 */
static void arm_again(struct gort_timer *t) {
  int64_t late = nanotime() - t->timer.when, when;
  int64_t periods = late < 0 ? 1 : late / t->period + 1;
  if (__builtin_mul_overflow(periods, t->period, &when) ||
      __builtin_add_overflow(t->timer.when, when, &when) || when == NEVER)
    when = NEVER - 1;
  t->timer.when = when;
  t->state = WAITING;
  timer_arm(&t->timer);
}

static void run_has_ended(struct gort_timer *t) {
  lock(&timers.lock);
  if (t->state == RUNNING)
    arm_again(t);
  else
    t->arg = NULL; /* that was the last run */
  unlock(&timers.lock);
}

struct timer_run {
  struct deferred deferred;
  struct gort_timer *t;
};

static void end_run(struct deferred *d) {
  run_has_ended(CONTAINER_OF(d, struct timer_run, deferred)->t);
}

/* gort_goexit in fn ends this run alone. */
static void run(void *arg) {
  struct gort_timer *t = arg;
  struct timer_run r = {.deferred = {.fn = end_run}, .t = t};
  call_deferring(t->fn, t->arg, &r.deferred);
}

/* Inside acquirem, so the collector does not look in between. */
static void fire(struct timer *timer) {
  struct gort_timer *t = CONTAINER_OF(timer, struct gort_timer, timer);
  lock(&timers.lock);
  bool goes_off = t->state == WAITING;
  if (goes_off && t->period == 0)
    end_timer(t);
  else if (goes_off)
    t->state = RUNNING;
  unlock(&timers.lock);
  if (goes_off)
    newproc(run, t, 0, false);
}

gort_timer *gort_timer_start(int64_t after_ns, int64_t period_ns, void (*fn)(void *), void *arg) {
  CHECK_ATTACHED("gort_timer_start");
  if (!fn)
    throw("gort_timer_start: fn is nil");
  if (period_ns < 0)
    throw("gort_timer_start: period %lld is negative", (long long)period_ns);
  gort_timer *t = mallocgc_or_throw(sizeof *t, PTR_SIZE, GORT_SCAN, NULL, "gort_timer_start");
  t->timer.fire = fire;
  t->timer.when = deadline_in(after_ns > 0 ? after_ns : 0);
  t->period = period_ns;
  t->fn = fn;
  t->arg = arg;
  if (after_ns == INT64_MAX)
    return t;
  sysmon_ensure();
  lock(&timers.lock);
  link_timer(t);
  timer_arm(&t->timer);
  unlock(&timers.lock);
  return t;
}

/* A thread does not go to sleep as a goroutine's does, which tells the watch. */
static void dismiss_watch(void) {
  struct m *m = acquirem();
  watch_dismiss();
  releasem(m);
}

bool gort_timer_stop(gort_timer *t) {
  CHECK_ATTACHED("gort_timer_stop");
  if (!t)
    throw("gort_timer_stop: timer is nil");
  lock(&timers.lock);
  enum state was = t->state;
  if (was != OVER)
    end_timer(t);
  if (was == WAITING)
    t->arg = NULL;
  unlock(&timers.lock);
  if (was == WAITING && timer_disarm(&t->timer) && !getg())
    dismiss_watch();
  return was != OVER;
}

void gotimers_after_fork(void) {
  timers.lock = (struct mutex){0};
  while (timers.first) {
    timers.first->timer.in = NULL;
    end_timer(timers.first);
  }
}
