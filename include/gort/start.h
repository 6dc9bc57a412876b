/* Starting the runtime, and the program's own threads. */
#ifndef GORT_START_H
#define GORT_START_H

#include "gort/base.h"

GORT_BEGIN_DECLS

/* Starts the runtime, runs fn(arg) as the main goroutine (its id is 1) and returns 0 when it
 * returns. Other goroutines do not run any more then, as in Go; finalizers still do, and the
 * calling thread stays attached, so that gort_drain may follow. Once in a process: again, it
 * throws `gort_main: called twice`. exit() is safe at any time. */
GORT_API int gort_main(void (*fn)(void *), void *arg);

/* For programs that keep their own main and threads: the calling thread becomes attached.
 * Idempotent, from any thread. Finalizers then run on the runtime's own thread. */
GORT_API void gort_init(void);

/* Makes the runtime know the calling thread: from now on the collector scans its stack,
 * registers and thread-local variables, and stops it with a signal (SIGURG unless GORTSIGNAL
 * names another). False only when the thread was attached already. Starts the runtime where
 * it has not been started. A thread is detached by itself when it ends. */
GORT_API bool gort_thread_attach(void);

/* The opposite; the thread must not use the library afterwards. Throws on a goroutine. */
GORT_API void gort_thread_detach(void);

/* Starts a detached POSIX thread that is attached before this returns, and runs fn(arg) on
 * it. `arg` is traced until fn has it. Returns 0, or an errno value (EAGAIN as a rule). */
GORT_API int gort_thread_start(void (*fn)(void *), void *arg);

/* The library's version, as "0.1.0". Any thread, at any time. */
GORT_API const char *gort_version(void);

GORT_END_DECLS

#endif
