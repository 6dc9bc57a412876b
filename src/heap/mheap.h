/* mheap: the one heap. Its reservation, the table of pages, the spans.
 *
 * All of the heap lies in [arena, arena_end), reserved when the runtime starts; [arena, used) has
 * been in use. The first page of the system's is never handed out, so that the runtime's own
 * pointers to the arena are pointers to no object.
 *
 * The table of pages is read without a lock, by marking and by gort_base: a page's entry is
 * written before a pointer into the page can exist, and cleared only when no object is left. */
#ifndef HEAP_MHEAP_H
#define HEAP_MHEAP_H

#include "base/atomic.h"
#include "base/m.h"
#include "heap/mspan.h"

struct mheap {
  /* Constant after mheap_init. */
  uintptr_t arena, arena_end;
  struct pageinfo *pages; /* one for each page of the reservation */
  struct mspan *spans;    /* all span structures; 0 is not used */
  uint64_t *bits;         /* where all allocBits and gcmarkBits lie */
  size_t largest;         /* bytes; what is larger than that is refused */

  struct mutex lock;
  uintptr_t used;          /* end of what was ever in use; grows, under lock; atomic */
  uint32_t nspans;         /* span structures ever used, 1 .. nspans - 1; under lock; atomic */
  bool marking;            /* a cycle marks; changed with the world stopped */
  uint32_t sweepgen;       /* grows by 2 with the world stopped; atomic */
  uint32_t sweepers;       /* spans that are claimed for sweeping, or about to be; atomic */
  struct mspan *freespans; /* dead structures, by next; under lock */

  /* What is live and when to collect: gc/pacer.c sets `trigger`. In bytes; atomic. */
  uint64_t live;    /* allocated since, plus marked in, the last cycle; spans count as full from
                       the moment a thread caches them */
  uint64_t trigger; /* a cycle begins when live reaches this */

  /* Statistics, under lock. */
  uint64_t pages_inuse;
  struct mstats dead; /* of threads that have ended */
  uint8_t slow_alloc; /* no runs: each allocation goes through the slow path (allocfreetrace,
                         torture); constant after start */
  uint8_t efence, sbrk, clobberfree, allocfreetrace; /* GORTDEBUG; constant after start */
};

extern struct mheap mheap;

/* Reserves the heap; throws when the system has no room for a small one either. */
void mheap_init(void);

/* The span that p points into, or NULL. */
static inline struct mspan *spanOfHeap(uintptr_t p) {
  if (p - mheap.arena >= load_relaxed(&mheap.used) - mheap.arena)
    return NULL;
  uint32_t i = load_relaxed(&mheap.pages[(p - mheap.arena) >> PAGE_SHIFT].span);
  return i ? &mheap.spans[i] : NULL;
}

/* Whether slot i is free: not allocated, or in the run that a thread has not used up. Exact for
 * the calling thread's own objects and those it was given; a slot that another thread frees or
 * allocates meanwhile may be seen either way. While a run changes its end is 0, so freeptr and
 * runend are never read from two runs (heap/mcache.c). */
bool isFree(const struct mspan *s, size_t i);

/* The object that p, which may be any word, points into: its start, its span and its index; 0 when
 * there is none. */
uintptr_t findObject(uintptr_t p, struct mspan **span, size_t *index);

/* Takes npages pages for a new span. NULL: out of memory. `zeroed` pages are wanted when the
 * objects need them; s->needzero tells whether they have to be cleared. The span is swept
 * (sweepgen h), empty, with its page table entries set. */
struct mspan *mheap_alloc(size_t npages, spanclass_t spc, size_t elemsize);
/* The opposite: no object is left in it. */
void mheap_free(struct mspan *s);
/* Bytes of the heap's tables, as far as they have been in use. Any time. */
uint64_t mheap_table_bytes(void);
/* Which bits marking has set depends on words that may have no value yet; the bits have one
 * (base/valgrind.h). At the end of marking. */
void mheap_marks_defined(void);

/* Bytes of address space of all mark bits. */
size_t mheap_mark_bytes(void);
/* Takes it out of use for good, keeping the pages inaccessible (efence). */
void mheap_fault(struct mspan *s);

/* Whether a span needs sweeping; and sweeps it if so, or waits for who does. Inside acquirem. */
void ensureSwept(struct mspan *s);
/* Claims an unswept span for sweeping: true when the caller now has to call upcalls.sweep. Counted
 * in mheap.sweepers from before the look at the span until sweep has ended, so that who waits for
 * the end of sweeping misses nobody. */
static inline bool trysweep(struct mspan *s) {
  uint32_t h = load_relaxed(&mheap.sweepgen);
  add_seqcst(&mheap.sweepers, 1);
  if (load_relaxed(&s->sweepgen) == h - 2 && cas_seqcst(&s->sweepgen, h - 2, h - 1))
    return true;
  add_seqcst(&mheap.sweepers, -1u);
  return false;
}

#endif
