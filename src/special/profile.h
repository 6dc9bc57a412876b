/* Records that count and that ask: of what was allocated at one place, how much has been freed; and
 * whether an object was reachable. */
#ifndef SPECIAL_PROFILE_H
#define SPECIAL_PROFILE_H

#include "special/special.h"

/* What one place in the program allocated, of the sampled objects; in persistent memory. All counts
 * are atomic. */
struct bucket {
  struct bucket *allnext; /* constant */
  const char *name;       /* constant */
  uint64_t allocs, frees; /* objects */
  uint64_t alloc_bytes, free_bytes;
};

/* A new bucket. The name is kept, not copied. */
struct bucket *newbucket(const char *name);
/* All there are, the newest first. */
struct bucket *allbuckets(void);

/* Counts the object p of `size` bytes for b, and attaches a record so that its end is counted too.
 * Throws where it has one already. */
void mProf_Malloc(struct bucket *b, uintptr_t p, size_t size);
void mProf_Free(struct bucket *b, size_t size);
/* The record alone. */
void setprofilebucket(uintptr_t p, struct bucket *b);

/* Collects, and finds out which of n objects were reachable (at most 64): bit i of the answer is
 * that of the object at ~hidden[i]. Hidden, so that asking does not keep them. An object with a
 * finalizer must not be asked about. */
uint64_t reachable_objects(const uintptr_t *hidden, size_t n);

/* For the sweeper. */
void profile_record_free(struct specialprofile *r);
void reachable_record_done(struct specialreachable *r);
/* How many reachable records hang on objects. */
uint32_t reachable_records(void);

#endif
