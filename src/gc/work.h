/* The work of marking, shared between the workers.
 *
 * What is to be looked at comes in two forms. Candidates are words that may point to objects
 * not marked yet; each worker keeps them in blocks of its own, and passes whole blocks to the
 * others. Jobs are ranges of memory to be scanned: roots, and large objects, which are taken off
 * piece by piece so that several workers share one. */
#ifndef GC_WORK_H
#define GC_WORK_H

#include "base/base.h"
#include "gort/type.h"

/* An object, or root, larger than a piece is scanned piece by piece, what was found in one first,
 * so that the words found and not looked at yet stay few. */
enum { WORKBUF_SIZE = 4096, JOB_PIECE = 4096, KEEP_BLOCKS = 1024 };

struct workbuf {
  struct workbuf *next;
  size_t n;
  uintptr_t word[(WORKBUF_SIZE - 2 * PTR_SIZE) / PTR_SIZE];
};
_Static_assert(sizeof(struct workbuf) == WORKBUF_SIZE, "a block is a page");

struct job {
  uintptr_t lo, hi;      /* the range; for a typed object the rest of it */
  const gort_type *type; /* NULL: every word may be a pointer */
  uintptr_t base;        /* where the typed object begins */
};

/* Begins a round with this many workers. */
void work_begin(int nworkers);
/* Ends it: all blocks are empty again, and memory for more than KEEP_BLOCKS of them goes back. */
void work_end(void);

struct workbuf *work_empty_block(void);
void work_give_block(struct workbuf *b); /* full or not, to whoever needs work */
void work_free_block(struct workbuf *b); /* what is in it is forgotten */
void work_add_job(const struct job *j);
/* Whether somebody waits for work and there is none to have. */
bool work_wanted(void);

struct work {
  enum { WORK_NONE, WORK_BLOCK, WORK_JOB } kind;
  struct workbuf *block;
  struct job job;
};

/* Something to do; WORK_NONE at the end: waits until there is work or all workers wait. */
struct work work_get(void);
/* The same without waiting: WORK_NONE when there is nothing now. The caller may hold work. */
struct work work_try_get(void);

/* For a while one more worker takes part, if there is anything to do: false, if not, or if no round
 * goes on. It does not wait for work, and leaves without any. */
bool work_join(void);
void work_leave(void);
/* Whether it is worth trying. */
bool work_can_be_joined(void);

/* A job, or false. */
bool work_try_get_job(struct job *j);

/* In a child of fork: nothing is left to do. */
void work_after_fork(void);

extern uint64_t work_sys; /* bytes obtained for blocks and jobs */

#endif
