/* Calls that may block the thread. */
#ifndef SCHED_BLOCKING_H
#define SCHED_BLOCKING_H

#include "base/base.h"

/* Calls fn(arg) on this thread, as if between gort_block_enter and _exit, which call nothing of the
 * scheduler or the heap. Any goroutine or attached thread; no locks are held. */
void call_blocking(void (*fn)(void *arg), void *arg);

#endif
