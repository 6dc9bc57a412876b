/* Allocation behind the public functions: sizes to classes, large objects, the tiny allocator.
 *
 * The kinds are those of gort/memory.h. */
#ifndef HEAP_MALLOC_H
#define HEAP_MALLOC_H

#include "base/m.h"
#include "heap/mspan.h"

/* The shared object of size 0. */
extern char zerobase[];

/* A further kind, for these functions: an array of a type. Where it has pointer bits, it also has a
 * note of the size of its elements. */
enum { TYPED_ARRAY = GORT_NUM_KINDS };

/* Zeroed memory of any size at a multiple of align, or NULL when there is none. `t`: of
 * GORT_TYPED and TYPED_ARRAY. */
void *mallocgc(size_t size, size_t align, int kind, const gort_type *t);
/* The same for a caller that wants the throw; `what` is the public function's name. */
void *mallocgc_or_throw(size_t size, size_t align, int kind, const gort_type *t, const char *what);
/* For a caller that wants NULL, and the text of the throw in gort_last_error. */
void *mallocgc_or_refuse(size_t size, size_t align, int kind, const char *what);
GORT_NORETURN void throw_out_of_memory(const char *what, size_t size);
/* As malloc aligns: 16 from 16 bytes up, below that the largest power of two in the size. */
size_t malloc_align(size_t size);
/* n * elem + extra, or the throw that out of memory gives when that overflows. */
size_t checked_size(size_t n, size_t elem, size_t extra, const char *what);

/* Typed objects. Slots of at least GORT_MAX_BITMAP_SIZE bytes have their type in the side bitmap
 * (NULL until it is set: no pointers), smaller ones the pointer bits of their words. */
static inline bool slot_has_type(size_t slot) { return slot >= GORT_MAX_BITMAP_SIZE; }

typedef const gort_type *unaligned_type __attribute__((aligned(1), may_alias));
typedef uint64_t unaligned_bits __attribute__((aligned(1), may_alias));

static inline const gort_type *heap_type_of(uintptr_t obj) {
  return *(unaligned_type *)(gort_ptrbits + (obj >> 6));
}
static inline void heap_set_type_of(uintptr_t obj, const gort_type *t) {
  *(unaligned_type *)(gort_ptrbits + (obj >> 6)) = t;
}
/* The pointer bits of the words from obj on; as many as a slot has, and others. Those of the slot
 * do not change any more; a neighbour's may just be set, in the same word, which is no matter. */
UNSANITIZED static inline uint64_t heap_ptrbits_of(uintptr_t obj) {
  return *(unaligned_bits *)(gort_ptrbits + (obj >> 6)) >> (obj >> 3 & 7);
}

/* What the counters of one thread add to the totals; and moving them to another's. */
struct heap_totals {
  uint64_t mallocs, frees, total_alloc, total_free; /* objects, objects, bytes, bytes */
};
void heap_totals_add(struct heap_totals *t, const struct mstats *s);

/* Memory for the runtime's own structures, zeroed, never given back; throws when there is none. Any
 * thread, attached or not. Between hold and release nobody is in the middle of it. */
void *persistentalloc(size_t size, size_t align);
void persistent_hold(void);
void persistent_release(void);
extern uint64_t persistent_sys; /* bytes obtained for that; atomic */

/* fixalloc: objects of one size, freed ones used anew. The caller's lock guards it. Each is
 * zeroed when allocated; NULL: no memory. */
struct fixalloc {
  size_t size;
  void *free; /* by the first word */
  uintptr_t chunk, chunk_end;
};
void *fixalloc_alloc(struct fixalloc *f);
void fixalloc_free(struct fixalloc *f, void *p);

/* Adds the counts and clears them. */
void mstats_merge(struct mstats *to, struct mstats *from);

#endif
