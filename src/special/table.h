/* The table of a span's records, and the bitmap of spans that have one.
 *
 * A table has a chunk for each 64 slots of which one ever had a record; a chunk's bits correspond
 * to one word of the span's mark bits, so that the dead among the objects with records are
 * bits & allocBits & ~gcmarkBits. Clearing a record leaves an empty chunk, for the next; the
 * sweeper takes empty chunks and tables away. All but the bitmap under the span's speciallock. */
#ifndef SPECIAL_TABLE_H
#define SPECIAL_TABLE_H

#include "special/special.h"

enum { CHUNK_SLOTS = 64, MAX_CHUNKS = PAGE_SIZE / 8 / CHUNK_SLOTS };

struct specialchunk {
  uint64_t bits; /* slots with records */
  struct special *first[CHUNK_SLOTS];
};

struct mspan_specials {
  struct specialchunk *chunk[MAX_CHUNKS]; /* NULL: no records in these slots */
};

static inline size_t specials_nchunks(const struct mspan *s) {
  return ((size_t)s->nelems + CHUNK_SLOTS - 1) / CHUNK_SLOTS;
}

/* The list of a slot, its chunk made if there is none; NULL: out of memory. */
struct special **specials_slot(struct mspan *s, size_t i);
/* The same where it is there already. */
struct special **specials_find_slot(const struct mspan *s, size_t i);
/* After a slot's list has changed. */
void specials_update(struct mspan *s, size_t i);
/* Frees empty chunks, and the table when none is left. */
void specials_trim(struct mspan *s);

/* The span's next slot with records from *i on; false: none. */
bool specials_next_slot(const struct mspan *s, size_t *i);

#endif
