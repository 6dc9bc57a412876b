/* Pools of records: fixalloc with a lock. NULL when there is no memory, so that a try form can
 * refuse. */
#ifndef SPECIAL_POOL_H
#define SPECIAL_POOL_H

#include "base/lock.h"
#include "heap/malloc.h"

struct pool {
  struct mutex lock;
  struct fixalloc f; /* under lock */
};

/* A zeroed record, or NULL. Inside acquirem or not. */
void *pool_alloc(struct pool *p);
void pool_free(struct pool *p, void *record);

struct specialfinalizer;

/* A finalizer record, all its fields undefined, or NULL. Each thread keeps some in its m, so that
 * setting and clearing take no common lock as a rule. */
struct specialfinalizer *finrecord_alloc(void);
void finrecord_free(struct specialfinalizer *r);

#endif
