/* Sweeping: what was not marked is free again.
 *
 * A span is swept by whoever needs it first: a thread that wants to allocate from it, one that
 * sets or clears a finalizer in it (ensureSwept), the background thread, or gort_gc. sweepgen
 * (heap/mspan.h) says who: the one that changes it from h - 2 to h - 1 owns the span until it
 * stores h. That happens inside acquirem, so no cycle can begin in the middle; and a cycle
 * sweeps what is left over before it marks, so a span is never two generations behind.
 *
 * Sweeping touches no object, only bits, but for special records: these are asked first, since a
 * finalizer keeps its object for one more cycle by setting its mark bit. */
#include "base/kernel.h"
#include "base/m.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "heap/mcentral.h"
#include "heap/mheap.h"
#include "heap/upcall.h"

#include <string.h>

static void check_state(const struct mspan *s) {
  uint32_t h = load_relaxed(&mheap.sweepgen), g = load_relaxed(&s->sweepgen);
  if (getm()->locks == 0)
    throw("mspan.sweep: m is not locked");
  if (s->state != SPAN_INUSE || g != h - 1)
    throw("mspan.sweep: bad span state: state %u, sweepgen %u, heap's %u", s->state, g, h);
}

/* For each slot that dies now. */
static void for_dead(const struct mspan *s, void (*fn)(uintptr_t p, size_t size)) {
  for (size_t i = 0; i < s->nelems; i++)
    if (bit_test(s->allocBits, i) && !bit_test(s->gcmarkBits, i))
      fn(object_base(s, i), s->elemsize);
}

static void clobber(uintptr_t p, size_t size) {
  for (size_t i = 0; i < size; i += 8)
    *(uint64_t *)(p + i) = UINT64_C(0xdeadbeefdeadbeef);
}

static void debug_dead(struct mspan *s) {
  if (mheap.allocfreetrace)
    for_dead(s, upcalls.trace_free);
  if (mheap.clobberfree) {
    for_dead(s, clobber);
    s->needzero = 1;
  }
}

/* live = marked & allocated; that becomes what is allocated, and everything else looks marked.
 * Returns how many slots are live. */
static uint32_t swap_bits(struct mspan *s) {
  uint32_t n = 0;
  for (unsigned w = 0; w < s->nwords; w++) {
    uint64_t live = s->gcmarkBits[w] & s->allocBits[w];
    store_relaxed(&s->allocBits[w], live);
    store_relaxed(&s->gcmarkBits[w], ~live);
    n += popcount64(live);
  }
  return n;
}

static void count_free(struct mspan *s, uint32_t nfreed) {
  struct mstats *st = &getm()->stats;
  if (span_is_large(s)) {
    st->nlarge_free += nfreed;
    st->large_free += nfreed * s->elemsize;
  } else {
    st->nfree[s->spanclass] += nfreed;
  }
}

/* A span in which nothing is left goes back to the heap; under efence a large one stays, closed
 * for good, so that every later access to the object is caught. The pages would otherwise come
 * back under a wrong description. */
static void free_span(struct mspan *s) {
  mcentral_remove(s);
  store_release(&s->sweepgen, load_relaxed(&mheap.sweepgen));
  if (mheap.efence && span_is_large(s))
    mheap_fault(s);
  else
    mheap_free(s);
}

/* Waking somebody to run the finalizers may take a new thread, and so malloc's locks. The sweeper
 * is in the middle of something; the note is left for a moment when nothing is held. */
static bool wake_later; /* atomic */

void sweep_wake(void) {
  if (load_relaxed(&wake_later) && xchg_seqcst(&wake_later, false))
    upcalls.wake_finalizers();
}

static bool sweep(struct mspan *s, bool preserve) {
  check_state(s);
  bool queued = s->specials != NULL && upcalls.sweep_specials(s);
  if (unlikely(mheap.clobberfree || mheap.allocfreetrace))
    debug_dead(s);
  uint32_t live = swap_bits(s);
  if (live > s->allocCount)
    throw("sweep increased allocation count: span %u of %u slots, %u live, %u before", s->index,
          s->nelems, live, s->allocCount);
  if (live < s->allocCount) {
    count_free(s, s->allocCount - live);
    s->needzero = 1;
  }
  s->allocCount = live;
  bool freed = live == 0 && !preserve;
  if (freed) {
    free_span(s);
  } else {
    store_release(&s->sweepgen, load_relaxed(&mheap.sweepgen));
    if (!preserve)
      mcentral_swept(s);
  }
  add_seqcst(&mheap.sweepers, -1u);
  if (queued)
    store_release(&wake_later, true);
  return freed;
}

size_t sweepone(void) {
  struct m *m = acquirem();
  size_t npages = SIZE_MAX;
  struct mspan *s = mcentral_next_unswept();
  if (s != NULL) {
    npages = s->npages;
    add_relaxed(&gcstats.pages_swept, npages);
    sweep(s, false);
  }
  bool outermost = m->locks == 1; /* m may be another thread's when we are out */
  releasem(m);
  if (outermost)
    sweep_wake();
  return npages;
}

bool sweep_is_done(void) { return mcentral_all_swept() && load_seqcst(&mheap.sweepers) == 0; }

bool sweep_some(void) {
  enum { SPANS = 16 };
  int n = 0;
  while (n < SPANS && !mcentral_all_swept() && sweepone() != SIZE_MAX)
    n++;
  return n > 0;
}

void sweep_finish(void) {
  while (sweepone() != SIZE_MAX)
    ;
  while (!sweep_is_done())
    osyield();
}

/* Who allocates a large object sweeps as many pages first, or to the end: so that sweeping is
 * over long before the next cycle, and memory is used anew before more is asked for. */
static void sweep_for_large(size_t bytes) {
  for (size_t pages = bytes >> PAGE_SHIFT, swept = 0, n; swept < pages; swept += n)
    if ((n = sweepone()) == SIZE_MAX)
      return;
}

void sweep_init(void) {
  upcalls.sweep = sweep;
  upcalls.swept = sweep_wake;
  upcalls.large_allocated = sweep_for_large;
}
