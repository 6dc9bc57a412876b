/* Where a thread's thread-local variables lie, as the ABI and glibc arrange them.
 *
 * The thread pointer of each thread points to its control block. The variables of the program
 * and of the libraries it was started with lie at a fixed distance from it: static thread-local
 * storage. The control block also points to a vector (dtv) which has, for each module that has
 * such variables, the address of this thread's block of them: a part of the static storage, or
 * memory that was allocated when the thread first asked for it, or nothing yet. */
#ifndef OS_TLS_H
#define OS_TLS_H

#include "base/base.h"

/* Asks the dynamic linker how the static storage is laid out; before any of the below. */
void os_tls_init(void);

/* The calling thread's thread pointer. */
uintptr_t os_thread_pointer(void);

/* The static storage and the control block (the values of pthread_setspecific included) of the
 * thread with this thread pointer. */
void os_static_tls(uintptr_t tcb, uintptr_t *lo, uintptr_t *hi);

/* The block of a module's variables, or 0 when the thread has none yet. The thread is stopped or
 * blocked, or the caller. */
uintptr_t os_tls_block(uintptr_t tcb, size_t module);

#endif
