/* The heap: its reservation, its tables, and spans taken from pages. */
#include "heap/mheap.h"

#include "base/kernel.h"
#include "base/m.h"
#include "base/throw.h"
#include "base/valgrind.h"
#include "heap/mcentral.h"
#include "heap/pagealloc.h"
#include "heap/tiny.h"
#include "heap/upcall.h"
#include "os/os.h"

struct mheap mheap;
uintptr_t gort_ptrbits;

enum {
  MAX_BIT_WORDS = MAX_SLOTS / 64 + 1, /* of one bitmap: the slots and a bit */
  /* Freed bitmaps are used anew for spans with as many words. The lengths that there can have been,
   * one after the other, bound what is ever needed: 65 + 33 + 22 + 17 + 11 + 9 + 7 + 6 + 5 + 4 + 3
   * + 2 for four pages, and 1 for each page. */
  WORDS_PER_PAGE = 47,
};

/* Where bitmaps come from: two halves of mheap.bits, mark bits in the lower one, at the same
 * index the allocation bits in the upper one, so that mark bits lie densely. Under mheap.lock;
 * bits_used is atomic. */
static uint32_t bits_half, bits_used;
static uint32_t bits_free[MAX_BIT_WORDS + 1]; /* by words: index of the first free one, linked
                                                 through its mark word; 0: none */

/* The tables, with so many bytes for each page of the arena. The halves of the bits are two. */
enum { PAGES, SPANS, MARK_BITS, PTRBITS, BORDERS, ALLOC_BITS, NUM_TABLES };
static struct table {
  char *p;
  uint64_t per_page;
} tables[NUM_TABLES];            /* constant after mheap_init */
static uint64_t pages_in_tables; /* as far as valgrind knows; under mheap.lock */

/* The arena has this many pages now. A word that begins before the end is read whole. */
static void use_tables(uint64_t npages) {
  for (const struct table *t = tables; t < tables + NUM_TABLES; t++)
    valgrind_defined(t->p + pages_in_tables * t->per_page,
                     (npages - pages_in_tables) * t->per_page + PTR_SIZE);
  pages_in_tables = npages;
}

/* The tables for a reservation of this size, all of them or false. They are not charged before
 * they are touched. To valgrind they are not in use, lest it look for leaks in gigabytes. */
static bool map_tables(size_t size) {
  uint64_t npages = size >> PAGE_SHIFT;
  uint64_t words = npages * WORDS_PER_PAGE;
  bits_half = words < UINT32_MAX / 2 ? (uint32_t)words + MAX_BIT_WORDS : UINT32_MAX / 2;
  const struct {
    uint64_t per_page, bytes;
  } t[] = {[PAGES] = {sizeof *mheap.pages, npages * sizeof *mheap.pages},
           [SPANS] = {sizeof *mheap.spans, npages * sizeof *mheap.spans},
           [MARK_BITS] = {WORDS_PER_PAGE * 8, (uint64_t)bits_half * 2 * 8},
           [PTRBITS] = {PAGE_SIZE / 64, npages * (PAGE_SIZE / 64) + 16},
           [BORDERS] = {tiny_borders_bytes(PAGE_SIZE), tiny_borders_bytes(size)}};
  for (size_t i = 0; i < COUNT_OF(t); i++) {
    tables[i] = (struct table){os_map_table(t[i].bytes), t[i].per_page};
    if (tables[i].p == NULL) {
      while (i-- > 0)
        os_unmap(tables[i].p, ALIGN_UP(t[i].bytes, os_page_size()));
      return false;
    }
    valgrind_unused(tables[i].p, t[i].bytes);
  }
  mheap.pages = (void *)tables[PAGES].p;
  mheap.spans = (void *)tables[SPANS].p;
  mheap.bits = (void *)tables[MARK_BITS].p;
  tables[ALLOC_BITS] = (struct table){(char *)(mheap.bits + bits_half), WORDS_PER_PAGE * 8};
  gort_ptrbits = (uintptr_t)tables[PTRBITS].p;
  tiny_init(tables[BORDERS].p);
  return true;
}

/* The reservation may be larger than all memory there is, and pages that are not touched cost
 * nothing; but each one of a span needs its entry in mheap.pages. As the kernel does with mmap,
 * what can never be there is refused. */
static size_t largest_object(size_t size) {
  uint64_t total = os_memory_total();
  return total < size ? (size_t)total : size;
}

static bool reserve(size_t size) {
  void *p = os_reserve(size, (size_t)4 << 20);
  if (p == NULL)
    return false;
  if (!map_tables(size)) {
    os_unmap(p, size);
    return false;
  }
  mheap.arena = mheap.used = (uintptr_t)p;
  mheap.arena_end = mheap.arena + size;
  mheap.largest = largest_object(size);
  gort_ptrbits -= mheap.arena >> 6;
  return true;
}

/* 16 TiB, or half of what the process's limits leave: the other half is for stacks, threads and
 * the program's own memory. */
static size_t first_size_to_try(void) {
  uint64_t left = os_address_space_left();
  const size_t most = (size_t)16 << 40;
  return left / 2 < most ? (size_t)(left / 2) : most;
}

static size_t trim_to_chunk(size_t size) { return ALIGN_DOWN(size, (size_t)4 << 20); }

void mheap_init(void) {
  const size_t least = (size_t)16 << 20;
  size_t size = trim_to_chunk(first_size_to_try());
  while (size >= least && !reserve(size))
    size = trim_to_chunk(size / 2);
  if (size < least)
    throw("out of memory: cannot reserve %zu bytes of address space for the heap (%llu left)",
          least, (unsigned long long)os_address_space_left());
  mheap.nspans = 1; /* number 0 means no span */
  bits_used = 1;    /* and index 0 the end of a list */
  mheap.sweepgen = 2;
  mheap.trigger = UINT64_MAX;
  pagealloc_init(mheap.arena, mheap.arena_end);
  bool dirty;
  if (pagealloc_take(system_pages, &dirty) != mheap.arena) /* is never handed out */
    throw("out of memory: cannot commit the first 4194304 bytes of the heap");
}

/* Bytes of the two tables that only some objects need, for the spans that have been in use at the
 * same time at most: pages once touched stay. Under mheap.lock. */
static uint64_t side_bytes, most_side_bytes;

static uint64_t side_bytes_of(const struct mspan *s) {
  spanclass_t c = s->spanclass;
  uint64_t n = 0;
  if (!span_is_large(s) && span_kind(s) == GORT_TYPED)
    n += s->npages * (PAGE_SIZE / 64);
  if (c == TINY_SPAN_CLASS || spanclass_is_array(c))
    n += tiny_borders_bytes(s->npages * PAGE_SIZE);
  return n;
}

static void count_side_bytes(const struct mspan *s) {
  side_bytes += side_bytes_of(s);
  if (side_bytes > most_side_bytes)
    store_relaxed(&most_side_bytes, side_bytes);
}

uint64_t mheap_table_bytes(void) {
  uint64_t npages = (load_relaxed(&mheap.used) - mheap.arena) >> PAGE_SHIFT;
  return npages * sizeof *mheap.pages + load_relaxed(&mheap.nspans) * sizeof *mheap.spans +
         load_relaxed(&bits_used) * UINT64_C(16) + load_relaxed(&most_side_bytes);
}

void mheap_marks_defined(void) {
  valgrind_defined(mheap.bits, load_relaxed(&bits_used) * sizeof *mheap.bits);
}

size_t mheap_mark_bytes(void) { return (size_t)bits_half * sizeof *mheap.bits; }

static bool bits_alloc(struct mspan *s) {
  uint32_t i = bits_free[s->nwords];
  if (i != 0) {
    bits_free[s->nwords] = (uint32_t)mheap.bits[i];
  } else {
    if (s->nwords > bits_half - bits_used)
      return false;
    i = bits_used;
    store_relaxed(&bits_used, bits_used + s->nwords);
  }
  s->gcmarkBits = mheap.bits + i;
  s->allocBits = mheap.bits + bits_half + i;
  for (unsigned w = 0; w < s->nwords; w++) {
    s->gcmarkBits[w] = ~UINT64_C(0); /* all slots are free, so they look marked */
    s->allocBits[w] = 0;
  }
  return true;
}

static void bits_release(struct mspan *s) {
  uint32_t i = (uint32_t)(s->gcmarkBits - mheap.bits);
  mheap.bits[i] = bits_free[s->nwords];
  bits_free[s->nwords] = i;
}

static struct mspan *new_span(void) {
  struct mspan *s = mheap.freespans;
  if (s != NULL) {
    mheap.freespans = s->next;
    return s;
  }
  s = &mheap.spans[mheap.nspans];
  s->index = mheap.nspans;
  store_release(&mheap.nspans, mheap.nspans + 1);
  return s;
}

static void forget_span(struct mspan *s) {
  s->state = SPAN_DEAD;
  s->next = mheap.freespans;
  mheap.freespans = s;
}

static void span_init(struct mspan *s, uintptr_t base, size_t npages, spanclass_t spc,
                      size_t elemsize, bool dirty) {
  bool large = spanclass_sizeclass(spc) == 0;
  s->run.freeptr = s->run.runend = 0;
  s->base = base;
  s->npages = npages;
  s->elemsize = elemsize;
  s->divmul = large ? 0 : (uint32_t)((UINT64_C(1) << 32) / elemsize + 1);
  s->nelems = (uint16_t)(large ? 1 : npages * PAGE_SIZE / elemsize);
  s->nwords = (uint16_t)(s->nelems / 64 + 1); /* one bit at least beyond the last slot */
  gassert(s->nwords <= MAX_BIT_WORDS);
  s->limit = base + s->nelems * elemsize;
  s->spanclass = spc;
  s->needzero = dirty;
  s->clearing = 0;
  s->listed = 0;
  s->allocCount = 0;
  s->searchword = 0;
  s->next = s->prev = NULL;
  s->specials = NULL;
  store_relaxed(&s->sweepgen, load_relaxed(&mheap.sweepgen));
}

/* Fills the span's entries of the table of pages. Before any pointer into it exists, so plain
 * readers come after; stale words may be looked up meanwhile, hence the atomic store that makes
 * the entry count. */
static void set_pages(const struct mspan *s) {
  struct pageinfo *pi = &mheap.pages[(s->base - mheap.arena) >> PAGE_SHIFT];
  for (size_t i = 0; i < s->npages; i++) {
    pi[i].divmul = s->divmul;
    pi[i].mark = (uint32_t)(s->gcmarkBits - mheap.bits);
    pi[i].back = i < BACK_FAR ? (uint16_t)i : (uint16_t)BACK_FAR;
    pi[i].spanclass = s->spanclass;
    pi[i].noscan = span_kind(s) == GORT_NOSCAN;
    store_release(&pi[i].span, s->index);
  }
}

static void clear_pages(const struct mspan *s) {
  struct pageinfo *pi = &mheap.pages[(s->base - mheap.arena) >> PAGE_SHIFT];
  for (size_t i = 0; i < s->npages; i++)
    store_release(&pi[i].span, 0);
}

struct mspan *mheap_alloc(size_t npages, spanclass_t spc, size_t elemsize) {
  struct mspan *s = NULL;
  bool dirty;
  lock(&mheap.lock);
  uintptr_t base = pagealloc_take(npages, &dirty);
  if (base != 0) {
    if (unlikely(pages_in_tables != pagealloc_stats.grown_pages))
      use_tables(pagealloc_stats.grown_pages);
    s = new_span();
    span_init(s, base, npages, spc, elemsize, dirty);
    if (!bits_alloc(s)) {
      forget_span(s);
      pagealloc_give(base, npages);
      unlock(&mheap.lock);
      return NULL;
    }
    s->state = SPAN_INUSE;
    set_pages(s);
    mheap.pages_inuse += npages;
    count_side_bytes(s);
    if (base + npages * PAGE_SIZE > mheap.used)
      store_release(&mheap.used, base + npages * PAGE_SIZE);
  }
  unlock(&mheap.lock);
  return s;
}

static void retire(struct mspan *s) {
  clear_pages(s);
  bits_release(s);
  forget_span(s);
  mheap.pages_inuse -= s->npages;
  side_bytes -= side_bytes_of(s);
}

void mheap_free(struct mspan *s) {
  gassert(s->specials == NULL && s->listed == 0);
  lock(&mheap.lock);
  retire(s);
  pagealloc_give(s->base, s->npages);
  unlock(&mheap.lock);
}

void mheap_fault(struct mspan *s) {
  os_fault((void *)s->base, s->npages * PAGE_SIZE);
  lock(&mheap.lock);
  retire(s);
  unlock(&mheap.lock);
}

bool isFree(const struct mspan *s, size_t i) {
  if (!(load_relaxed(&s->allocBits[i >> 6]) >> (i & 63) & 1))
    return true;
  uintptr_t p = object_base(s, i), free, end;
  do {
    end = load_acquire(&s->run.runend);
    free = load_acquire(&s->run.freeptr);
  } while (end != load_relaxed(&s->run.runend));
  return p >= free && p < end;
}

uintptr_t findObject(uintptr_t p, struct mspan **span, size_t *index) {
  struct mspan *s = spanOfHeap(p);
  if (s == NULL)
    return 0;
  /* Read before the second look at the page, hence acquire. */
  uintptr_t base = load_acquire(&s->base), limit = load_acquire(&s->limit);
  size_t i = (size_t)((uint64_t)(p - base) * load_acquire(&s->divmul) >> 32);
  if (p - base >= limit - base || i >= load_acquire(&s->nelems) || isFree(s, i))
    return 0;
  if (spanOfHeap(p) != s || load_relaxed(&s->base) != base) /* freed meanwhile: it was no object */
    return 0;
  *span = s;
  *index = i;
  return object_base(s, i);
}

void ensureSwept(struct mspan *s) {
  gassert(getm()->locks > 0);
  uint32_t h = load_relaxed(&mheap.sweepgen);
  uint32_t g = load_acquire(&s->sweepgen);
  if (g == h || g == h + 3)
    return;
  if (trysweep(s)) {
    upcalls.sweep(s, false);
    return;
  }
  while ((g = load_acquire(&s->sweepgen)) != h && g != h + 3)
    osyield();
}
