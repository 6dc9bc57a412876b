/* Making types: scalars, structures, named types, and what all kinds share. */
#include "type/type.h"

#include "base/bits.h"
#include "base/lock.h"
#include "base/m.h"
#include "base/throw.h"
#include "heap/malloc.h"

#include <stdlib.h>
#include <string.h>

static struct mutex typelock;

void types_lock(void) { lock_any(&typelock); }

void types_unlock(void) { unlock_any(&typelock); }

/* A thread that finds it set sees all of it: release here, acquire there. */
struct typeext *type_ext(const gort_type *t) {
  struct typeext *e = load_acquire(&((gort_type *)t)->ext);
  if (likely(e != NULL))
    return e;
  types_lock();
  e = t->ext;
  if (e == NULL) {
    e = persistentalloc(sizeof *e, alignof(struct typeext));
    store_release(&((gort_type *)t)->ext, e);
  }
  types_unlock();
  return e;
}

char *type_copy_string(const char *s) {
  size_t n = strlen(s) + 1;
  return memcpy(persistentalloc(n, 1), s, n);
}

gort_type *type_make(const char *string, size_t size, size_t align, unsigned kind, unsigned flags) {
  gort_type *t = persistentalloc(sizeof *t, alignof(gort_type));
  t->string = string;
  t->size = size;
  t->align = align;
  t->kind = (uint8_t)kind;
  t->flags = (uint8_t)flags;
  t->ext = persistentalloc(sizeof(struct typeext), alignof(struct typeext));
  return t;
}

/* The bits of the words that the ranges cover, of the first 64. */
static uint64_t mask_of(const gort_field *f, size_t n) {
  uint64_t mask = 0;
  for (size_t i = 0; i < n; i++)
    mask |= range_mask(0, f[i].offset / PTR_SIZE, (f[i].offset + f[i].size) / PTR_SIZE);
  return mask;
}

static void set_fields(gort_type *t, const gort_field *fields, size_t n) {
  t->fields = fields;
  t->nfields = n;
  t->ptrmask = mask_of(fields, n);
}

void type_set_pointers(gort_type *t, size_t offset, size_t size) {
  gort_field *f = persistentalloc(sizeof *f, alignof(gort_field));
  *f = (gort_field){offset, size};
  set_fields(t, f, 1);
}

static void check_layout(const char *what, const char *name, size_t size, size_t align) {
  if (name == NULL)
    throw("%s: name is nil", what);
  if (!is_power_of_two(align))
    throw("%s: alignment %zu of %s is not a power of two", what, align, name);
  if (size % align != 0)
    throw("%s: size %zu of %s is not a multiple of its alignment %zu", what, size, name, align);
}

const gort_type *gort_type_scalar(const char *name, size_t size, size_t align) {
  check_layout("gort_type_scalar", name, size, align);
  return type_make(type_copy_string(name), size, align, GORT_KIND_SCALAR, GORT_FLAG_NAMED);
}

static void check_offset(const char *name, size_t size, size_t offset) {
  if (offset % PTR_SIZE != 0)
    throw("gort_type_struct: offset %zu of a pointer in %s is not a multiple of %d", offset, name,
          PTR_SIZE);
  if (size < PTR_SIZE || offset > size - PTR_SIZE)
    throw("gort_type_struct: offset %zu of a pointer is outside of %s, which has %zu bytes", offset,
          name, size);
}

static int by_offset(const void *a, const void *b) {
  size_t x = ((const gort_field *)a)->offset, y = ((const gort_field *)b)->offset;
  return (x > y) - (x < y);
}

/* Joins sorted ranges that touch or overlap; how many are left. */
static size_t join_ranges(gort_field *f, size_t n) {
  size_t last = 0;
  for (size_t i = 1; i < n; i++) {
    if (f[i].offset > f[last].offset + f[last].size)
      f[++last] = f[i];
    else
      f[last].size = f[i].offset + f[i].size - f[last].offset;
  }
  return n ? last + 1 : 0;
}

const gort_type *gort_type_struct(const char *name, size_t size, size_t align,
                                  const size_t *pointer_offsets, size_t n) {
  check_layout("gort_type_struct", name, size, align);
  gort_field *f = n ? persistentalloc(n * sizeof *f, alignof(gort_field)) : NULL;
  for (size_t i = 0; i < n; i++) {
    check_offset(name, size, pointer_offsets[i]);
    f[i] = (gort_field){pointer_offsets[i], PTR_SIZE};
  }
  if (n != 0)
    qsort(f, n, sizeof *f, by_offset);
  gort_type *t = type_make(type_copy_string(name), size, align, GORT_KIND_STRUCT, GORT_FLAG_NAMED);
  set_fields(t, f, join_ranges(f, n));
  return t;
}

/* The methods of an interface are its kind, as it were, and stay; those of other types do not. */
const gort_type *gort_type_named(const char *name, const gort_type *underlying) {
  if (name == NULL || underlying == NULL)
    throw("gort_type_named: %s is nil", name ? "underlying" : "name");
  gort_type *t = type_make(type_copy_string(name), underlying->size, underlying->align,
                           underlying->kind, GORT_FLAG_NAMED);
  t->fields = underlying->fields;
  t->nfields = underlying->nfields;
  t->ptrmask = underlying->ptrmask;
  const struct typeext *from = type_ext(underlying);
  struct typeext *to = t->ext;
  to->elem = from->elem;
  to->func = from->func;
  if (t->kind == GORT_KIND_INTERFACE)
    to->methods = load_acquire(&from->methods);
  return t;
}

const char *gort_type_string(const gort_type *t) {
  if (t == NULL)
    throw("gort_type_string: type is nil");
  return t->string;
}

size_t gort_type_size(const gort_type *t) {
  if (t == NULL)
    throw("gort_type_size: type is nil");
  return t->size;
}
