/* Caches of things that are free, for each P, and a depot behind them.
 *
 * What is free lies in magazines: small arrays, which go back and forth between the caches and the
 * depot whole. So of many things that one P frees and another takes none is touched on the way, and
 * the depot's lock is taken once for a magazine. A cache has two magazines, so that a P which takes
 * and frees by turns does not come to the depot each time (after Bonwick and Adams, "Magazines and
 * Vmem", 2001). */
#ifndef SCHED_MAGAZINE_H
#define SCHED_MAGAZINE_H

#include "base/base.h"
#include "base/lock.h"

enum { MAGAZINE_SIZE = 30 };

struct magazine {
  struct magazine *next; /* in the depot */
  size_t n;
  void *item[MAGAZINE_SIZE];
};

/* Its owner's, inside acquirem. */
struct magazines {
  struct magazine *loaded, *spare; /* spare is full, empty, or NULL */
};

struct depot {
  struct mutex lock;
  /* Under lock; full and old are atomic for who only looks. Those that are full may have fewer than
   * they could. */
  struct magazine *full, *empty;
  struct magazine *old; /* full ones that nobody has wanted for some time: see depot_age */
};

void *magazine_get_slow(struct magazines *c, struct depot *d);
void magazine_put_slow(struct magazines *c, struct depot *d, void *item);

/* NULL when there is none. */
static inline void *magazine_get(struct magazines *c, struct depot *d) {
  struct magazine *m = c->loaded;
  return likely(m && m->n > 0) ? m->item[--m->n] : magazine_get_slow(c, d);
}

static inline void magazine_put(struct magazines *c, struct depot *d, void *item) {
  struct magazine *m = c->loaded;
  if (likely(m && m->n < MAGAZINE_SIZE))
    m->item[m->n++] = item;
  else
    magazine_put_slow(c, d, item);
}

/* What will be taken next, or NULL. */
static inline void *magazine_next(const struct magazines *c) {
  const struct magazine *m = c->loaded;
  return m && m->n > 0 ? m->item[m->n - 1] : NULL;
}

/* Without a cache. */
void *depot_get(struct depot *d);
void depot_put(struct depot *d, void *item);

/* Any thread may call the rest, attached or not. */

/* Empties a cache into the depot: its owner, or who knows that it has none at the moment. True when
 * there was something in it. */
bool magazines_flush(struct magazines *c, struct depot *d);
/* What is in the depot now counts as old, from the next call on that finds it still there. */
void depot_age(struct depot *d);
/* Takes an old magazine out, or any full one; NULL when there is none. */
struct magazine *depot_take_old(struct depot *d);
struct magazine *depot_take(struct depot *d);
/* Puts a full magazine into a depot; not the one it was in, perhaps. */
void depot_give(struct depot *d, struct magazine *m);

#endif
