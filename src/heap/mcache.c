/* Runs of free slots, and the spans they are taken from.
 *
 * A run is a stretch of free slots next to each other, found by find-first-set in allocBits,
 * taken as a whole: its allocBits set, its memory zeroed in one go, then handed out by moving
 * freeptr on. A run is short enough (RUN_BYTES) that what was zeroed is still in the first cache
 * when it is handed out. */
#include "heap/mcache.h"

#include "base/throw.h"
#include "heap/malloc.h"
#include "heap/mcentral.h"
#include "heap/mheap.h"

#include <string.h>

enum { RUN_BYTES = 4096 };

/* What is cached where nothing is: a span that is full. */
static struct mspan emptymspan;

void mcache_init(struct m *m) {
  for (unsigned i = 0; i < NUM_SPAN_CLASSES; i++)
    m->cache.alloc[i] = &emptymspan.run;
}

/* The pointer bits of typed objects are set by `or`: they have to be clear before. */
static void clear_ptrbits(uintptr_t lo, uintptr_t hi) {
  unsigned char *b = (unsigned char *)gort_ptrbits;
  uintptr_t first = lo >> 6, last = hi >> 6;
  unsigned char head = (unsigned char)low_bits(lo >> 3 & 7);
  unsigned char tail = (unsigned char)~low_bits(hi >> 3 & 7);
  if (first == last) {
    b[first] &= (unsigned char)(head | tail);
    return;
  }
  b[first] &= head;
  memset(b + first + 1, 0, last - first - 1);
  if (tail != 0xff)
    b[last] &= tail;
}

/* Outside marking the bits of a slot that may hold an object are clear; while marking goes on,
 * new objects are born marked. */
static void set_taken(struct mspan *s, size_t lo, size_t hi) {
  bits_set_range(s->allocBits, lo, hi);
  if (!mheap.marking)
    bits_clear_range(s->gcmarkBits, lo, hi);
}

/* While marking goes on the slots of a run are marked anyway, and others set bits beside them. */
static void set_free(struct mspan *s, size_t lo, size_t hi) {
  bits_clear_range(s->allocBits, lo, hi);
  if (!mheap.marking)
    bits_set_range(s->gcmarkBits, lo, hi);
}

/* The first free slot from searchword on; nelems when there is none. */
static size_t next_free(struct mspan *s) {
  for (uint32_t w = s->searchword; w < s->nwords; w++)
    if (~s->allocBits[w] != 0) {
      s->searchword = w;
      size_t i = w * 64u + ctz64(~s->allocBits[w]);
      return i < s->nelems ? i : s->nelems;
    }
  s->searchword = s->nwords;
  return s->nelems;
}

/* The end of the stretch of free slots that begins at lo, within one word of bits. */
static size_t run_end(const struct mspan *s, size_t lo) {
  uint64_t taken = s->allocBits[lo >> 6] >> (lo & 63);
  size_t n = taken ? ctz64(taken) : 64 - (lo & 63);
  size_t most = RUN_BYTES / s->elemsize;
  n = n > most ? most : n;
  n = n == 0 || mheap.slow_alloc ? 1 : n;
  return lo + n > s->nelems ? s->nelems : lo + n;
}

/* Readers (isFree) must not take the old freeptr for the new run's: between the two there is no
 * run. */
static void set_run(struct mspan *s, uintptr_t p, uintptr_t end) {
  store_relaxed(&s->run.runend, 0);
  store_release(&s->run.freeptr, p);
  store_release(&s->run.runend, end);
}

static void count_live(struct m *m) {
  add_relaxed(&mheap.live, (uint64_t)m->uncounted);
  m->uncounted = 0;
}

/* All threads count in mheap.live: each does so for a page's worth at a time. */
static void add_live(struct m *m, int64_t bytes) {
  m->uncounted += bytes;
  if (m->uncounted >= PAGE_SIZE)
    count_live(m);
}

/* Takes the span's next run; false when it is full. Who finds a slot taken finds that it is part of
 * a run, or was, and in it no type but its own: so its bits are set last. */
static bool refill_run(struct m *m, struct mspan *s) {
  size_t lo = next_free(s);
  if (lo == s->nelems)
    return false;
  size_t hi = run_end(s, lo);
  s->allocCount += (uint32_t)(hi - lo);
  m->stats.nmalloc[s->spanclass] += hi - lo;
  uintptr_t p = object_base(s, lo), end = object_base(s, hi);
  add_live(m, (int64_t)(end - p));
  if (s->needzero)
    memset((void *)p, 0, end - p);
  if (span_kind(s) == GORT_TYPED)
    clear_ptrbits(p, end);
  set_run(s, p, end);
  set_taken(s, lo, hi);
  return true;
}

/* Gives back what is left of the run. */
static void return_run(struct m *m, struct mspan *s) {
  uintptr_t p = s->run.freeptr, end = s->run.runend;
  if (p < end) {
    size_t lo = object_index(s, p), hi = lo + (end - p) / s->elemsize;
    set_free(s, lo, hi);
    s->allocCount -= (uint32_t)(hi - lo);
    m->stats.nmalloc[s->spanclass] -= hi - lo;
    add_live(m, -(int64_t)(end - p));
  }
  store_release(&s->run.runend, 0);
}

static void uncache(struct m *m, spanclass_t spc) {
  struct mspan *s = mspan_of_run(m->cache.alloc[spc]);
  if (s == &emptymspan)
    return;
  m->cache.alloc[spc] = &emptymspan.run;
  return_run(m, s);
  uncacheSpan(s);
}

void mcache_flush(struct m *m) {
  m->tiny = 0;
  m->tinyoffset = 0;
  for (unsigned i = 0; i < NUM_SPAN_CLASSES; i++)
    uncache(m, (spanclass_t)i);
  count_live(m);
}

/* A span with a run for this class in the cache; false: out of memory. */
static bool refill(struct m *m, spanclass_t spc) {
  struct mspan *s = mspan_of_run(m->cache.alloc[spc]);
  if (s != &emptymspan && refill_run(m, s))
    return true;
  uncache(m, spc);
  s = cacheSpan(spc);
  if (s == NULL)
    return false;
  m->cache.alloc[spc] = &s->run;
  if (!refill_run(m, s))
    throw("mcache: span %u of class %u has no free slot (%u of %u taken)", s->index, spc,
          s->allocCount, s->nelems);
  return true;
}

uintptr_t mcache_alloc(struct m *m, spanclass_t spc) {
  gassert(m->locks > 0);
  struct mspan *s = mspan_of_run(m->cache.alloc[spc]);
  uintptr_t p = s->run.freeptr;
  if (p >= s->run.runend) {
    if (!refill(m, spc))
      return 0;
    s = mspan_of_run(m->cache.alloc[spc]);
    p = s->run.freeptr;
  }
  store_release(&s->run.freeptr, p + s->elemsize); /* the slot before has its type: gc/mark.c */
  return p;
}
