/* Finding what to run, and running it.
 *
 * A thread of the runtime's own is in one of three conditions: it runs a goroutine; it is
 * spinning, that is, it has a P and no work and looks for some; or it sleeps, without a P. Work
 * comes about in five places: in the ring of a P, in the global queue, as a timer that is due, as
 * a descriptor that is ready, and as finalizers to run. Who makes work puts it there and calls
 * wakep(), which wakes a thread only if there is a P that nobody has and no thread is spinning: one
 * that spins will find the work, and as soon as it has found any it stops spinning and calls
 * wakep() itself, so that one thread after the other is woken as long as there is work for it.
 *
 * Why no wake-up is lost. Two sides do the opposite of each other, with a full barrier between
 * the two steps:
 *
 *   who makes work:       puts it into its place;      looks at npidle and nmspinning
 *   who goes to sleep:    raises npidle (gives up its P), lowers nmspinning;   looks at all places
 *
 * In any order, one of the two sees what the other has done. If the maker sees an idle P and no
 * spinning thread, it wakes one. If it sees no idle P, the sleeper gives up its own only later, and
 * looks at all places after that. If it sees a spinning thread, that one will lower nmspinning
 * later, and look after that: a thread never stops spinning without either having found work, and
 * then calling wakep(), or looking at all places once more, or knowing under sched.lock that no P
 * is idle. The order matters: who looked first and lowered nmspinning then would leave a gap
 * between the two.
 *
 * A thread that spins may doze, for 50 µs at a time: it is as one that takes long between two
 * looks.
 *
 * Looking at all places: the rings of all Ps, the global queue, the deadlines, and whether the
 * finalizer goroutine is to be woken. For descriptors there is the watch. When there is work, the
 * thread needs a P for it; if none is idle any more, all of them are held by threads that will come
 * by findrunnable, which looks at all places, and it may sleep.
 *
 * Time and descriptors: see watch.c. The world's stop: a thread that looks for work holds no lock
 * and stops where it releases its m for a moment; one that sleeps is M_BLOCKED, and does not come
 * back before the world runs again. */
#include "sched/runq.h"

#include "base/kernel.h"
#include "base/random.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "sched/leave.h"
#include "sched/netpoll.h"
#include "sched/sanitizer.h"
#include "sched/waiter.h"
#include "special/finq.h"

struct sched sched;
struct p *allp[MAX_PROCS];

enum {
  STEAL_ROUNDS = 4,
  SPIN = 10000, /* ns: what it costs to sleep and be woken, about */
  DOZE = 50000, /* ns */
  DOZES = 4,
};

/* Spinning. */

static void start_spinning(struct m *m) {
  m->spinning = true;
  m->spin_until = nanotime() + SPIN;
  m->dozes = DOZES;
  add_seqcst(&sched.nmspinning, 1);
}

static void stop_spinning(struct m *m) {
  m->spinning = false;
  gassert(load_relaxed(&sched.nmspinning) != 0);
  add_seqcst(&sched.nmspinning, -1u);
}

/* A thread that spun has found work: there may be more. */
static void found_work(struct m *m) {
  stop_spinning(m);
  wakep();
}

/* At most half as many threads spin as have work: more would only burn power. */
static bool may_spin(const struct m *m) {
  uint32_t busy = load_relaxed(&sched.gomaxprocs) - load_relaxed(&sched.npidle);
  return m->spinning || 2 * load_relaxed(&sched.nmspinning) < busy;
}

/* Somebody is there who may make work soon. */
static bool others_are_busy(void) {
  uint32_t idle = load_relaxed(&sched.npidle) + load_relaxed(&sched.nmspinning);
  return idle < load_relaxed(&sched.gomaxprocs);
}

/* Spinning on for a while is cheaper than to sleep and be woken at once. */
static bool spin_on(const struct m *m) {
  if (!others_are_busy() || nanotime() >= m->spin_until)
    return false;
  for (int i = 0; i < 200; i++)
    cpu_relax();
  return true;
}

/* Longer each time, but not past a deadline. */
static int64_t time_to_doze(const struct m *m, int64_t now) {
  int64_t ns = (int64_t)DOZE << (DOZES - m->dozes), when = timers_next();
  return when != NEVER && when - now < ns ? when - now : ns;
}

/* Then a thread dozes for a few short times before it sleeps. It keeps its P and counts as
 * spinning, so that two goroutines which wake each other by turns on one P do not wake this thread
 * in vain every time: it is called only when some other goroutine has to wait for them. Nor does
 * what happens to a descriptor wake it, as long as others look at descriptors now and then. */
static bool doze(struct m *m) {
  int64_t now = nanotime(), ns = time_to_doze(m, now);
  if (m->dozes == 0 || ns <= 0 || !others_are_busy() || !cas_seqcst(&sched.dozer, NULL, m))
    return false;
  m->dozes--;
  wait_in_kernel(m, ns);
  if (!cas_seqcst(&sched.dozer, m, NULL))
    notesleep(&m->park, -1); /* it is just being called */
  noteclear(&m->park);
  if (netpoll_unlooked_since(now))
    m->dozes = 0;
  return true;
}

/* Looking for work, in the order of findrunnable. */

static void wake_fing(void) {
  if (!load_relaxed(&fingwait) || !load_relaxed(&fingwake))
    return;
  struct g *g = wakefing();
  if (g)
    ready(g);
}

static struct g *from_global(struct p *p, uint32_t max) {
  if (load_relaxed(&sched.runqsize) == 0)
    return NULL;
  lock_raw(&sched.lock);
  struct g *g = globrunqget(p, max);
  unlock_raw(&sched.lock);
  return g;
}

/* The global queue now and then goes first, so that two goroutines that wake each other all the
 * time do not keep it waiting for ever. */
static struct g *global_by_turns(struct p *p) {
  return load_relaxed(&p->schedtick) % GLOBAL_EVERY == 0 ? from_global(p, 1) : NULL;
}

static uint32_t gcd(uint32_t a, uint32_t b) { return b == 0 ? a : gcd(b, a % b); }

/* All Ps in a random order: a stride that has no divisor in common with their number visits each
 * once. */
static struct g *steal_round(struct m *m, bool runnext_too) {
  uint32_t n = load_acquire(&sched.nallp);
  uint32_t at = random_below(&m->random, n), stride = random_below(&m->random, n) + 1;
  while (gcd(stride, n) != 1)
    stride++;
  for (uint32_t i = 0; i < n; i++, at = (at + stride) % n) {
    if (allp[at] == m->p)
      continue;
    struct g *g = runqsteal(m->p, allp[at], runnext_too);
    if (g)
      return g;
  }
  return NULL;
}

/* The timers of others are fired before runnexts are taken away. */
static struct g *steal(struct m *m) {
  bool inherit;
  for (int round = 1; round <= STEAL_ROUNDS; round++) {
    bool last = round == STEAL_ROUNDS;
    if (last && timers_due()) {
      timers_run_all();
      struct g *g = runqget(m->p, &inherit);
      if (g)
        return g;
    }
    struct g *g = steal_round(m, last);
    if (g)
      return g;
  }
  return NULL;
}

/* What has happened to descriptors. */
static struct g *from_poller(struct m *m) {
  bool inherit;
  struct waiter *ready = netpoll_look(m->spinning);
  if (!ready)
    return NULL;
  waiter_wake_list(ready);
  return runqget(m->p, &inherit);
}

/* Whether there is work in any of its places. */
bool work_waits(void) {
  full_fence();
  if (load_relaxed(&sched.runqsize) != 0 || timers_due())
    return true;
  if (load_relaxed(&fingwait) && load_relaxed(&fingwake))
    return true;
  for (uint32_t i = 0, n = load_acquire(&sched.nallp); i < n; i++)
    if (!runqempty(allp[i]))
      return true;
  return false;
}

/* Takes an idle P; the thread goes on looking as it did before. */
static bool get_idle_p(struct m *m, bool spinning) {
  lock_raw(&sched.lock);
  struct p *p = pidleget();
  unlock_raw(&sched.lock);
  if (!p)
    return false;
  acquirep(m, p);
  if (spinning)
    start_spinning(m);
  return true;
}

/* Gives up the P; unless there is work in the global queue, which is returned. The last look at
 * it and the release are one step, under the lock. */
static struct g *give_up_p(struct m *m) {
  lock_raw(&sched.lock);
  struct g *g = p_is_retired(m->p) ? NULL : globrunqget(m->p, 0);
  if (!g)
    pidleput(releasep(m));
  unlock_raw(&sched.lock);
  return g;
}

/* Without a P: sleeps until there is work for this thread and it has a P again. The second look,
 * after spinning has ended, is the one that matters: see above. */
static void sleep_until_work(struct m *m) {
  bool spun = m->spinning;
  if (spun)
    stop_spinning(m);
  if (work_waits() && get_idle_p(m, spun))
    return;
  if (gc_has_idle_work() && get_idle_p(m, false))
    return;
  struct waiter *ready;
  if (watch_wait(m, &ready)) {
    bool has_p = get_idle_p(m, false);
    waiter_wake_list(ready);
    if (has_p)
      return;
  }
  stopm(m);
}

/* Stops here for the collector, if it asks. */
static void stop_for_collector(struct m *m) {
  releasem(m);
  acquirem();
}

/* A goroutine to run. *inherit: it goes on in the time slice of the one before. */
static struct g *findrunnable(struct m *m, bool *inherit) {
  for (;;) {
    struct g *g;
    *inherit = false;
    stop_for_collector(m);
    if (unlikely(p_is_retired(m->p))) {
      if ((g = give_up_p(m)) != NULL) /* it is wanted again */
        return g;
      wakep();
      sleep_until_work(m);
      continue;
    }
    timers_run(&m->p->timers);
    wake_fing();
    if ((g = global_by_turns(m->p)) != NULL)
      return g;
    if ((g = runqget(m->p, inherit)) != NULL)
      return g;
    if ((g = from_global(m->p, 0)) != NULL)
      return g;
    if ((g = from_poller(m)) != NULL)
      return g;
    if (may_spin(m)) {
      if (!m->spinning)
        start_spinning(m);
      if ((g = steal(m)) != NULL)
        return g;
    }
    if (gc_idle_work() || (m->spinning && (spin_on(m) || doze(m))))
      continue;
    waiter_wake_list(netpoll_verify());
    if ((g = give_up_p(m)) != NULL)
      return g;
    sleep_until_work(m);
  }
}

/* Running it. */

/* What no thread may run any more: it stays as it is, a root. */
static void halt(struct g *g) {
  g->waitreason = waitReasonHalted;
  store_relaxed(&g->waitsince, load_relaxed(&sched.clock));
  set_status(g, Gwaiting);
}

static struct g *schedule(struct m *m, bool *inherit) {
  *inherit = false;
  if (m->lockedg && stoplockedm(m))
    return m->lockedg;
  if (!m->p)
    stopm(m);
  for (;;) {
    struct g *g = m->nextg;
    m->nextg = NULL;
    if (!g)
      g = findrunnable(m, inherit);
    if (m->spinning)
      found_work(m);
    if (halted(g))
      halt(g);
    else if (g->lockedm && g->lockedm != m)
      startlockedm(m, g);
    else
      return g;
  }
}

/* To the goroutine's stack, and back when it leaves it: it always does so on the same thread. */
static SWITCHES void switch_to_goroutine(struct g *g0, struct g *g) {
  before_switch(g0, g, false);
  switch_to(&g0->sp, g->sp);
  after_switch(g0);
}

/* Until some goroutine, this one or one that the thread has switched to meanwhile, leaves the
 * thread to the scheduler. */
void execute(struct m *m, struct g *g, bool inherit) {
  become(m, g, inherit);
  switch_to_goroutine(m->g0, g);
  store_relaxed(&m->curg, NULL);
  m->stack = (struct stack){0, 0};
  m->systemsp = 0;
  finish_leaving(m);
}

void schedule_once(struct m *m) {
  bool inherit;
  struct g *g = schedule(m, &inherit);
  execute(m, g, inherit);
}

/* The life of a thread; it ends when its locked goroutine did. */
void schedule_loop(struct m *m) {
  while (m->g0->status != Gdead)
    schedule_once(m);
}
