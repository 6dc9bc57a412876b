/* A multiset of address ranges, in memory of its own: a hash table that grows.
 *
 * The same range may be added more than once, and has to be removed as often. Whoever uses a set
 * guards it; it may be read while the world is stopped if it changes only inside acquirem. */
#ifndef GC_RANGESET_H
#define GC_RANGESET_H

#include "base/base.h"

struct range {
  uintptr_t lo, hi;
  size_t count; /* how often it is in the set; 0: the entry is free */
};

struct rangeset {
  struct range *table;
  size_t size; /* entries in the table: a power of two, or 0 */
  size_t used; /* entries that are not free */
};

/* False when there is no memory. */
bool rangeset_add(struct rangeset *s, uintptr_t lo, uintptr_t hi);
/* False when it is not in the set. */
bool rangeset_has(const struct rangeset *s, uintptr_t lo, uintptr_t hi);
bool rangeset_remove(struct rangeset *s, uintptr_t lo, uintptr_t hi);

#endif
