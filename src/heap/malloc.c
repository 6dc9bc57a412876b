/* Allocation: sizes to classes, large objects, and what comes with them: asking for a
 * collection, trying again when memory is out. */
#include "heap/malloc.h"

#include "base/throw.h"
#include "heap/mcache.h"
#include "heap/mcentral.h"
#include "heap/mheap.h"
#include "heap/pagealloc.h"
#include "heap/tiny.h"
#include "heap/torture.h"
#include "heap/upcall.h"

#include <stdio.h>
#include <string.h>

/* Not const, so that it lies in data and not among strings that the linker may merge. At a multiple
 * of every alignment that may be asked for. */
char zerobase[16] __attribute__((aligned(PAGE_SIZE)));

/* The smallest class of slots that hold `size` bytes at multiples of `align`; 0: none. */
static unsigned class_for(size_t size, size_t align) {
  if (size > MAX_SMALL_SIZE)
    return 0;
  unsigned c = gort_size_class(size);
  while (c < GORT_NUM_SIZE_CLASSES && gort_class_to_size[c] % align != 0)
    c++;
  return c < GORT_NUM_SIZE_CLASSES ? c : 0;
}

/* The span is in its list, and can be found, before it is cleared, for the thread can be stopped
 * while it clears a gigabyte: the collector does not look into it meanwhile. */
static uintptr_t large_alloc(size_t size, int kind, const gort_type *t) {
  size_t npages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT, bytes = npages << PAGE_SHIFT;
  if (kind == TYPED_ARRAY)
    kind = GORT_TYPED;
  if (mheap.efence) /* so that they can be closed */
    npages = ALIGN_UP(npages, system_pages), bytes = npages << PAGE_SHIFT;
  upcalls.large_allocated(bytes);
  struct m *m = acquirem();
  struct mspan *s = mheap_alloc(npages, make_spanclass(0, (unsigned)kind), bytes);
  if (s == NULL) {
    releasem(m);
    return 0;
  }
  uintptr_t p = s->base;
  bool dirty = s->needzero;
  if (kind == GORT_TYPED)
    heap_set_type_of(p, t);
  s->allocCount = 1;
  store_relaxed(&s->clearing, dirty);
  store_release(&s->allocBits[0], 1); /* it has its type: gc/mark.c */
  if (!mheap.marking)
    bit_clear(s->gcmarkBits, 0);
  m->stats.nlarge_alloc++;
  m->stats.large_alloc += bytes;
  add_relaxed(&mheap.live, bytes);
  mcentral_add_full(s);
  releasem(m);
  if (dirty) {
    memset((void *)p, 0, bytes);
    store_release(&s->clearing, 0);
  }
  return p;
}

/* The mask of an array of elements repeats. Of a type whose size is no multiple of 8 the elements
 * lie anyhow: all words count. */
static uint64_t array_mask(const gort_type *t, size_t size) {
  if (t->size % PTR_SIZE != 0 && size > t->size)
    return t->nfields ? ~UINT64_C(0) : 0;
  uint64_t mask = 0;
  for (size_t at = 0; at < size; at += t->size)
    mask |= t->ptrmask << at / PTR_SIZE;
  return mask;
}

/* Within the acquirem of the allocation: slots of a span share words of bits, and while a thread
 * has the span nobody else writes them. */
static void set_type(uintptr_t p, const gort_type *t, size_t size, size_t slot) {
  if (slot_has_type(slot))
    heap_set_type_of(p, t);
  else
    gort_set_ptrbits(p, gort_slot_mask(array_mask(t, size), size, slot), slot);
}

static spanclass_t small_spanclass(unsigned c, int kind) {
  if (kind != TYPED_ARRAY)
    return make_spanclass(c, (unsigned)kind);
  bool has_type = slot_has_type(gort_class_to_size[c]);
  return has_type ? make_spanclass(c, GORT_TYPED) : make_array_spanclass(c);
}

static uintptr_t small_alloc(unsigned c, size_t size, int kind, const gort_type *t) {
  spanclass_t spc = small_spanclass(c, kind);
  struct m *m = acquirem();
  uintptr_t p = mcache_alloc(m, spc);
  if (p != 0 && kind >= GORT_TYPED)
    set_type(p, t, size, gort_class_to_size[c]);
  if (p != 0 && spanclass_is_array(spc))
    note_element(p, t->size);
  releasem(m);
  return p;
}

static uintptr_t alloc_tiny(size_t size, size_t align) {
  struct m *m = acquirem();
  uintptr_t p = tiny_alloc(m, size, align);
  releasem(m);
  return p;
}

static uintptr_t try_alloc(size_t size, size_t align, int kind, const gort_type *t) {
  if (size > mheap.largest)
    return 0;
  if (mheap.efence) /* pages of its own, never used again */
    return large_alloc(size, kind, t);
  if (kind == GORT_NOSCAN && size < TINY_SIZE && align <= PTR_SIZE)
    return alloc_tiny(size, align);
  unsigned c = class_for(size, align);
  return c ? small_alloc(c, size, kind, t) : large_alloc(size, kind, t);
}

void *mallocgc(size_t size, size_t align, int kind, const gort_type *t) {
  if (size == 0)
    return zerobase;
  torture_alloc();
  uintptr_t p = torture_fails() ? 0 : try_alloc(size, align, kind, t);
  if (p == 0 && size <= mheap.largest && upcalls.gc_for_memory())
    p = try_alloc(size, align, kind, t);
  upcalls.swept();
  if (p == 0)
    return NULL;
  if (unlikely(load_relaxed(&mheap.live) >= load_relaxed(&mheap.trigger)))
    upcalls.gc_trigger();
  if (unlikely(mheap.allocfreetrace))
    upcalls.trace_alloc(p, size);
  return (void *)p;
}

static const char out_of_memory[] = "%s: out of memory: cannot allocate %zu bytes";

void throw_out_of_memory(const char *what, size_t size) { throw(out_of_memory, what, size); }

void *mallocgc_or_refuse(size_t size, size_t align, int kind, const char *what) {
  void *p = mallocgc(size, align, kind, NULL);
  if (unlikely(p == NULL)) {
    char text[128];
    snprintf(text, sizeof text, out_of_memory, what, size);
    upcalls.set_last_error(text);
  }
  return p;
}

/* A product of two sizes has up to 39 digits, and is said in full. */
static const char *decimal(unsigned __int128 n, char buf[40]) {
  char *p = buf + 39;
  *p = 0;
  do
    *--p = (char)('0' + (int)(n % 10));
  while ((n /= 10) != 0);
  return p;
}

size_t checked_size(size_t n, size_t elem, size_t extra, const char *what) {
  unsigned __int128 size = (unsigned __int128)n * elem + extra;
  char buf[40];
  if (size > SIZE_MAX / 2)
    throw("%s: out of memory: cannot allocate %s bytes", what, decimal(size, buf));
  return (size_t)size;
}

void *mallocgc_or_throw(size_t size, size_t align, int kind, const gort_type *t, const char *what) {
  void *p = mallocgc(size, align, kind, t);
  if (unlikely(p == NULL))
    throw_out_of_memory(what, size);
  return p;
}

void heap_totals_add(struct heap_totals *t, const struct mstats *s) {
  for (unsigned i = 0; i < NUM_SPAN_CLASSES; i++) {
    size_t size = gort_class_to_size[spanclass_sizeclass((spanclass_t)i)];
    t->mallocs += s->nmalloc[i];
    t->frees += s->nfree[i];
    t->total_alloc += s->nmalloc[i] * size;
    t->total_free += s->nfree[i] * size;
  }
  t->mallocs += s->nlarge_alloc;
  t->frees += s->nlarge_free;
  t->total_alloc += s->large_alloc;
  t->total_free += s->large_free;
}

void mstats_merge(struct mstats *to, struct mstats *from) {
  uint64_t *a = (uint64_t *)to, *b = (uint64_t *)from;
  for (size_t i = 0; i < sizeof *to / sizeof *a; i++) {
    a[i] += b[i];
    b[i] = 0;
  }
}
