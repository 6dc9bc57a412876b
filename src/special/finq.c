/* The queue of finalizers that are to run: filling it, marking it, and who is to be woken for it.
 */
#include "special/finq.h"

#include "base/atomic.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "heap/malloc.h"
#include "special/special.h"

struct mutex finlock;
struct finblock *finq, *finc, *allfin;
struct g *fing;
bool fingwait, fingwake;
struct finstats finstats;

/* An empty block; finlock is held. Blocks enter allfin complete, and stay: marking walks it without
 * the lock. */
static struct finblock *take_block(void) {
  struct finblock *b = finc;
  if (b != NULL) {
    finc = b->next;
    return b;
  }
  b = persistentalloc(FIN_BLOCK_SIZE, CACHE_LINE);
  b->alllink = allfin;
  store_release(&allfin, b);
  return b;
}

void queue_begin(void) {
  if (load_relaxed(&gcphase) != GCoff)
    throw("queuefinalizer during GC");
  lock(&finlock);
}

void queue_add(const struct finalizer *f) {
  if (finq == NULL || finq->cnt == FIN_PER_BLOCK) {
    struct finblock *b = take_block();
    b->next = finq;
    finq = b;
  }
  uint32_t i = finq->cnt;
  finq->fin[i] = *f;
  store_release(&finq->cnt, i + 1);
}

void queue_end(size_t n) {
  store_release(&finstats.queued, finstats.queued + n);
  store_seqcst(&fingwake, true);
  unlock(&finlock);
}

void queuefinalizer(void *p, const gort_func *fn, size_t nret, const gort_type *fint,
                    const gort_type *ot) {
  queue_begin();
  queue_add(&(struct finalizer){fn, p, nret, fint, ot});
  queue_end(1);
}

struct g *wakefing(void) {
  struct g *gp = NULL;
  lock(&finlock);
  if (fingwait && fingwake) {
    store_relaxed(&fingwait, false);
    store_relaxed(&fingwake, false);
    gp = fing;
  }
  unlock(&finlock);
  return gp;
}

/* Entries below cnt are complete; the finalizer goroutine clears one before it counts down, so that
 * what it ran is not found here again. The world is stopped, or fing takes entries meanwhile: then
 * it has them on its stack. */
void mark_queues(void (*scan)(uintptr_t lo, uintptr_t hi)) {
  for (struct finblock *b = load_acquire(&allfin); b != NULL; b = b->alllink) {
    uint32_t n = load_acquire(&b->cnt);
    if (n != 0)
      scan((uintptr_t)&b->fin[0], (uintptr_t)&b->fin[n]);
  }
}

static bool is_in(const struct finblock *b, const struct finblock *list) {
  while (list != NULL && list != b)
    list = list->alllink;
  return list != NULL;
}

static void verify_block(const struct finblock *b, bool queued) {
  if (!is_in(b, allfin))
    throw("finq: a block is not in allfin");
  if (b->cnt > FIN_PER_BLOCK || (b->cnt != 0) != queued)
    throw("finq: a block %s has %u entries", queued ? "in the queue" : "kept for later", b->cnt);
  for (uint32_t i = 0; i < FIN_PER_BLOCK; i++)
    if ((b->fin[i].arg != NULL && b->fin[i].fint != NULL) != (i < b->cnt))
      throw("finq: entry %u of a block with %u is wrong", i, b->cnt);
}

void finq_verify(void) {
  for (const struct finblock *b = finq; b != NULL; b = b->next)
    verify_block(b, true);
  for (const struct finblock *b = finc; b != NULL; b = b->next)
    verify_block(b, false);
}
