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
static inline struct m *lock_span(struct mspan *s) {
  struct m *m = acquirem();
  ensureSwept(s);
  spin_lock(&s->speciallock);
  return m;
}

static inline void unlock_span(struct mspan *s, struct m *m) {
  spin_unlock(&s->speciallock);
  releasem(m);
}

static struct mspan *span_of(uintptr_t p, const char *who) {
  struct mspan *s = spanOfHeap(p);
  if (s == NULL)
    throw("%s on invalid pointer", who);
  return s;
}

/* --- Plain slots ------------------------------------------------------------------------------ */

enum special_result special_insert_plain(struct mspan *s, size_t i, plain_finalizer *fn) {
  struct m *m = lock_span(s);
  struct specialchunk *c = specials_make_chunk(s, i);
  bool empty = c != NULL && (c->bits & slot_bit(i)) == 0;
  if (likely(empty)) {
    c->slot[i % CHUNK_SLOTS].plain = fn;
    c->plain |= slot_bit(i);
    c->bits |= slot_bit(i);
  }
  unlock_span(s, m);
  return empty ? SPECIAL_ADDED : c != NULL ? SPECIAL_EXISTS : SPECIAL_NO_MEMORY;
}

bool special_remove_plain(struct mspan *s, size_t i) {
  struct m *m = lock_span(s);
  struct specialchunk *c = specials_chunk(s, i);
  bool was = c != NULL && (c->plain & slot_bit(i)) != 0;
  if (was) {
    c->slot[i % CHUNK_SLOTS].plain = NULL;
    c->plain &= ~slot_bit(i);
    c->bits &= ~slot_bit(i);
  }
  unlock_span(s, m);
  return was;
}

/* --- Records ---------------------------------------------------------------------------------- */

static bool is_plain(const struct specialchunk *c, size_t i) {
  return (c->plain & slot_bit(i)) != 0;
}

static struct specialfinalizer record_of_plain(const struct mspan *s, size_t i,
                                               plain_finalizer *fn) {
  return (struct specialfinalizer){
      .special = {NULL, object_base(s, i) - s->base, KindSpecialFinalizer},
      .fn = (const gort_func *)(uintptr_t)fn,
      .fint = &plain_function,
  };
}

/* Something else is to be in the slot: its function gets a record. False: out of memory. */
static bool make_record(const struct mspan *s, struct specialchunk *c, size_t i) {
  struct specialfinalizer *r = finrecord_alloc();
  if (r == NULL)
    return false;
  *r = record_of_plain(s, i, c->slot[i % CHUNK_SLOTS].plain);
  c->slot[i % CHUNK_SLOTS].first = &r->special;
  c->plain &= ~slot_bit(i);
  return true;
}

/* Whether (p, kind) is what a plain slot has. */
static bool is_plains(const struct mspan *s, size_t i, uintptr_t p, uint8_t kind) {
  return kind == KindSpecialFinalizer && p == object_base(s, i);
}

static enum special_result insert(struct mspan *span, uintptr_t p, struct special *s) {
  size_t i = object_index(span, p);
  struct specialchunk *c = specials_make_chunk(span, i);
  if (c == NULL)
    return SPECIAL_NO_MEMORY;
  if (is_plain(c, i) && is_plains(span, i, p, s->kind))
    return SPECIAL_EXISTS;
  if (is_plain(c, i) && !make_record(span, c, i))
    return SPECIAL_NO_MEMORY;
  s->offset = p - span->base;
  struct special **at = find_place(&c->slot[i % CHUNK_SLOTS].first, s->offset, s->kind);
  if (is_at(*at, s->offset, s->kind))
    return SPECIAL_EXISTS;
  s->next = *at;
  *at = s;
  specials_update(c, i);
  return SPECIAL_ADDED;
}

enum special_result special_insert(uintptr_t p, struct special *s) {
  struct mspan *span = span_of(p, "addspecial");
  struct m *m = lock_span(span);
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
  struct specialchunk *c = specials_chunk(span, i);
  if (c == NULL || (is_plain(c, i) && !is_plains(span, i, p, kind)))
    return NULL;
  if (is_plain(c, i) && !make_record(span, c, i))
    throw_out_of_memory("removespecial", sizeof(struct specialfinalizer));
  struct special **at = find_place(&c->slot[i % CHUNK_SLOTS].first, p - span->base, kind), *s = *at;
  if (!is_at(s, p - span->base, kind))
    return NULL;
  *at = s->next;
  specials_update(c, i);
  return s;
}

struct special *removespecial(uintptr_t p, uint8_t kind) {
  struct mspan *span = span_of(p, "removespecial");
  struct m *m = lock_span(span);
  struct special *s = unlink_record(span, p, kind);
  unlock_span(span, m);
  return s;
}

void specials_foreach(struct mspan *s, void (*fn)(struct mspan *, struct special *, void *),
                      void *arg) {
  struct m *m = acquirem();
  spin_lock(&s->speciallock);
  for (size_t i = 0; specials_next_slot(s, &i); i++) {
    struct specialchunk *c = specials_chunk(s, i);
    struct specialfinalizer plain = record_of_plain(s, i, c->slot[i % CHUNK_SLOTS].plain);
    struct special *r = is_plain(c, i) ? &plain.special : c->slot[i % CHUNK_SLOTS].first;
    for (; r != NULL; r = r->next)
      fn(s, r, arg);
  }
  unlock_span(s, m);
}

static void verify_slot(const struct mspan *s, size_t i) {
  const struct specialchunk *c = specials_chunk(s, i);
  struct special *r = c->slot[i % CHUNK_SLOTS].first;
  if (i >= s->nelems || !bit_test(s->allocBits, i))
    throw("specials: slot %zu of the span at %#zx has records, but is free", i, s->base);
  if (r == NULL)
    throw("specials: slot %zu of the span at %#zx has a bit, but no records", i, s->base);
  if (is_plain(c, i))
    return;
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
    if ((c->slot[i].first != NULL) != (c->bits >> i & 1) || (c->plain & ~c->bits) != 0)
      throw("specials: bit %zu of a chunk of the span at %#zx is wrong", i, base);
}

void specials_verify(const struct mspan *s) {
  for (size_t w = 0; s->specials != NULL && w < MAX_CHUNKS; w++)
    verify_chunk(s->specials->chunk[w], s->base);
  for (size_t i = 0; specials_next_slot(s, &i); i++)
    verify_slot(s, i);
}
