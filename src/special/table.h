/* The table of a span's records, and the bitmap of spans that have one.
 *
 * A table has a chunk for each 64 slots of which one ever had a record; a chunk's bits correspond
 * to one word of the span's mark bits, so that the dead among the objects with records are
 * bits & allocBits & ~gcmarkBits. Clearing a record leaves an empty chunk, for the next; the
 * sweeper takes empty chunks and tables away. All but the bitmap under the span's speciallock.
 *
 * Most finalizers are C functions of the object at the beginning of its slot, and the slot has
 * nothing else. Of such a plain slot the table holds the function itself: there is no record to
 * allocate, to find or to free, and marking knows from the bits alone what it has to do. */
#ifndef SPECIAL_TABLE_H
#define SPECIAL_TABLE_H

#include "special/special.h"

enum { CHUNK_SLOTS = 64, MAX_CHUNKS = MAX_SLOTS / CHUNK_SLOTS };

union specialslot {
  struct special *first;  /* NULL: none */
  plain_finalizer *plain; /* of a plain slot */
};

struct specialchunk {
  uint64_t bits;  /* slots with records, or plain */
  uint64_t plain; /* of these, the plain ones */
  union specialslot slot[CHUNK_SLOTS];
};

struct mspan_specials {
  struct specialchunk *chunk[MAX_CHUNKS]; /* NULL: no records in these slots */
};

static inline size_t specials_nchunks(const struct mspan *s) {
  return ((size_t)s->nelems + CHUNK_SLOTS - 1) / CHUNK_SLOTS;
}

static inline uint64_t slot_bit(size_t i) { return UINT64_C(1) << i % CHUNK_SLOTS; }

/* The chunk of slot i. NULL: there is none. */
static inline struct specialchunk *specials_chunk(const struct mspan *s, size_t i) {
  return s->specials ? s->specials->chunk[i / CHUNK_SLOTS] : NULL;
}
/* The same, made if need be; NULL: out of memory. */
struct specialchunk *specials_make_chunk(struct mspan *s, size_t i);
/* After the list of slot i has changed. */
static inline void specials_update(struct specialchunk *c, size_t i) {
  c->bits = c->slot[i % CHUNK_SLOTS].first ? c->bits | slot_bit(i) : c->bits & ~slot_bit(i);
}
/* Whether any span ever had a table. */
bool specials_ever(void);
/* Frees empty chunks, and the table when none is left. */
void specials_trim(struct mspan *s);

/* The span's next slot with records, or plain, from *i on; false: none. */
bool specials_next_slot(const struct mspan *s, size_t *i);

#endif
