/* The heap's pages that were written to since they were last looked at, while marking goes on. */
#ifndef GC_WRITTEN_H
#define GC_WRITTEN_H

#include "base/base.h"

/* At the beginning of a cycle: whether the kernel notes writes. The first call finds that out. */
bool written_available(void);

/* And whether it is worth its price. */
bool written_cheap(void);

/* The heap in parts, which workers share; their number grows with the heap. */
size_t written_parts(void);
/* From now on it is noted who is written to; nothing has been yet. And it is not, any more. */
void written_watch(void);
void written_end(void);
/* Adds the pages of a part that were written since the last call, and protects them again. Returns
 * how many were added. Different parts at the same time. */
size_t written_find(size_t part);
/* After written_find: what other threads did before the writes that were found is seen, too. */
void written_sync(void);
/* Calls rescan(lo, hi, arg) for each range of pages that is noted, which are not noted any more
 * then. */
void written_take(size_t part, void (*rescan)(uintptr_t lo, uintptr_t hi, void *arg), void *arg);
/* Notes a page that a worker has to leave for later; inside rescan, of its part. */
void written_note(uintptr_t lo, uintptr_t hi);

/* In a child of fork. */
void written_after_fork(void);

#endif
