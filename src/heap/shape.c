#include "heap/shape.h"

#include "base/bits.h"
#include "base/lock.h"
#include "heap/malloc.h"

struct shape {
  gort_type type; /* its size and ptrmask are the shape */
  struct shape *next;
  gort_field fields[]; /* one for each pointer */
};

static struct mutex shapelock;
static struct shape *shapes; /* few: under shapelock */

static struct shape *find(uint64_t mask, size_t size) {
  struct shape *s = shapes;
  while (s != NULL && (s->type.ptrmask != mask || s->type.size != size))
    s = s->next;
  return s;
}

static struct shape *make(uint64_t mask, size_t size) {
  size_t n = popcount64(mask), i = 0;
  struct shape *s = persistentalloc(sizeof *s + n * sizeof s->fields[0], PTR_SIZE);
  s->type = (gort_type){.string = "?",
                        .size = size,
                        .align = PTR_SIZE,
                        .fields = s->fields,
                        .nfields = n,
                        .ptrmask = mask,
                        .kind = GORT_KIND_STRUCT};
  for (uint64_t m = mask; m != 0; m &= m - 1)
    s->fields[i++] = (gort_field){ctz64(m) * PTR_SIZE, PTR_SIZE};
  s->next = shapes;
  shapes = s;
  return s;
}

const gort_type *shape_type(uint64_t mask, size_t words) {
  mask &= low_bits((unsigned)words);
  lock(&shapelock);
  struct shape *s = find(mask, words * PTR_SIZE);
  if (s == NULL)
    s = make(mask, words * PTR_SIZE);
  unlock(&shapelock);
  return &s->type;
}
