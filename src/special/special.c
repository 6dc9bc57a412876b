/* Adding, removing and walking special records. */
#include "special/special.h"

#include "base/m.h"
#include "base/throw.h"
#include "heap/mheap.h"
#include "special/pool.h"
#include "special/table.h"

/* Where (offset, kind) is in an ordered list, or belongs. */
static struct special **find_place(struct special **list, uintptr_t offset, uint8_t kind) {
  while (*list != NULL &&
         ((*list)->offset < offset || ((*list)->offset == offset && (*list)->kind < kind)))
    list = &(*list)->next;
  return list;
}

static bool is_at(const struct special *s, uintptr_t offset, uint8_t kind) {
  return s != NULL && s->offset == offset && s->kind == kind;
}

/* Returns inside acquirem, the span swept and its speciallock held: until unlock_span no collection
 * begins, since this thread cannot be stopped, and nobody else touches the records. */
static struct m *lock_span_of(uintptr_t p, const char *who, struct mspan **span) {
  struct m *m = acquirem();
  struct mspan *s = spanOfHeap(p);
  if (s == NULL)
    throw("%s on invalid pointer", who);
  ensureSwept(s);
  lock(&s->speciallock);
  *span = s;
  return m;
}

static void unlock_span(struct mspan *s, struct m *m) {
  unlock(&s->speciallock);
  releasem(m);
}

static enum special_result insert(struct mspan *span, uintptr_t p, struct special *s) {
  size_t i = object_index(span, p);
  struct special **list = specials_slot(span, i);
  if (list == NULL)
    return SPECIAL_NO_MEMORY;
  s->offset = p - span->base;
  struct special **at = find_place(list, s->offset, s->kind);
  if (is_at(*at, s->offset, s->kind))
    return SPECIAL_EXISTS;
  s->next = *at;
  *at = s;
  specials_update(span, i);
  return SPECIAL_ADDED;
}

enum special_result special_insert(uintptr_t p, struct special *s) {
  struct mspan *span;
  struct m *m = lock_span_of(p, "addspecial", &span);
  enum special_result r = insert(span, p, s);
  unlock_span(span, m);
  return r;
}

bool addspecial(uintptr_t p, struct special *s) {
  enum special_result r = special_insert(p, s);
  if (r == SPECIAL_NO_MEMORY)
    throw_out_of_memory("addspecial", sizeof(struct specialchunk));
  return r == SPECIAL_ADDED;
}

static struct special *unlink_record(struct mspan *span, uintptr_t p, uint8_t kind) {
  size_t i = object_index(span, p);
  struct special **list = specials_find_slot(span, i);
  if (list == NULL)
    return NULL;
  struct special **at = find_place(list, p - span->base, kind), *s = *at;
  if (!is_at(s, p - span->base, kind))
    return NULL;
  *at = s->next;
  specials_update(span, i);
  return s;
}

struct special *removespecial(uintptr_t p, uint8_t kind) {
  struct mspan *span;
  struct m *m = lock_span_of(p, "removespecial", &span);
  struct special *s = unlink_record(span, p, kind);
  unlock_span(span, m);
  return s;
}

void specials_foreach(struct mspan *s, void (*fn)(struct mspan *, struct special *, void *),
                      void *arg) {
  lock(&s->speciallock);
  for (size_t i = 0; specials_next_slot(s, &i); i++)
    for (struct special *r = *specials_find_slot(s, i); r != NULL; r = r->next)
      fn(s, r, arg);
  unlock(&s->speciallock);
}

static void verify_slot(const struct mspan *s, size_t i) {
  struct special *r = *specials_find_slot(s, i);
  if (i >= s->nelems || !bit_test(s->allocBits, i))
    throw("specials: slot %zu of the span at %#zx has records, but is free", i, s->base);
  if (r == NULL)
    throw("specials: slot %zu of the span at %#zx has a bit, but no records", i, s->base);
  for (; r != NULL; r = r->next) {
    if (object_index(s, s->base + r->offset) != i)
      throw("specials: a record of offset %zu is with slot %zu of the span at %#zx", r->offset, i,
            s->base);
    if (r->next != NULL &&
        (r->next->offset < r->offset || (r->next->offset == r->offset && r->next->kind <= r->kind)))
      throw("specials: records out of order at offset %zu of the span at %#zx", r->offset, s->base);
  }
}

static void verify_chunk(const struct specialchunk *c, uintptr_t base) {
  for (size_t i = 0; c != NULL && i < CHUNK_SLOTS; i++)
    if ((c->first[i] != NULL) != (c->bits >> i & 1))
      throw("specials: bit %zu of a chunk of the span at %#zx is wrong", i, base);
}

void specials_verify(const struct mspan *s) {
  for (size_t w = 0; s->specials != NULL && w < MAX_CHUNKS; w++)
    verify_chunk(s->specials->chunk[w], s->base);
  for (size_t i = 0; specials_next_slot(s, &i); i++)
    verify_slot(s, i);
}
