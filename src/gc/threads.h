/* The registry of threads: attaching, detaching, and threads of the runtime's own. */
#ifndef GC_THREADS_H
#define GC_THREADS_H

#include "base/m.h"

/* All Ms ever made, by alllink; those with in_use belong to a thread. The list only grows and
 * can be walked without the lock; attaching and detaching hold it, and so does who stops the
 * world, so that no thread comes or goes meanwhile. */
extern struct m *allm;
extern struct mutex allm_lock;

/* Makes the calling thread known: an m, its stack bounds, thread-local storage, signal stack,
 * allocation cache; the thread is M_RUNNING afterwards. runtime_owned: the thread runs
 * goroutines or sweeps, and its own stack holds no roots. The thread is detached when it ends. */
struct m *thread_attach(bool runtime_owned);
/* Flushes the cache and frees the m. The thread is not on a goroutine. */
void thread_detach(void);
/* How many attached threads are not the runtime's own. Takes no lock: a thread that comes or goes
 * meanwhile may or may not count. */
int threads_foreign(void);
/* In a child of fork, between stop_for_fork and start_after_fork: the other threads are gone; their
 * caches are flushed and their Ms free. */
void threads_after_fork(void);

/* Starts the runtime where it has not been started; any thread, any number of times. Defined by
 * the part that knows all others, and called by gort_thread_attach. */
void gort_runtime_start(void);

#endif
