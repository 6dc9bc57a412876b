/* mcentral: the spans of one class that no thread has cached.
 *
 * Four lists: spans with free slots (partial) and without (full), each for the swept and for
 * the unswept. Which of two lists is the swept one follows from sweepgen, so that the start of
 * a sweep phase, sweepgen += 2, turns all swept spans into unswept ones at no cost. A popped
 * unswept span may have been swept by somebody else already: sweepgen tells. */
#ifndef HEAP_MCENTRAL_H
#define HEAP_MCENTRAL_H

#include "heap/mspan.h"

/* A swept span with at least one free slot, now the caller's (sweepgen h + 3); NULL: out of
 * memory. Inside acquirem. */
struct mspan *cacheSpan(spanclass_t spc);
/* Gives it back: its run is empty. Where it is stale (h + 1) it goes to the unswept. */
void uncacheSpan(struct mspan *s);
/* A large span: swept, full. */
void mcentral_add_full(struct mspan *s);
/* Takes a span that is about to be freed or faulted out of its list. */
void mcentral_remove(struct mspan *s);
/* After sweeping: to the swept list where it belongs. */
void mcentral_swept(struct mspan *s);
/* Any unswept span of any class, claimed for sweeping (sweepgen h - 1); NULL: none is left. */
struct mspan *mcentral_next_unswept(void);
/* Whether mcentral_next_unswept has returned NULL in this generation. */
bool mcentral_all_swept(void);
/* Throws when a list is broken, or holds what does not belong there. World stopped. */
void mcentral_verify(void);

#endif
