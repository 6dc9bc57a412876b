#include "debug/verify.h"

#include "base/throw.h"
#include "debug/env.h"
#include "gc/gc.h"
#include "heap/mcentral.h"
#include "heap/mheap.h"
#include "heap/pagealloc.h"
#include "heap/upcall.h"
#include "special/finq.h"
#include "special/special.h"

static const char *moment;

static void check(bool ok, const struct mspan *s, const char *what) {
  if (!ok)
    throw("heap walker (%s): span %u at 0x%lx, class %u: %s", moment, s->index,
          (unsigned long)s->base, s->spanclass, what);
}

static void verify_geometry(const struct mspan *s) {
  unsigned c = spanclass_sizeclass(s->spanclass);
  check(s->base >= mheap.arena && s->base + s->npages * PAGE_SIZE <= mheap.used, s,
        "outside the heap");
  check(s->base % PAGE_SIZE == 0, s, "not at a page");
  check(c == 0 || s->elemsize == gort_class_to_size[c], s, "wrong slot size");
  check(c == 0 || s->npages == gort_class_to_pages[c], s, "wrong number of pages");
  check(s->nelems * s->elemsize <= s->npages * PAGE_SIZE, s, "slots beyond its pages");
  check(s->limit == s->base + s->nelems * s->elemsize, s, "wrong limit");
  check(s->run.runend == 0, s, "holds a run though no thread has it");
}

static void verify_pages(const struct mspan *s) {
  const struct pageinfo *pi = &mheap.pages[(s->base - mheap.arena) >> PAGE_SHIFT];
  for (size_t i = 0; i < s->npages; i++) {
    check(pi[i].span == s->index, s, "a page belongs to another span");
    check(pi[i].back == (i < BACK_FAR ? i : BACK_FAR), s, "a page has the wrong distance");
    check(pi[i].divmul == s->divmul && pi[i].spanclass == s->spanclass, s,
          "a page describes other objects");
    check(mheap.bits + pi[i].mark == s->gcmarkBits, s, "a page has other mark bits");
    check(pi[i].noscan == (span_kind(s) == GORT_NOSCAN), s, "a page has the wrong kind");
  }
}

static void verify_bits(const struct mspan *s) {
  uint32_t taken = 0;
  for (unsigned w = 0; w < s->nwords; w++) {
    taken += popcount64(s->allocBits[w]);
    check((s->allocBits[w] | s->gcmarkBits[w]) == ~UINT64_C(0), s, "a free slot looks unmarked");
    check(s->allocBits[w] == 0 || w <= (unsigned)(s->nelems - 1) / 64, s, "bits beyond its slots");
  }
  check(taken == s->allocCount, s, "allocCount is not the number of allocBits");
}

/* Before marking nothing that is allocated is marked. After it spans are unswept. */
static void verify_unmarked(const struct mspan *s) {
  for (unsigned w = 0; w < s->nwords; w++)
    check(s->gcmarkBits[w] == ~s->allocBits[w], s, "an object is marked before marking");
}

static void verify_generation(const struct mspan *s, bool unswept) {
  check(s->sweepgen == mheap.sweepgen - (unswept ? 2 : 0), s, "wrong sweepgen");
  check(s->listed != 0, s, "is in no list");
}

static void verify_span(const struct mspan *s, bool unswept) {
  verify_geometry(s);
  verify_pages(s);
  verify_bits(s);
  if (!unswept)
    verify_unmarked(s);
  verify_generation(s, unswept);
  specials_verify(s);
}

static void verify_counts(uint64_t pages) {
  if (pages != mheap.pages_inuse)
    throw("heap walker (%s): spans have %lu pages, %lu are counted", moment, (unsigned long)pages,
          (unsigned long)mheap.pages_inuse);
  /* The first is never handed out; those that efence closed are lost. */
  if (!mheap.efence &&
      pages + pagealloc_stats.free_pages + system_pages != pagealloc_stats.grown_pages)
    throw("heap walker (%s): %lu pages in use and %lu free are not all %lu", moment,
          (unsigned long)pages, (unsigned long)pagealloc_stats.free_pages,
          (unsigned long)pagealloc_stats.grown_pages);
}

void verify_heap(const char *when) {
  moment = when;
  bool unswept = when[0] == 'a'; /* after marking */
  uint64_t pages = 0;
  for (uint32_t i = 1; i < mheap.nspans; i++)
    if (mheap.spans[i].state == SPAN_INUSE) {
      verify_span(&mheap.spans[i], unswept);
      pages += mheap.spans[i].npages;
    }
  verify_counts(pages);
  mcentral_verify();
  finq_verify();
}

void verify_init(void) {
#ifdef GORT_TORTURE
  env.verifyheap = 1;
#endif
  if (env.verifyheap)
    upcalls.verify_heap = verify_heap;
}
