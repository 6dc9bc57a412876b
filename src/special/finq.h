/* The queue of finalizers that are to run.
 *
 *   finq     blocks with finalizers to run, the newest first
 *   finc     empty blocks, to be used anew
 *   allfin   every block there is, by alllink: roots for the collector
 *   fing     the goroutine that runs them; fingwait: it is parked; fingwake: it has work
 *
 * Only the sweeper enqueues (queuefinalizer, which throws during marking: the queue must not
 * grow then, for it is scanned once). All under finlock. */
#ifndef SPECIAL_FINQ_H
#define SPECIAL_FINQ_H

#include "base/base.h"
#include "base/lock.h"
#include "gort/finalizer.h"

struct g;

struct finalizer {
  const gort_func *fn;   /* function to call; may be on the heap */
  void *arg;             /* the object; on the heap */
  size_t nret;           /* bytes of room for results */
  const gort_type *fint; /* type of the function's parameter */
  const gort_type *ot;   /* pointer type of the object */
};

enum { FIN_BLOCK_SIZE = 4096 };
enum { FIN_ROOM = (FIN_BLOCK_SIZE - 2 * PTR_SIZE - 2 * 4) / sizeof(struct finalizer) };
/* How many a block takes; few under torture, so that there are many blocks. */
#ifdef GORT_TORTURE
enum { FIN_PER_BLOCK = 3 };
#else
enum { FIN_PER_BLOCK = FIN_ROOM };
#endif

struct finblock {
  struct finblock *alllink; /* constant once the block is in allfin */
  struct finblock *next;    /* in finq or finc */
  uint32_t cnt;             /* finalizers in it; atomic: the collector reads it */
  uint32_t pad;
  struct finalizer fin[FIN_ROOM];
};
_Static_assert(sizeof(struct finblock) <= FIN_BLOCK_SIZE, "a block is 4 KiB");

extern struct mutex finlock;
extern struct finblock *finq, *finc, *allfin;
extern struct g *fing;
extern bool fingwait, fingwake; /* atomic: findrunnable looks at them without the lock */

void queuefinalizer(void *p, const gort_func *fn, size_t nret, const gort_type *fint,
                    const gort_type *ot);
/* The same for many at once: between begin and end finlock is held. n: how many it were. No copies
 * of the objects' addresses are made, which might be left on a stack. */
void queue_begin(void);
void queue_add(const struct finalizer *f);
void queue_end(size_t n);
/* Clears both flags and returns fing if it waits and has work; else NULL. */
struct g *wakefing(void);
/* Calls scan(lo, hi) for the entries of all blocks. */
void mark_queues(void (*scan)(uintptr_t lo, uintptr_t hi));
/* Throws where the queue is not as it must be. With the world stopped. */
void finq_verify(void);

#endif
