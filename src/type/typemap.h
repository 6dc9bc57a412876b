/* Where the pointers of an object are, by its type.
 *
 * For objects whose slot has at least GORT_MAX_BITMAP_SIZE bytes, single values and arrays; smaller
 * ones have their pointer bits beside the heap. Everything read here is constant, so it can be
 * called at any time, the world stopped or not. Inline, because marking is as fast as this is. */
#ifndef TYPE_TYPEMAP_H
#define TYPE_TYPEMAP_H

#include "base/base.h"
#include "gort/type.h"

static inline bool type_noscan(const gort_type *t) { return t->nfields == 0; }

/* Calls word(slot, arg) for each word in [lo, hi) that may hold a pointer, of the object at `base`,
 * which is of type t or an array of such, as many as fit before `hi`. Part by part, a large object
 * can be shared between workers. base, lo and hi are multiples of 8. Of a type whose size is no
 * multiple of 8 the elements lie anyhow: all words count. NULL: the type is not set yet, no word
 * was written. */
static inline __attribute__((always_inline)) void
type_scan_part(const gort_type *t, uintptr_t base, uintptr_t lo, uintptr_t hi,
               void (*word)(uintptr_t *slot, void *arg), void *arg) {
  if (t == NULL || t->nfields == 0)
    return;
  if (unlikely(t->size % PTR_SIZE != 0)) {
    for (uintptr_t p = lo; p < hi; p += PTR_SIZE)
      word((uintptr_t *)p, arg);
    return;
  }
  const gort_field *fields = t->fields, *end = fields + t->nfields;
  for (uintptr_t elem = lo - (lo - base) % t->size; elem < hi; elem += t->size)
    for (const gort_field *f = fields; f < end; f++) {
      uintptr_t p = elem + ALIGN_DOWN(f->offset, (size_t)PTR_SIZE),
                stop = elem + f->offset + f->size;
      if (p < lo)
        p = lo;
      if (stop > hi)
        stop = hi;
      for (; p < stop; p += PTR_SIZE)
        word((uintptr_t *)p, arg);
    }
}

/* The same for all of an object of `size` bytes. */
static inline __attribute__((always_inline)) void
type_scan(const gort_type *t, uintptr_t base, size_t size, void (*word)(uintptr_t *slot, void *arg),
          void *arg) {
  type_scan_part(t, base, base, base + size, word, arg);
}

#endif
