/* Stacks that no goroutine has: where a new one comes from, and where that of a dead one goes.
 *
 * Stacks of the default size are cut from larger mappings, which are never unmapped, and go from
 * goroutine to goroutine. A goroutine gets one when it first runs, and gives it back at its end: so
 * of a thousand that are made in a loop, and run one after the other, each finds the stack of the
 * one before, still in the processor's cache.
 *
 * A few are with each P, for its owner alone; more in a common pool, from which they move in
 * batches. There they are warm, with the memory that they once used, or cold: the memory has gone
 * back to the system, and only the addresses are left. What lies on a free stack is no root. */
#include "sched/sched.h"

#include "base/throw.h"
#include "heap/malloc.h"
#include "os/os.h"
#include "sched/sanitizer.h"

enum {
  SLOT_SIZE = STACK_GUARD + DEFAULT_STACK,
  SLOTS_PER_MAPPING = 16,
  CACHE_MAX = 64, /* of a P */
  BATCH = CACHE_MAX / 2,
};

/* A place for a stack of the default size. */
struct stackslot {
  struct stackslot *next; /* in a list of free ones; under the pool's lock, or the P's owner's */
  uintptr_t lo;           /* constant */
  bool in_use;            /* a goroutine has it; whose who takes or gives it */
};

/* The slots of one mapping. */
struct stackmapping {
  struct stackmapping *next; /* constant */
  struct stackslot slot[SLOTS_PER_MAPPING];
};

static struct {
  struct mutex lock;
  struct stackmapping *mappings; /* all there are; under lock, like the rest */
  uint32_t fresh;                /* slots of the first of them that were never used */
  struct stackslot *warm, *cold;
  uint32_t nwarm;
} pool;

static void push(struct stackslot **list, struct stackslot *s) {
  s->next = *list;
  *list = s;
}

static struct stackslot *pop(struct stackslot **list) {
  struct stackslot *s = *list;
  if (s)
    *list = s->next;
  return s;
}

/* New ones. */

/* Under the lock; NULL when there is no memory. */
static struct stackslot *fresh_slot(void) {
  if (pool.fresh == 0) {
    uintptr_t p = stack_map((size_t)SLOT_SIZE * SLOTS_PER_MAPPING);
    if (p == 0)
      return NULL;
    struct stackmapping *m = persistentalloc(sizeof *m, PTR_SIZE);
    for (uint32_t i = 0; i < SLOTS_PER_MAPPING; i++)
      m->slot[i].lo = p + i * SLOT_SIZE + STACK_GUARD;
    m->next = pool.mappings;
    pool.mappings = m;
    pool.fresh = SLOTS_PER_MAPPING;
  }
  return &pool.mappings->slot[SLOTS_PER_MAPPING - pool.fresh--];
}

static struct stackslot *new_slot(void) {
  lock(&pool.lock);
  struct stackslot *s = fresh_slot();
  unlock(&pool.lock);
  if (!s || !os_guard((void *)(s->lo - STACK_GUARD), STACK_GUARD))
    stack_no_memory(DEFAULT_STACK);
  add_relaxed(&stack_inuse, DEFAULT_STACK);
  sanitize_stack(s->lo, s->lo + DEFAULT_STACK);
  return s;
}

/* Between a P and the pool. */

static void fill_cache(struct p *p) {
  lock(&pool.lock);
  for (struct stackslot *s; p->nstacks < BATCH && (s = pop(&pool.warm)) != NULL; p->nstacks++) {
    pool.nwarm--;
    push(&p->stacks, s);
  }
  unlock(&pool.lock);
}

static void spill_cache(struct p *p) {
  lock(&pool.lock);
  for (; p->nstacks > BATCH; p->nstacks--) {
    pool.nwarm++;
    push(&pool.warm, pop(&p->stacks));
  }
  unlock(&pool.lock);
}

static struct stackslot *cold_slot(void) {
  lock(&pool.lock);
  struct stackslot *s = pop(&pool.cold);
  unlock(&pool.lock);
  return s;
}

/* Taking and giving. With acquirem held. */

static struct stackslot *take_slot(struct p *p) {
  if (!p->stacks && load_relaxed(&pool.nwarm) != 0)
    fill_cache(p);
  struct stackslot *s = pop(&p->stacks);
  if (s) {
    p->nstacks--;
    return s;
  }
  s = cold_slot();
  return s ? s : new_slot();
}

void stack_take(struct p *p, struct g *g) {
  struct stackslot *s = take_slot(p);
  s->in_use = true;
  g->slot = s;
  g->stack = (struct stack){s->lo, s->lo + DEFAULT_STACK};
}

void stack_give(struct p *p, struct g *g) {
  struct stackslot *s = g->slot;
  g->slot = NULL;
  g->stack = (struct stack){0, 0};
  s->in_use = false;
  if (!p) /* after a fork: all are gone through */
    return;
  push(&p->stacks, s);
  if (++p->nstacks == CACHE_MAX)
    spill_cache(p);
}

/* Only the goroutines that are left have stacks. The others' memory is copied when it is touched:
 * it counts as warm. */
void stackpool_after_fork(void) {
  pool.lock = (struct mutex){0};
  pool.warm = pool.cold = NULL;
  pool.nwarm = 0;
  uint32_t unused = pool.fresh;
  for (struct stackmapping *m = pool.mappings; m; m = m->next, unused = 0)
    for (uint32_t i = 0; i < SLOTS_PER_MAPPING - unused; i++)
      if (!m->slot[i].in_use) {
        push(&pool.warm, &m->slot[i]);
        pool.nwarm++;
      }
}
