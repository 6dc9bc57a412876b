/* One lock for all shared work: it is taken once for some five hundred words. */
#include "gc/work.h"

#include "base/atomic.h"
#include "base/kernel.h"
#include "base/lock.h"
#include "base/throw.h"
#include "gc/workers.h"
#include "os/os.h"

enum { BLOCKS_AT_ONCE = 64, SPINS_BEFORE_SLEEP = 200 };

uint64_t work_sys;

/* Blocks are mapped, and given back, many at a time. */
struct group {
  struct workbuf block[BLOCKS_AT_ONCE];
  struct group *next;
};

static struct {
  struct mutex lock; /* guards all of this; `waiting`, `full` and `njobs` are read without */
  struct workbuf *full, *empty;
  struct group *groups;
  size_t ngroups;
  struct job *jobs; /* a stack */
  size_t njobs, cap;
  int nworkers, waiting;
  uint32_t done; /* all workers wait: the round is over, or none has begun */
} work = {.done = 1};

static void *map(size_t size) {
  void *p = os_map(ALIGN_UP(size, os_page_size()), os_page_size());
  if (p == NULL)
    throw("out of memory: cannot map %zu bytes to mark the heap", size);
  work_sys += size;
  return p;
}

/* Somebody may be just finding out that there is no round that could be joined. */
void work_begin(int nworkers) {
  lock_raw(&work.lock);
  work.nworkers = nworkers;
  work.waiting = 0;
  store_release(&work.done, 0);
  unlock_raw(&work.lock);
}

static void unmap_blocks(void) {
  for (struct group *g = work.groups, *next; g != NULL; g = next) {
    next = g->next;
    os_unmap(g, ALIGN_UP(sizeof *g, os_page_size()));
    work_sys -= sizeof *g;
  }
  work.groups = NULL;
  work.empty = NULL;
  work.ngroups = 0;
}

void work_end(void) {
  if (work.full != NULL || work.njobs != 0)
    throw("marking ended with work left");
  if (work.ngroups * BLOCKS_AT_ONCE > KEEP_BLOCKS)
    unmap_blocks();
}

static void more_blocks(void) {
  struct group *g = map(sizeof *g);
  g->next = work.groups;
  work.groups = g;
  work.ngroups++;
  for (int i = 0; i < BLOCKS_AT_ONCE; i++) {
    g->block[i].next = work.empty;
    work.empty = &g->block[i];
  }
}

struct workbuf *work_empty_block(void) {
  lock_raw(&work.lock);
  if (work.empty == NULL)
    more_blocks();
  struct workbuf *b = work.empty;
  work.empty = b->next;
  unlock_raw(&work.lock);
  b->n = 0;
  return b;
}

void work_free_block(struct workbuf *b) {
  lock_raw(&work.lock);
  b->next = work.empty;
  work.empty = b;
  unlock_raw(&work.lock);
}

void work_give_block(struct workbuf *b) {
  if (b->n == 0) {
    work_free_block(b);
    return;
  }
  lock_raw(&work.lock);
  b->next = work.full;
  store_relaxed(&work.full, b);
  unlock_raw(&work.lock);
}

static void grow_jobs(void) {
  size_t cap = work.cap ? work.cap * 2 : 4096;
  struct job *j = map(cap * sizeof *j);
  for (size_t i = 0; i < work.njobs; i++)
    j[i] = work.jobs[i];
  if (work.jobs) {
    os_unmap(work.jobs, work.cap * sizeof *j);
    work_sys -= work.cap * sizeof *j;
  }
  work.jobs = j;
  work.cap = cap;
}

void work_add_job(const struct job *j) {
  lock_raw(&work.lock);
  if (work.njobs == work.cap)
    grow_jobs();
  work.jobs[work.njobs] = *j;
  store_relaxed(&work.njobs, work.njobs + 1);
  unlock_raw(&work.lock);
}

bool work_wanted(void) {
  return load_relaxed(&work.waiting) > 0 && load_relaxed(&work.full) == NULL &&
         load_relaxed(&work.njobs) == 0;
}

/* Takes a piece off the last job. */
static void take_job(struct job *j) {
  struct job *last = &work.jobs[work.njobs - 1];
  *j = *last;
  if (last->hi - last->lo > JOB_PIECE)
    last->lo = j->hi = last->lo + JOB_PIECE;
  else
    store_relaxed(&work.njobs, work.njobs - 1);
}

/* Blocks first: they are what fills memory. Under the lock. */
static bool take(struct work *w) {
  if (work.full != NULL) {
    w->kind = WORK_BLOCK;
    w->block = work.full;
    store_relaxed(&work.full, w->block->next);
  } else if (work.njobs != 0) {
    w->kind = WORK_JOB;
    take_job(&w->job);
  }
  return w->kind != WORK_NONE;
}

static bool anything(void) {
  return load_relaxed(&work.full) != NULL || load_relaxed(&work.njobs) != 0;
}

struct work work_try_get(void) {
  struct work w = {.kind = WORK_NONE};
  if (!anything())
    return w;
  lock_raw(&work.lock);
  take(&w);
  unlock_raw(&work.lock);
  return w;
}

bool work_try_get_job(struct job *j) {
  lock_raw(&work.lock);
  bool got = work.njobs != 0;
  if (got)
    take_job(j);
  unlock_raw(&work.lock);
  return got;
}

static void wait_for_work(void) {
  for (int i = 0; !anything() && load_acquire(&work.done) == 0; i++, workers_may_pause())
    if (i < SPINS_BEFORE_SLEEP)
      cpu_relax();
    else
      osyield();
}

/* A worker that waits holds nothing, so when all wait there is nothing anywhere. */
struct work work_get(void) {
  struct work w = {.kind = WORK_NONE};
  lock_raw(&work.lock);
  bool got = take(&w);
  if (!got)
    store_relaxed(&work.waiting, work.waiting + 1);
  if (!got && work.waiting == work.nworkers)
    store_release(&work.done, 1);
  while (!got && !work.done) {
    unlock_raw(&work.lock);
    wait_for_work();
    lock_raw(&work.lock);
    if ((got = take(&w)))
      store_relaxed(&work.waiting, work.waiting - 1);
  }
  unlock_raw(&work.lock);
  return w;
}

bool work_can_be_joined(void) { return load_acquire(&work.done) == 0 && anything(); }

bool work_join(void) {
  if (!work_can_be_joined())
    return false;
  lock_raw(&work.lock);
  bool join = !work.done;
  if (join)
    work.nworkers++;
  unlock_raw(&work.lock);
  return join;
}

/* The others may all wait by now. */
void work_leave(void) {
  lock_raw(&work.lock);
  work.nworkers--;
  if (work.waiting == work.nworkers && !anything())
    store_release(&work.done, 1);
  unlock_raw(&work.lock);
}

/* What was found is of no use any more: nobody marks. */
void work_after_fork(void) {
  for (struct workbuf *b; (b = work.full) != NULL;) {
    work.full = b->next;
    work_free_block(b);
  }
  work.njobs = 0;
  work.done = 1;
}
