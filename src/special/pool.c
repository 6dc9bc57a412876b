#include "special/pool.h"

#include "base/atomic.h"
#include "base/m.h"
#include "os/os.h"
#include "special/special.h"

enum { POOL_CHUNK = 64 << 10 };

/* fixalloc throws when it finds no room, so room is made first. The pool's lock is held. */
static bool has_room(struct fixalloc *f) {
  if (f->free != NULL || f->chunk_end - f->chunk >= f->size)
    return true;
  void *p = os_map(POOL_CHUNK, os_page_size());
  if (p == NULL)
    return false;
  add_relaxed(&persistent_sys, POOL_CHUNK);
  f->chunk = (uintptr_t)p;
  f->chunk_end = f->chunk + POOL_CHUNK;
  return true;
}

void *pool_alloc(struct pool *p) {
  lock(&p->lock);
  void *record = has_room(&p->f) ? fixalloc_alloc(&p->f) : NULL;
  unlock(&p->lock);
  return record;
}

void pool_free(struct pool *p, void *record) {
  lock(&p->lock);
  fixalloc_free(&p->f, record);
  unlock(&p->lock);
}

/* --- Finalizer records: a cache for each thread ----------------------------------------------- */

enum { BATCH = 32 };

static struct pool finpool = {.f = {.size = sizeof(struct specialfinalizer)}};

/* special.next is the first word: the link of m->finrecords. */
_Static_assert(offsetof(struct specialfinalizer, special.next) == 0, "linked by the first word");

static void push(struct m *m, struct specialfinalizer *r) {
  r->special.next = m->finrecords;
  m->finrecords = r;
  m->nfinrecords++;
}

static struct specialfinalizer *pop(struct m *m) {
  struct specialfinalizer *r = m->finrecords;
  if (r != NULL) {
    m->finrecords = r->special.next;
    m->nfinrecords--;
  }
  return r;
}

static void refill(struct m *m) {
  lock(&finpool.lock);
  for (int i = 0; i < BATCH && has_room(&finpool.f); i++)
    push(m, fixalloc_alloc(&finpool.f));
  unlock(&finpool.lock);
}

static void give_back(struct m *m) {
  lock(&finpool.lock);
  for (int i = 0; i < BATCH; i++)
    fixalloc_free(&finpool.f, pop(m));
  unlock(&finpool.lock);
}

struct specialfinalizer *finrecord_alloc(void) {
  struct m *m = acquirem();
  if (m->finrecords == NULL)
    refill(m);
  struct specialfinalizer *r = pop(m);
  releasem(m);
  return r;
}

void finrecord_free(struct specialfinalizer *r) {
  struct m *m = acquirem();
  push(m, r);
  if (m->nfinrecords >= 2 * BATCH)
    give_back(m);
  releasem(m);
}
