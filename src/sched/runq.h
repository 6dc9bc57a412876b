/* Run queues: the part that every switch goes through, inline. What it relies on is at the top of
 * runq.c. */
#ifndef SCHED_RUNQ_H
#define SCHED_RUNQ_H

#include "sched/sched.h"

static inline struct g **runq_slot(struct p *p, uint32_t i) { return &p->runq[i % RUNQ_SIZE]; }

/* The ring is full: makes room, and puts g somewhere. */
void runqput_full(struct p *p, struct g *g);

/* The owner's: behind all others. */
static inline void runqput_tail(struct p *p, struct g *g) {
  uint32_t h = load_acquire(&p->runqhead), t = load_relaxed(&p->runqtail);
  if (unlikely(t - h >= RUNQ_SIZE)) {
    runqput_full(p, g);
    return;
  }
  store_relaxed(runq_slot(p, t), g);
  store_release(&p->runqtail, t + 1);
}

/* Thieves change runnext and runqhead, too; but of the only P nobody steals. */
static inline struct g *runnext_swap(struct p *p, struct g *g) {
  if (!load_relaxed(&sched.only_p))
    return xchg_seqcst(&p->runnext, g);
  struct g *was = load_relaxed(&p->runnext);
  store_relaxed(&p->runnext, g);
  return was;
}

static inline bool runqhead_move(struct p *p, uint32_t h) {
  if (!load_relaxed(&sched.only_p))
    return cas_seqcst(&p->runqhead, h, h + 1);
  store_relaxed(&p->runqhead, h + 1);
  return true;
}

/* The owner's. `next`: before all others; who was next goes to the end. True when somebody is in
 * the ring now who was not, so that there is work for two. With next its exchange comes before
 * later loads that are sequentially consistent too, unless there is nobody to be woken. */
static inline bool runqput(struct p *p, struct g *g, bool next) {
  if (next)
    g = runnext_swap(p, g);
  if (g)
    runqput_tail(p, g);
  return g != NULL;
}

static inline struct g *runnext_take(struct p *p) {
  return load_relaxed(&p->runnext) ? runnext_swap(p, NULL) : NULL;
}

/* The owner's. *inherit: the goroutine goes on in the time slice of the one before. A runnext
 * that a thief takes away is no longer ours to wait for. */
static inline struct g *runqget(struct p *p, bool *inherit) {
  struct g *g = runnext_take(p);
  *inherit = g != NULL;
  while (!g) {
    uint32_t h = load_acquire(&p->runqhead);
    if (h == load_relaxed(&p->runqtail))
      return NULL;
    g = load_relaxed(runq_slot(p, h));
    prefetch_g(load_relaxed(runq_slot(p, h + 1)));
    if (!runqhead_move(p, h))
      g = NULL;
  }
  return g;
}

/* The owner may move runnext to the ring while we look: looking at the ring twice, with the same
 * tail, means that it was empty when runnext was. */
static inline bool runqempty(const struct p *p) {
  for (;;) {
    uint32_t h = load_acquire(&p->runqhead), t = load_acquire(&p->runqtail);
    struct g *next = load_acquire(&p->runnext);
    if (t == load_acquire(&p->runqtail))
      return h == t && !next;
  }
}

#endif
