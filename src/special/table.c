#include "special/table.h"

#include "base/atomic.h"
#include "heap/mheap.h"
#include "os/os.h"
#include "special/pool.h"

static struct pool tables = {.f = {.size = sizeof(struct mspan_specials)}};
static struct pool chunks = {.f = {.size = sizeof(struct specialchunk)}};

/* --- Which spans have a table: a bit for the first page of each ------------------------------- */

static uint64_t *span_bits; /* atomic; set once, under span_bits_lock; its words are atomic */
static struct mutex span_bits_lock;

static size_t page_of(uintptr_t p) { return (p - mheap.arena) >> PAGE_SHIFT; }

/* For the whole reservation; memory is there only where it was touched. */
static uint64_t *map_span_bits(void) {
  lock(&span_bits_lock);
  if (span_bits == NULL) {
    size_t bytes = page_of(mheap.arena_end) / 8 + 8;
    store_release(&span_bits, os_map_table(bytes));
  }
  uint64_t *bits = span_bits;
  unlock(&span_bits_lock);
  return bits;
}

bool specials_ever(void) { return load_acquire(&span_bits) != NULL; }

static bool mark_span(const struct mspan *s) {
  uint64_t *bits = load_acquire(&span_bits);
  if (bits == NULL && (bits = map_span_bits()) == NULL)
    return false;
  size_t i = page_of(s->base);
  or_relaxed(&bits[i >> 6], UINT64_C(1) << (i & 63));
  return true;
}

static void unmark_span(const struct mspan *s) {
  size_t i = page_of(s->base);
  and_relaxed(&span_bits[i >> 6], ~(UINT64_C(1) << (i & 63)));
}

/* With the world stopped nobody changes the bits. While it runs, what is found may be gone when
 * its lock is taken, and what is new may be missed. */
struct mspan *specials_next_span(size_t *page, size_t end) {
  uint64_t *bits = load_acquire(&span_bits);
  size_t last = page_of(load_acquire(&mheap.used));
  if (end > last)
    end = last;
  while (bits != NULL && *page < end) {
    uint64_t w = load_relaxed(&bits[*page >> 6]) >> (*page & 63);
    if (w == 0) {
      *page = ALIGN_UP(*page + 1, 64);
      continue;
    }
    size_t i = *page + ctz64(w);
    *page = i + 1;
    return i < end ? spanOfHeap(mheap.arena + (i << PAGE_SHIFT)) : NULL;
  }
  return NULL;
}

/* --- Tables and chunks ------------------------------------------------------------------------ */

static struct mspan_specials *table_of(struct mspan *s) {
  if (s->specials == NULL && mark_span(s)) {
    store_release(&s->specials, pool_alloc(&tables));
    if (s->specials == NULL)
      unmark_span(s);
  }
  return s->specials;
}

struct specialchunk *specials_make_chunk(struct mspan *s, size_t i) {
  struct mspan_specials *t = table_of(s);
  if (t == NULL)
    return NULL;
  struct specialchunk **c = &t->chunk[i / CHUNK_SLOTS];
  if (*c == NULL)
    *c = pool_alloc(&chunks);
  return *c;
}

void specials_trim(struct mspan *s) {
  struct mspan_specials *t = s->specials;
  bool empty = true;
  for (size_t w = 0; w < specials_nchunks(s); w++) {
    if (t->chunk[w] != NULL && t->chunk[w]->bits == 0) {
      pool_free(&chunks, t->chunk[w]);
      t->chunk[w] = NULL;
    }
    empty &= t->chunk[w] == NULL;
  }
  if (empty) {
    unmark_span(s);
    store_relaxed(&s->specials, NULL);
    pool_free(&tables, t);
  }
}

bool specials_next_slot(const struct mspan *s, size_t *i) {
  if (s->specials == NULL)
    return false;
  for (size_t w = *i / CHUNK_SLOTS, from = *i % CHUNK_SLOTS; w < specials_nchunks(s);
       w++, from = 0) {
    const struct specialchunk *c = s->specials->chunk[w];
    uint64_t left = c ? c->bits >> from : 0;
    if (left != 0) {
      *i = w * CHUNK_SLOTS + from + ctz64(left);
      return true;
    }
  }
  return false;
}
