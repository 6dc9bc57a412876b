/* The public functions of gort/memory.h for memory without a type. */
#include "base/throw.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/tiny.h"

#include <string.h>

/* As malloc aligns: 16 from 16 bytes up, below that the largest power of two in the size. */
static size_t malloc_align(size_t size) {
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

char *gort_strdup(const char *s) { return s ? gort_memdup(s, strlen(s) + 1) : NULL; }

void *gort_memdup(const void *p, size_t size) {
  CHECK_ATTACHED("gort_memdup");
  if (p == NULL)
    return NULL;
  void *q = mallocgc_or_throw(size, malloc_align(size), GORT_NOSCAN, NULL, "gort_memdup");
  return size ? memcpy(q, p, size) : q;
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

/* What gort_realloc knows of the old object. */
struct old {
  uintptr_t p, end; /* the object's bytes */
  int kind;
  bool tiny;
  const gort_type *type;  /* of a typed object */
  struct gort_type words; /* its type, when only its pointer bits are known */
};

/* A small typed object knows which of its words are pointers, not its type. The new one is traced
 * likewise; of the words behind, elements of an array perhaps, all may be pointers. */
static void inspect_type(struct old *o, size_t slot) {
  if (slot_has_type(slot)) {
    o->type = heap_type_of(o->p);
    return;
  }
  o->words.size = SIZE_MAX / 2 + 1; /* one value, whatever its size */
  o->words.ptrmask = heap_ptrbits_of(o->p) | ~low_bits((unsigned)(slot / PTR_SIZE));
  o->type = &o->words;
}

static void inspect(struct old *o, void *p) {
  struct m *m = acquirem();
  struct mspan *s;
  size_t i;
  *o = (struct old){.p = (uintptr_t)p};
  uintptr_t base = findObject(o->p, &s, &i);
  if (base != 0) {
    o->kind = (int)span_kind(s);
    o->tiny = s->spanclass == TINY_SPAN_CLASS;
    o->end = base + s->elemsize;
    if (o->kind == GORT_TYPED && base == o->p)
      inspect_type(o, s->elemsize);
  }
  releasem(m);
  if (base == 0 || !(o->tiny ? tiny_object(o->p, &o->end) : base == o->p))
    throw("gort_realloc: pointer %p is not the start of an object", p);
}

/* Whether the slot of the old object is the one that the new size would get: neither too small
 * nor more than twice as large. */
static bool fits(const struct old *o, size_t size) {
  size_t have = o->end - o->p;
  return !o->tiny && size <= have && size >= have / 2;
}

static bool gets_slot_with_type(size_t size) {
  return size > MAX_SMALL_SIZE || slot_has_type(gort_class_to_size[gort_size_class(size)]);
}

/* In a large slot only a type that lives for good can stand: there every word counts. */
static void *allocate_like(const struct old *o, size_t size) {
  int kind = o->kind;
  size_t align = malloc_align(size);
  if (kind == GORT_TYPED && o->type == &o->words && gets_slot_with_type(size))
    kind = GORT_SCAN;
  if (kind == GORT_TYPED && o->type != &o->words && o->type->align > align)
    align = o->type->align;
  return mallocgc_or_throw(size, align, kind, o->type, "gort_realloc");
}

/* Another tiny object may follow the old one at once, and be the new one: they may overlap. */
static void *move(const struct old *o, size_t size) {
  size_t old_size = o->end - o->p;
  void *to = allocate_like(o, size);
  return memmove(to, (void *)o->p, size < old_size ? size : old_size);
}

void *gort_realloc(void *p, size_t size) {
  CHECK_ATTACHED("gort_realloc");
  if (p == NULL || p == zerobase)
    return gort_alloc(size);
  struct old o;
  inspect(&o, p);
  if (size == 0)
    return zerobase;
  if (!fits(&o, size))
    return move(&o, size);
  memset((char *)p + size, 0, o.end - o.p - size);
  return p;
}
