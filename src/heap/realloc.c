/* gort_realloc: the same kind of memory, another size. */
#include "base/throw.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/shape.h"
#include "heap/tiny.h"
#include "heap/upcall.h"

#include <string.h>

/* What is known of the old object. */
struct old {
  uintptr_t p, end; /* its bytes */
  int kind;
  bool tiny;
  const gort_type *type;  /* of a typed object */
  struct gort_type words; /* its type, when only its pointer bits are known */
};

/* A small typed object knows which of its words are pointers, and an array how many words an
 * element has. A single value that grows has words behind it of which nothing is known: all may be
 * pointers. */
static void inspect_type(struct old *o, const struct mspan *s) {
  if (slot_has_type(s->elemsize)) {
    o->type = heap_type_of(o->p);
    return;
  }
  o->words.ptrmask = heap_ptrbits_of(o->p);
  o->type = &o->words;
  if (spanclass_is_array(s->spanclass)) {
    o->kind = TYPED_ARRAY;
    o->type = shape_type(o->words.ptrmask, element_words(o->p));
  } else {
    o->words.size = SIZE_MAX / 2 + 1; /* one value, whatever its size */
    o->words.ptrmask |= ~low_bits((unsigned)(s->elemsize / PTR_SIZE));
  }
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
      inspect_type(o, s);
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

/* In a large slot only a type that lives for good can stand; where there is none every word
 * counts. An array that had a large slot stays one when it becomes small; but what is less than an
 * element keeps a slot in which its type can stand. */
static void *allocate_like(const struct old *o, size_t size) {
  int kind = o->kind;
  size_t align = malloc_align(size);
  if (kind == GORT_TYPED && o->type == &o->words && gets_slot_with_type(size))
    kind = GORT_SCAN;
  else if (kind == GORT_TYPED && o->type != &o->words)
    kind = TYPED_ARRAY;
  if (kind == TYPED_ARRAY && o->type->align > align)
    align = o->type->align;
  if (kind == TYPED_ARRAY && o->type->size > size && size < GORT_MAX_BITMAP_SIZE)
    size = GORT_MAX_BITMAP_SIZE;
  return mallocgc_or_throw(size, align, kind, o->type, "gort_realloc");
}

/* Another tiny object may follow the old one at once, and be the new one: they may overlap. */
static void *move(const struct old *o, size_t size) {
  size_t old_size = o->end - o->p;
  void *to = allocate_like(o, size);
  memmove(to, (void *)o->p, size < old_size ? size : old_size);
  upcalls.object_moved(o->p, (uintptr_t)to);
  return to;
}

/* The zero-size object has no kind, but it may have been a root. */
static void *grow_from_nothing(size_t size) {
  void *to = gort_alloc(size);
  if (size != 0)
    upcalls.object_moved((uintptr_t)zerobase, (uintptr_t)to);
  return to;
}

static void *shrink_to_nothing(const struct old *o) {
  upcalls.object_moved(o->p, (uintptr_t)zerobase);
  return zerobase;
}

void *gort_realloc(void *p, size_t size) {
  CHECK_ATTACHED("gort_realloc");
  if (p == NULL)
    return gort_alloc(size);
  if (p == zerobase)
    return grow_from_nothing(size);
  struct old o;
  inspect(&o, p);
  if (size == 0)
    return shrink_to_nothing(&o);
  if (!fits(&o, size))
    return move(&o, size);
  memset((char *)p + size, 0, o.end - o.p - size);
  return p;
}
