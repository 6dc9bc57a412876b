/* mspan: a run of pages that holds objects of one size; and the table that finds the span and
 * the object of any address.
 *
 * Words. The heap is one reservation of address space. A page has 8 KiB. A span is one or more
 * pages, cut into `nelems` slots of `elemsize` bytes. A span class is a size class and a kind:
 * scan (every word may be a pointer), noscan, typed (precise). A large object has a span of its
 * own (size class 0).
 *
 * The bits. Each span has two bitmaps outside its pages, a bit for each slot:
 *
 *   allocBits   1: the slot is taken: an object, or part of the run [freeptr, runend) that the
 *               caching thread allocates from next.
 *   gcmarkBits  during marking: 1: nothing to do here (any more). Outside: exactly ~allocBits.
 *
 * So free slots look marked. A stale word that points to a free slot is ignored by the same
 * test that ignores an object seen before; a run taken while marking goes on is born marked;
 * and sweeping is, for each word of bits, live = gcmarkBits & allocBits; allocBits = live;
 * gcmarkBits = ~live. No object is touched.
 *
 * Bits beyond nelems, one at least, always read as free: the tail of a span, in which no slot
 * fits, is ignored by the same test.
 *
 * Taking a run sets its allocBits and, outside marking, clears its gcmarkBits; giving back what
 * is left of it undoes that.
 *
 * sweepgen, with h = mheap.sweepgen, which grows by 2 with each cycle:
 *
 *   h - 2   the span needs sweeping
 *   h - 1   it is being swept
 *   h       it is swept and ready to use
 *   h + 1   it was cached before sweeping began and is still cached, and needs sweeping
 *   h + 3   it was swept and then cached and is still cached
 */
#ifndef HEAP_MSPAN_H
#define HEAP_MSPAN_H

#include "base/base.h"
#include "base/bits.h"
#include "base/lock.h"
#include "gort/memory.h"

enum {
  PAGE_SHIFT = 13,
  PAGE_SIZE = 1 << PAGE_SHIFT,
  MAX_SMALL_SIZE = GORT_MAX_SMALL_SIZE,
  TINY_SIZE = 16,
  TINY_SPAN_CLASS = GORT_TINY_SPAN_CLASS,
  NUM_SPAN_CLASSES = GORT_NUM_SPAN_CLASSES,
};

typedef uint8_t spanclass_t;

_Static_assert(GORT_NUM_SPAN_CLASSES <= 256, "a span class has 8 bits");

static inline spanclass_t make_spanclass(unsigned sizeclass, unsigned kind) {
  return (spanclass_t)(sizeclass * GORT_NUM_KINDS + kind);
}
/* Of small arrays of a type; sizeclass below GORT_MAX_BITMAP_SIZE_CLASS. */
static inline spanclass_t make_array_spanclass(unsigned sizeclass) {
  return (spanclass_t)(GORT_ARRAY_SPAN_CLASS + sizeclass);
}
static inline bool spanclass_is_array(spanclass_t c) { return c >= GORT_ARRAY_SPAN_CLASS; }
static inline unsigned spanclass_kind(spanclass_t c) {
  if (c < TINY_SPAN_CLASS)
    return c % GORT_NUM_KINDS;
  return c == TINY_SPAN_CLASS ? (unsigned)GORT_NOSCAN : (unsigned)GORT_TYPED;
}
static inline unsigned spanclass_sizeclass(spanclass_t c) {
  if (c < TINY_SPAN_CLASS)
    return c / GORT_NUM_KINDS;
  return c == TINY_SPAN_CLASS ? 2u : (unsigned)(c - GORT_ARRAY_SPAN_CLASS);
}

enum { MAX_SLOTS = 4096 }; /* of a span: of 8 bytes each, in four pages */

enum {
  SPAN_DEAD,  /* the structure is free */
  SPAN_INUSE, /* holds objects */
};

struct special;
struct mspan_specials;

struct mspan {
  /* For the inline allocation path: freeptr is the next slot of the run (the seeds' freeindex,
   * as an address); written by the thread that caches the span, read by any. */
  struct gort_span run;
  uintptr_t base;                   /* address of the first slot; constant while in use */
  uintptr_t limit;                  /* end of the last slot */
  uint64_t *gcmarkBits, *allocBits; /* nelems bits each; see above */
  uint32_t divmul; /* ceil(2^32 / elemsize): divides offsets; 0 for a large object */
  uint16_t nelems;
  uint16_t nwords; /* 64-bit words in each bitmap */
  spanclass_t spanclass;
  uint8_t state;     /* SPAN_...; under mheap.lock, read by any */
  uint8_t needzero;  /* the pages are not known to be zero */
  uint8_t clearing;  /* of a large object: they are just being cleared, and what is in them is of no
                        meaning; atomic */
  uint8_t listed;    /* which list of its mcentral it is in: 1 + its number; 0 none */
  uint32_t sweepgen; /* atomic */
  uint32_t allocCount; /* slots whose allocBits are set; the owner's (thread, or sweeper) */
  size_t elemsize;
  size_t npages;
  uint32_t searchword;       /* the first word of allocBits that may have a 0; the owner's */
  uint32_t index;            /* of this structure in mheap.spans; constant */
  struct mspan *next, *prev; /* in a list of its mcentral, under its lock */

  struct spinlock speciallock;     /* guards specials, and what that points to */
  struct mspan_specials *specials; /* special/'s; NULL: none */
};

/* What marking needs to know of a page, in one quarter of a cache line; see mheap.pages. */
struct pageinfo {
  uint32_t divmul; /* of its span */
  uint32_t mark;   /* gcmarkBits as a word index into mheap.bits */
  uint32_t span;   /* the span's index in mheap.spans; 0: the page is free */
  uint16_t back;   /* how many pages before this one the span begins, capped at BACK_FAR */
  spanclass_t spanclass;
  uint8_t noscan;
};
enum { BACK_FAR = 0xffff };
_Static_assert(sizeof(struct pageinfo) == 16, "four to a cache line");

static inline struct mspan *mspan_of_run(struct gort_span *r) {
  return CONTAINER_OF(r, struct mspan, run);
}
static inline unsigned span_kind(const struct mspan *s) { return spanclass_kind(s->spanclass); }
static inline bool span_is_large(const struct mspan *s) { return s->divmul == 0; }

/* The slot that an address in the span's slots lies in. */
static inline size_t object_index(const struct mspan *s, uintptr_t p) {
  return (size_t)((uint64_t)(p - s->base) * s->divmul >> 32);
}
static inline uintptr_t object_base(const struct mspan *s, size_t i) {
  return s->base + i * s->elemsize;
}

#endif
