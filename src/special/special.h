/* Special records: what hangs on an object without being part of it.
 *
 * A record belongs to an address within an object and has a kind. A span's records are ordered
 * by (offset, kind), one of a kind for an offset. Go keeps one list for a span and walks it from
 * its head; here a span with records has a table of its slots, each with a short ordered list, and
 * a bitmap of slots that have any: finding, adding and removing do not depend on how many other
 * objects of the span have records, and the sweeper sees at once which dead objects have some.
 *
 * Who may touch the records of a span:
 *
 *   the program    after ensureSwept, under s->speciallock, inside acquirem: so a collection
 *                  neither begins nor sweeps this span meanwhile
 *   the sweeper    owns the span (sweepgen h - 1); under s->speciallock
 *   marking        under s->speciallock, attached or not. Holders among the program's threads are
 *                  inside acquirem, so with the world stopped nobody holds it
 *
 * A record is its owner's until it is added, and again once it is removed. */
#ifndef SPECIAL_SPECIAL_H
#define SPECIAL_SPECIAL_H

#include "gort/finalizer.h"
#include "heap/mspan.h"

enum special_kind {
  KindSpecialFinalizer = 1,
  KindSpecialWeakHandle = 2,
  KindSpecialProfile = 3,
  KindSpecialReachable = 4,
  KindSpecialPin = 5,
  KindSpecialCleanup = 6,
};

struct special {
  struct special *next;
  uintptr_t offset; /* of the address, from the span's base */
  uint8_t kind;
};

typedef void plain_finalizer(void *object);

/* `fint` of a finalizer that is a plain C function of the object: `fn` is then its address, there
 * is no `ot` and there are no results. */
extern const gort_type plain_function;

struct specialfinalizer {
  struct special special;
  const gort_func *fn;        /* may be on the heap: a root while the record is there */
  size_t nret;                /* bytes of room for results */
  const gort_type *fint, *ot; /* the parameter's type, the object's pointer type */
};

/* Counts what its object's bucket allocated; see profile.h. */
struct specialprofile {
  struct special special;
  struct bucket *b;
};

/* Whether a collection found the object reachable; for tests. Taken off by the sweeper once that
 * is known, then its maker's again. An object that dies with a finalizer keeps it: what becomes of
 * it is known after the finalizer has run. */
struct specialreachable {
  struct special special;
  bool done, reachable;
};

void special_init(void); /* installs the upcalls */

enum special_result { SPECIAL_ADDED, SPECIAL_EXISTS, SPECIAL_NO_MEMORY };

/* Adds the record at p, an address in an object that the caller keeps alive; s->kind is set.
 * Throws where p is not in the heap. */
enum special_result special_insert(uintptr_t p, struct special *s);
/* A finalizer that is a C function of the object in slot i, which begins where the slot does: it
 * needs no record (table.h). */
enum special_result special_insert_plain(struct mspan *s, size_t i, plain_finalizer *fn);
/* Takes it off again; false: it was not of this kind, or there was none. */
bool special_remove_plain(struct mspan *s, size_t i);
/* As special_insert, for those who cannot do without: false where there is one of this kind
 * already; throws when there is no memory. */
bool addspecial(uintptr_t p, struct special *s);
/* Takes the record of this kind off p and returns it; NULL: there is none. */
struct special *removespecial(uintptr_t p, uint8_t kind);

/* For walking the heap: the first span from page *page on, below page `end`, that has records (or
 * had some that nobody swept away yet); NULL: none. *page is then the one behind it. Pages count
 * from the start of the arena. */
struct mspan *specials_next_span(size_t *page, size_t end);
/* Calls fn for each record of a span, in order; under its lock. For a plain finalizer a record is
 * made for the call. */
void specials_foreach(struct mspan *s, void (*fn)(struct mspan *, struct special *, void *),
                      void *arg);
/* Throws where the span's table is not as it must be: order, duplicates, bits, slots in use. With
 * the world stopped. */
void specials_verify(const struct mspan *s);

/* What the sweeper does with a record whose object is dead (p: its address, size: its slot's) or,
 * for a reachable record, alive. The record is off its list. Throws for a kind it does not know. */
void freespecial(struct special *s, uintptr_t p, size_t size);

/* Statistics; atomic. How many were set is counted by each thread (struct mstats). `run` counts a
 * finalizer when it has returned, with release: who has seen it equal to `queued` sees what they
 * all did. */
struct finstats {
  uint64_t queued, run;
  int64_t running_since; /* nanotime at which the running finalizer began; 0: none runs */
};
extern struct finstats finstats;

#endif
