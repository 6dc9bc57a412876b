/* The spans of each class that no thread has cached. */
#include "heap/mcentral.h"

#include "base/m.h"
#include "base/throw.h"
#include "heap/mheap.h"
#include "heap/upcall.h"

enum { PARTIAL, FULL };

struct spanlist {
  struct mspan *first; /* read without the lock, to see whether there is any; atomic */
};

struct mcentral {
  struct mutex lock;
  struct spanlist list[2][2]; /* [PARTIAL or FULL][parity of the generation]; under lock */
} __attribute__((aligned(CACHE_LINE)));

static struct mcentral central[NUM_SPAN_CLASSES];

/* Where swept and unswept spans are now. */
static unsigned swept_parity(void) { return load_relaxed(&mheap.sweepgen) / 2 % 2; }
static unsigned unswept_parity(void) { return 1 - swept_parity(); }

static void push(struct mcentral *c, struct mspan *s, unsigned fullness, unsigned parity) {
  struct spanlist *l = &c->list[fullness][parity];
  s->prev = NULL;
  s->next = l->first;
  if (l->first)
    l->first->prev = s;
  store_relaxed(&l->first, s);
  s->listed = (uint8_t)(1 + fullness * 2 + parity);
}

static void unlink_span(struct mcentral *c, struct mspan *s) {
  if (s->listed == 0)
    return;
  struct spanlist *l = &c->list[(s->listed - 1) / 2][(s->listed - 1) % 2];
  if (s->prev)
    s->prev->next = s->next;
  else
    store_relaxed(&l->first, s->next);
  if (s->next)
    s->next->prev = s->prev;
  s->next = s->prev = NULL;
  s->listed = 0;
}

static struct mspan *pop(struct mcentral *c, unsigned fullness, unsigned parity) {
  if (load_relaxed(&c->list[fullness][parity].first) == NULL)
    return NULL;
  lock(&c->lock);
  struct mspan *s = c->list[fullness][parity].first;
  if (s)
    unlink_span(c, s);
  unlock(&c->lock);
  return s;
}

static void put(struct mspan *s, unsigned fullness, unsigned parity) {
  struct mcentral *c = &central[s->spanclass];
  lock(&c->lock);
  unlink_span(c, s);
  push(c, s, fullness, parity);
  unlock(&c->lock);
}

static unsigned fullness(const struct mspan *s) {
  return s->allocCount == s->nelems ? FULL : PARTIAL;
}

void mcentral_swept(struct mspan *s) { put(s, fullness(s), swept_parity()); }
void mcentral_add_full(struct mspan *s) { put(s, FULL, swept_parity()); }

void mcentral_remove(struct mspan *s) {
  struct mcentral *c = &central[s->spanclass];
  lock(&c->lock);
  unlink_span(c, s);
  unlock(&c->lock);
}

/* The next unswept span of a list, claimed. Spans that somebody else sweeps are dropped: who
 * sweeps them lists them. While a span is in no list and not claimed yet, we count as a sweeper. */
static struct mspan *pop_unswept(struct mcentral *c, unsigned full) {
  struct mspan *s;
  add_seqcst(&mheap.sweepers, 1);
  while ((s = pop(c, full, unswept_parity())) != NULL && !trysweep(s))
    ;
  add_seqcst(&mheap.sweepers, -1u);
  return s;
}

/* A span that the caller sweeps, and that has room after it; NULL: none among the unswept. A
 * full one is looked at only so often: what a program keeps is mostly full of live objects. */
static struct mspan *sweep_for_room(struct mcentral *c) {
  struct mspan *s;
  for (unsigned full = PARTIAL; full <= FULL; full++)
    for (int tries = 100; tries > 0 && (s = pop_unswept(c, full)) != NULL; tries--) {
      upcalls.sweep(s, true);
      if (s->allocCount < s->nelems)
        return s;
      mcentral_swept(s);
    }
  return NULL;
}

static struct mspan *grow(spanclass_t spc) {
  unsigned c = spanclass_sizeclass(spc);
  return mheap_alloc(gort_class_to_pages[c], spc, gort_class_to_size[c]);
}

struct mspan *cacheSpan(spanclass_t spc) {
  struct mcentral *c = &central[spc];
  struct mspan *s = pop(c, PARTIAL, swept_parity());
  if (s == NULL)
    s = sweep_for_room(c);
  if (s == NULL)
    s = grow(spc);
  if (s == NULL)
    return NULL;
  store_release(&s->sweepgen, load_relaxed(&mheap.sweepgen) + 3);
  s->searchword = 0;
  return s;
}

void uncacheSpan(struct mspan *s) {
  uint32_t h = load_relaxed(&mheap.sweepgen);
  bool stale = s->sweepgen == h + 1;
  gassert(stale || s->sweepgen == h + 3);
  store_release(&s->sweepgen, stale ? h - 2 : h);
  put(s, fullness(s), stale ? unswept_parity() : swept_parity());
}

/* The class at which looking for unswept spans goes on. Restarted with each generation. */
/* generation << 32 | class; atomic. In the first generation, 2, there is nothing to sweep. */
static uint64_t sweep_position = (uint64_t)2 << 32 | NUM_SPAN_CLASSES;

/* Who then looks at mheap.sweepers finds those counted that have taken spans away before. */
bool mcentral_all_swept(void) {
  uint64_t at = load_acquire(&sweep_position);
  return at >> 32 == load_relaxed(&mheap.sweepgen) && (uint32_t)at == NUM_SPAN_CLASSES;
}

struct mspan *mcentral_next_unswept(void) {
  uint64_t generation = load_relaxed(&mheap.sweepgen);
  for (;;) {
    uint64_t at = load_relaxed(&sweep_position);
    if (at >> 32 != generation) {
      cas_seqcst(&sweep_position, at, generation << 32);
      continue;
    }
    if ((uint32_t)at == NUM_SPAN_CLASSES)
      return NULL;
    struct mcentral *c = &central[(uint32_t)at];
    struct mspan *s = pop_unswept(c, PARTIAL);
    if (s == NULL)
      s = pop_unswept(c, FULL);
    if (s != NULL)
      return s;
    cas_seqcst(&sweep_position, at, at + 1);
  }
}

static void verify_list(spanclass_t spc, unsigned fullness_of_list, unsigned parity) {
  const struct mspan *prev = NULL;
  for (const struct mspan *s = central[spc].list[fullness_of_list][parity].first; s != NULL;
       prev = s, s = s->next)
    if (s->prev != prev || s->spanclass != spc || s->state != SPAN_INUSE ||
        s->listed != 1 + fullness_of_list * 2 + parity)
      throw("mcentral: span %u does not belong into list %u/%u of class %u", s->index,
            fullness_of_list, parity, spc);
}

void mcentral_verify(void) {
  for (unsigned c = 0; c < NUM_SPAN_CLASSES; c++)
    for (unsigned i = 0; i < 4; i++)
      verify_list((spanclass_t)c, i / 2, i % 2);
}
