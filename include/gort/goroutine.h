/* Goroutines: functions that run side by side on all processors, thousands to a thread.
 *
 * A goroutine gives way where it calls the runtime (allocation included); a loop that never
 * does keeps its processor. After a call that parks it may go on in another thread: compilers
 * take pthread_self() and the addresses of errno and of thread-local variables for constant
 * across calls, so keep none of them over such a call without gort_lock_thread. */
#ifndef GORT_GOROUTINE_H
#define GORT_GOROUTINE_H

#include "gort/base.h"

GORT_BEGIN_DECLS

/* Runs fn(arg) on a new goroutine. `arg` is traced. The stack is 256 KiB, or for the second
 * form `stack_size` bytes (0: the default; at least 16 KiB; rounded up to pages), committed as
 * touched. Below it lie 64 KiB of guard: running into it throws `stack overflow: goroutine N
 * exceeded its S-byte stack`. Throws when no memory is left for a stack. */
GORT_API void gort_go(void (*fn)(void *), void *arg);
GORT_API void gort_go_stack(void (*fn)(void *), void *arg, size_t stack_size);

/* Lets other goroutines run. On an attached thread: sched_yield. */
GORT_API void gort_yield(void);

/* Sleeps for at least `ns` nanoseconds; 0 or less returns at once. Never early. */
GORT_API void gort_sleep(int64_t ns);

/* Ends this goroutine. In a finalizer: ends that finalizer alone. Throws on a thread. */
GORT_API GORT_NORETURN void gort_goexit(void);

/* This goroutine's id: unique, main's is 1; 0 on a thread. */
GORT_API uint64_t gort_id(void);

/* How many goroutines there are, the runtime's own left out. */
GORT_API int gort_num_goroutines(void);

/* Sets how many goroutines can run at the same time (the number of processors, or
 * GORTMAXPROCS, at the start; at most 1024); returns the old. n < 1 only asks. */
GORT_API int gort_max_procs(int n);

/* Ties this goroutine and its thread together until it unlocks as often. If it ends locked,
 * the thread ends with it. Main, before it first parks or calls gort_yield, is on the process's
 * main thread. Nothing on an attached thread. */
GORT_API void gort_lock_thread(void);
GORT_API void gort_unlock_thread(void);

/* Around a call that may block the thread: the collector does not wait for this thread and no
 * stop signal comes, and other goroutines get its processor. They nest. In between, call
 * nothing of gort and read no pointers out of the collected heap; what the stack held at entry
 * stays alive. */
GORT_API void gort_block_enter(void);
GORT_API void gort_block_exit(void);

/* CLOCK_MONOTONIC in nanoseconds: what all deadlines count in. Any thread. */
GORT_API int64_t gort_nanotime(void);

/* Writes every goroutine's id, state and trace to the descriptor. SIGQUIT does so on standard
 * error before it ends the program, unless that handled or ignored it when the runtime started. */
GORT_API void gort_print_goroutines(int fd);

GORT_END_DECLS

#endif
