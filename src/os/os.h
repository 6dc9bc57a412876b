/* The only door to the kernel. Nothing here takes a lock or allocates memory; errors are
 * returned as negative errno values (or NULL), errno is left as it was.
 *
 * Address space goes through three states, as in Go's runtime: none -> reserved (os_reserve) ->
 * committed (os_commit; reads as zero, gets memory when touched). os_release gives the memory
 * back and leaves the range committed, reading as zero again. */
#ifndef OS_OS_H
#define OS_OS_H

#include "base/base.h"
#include "base/kernel.h"
#include "base/switch.h"

#define OS_HUGE_PAGE ((size_t)2 << 20)

size_t os_page_size(void);

/* Reserves `size` bytes of address space at a multiple of `align`; NULL when refused. */
void *os_reserve(size_t size, size_t align);
/* Makes reserved pages usable. False when the system refuses. */
bool os_commit(void *p, size_t size);
/* Readable and writable memory at once, zeroed; not charged before it is touched. */
void *os_map(size_t size, size_t align);
/* The same for a table of which only parts will ever be touched: whole pages, left out of core
 * dumps, for which the system would look at every page of it. */
void *os_map_table(size_t size);
void os_unmap(void *p, size_t size);
/* A whole file, to be read; NULL when it cannot be, or is empty. Ends with os_unmap. */
const void *os_map_file(const char *path, size_t *size);
/* Gives the memory of whole pages back; they read as zero from then on. False when the system
 * refuses (locked memory): nothing has changed. */
bool os_release(void *p, size_t size);
/* Makes any access to the pages fault, for good (efence). */
void os_fault(void *p, size_t size);
/* Asks for huge pages here (yes) or for small ones (no). */
void os_huge_pages(void *p, size_t size, bool yes);
/* A guard that faults on access, without splitting the mapping; false when the kernel cannot do
 * that (MADV_GUARD_INSTALL, Linux 6.13). */
bool os_guard_install(void *p, size_t size);
/* The same, or else by mprotect. False when neither works. */
bool os_guard(void *p, size_t size);
/* How many mappings a process may have (vm.max_map_count). */
uint32_t os_max_mappings(void);

/* Whether all of [lo, hi) is mapped (it may still be protected); and the lowest page from which
 * on everything up to hi is, not below lo. */
bool os_is_mapped(uintptr_t lo, uintptr_t hi);
uintptr_t os_lowest_mapped(uintptr_t lo, uintptr_t hi);

/* Bytes of address space that this process may still map: RLIMIT_AS less what is mapped;
 * UINT64_MAX without a limit. */
uint64_t os_address_space_left(void);
/* Bytes of memory that this machine has, swap space included. */
uint64_t os_memory_total(void);
/* The soft RLIMIT_STACK in bytes; UINT64_MAX without a limit. */
uint64_t os_stack_limit(void);
int os_num_cpu(void); /* processors that this process may run on */

int os_gettid(void);
bool os_is_main_thread(void);
/* Sends `sig` to a thread of this process: 0, or a negative errno value. */
int os_signal_thread(int tid, int sig);
/* Installs handler(sig, siginfo, ucontext) with SA_RESTART | SA_ONSTACK: 0 or -errno. */
int os_sigaction(int sig, void (*handler)(int, void *, void *));
/* Ends the process by a signal's default action, as if it had come without a handler. */
GORT_NORETURN void os_die_of(int sig);
/* Whether a handler can be installed for `sig` (not for SIGKILL, nor those of the C library) and
 * may return, as from a fault it may not. */
bool os_signal_is_usable(int sig);
/* Gives this thread [p, p+size) as its signal stack unless it has one already; true when it did.
 * Returns false and the present one in *lo, *hi when there is one. */
bool os_set_sigaltstack(void *p, size_t size, uintptr_t *lo, uintptr_t *hi);
/* Takes it away if it is the one at p. */
void os_clear_sigaltstack(void *p);
/* Unblocks `sig` for this thread. */
void os_unblock_signal(int sig);
/* Blocks all signals for this thread / restores what block gave; for the runtime's threads. */
void os_block_all_signals(uint64_t old[16]);
void os_restore_signals(const uint64_t old[16]);
/* The signals that this thread blocks. */
void os_blocked_signals(uint64_t mask[16]);
/* The state of one thread as /proc shows it: whether it blocks `sig`. */
bool os_thread_blocks_signal(int tid, int sig);

/* Where a signal frame was interrupted: stack pointer, and the registers (vector registers
 * included) as a range of memory. */
uintptr_t os_ucontext_sp(void *ucontext);
uintptr_t os_ucontext_pc(void *ucontext);
struct frame os_ucontext_frame(void *ucontext);
size_t os_ucontext_size(void);
/* The same, found from where the stack pointer is as a handler returns to what the kernel has put
 * below it. */
uintptr_t os_signal_frame_ucontext(uintptr_t sp);
void os_ucontext_registers(void *ucontext, uintptr_t *lo, uintptr_t *hi);
/* The signal stack that was in force then; false when there was none. */
bool os_ucontext_sigaltstack(void *ucontext, uintptr_t *lo, uintptr_t *hi);
/* Bytes that a signal stack must have at the least. */
size_t os_min_sigaltstack(void);
uintptr_t os_siginfo_addr(void *siginfo); /* the address of a SIGSEGV */

int64_t os_walltime(void);        /* CLOCK_REALTIME, ns */
int64_t os_process_cputime(void); /* CLOCK_PROCESS_CPUTIME_ID, ns */
int64_t os_thread_cputime(void);  /* CLOCK_THREAD_CPUTIME_ID, ns */
void os_sleep(int64_t ns);        /* at least that long */
uint64_t os_random(void);         /* a seed */

/* Starts a detached thread with all signals blocked but those that a fault raises (and `sig` if
 * not 0): 0 or an errno value. The thread's name is for debuggers. stack_size 0: the default. */
int os_thread_start(void (*fn)(void *), void *arg, size_t stack_size, int sig, const char *name);
/* How many threads of this process, ended ones for a moment included, os_thread_start has not
 * started; 0 where that cannot be told. */
int os_num_other_threads(void);
void os_threads_after_fork(void);
/* In between no thread is made or begins. */
void os_threads_hold(void);
void os_threads_release(void);
/* The calling thread's stack [lo, hi), static thread-local storage and thread descriptor included
 * where these lie on it. */
void os_thread_stack(uintptr_t *lo, uintptr_t *hi);

#endif
