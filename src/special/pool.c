#include "special/pool.h"

#include "base/m.h"
#include "special/special.h"

void *pool_alloc(struct pool *p) {
  lock(&p->lock);
  void *record = fixalloc_alloc(&p->f);
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
  struct specialfinalizer *r;
  for (int i = 0; i < BATCH && (r = fixalloc_alloc(&finpool.f)) != NULL; i++)
    push(m, r);
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
