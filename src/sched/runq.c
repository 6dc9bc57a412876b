/* Run queues: one for each P, and a global one.
 *
 * The queue of a P is a ring that one thread fills and many empty. Only the owner of the P moves
 * runqtail, so only it writes slots; everybody takes from runqhead, by compare and swap. A slot
 * is written before the tail that makes it visible (release, acquire), and it is written anew
 * only after the head has passed it: the owner sees that before it puts something there. A
 * thief copies slots first and moves the head after: if the head has moved meanwhile, what it
 * copied may be anything, and it tries again. Head and tail count up and wrap around together,
 * so that tail - head is the length and no head comes back within reach.
 *
 * runnext holds one goroutine that goes before the queue: what the running one has just made
 * ready, which so shares its time slice. The owner exchanges it, thieves take it by compare and
 * swap.
 *
 * The global queue is a list under sched.lock. It takes what the rings have no room for, what
 * comes from threads without a P, and what has had its time. */
#include "sched/runq.h"

#include "base/kernel.h"
#include "gc/stop.h"

enum { RUNNEXT_PATIENCE = 3000 }; /* ns */

/* The global queue. */

void globrunqput(struct g *g) {
  g->schedlink = NULL;
  if (sched.runqtail)
    sched.runqtail->schedlink = g;
  else
    sched.runqhead = g;
  sched.runqtail = g;
  store_relaxed(&sched.runqsize, sched.runqsize + 1);
}

/* The next in the queue was last in another processor's cache, and only he knows who follows. So
 * goroutines that come into it together, and have not begun, each know one that is further behind.
 */
static void link_ahead(struct g *const *batch, uint32_t n) {
  enum { AHEAD = 8 };
  for (uint32_t i = 0; i + AHEAD < n; i++)
    if (!batch[i]->begun)
      batch[i]->sp = (uintptr_t)batch[i + AHEAD];
}

static struct g *globrunqpop(void) {
  struct g *g = sched.runqhead;
  if (!g->begun)
    prefetch_g((const struct g *)g->sp);
  sched.runqhead = g->schedlink;
  if (!sched.runqhead)
    sched.runqtail = NULL;
  store_relaxed(&sched.runqsize, sched.runqsize - 1);
  g->schedlink = NULL;
  return g;
}

/* A fair share: as many for each P, but never more than half a ring, so that it has room. */
static uint32_t share(uint32_t max) {
  uint32_t n = sched.runqsize / sched.gomaxprocs + 1;
  if (n > sched.runqsize)
    n = sched.runqsize;
  if (n > RUNQ_SIZE / 2)
    n = RUNQ_SIZE / 2;
  return max != 0 && n > max ? max : n;
}

/* The rest of the share goes to the ring, if it has room for it. */
struct g *globrunqget(struct p *p, uint32_t max) {
  if (sched.runqsize == 0)
    return NULL;
  uint32_t n = share(max);
  struct g *g = globrunqpop();
  uint32_t t = load_relaxed(&p->runqtail);
  uint32_t room = RUNQ_SIZE - (t - load_acquire(&p->runqhead));
  for (uint32_t i = 1; i < n && i <= room; i++)
    store_relaxed(runq_slot(p, t++), globrunqpop());
  store_release(&p->runqtail, t);
  return g;
}

/* Filling a ring. */

/* The ring is full: moves half of it and g to the global queue, so that room is made for many
 * at the price of one lock. Who makes so many ready should let some of them run, while what they
 * need is still in the processor's cache. False when a thief was faster. */
static bool runqput_half(struct p *p, struct g *g, uint32_t h, uint32_t t) {
  struct g *batch[RUNQ_SIZE / 2 + 1];
  uint32_t n = (t - h) / 2;
  for (uint32_t i = 0; i < n; i++)
    batch[i] = load_relaxed(runq_slot(p, h + i));
  if (!cas_seqcst(&p->runqhead, h, h + n))
    return false;
  batch[n] = g;
  link_ahead(batch, n + 1);
  lock_raw(&sched.lock);
  for (uint32_t i = 0; i <= n; i++)
    globrunqput(batch[i]);
  unlock_raw(&sched.lock);
  if (!p->m->lockedg) /* which would take another thread */
    ask_preempt(p->m);
  return true;
}

void runqput_full(struct p *p, struct g *g) {
  uint32_t h, t;
  do {
    h = load_acquire(&p->runqhead);
    t = load_relaxed(&p->runqtail);
    if (t - h < RUNQ_SIZE) {
      runqput_tail(p, g);
      return;
    }
  } while (!runqput_half(p, g, h, t));
}

/* Before all others of the thread's P; without one, for anybody. */
void runqput_here(struct m *m, struct g *g) {
  if (likely(m->p != NULL)) {
    wakep_put(runqput(m->p, g, true));
    return;
  }
  lock_raw(&sched.lock);
  globrunqput(g);
  unlock_raw(&sched.lock);
  wakep();
}

/* Emptying it. */

static const struct g *running_on(const struct p *p) {
  const struct m *m = load_relaxed(&p->m);
  return m && load_relaxed(&p->status) == Prunning ? load_relaxed(&m->curg) : NULL;
}

/* Who was made ready just now will run in a moment where it is: its caller is about to park. Only
 * if that does not come true for a while it is taken. */
static struct g *steal_runnext(struct p *from) {
  struct g *g = load_relaxed(&from->runnext);
  const struct g *running = running_on(from);
  for (int64_t until = nanotime() + RUNNEXT_PATIENCE; g && running && nanotime() < until;) {
    for (int i = 0; i < 10; i++)
      cpu_relax();
    if (running_on(from) != running)
      return NULL;
  }
  return g && cas_seqcst(&from->runnext, g, NULL) ? g : NULL;
}

/* Takes half of what is in from's ring and puts all but the last of it, which is returned, into
 * to's, which is empty. */
struct g *runqsteal(struct p *to, struct p *from, bool runnext_too) {
  uint32_t t = load_relaxed(&to->runqtail);
  for (;;) {
    uint32_t h = load_acquire(&from->runqhead), end = load_acquire(&from->runqtail);
    uint32_t n = end - h;
    if (n == 0)
      return runnext_too ? steal_runnext(from) : NULL;
    n -= n / 2;
    if (n > RUNQ_SIZE / 2) /* h is old: the two do not belong together */
      continue;
    for (uint32_t i = 0; i < n; i++)
      store_relaxed(runq_slot(to, t + i), load_relaxed(runq_slot(from, h + i)));
    if (!cas_seqcst(&from->runqhead, h, h + n))
      continue;
    store_release(&to->runqtail, t + n - 1);
    return load_relaxed(runq_slot(to, t + n - 1));
  }
}

/* The P goes out of use. */
void runq_to_global(struct p *p) {
  bool inherit;
  struct g *g;
  while ((g = runqget(p, &inherit)) != NULL)
    globrunqput(g);
}
