/* Allocation by type. */
#include "base/throw.h"
#include "heap/malloc.h"
#include "type/typemap.h"

void *gort_alloc_of(const gort_type *t) {
  CHECK_ATTACHED("gort_alloc_of");
  if (t == NULL)
    throw("gort_alloc_of: type is nil");
  int kind = type_noscan(t) ? GORT_NOSCAN : GORT_TYPED;
  return mallocgc_or_throw(t->size, t->align, kind, t, "gort_alloc_of");
}

void *gort_alloc_array_of(const gort_type *t, size_t n) {
  CHECK_ATTACHED("gort_alloc_array_of");
  if (t == NULL)
    throw("gort_alloc_array_of: type is nil");
  size_t size = checked_size(n, t->size, 0, "gort_alloc_array_of");
  int kind = type_noscan(t) ? (int)GORT_NOSCAN : (int)TYPED_ARRAY;
  return mallocgc_or_throw(size, t->align, kind, t, "gort_alloc_array_of");
}

static const char *macro_for(int kind) {
  return kind == GORT_TYPED ? "gort_new_of" : kind == GORT_NOSCAN ? "gort_new_noscan" : "gort_new";
}

/* What the inline path does not do: other sizes, and a thread's run that is used up. */
void *gort_new_slow(size_t size, size_t align, int kind, const gort_type *t) {
  CHECK_ATTACHED(macro_for(kind));
  return mallocgc_or_throw(size, align, kind, t, macro_for(kind));
}
