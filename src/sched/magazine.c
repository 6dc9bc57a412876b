/* Caches of things that are free, for each P, and a depot behind them. */
#include "sched/magazine.h"

#include "base/atomic.h"
#include "base/m.h"
#include "heap/malloc.h"

static void push(struct magazine **list, struct magazine *m) {
  m->next = *list;
  store_relaxed(list, m);
}

static struct magazine *pop(struct magazine **list) {
  struct magazine *m = *list;
  if (m)
    store_relaxed(list, m->next);
  return m;
}

/* Magazines are never given back: there are as many as the things that were free at one time need.
 */
static struct magazine *take_empty(struct depot *d) {
  struct magazine *m = pop(&d->empty);
  return m ? m : persistentalloc(sizeof *m, CACHE_LINE);
}

/* What is old is wanted last. */
static struct magazine *pop_full(struct depot *d) {
  struct magazine *m = pop(&d->full);
  return m ? m : pop(&d->old);
}

static bool has_none(const struct depot *d) {
  return !load_relaxed(&d->full) && !load_relaxed(&d->old);
}

static void swap(struct magazines *c) {
  struct magazine *m = c->loaded;
  c->loaded = c->spare;
  c->spare = m;
}

static bool has_some(const struct magazine *m) { return m && m->n > 0; }
static bool has_room(const struct magazine *m) { return m && m->n < MAGAZINE_SIZE; }

/* The empty one that is loaded goes back, for a full one. */
static void load_full(struct magazines *c, struct depot *d) {
  if (has_none(d))
    return;
  lock(&d->lock);
  struct magazine *full = pop_full(d);
  if (full && c->loaded)
    push(&d->empty, c->loaded);
  unlock(&d->lock);
  if (full)
    c->loaded = full;
}

void *magazine_get_slow(struct magazines *c, struct depot *d) {
  if (has_some(c->spare))
    swap(c);
  else
    load_full(c, d);
  return has_some(c->loaded) ? c->loaded->item[--c->loaded->n] : NULL;
}

/* The full one that is loaded, if any, goes back, for an empty one. */
static void load_empty(struct magazines *c, struct depot *d) {
  lock(&d->lock);
  struct magazine *empty = take_empty(d);
  if (c->loaded)
    push(&d->full, c->loaded);
  unlock(&d->lock);
  c->loaded = empty;
}

void magazine_put_slow(struct magazines *c, struct depot *d, void *item) {
  if (has_room(c->spare) || (c->loaded && !c->spare))
    swap(c);
  if (!has_room(c->loaded))
    load_empty(c, d);
  c->loaded->item[c->loaded->n++] = item;
}

/* Without a cache. */

void *depot_get(struct depot *d) {
  lock(&d->lock);
  struct magazine *m = pop_full(d);
  void *item = m ? m->item[--m->n] : NULL;
  if (m)
    push(m->n > 0 ? &d->full : &d->empty, m);
  unlock(&d->lock);
  return item;
}

void depot_put(struct depot *d, void *item) {
  lock(&d->lock);
  if (!has_room(d->full))
    push(&d->full, take_empty(d));
  d->full->item[d->full->n++] = item;
  unlock(&d->lock);
}

/* Whole magazines. */

static bool flush(struct magazine *m, struct depot *d) {
  if (m)
    push(m->n > 0 ? &d->full : &d->empty, m);
  return has_some(m);
}

bool magazines_flush(struct magazines *c, struct depot *d) {
  if (!c->loaded && !c->spare)
    return false;
  lock_any(&d->lock);
  bool spare = flush(c->spare, d), loaded = flush(c->loaded, d);
  unlock_any(&d->lock);
  *c = (struct magazines){NULL, NULL};
  return loaded || spare;
}

void depot_age(struct depot *d) {
  lock_any(&d->lock);
  if (!d->old) {
    store_relaxed(&d->old, d->full);
    store_relaxed(&d->full, NULL);
  }
  unlock_any(&d->lock);
}

struct magazine *depot_take_old(struct depot *d) {
  lock_any(&d->lock);
  struct magazine *m = pop(&d->old);
  unlock_any(&d->lock);
  return m;
}

struct magazine *depot_take(struct depot *d) {
  lock_any(&d->lock);
  struct magazine *m = pop_full(d);
  unlock_any(&d->lock);
  return m;
}

void depot_give(struct depot *d, struct magazine *m) {
  lock_any(&d->lock);
  push(&d->full, m);
  unlock_any(&d->lock);
}
