/* Stacks that no goroutine has: where a new one comes from, and where that of a dead one goes.
 *
 * Stacks of the default size are cut from larger mappings, which are never unmapped, and go from
 * goroutine to goroutine. A goroutine gets one when it first runs, and gives it back at its end: so
 * of a thousand that are made in a loop, and run one after the other, each finds the stack of the
 * one before, still in the processor's cache.
 *
 * Free stacks are in magazines: warm, with the memory that they once used; or cold: the memory has
 * gone back to the system, and only the addresses are left. Those that nobody has wanted for a
 * second or two become cold. sysmon sees to it, a few at a time, for the system takes some
 * microseconds for each; it takes them out of the caches of idle Ps, too, and whoever stops the
 * world out of all caches. What lies on a free stack is no root. */
#include "sched/sched.h"

#include "base/throw.h"
#include "heap/malloc.h"
#include "os/os.h"

enum {
  SLOT_SIZE = STACK_GUARD + DEFAULT_STACK,
  SLOTS_PER_MAPPING = 16,
};
#ifdef GORT_TORTURE
static const int64_t TRIM_PERIOD = 1000000; /* ns */
#else
static const int64_t TRIM_PERIOD = 1000000000;
#endif

/* A place for a stack of the default size. */
struct stackslot {
  uintptr_t lo; /* constant */
  bool in_use;  /* a goroutine has it; whose who takes or gives it */
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
} pool;

static struct depot warm, cold;

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

/* By mprotect each guard makes two mappings more, and a process may not have many. Half of them are
 * left to the program: beyond that stacks have no guard, which is better than none at all. */
static bool guard_by_mprotect(void *p) {
  static uint32_t guards, most; /* atomic */
  uint32_t limit = load_relaxed(&most), n = add_relaxed(&guards, 1);
  if (limit == 0) {
    limit = os_max_mappings() / 4;
    store_relaxed(&most, limit);
  }
  if (n == limit + 1)
    warn("this kernel leaves no guards for more than %u goroutines' stacks (vm.max_map_count): "
         "overflows of others go unnoticed\n",
         limit);
  return n > limit || os_guard(p, STACK_GUARD);
}

static bool guard(struct stackslot *s) {
  void *p = (void *)(s->lo - STACK_GUARD);
  return os_guard_install(p, STACK_GUARD) || guard_by_mprotect(p);
}

static struct stackslot *new_slot(void) {
  lock(&pool.lock);
  struct stackslot *s = fresh_slot();
  unlock(&pool.lock);
  if (!s || !guard(s))
    stack_no_memory(DEFAULT_STACK);
  add_relaxed(&stack_inuse, DEFAULT_STACK);
  return s;
}

/* Taking and giving. With acquirem held. */

static struct stackslot *take_slot(struct p *p) {
  struct stackslot *s = magazine_get(&p->stacks, &warm);
  if (!s && load_relaxed(&cold.full)) /* it has no old ones */
    s = depot_get(&cold);
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
  magazine_put(&p->stacks, &warm, s);
}

/* Giving memory back. */

static void cool(struct magazine *m) {
  for (size_t i = 0; i < m->n; i++)
    (void)os_release((void *)((struct stackslot *)m->item[i])->lo, DEFAULT_STACK);
  depot_give(&cold, m);
}

static bool cool_old(void) {
  struct magazine *m = depot_take_old(&warm);
  if (m)
    cool(m);
  return m != NULL;
}

/* Nobody has a P that is idle, or one too many. True when there were stacks in their caches. */
static bool flush_idle(void) {
  bool some = false;
  lock_raw(&sched.lock);
  for (struct p *p = sched.pidle; p; p = p->link)
    some |= magazines_flush(&p->stacks, &warm);
  for (uint32_t i = sched.gomaxprocs; i < sched.nallp; i++)
    if (load_relaxed(&allp[i]->status) == Pdead)
      some |= magazines_flush(&allp[i]->stacks, &warm);
  unlock_raw(&sched.lock);
  return some;
}

void stackpool_flush(void) {
  for (uint32_t i = 0, n = load_acquire(&sched.nallp); i < n; i++)
    magazines_flush(&allp[i]->stacks, &warm);
}

int64_t stackpool_trim(int64_t now) {
  static int64_t next;
  bool clean = false;
  if (now >= next) {
    depot_age(&warm);
    clean = !flush_idle();
    next = now + TRIM_PERIOD;
  }
  if (cool_old() && load_relaxed(&warm.old))
    return 0;
  return clean && !load_relaxed(&warm.full) ? INT64_MAX : next - now;
}

void stackpool_trim_all(void) {
  for (struct magazine *m; (m = depot_take(&warm)) != NULL;)
    cool(m);
}

/* Only the goroutines that are left have stacks. The others' memory is copied when it is touched:
 * it counts as warm. */
void stackpool_after_fork(void) {
  pool.lock = (struct mutex){0};
  warm = cold = (struct depot){0};
  uint32_t unused = pool.fresh;
  for (struct stackmapping *m = pool.mappings; m; m = m->next, unused = 0)
    for (uint32_t i = 0; i < SLOTS_PER_MAPPING - unused; i++)
      if (!m->slot[i].in_use)
        depot_put(&warm, &m->slot[i]);
}
