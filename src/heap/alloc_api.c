/* The public functions of gort/memory.h for memory without a type. */
#include "base/throw.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/tiny.h"

#include <string.h>

size_t malloc_align(size_t size) {
  return size >= 16 ? 16 : size == 0 ? 1 : (size_t)1 << ctz64(size);
}

void *gort_alloc(size_t size) {
  CHECK_ATTACHED("gort_alloc");
  return mallocgc_or_throw(size, malloc_align(size), GORT_SCAN, NULL, "gort_alloc");
}

void *gort_alloc_noscan(size_t size) {
  CHECK_ATTACHED("gort_alloc_noscan");
  return mallocgc_or_throw(size, malloc_align(size), GORT_NOSCAN, NULL, "gort_alloc_noscan");
}

void *gort_try_alloc(size_t size) {
  CHECK_ATTACHED("gort_try_alloc");
  return mallocgc_or_refuse(size, malloc_align(size), GORT_SCAN, "gort_alloc");
}

void *gort_try_alloc_noscan(size_t size) {
  CHECK_ATTACHED("gort_try_alloc_noscan");
  return mallocgc_or_refuse(size, malloc_align(size), GORT_NOSCAN, "gort_alloc_noscan");
}

void *gort_alloc_aligned(size_t size, size_t align) {
  CHECK_ATTACHED("gort_alloc_aligned");
  if (!is_power_of_two(align) || align > PAGE_SIZE)
    throw("gort_alloc_aligned: alignment %zu is not a power of two up to %d", align, PAGE_SIZE);
  return mallocgc_or_throw(size, align, GORT_SCAN, NULL, "gort_alloc_aligned");
}

void *gort_alloc_array(size_t n, size_t size, size_t align) {
  CHECK_ATTACHED("gort_new_array");
  size_t bytes = checked_size(n, size, 0, "gort_new_array");
  return mallocgc_or_throw(bytes, align, GORT_SCAN, NULL, "gort_new_array");
}

void *gort_alloc_flex(size_t offset, size_t elem, size_t n, size_t size, size_t align) {
  CHECK_ATTACHED("gort_new_flex");
  size_t bytes = checked_size(n, elem, offset, "gort_new_flex");
  return mallocgc_or_throw(bytes < size ? size : bytes, align, GORT_SCAN, NULL, "gort_new_flex");
}

static void *dup(const void *p, size_t size, const char *what) {
  void *q = mallocgc_or_throw(size, malloc_align(size), GORT_NOSCAN, NULL, what);
  return size ? memcpy(q, p, size) : q;
}

char *gort_strdup(const char *s) {
  CHECK_ATTACHED("gort_strdup");
  return s ? dup(s, strlen(s) + 1, "gort_strdup") : NULL;
}

void *gort_memdup(const void *p, size_t size) {
  CHECK_ATTACHED("gort_memdup");
  return p ? dup(p, size, "gort_memdup") : NULL;
}

/* findObject for a caller that may be anywhere: the span must not be freed in between. */
static uintptr_t object_of(const void *p, size_t *size) {
  struct m *m = acquirem();
  struct mspan *s;
  size_t i;
  uintptr_t base = findObject((uintptr_t)p, &s, &i);
  *size = base ? s->elemsize : 0;
  releasem(m);
  return base;
}

void *gort_base(const void *p) {
  CHECK_ATTACHED("gort_base");
  size_t size;
  return (void *)object_of(p, &size);
}

size_t gort_usable_size(const void *p) {
  CHECK_ATTACHED("gort_usable_size");
  size_t size;
  object_of(p, &size);
  return size;
}
