/* Pages: which are free, which hold memory, which are known to be zero.
 *
 * First fit by address, over chunks of 4 MiB (512 pages) with a bitmap and a summary each: free
 * pages at its start, the longest run, free pages at its end. Low addresses fill first, so high
 * chunks become free as wholes and their memory can go back to the system in huge pages.
 *
 * A free page is either clean (never touched, or given back: reads as zero and has no memory) or
 * dirty. All under mheap.lock. */
#ifndef HEAP_PAGEALLOC_H
#define HEAP_PAGEALLOC_H

#include "base/base.h"

/* How many pages one of the system's is, where these are larger than ours; else 1. Memory goes back
 * in whole ones of the system's, which rounds up: beside a free page others may be in use. Constant
 * after pagealloc_init, but for tests. */
extern size_t system_pages;

void pagealloc_init(uintptr_t arena, uintptr_t arena_end);
/* Takes npages pages; 0 when there are none. *dirty: they are not known to be zero. */
uintptr_t pagealloc_take(size_t npages, bool *dirty);
void pagealloc_give(uintptr_t p, size_t npages);
/* Gives memory of dirty free pages back to the system, highest addresses first, at most about
 * `bytes`; whole huge pages only unless `all`. Returns the bytes given back. Drops and retakes
 * nothing: the lock is held for the time of the system calls. */
size_t pagealloc_scavenge(size_t bytes, bool all);

struct pagealloc_stats {
  uint64_t free_pages, dirty_pages; /* dirty: of the free ones, those that hold memory */
  uint64_t grown_pages;             /* ever in use */
};
extern struct pagealloc_stats pagealloc_stats;

#endif
