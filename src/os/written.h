/* Which pages were written to. The kernel notes it: a page that is protected in this way is written
 * to as any other, by the program or by a system call, only that the first write takes a fault, in
 * which the kernel makes the note (userfaultfd with asynchronous write protection, and
 * PAGEMAP_SCAN: Linux 6.7). */
#ifndef OS_WRITTEN_H
#define OS_WRITTEN_H

#include "base/base.h"

struct os_range {
  uintptr_t lo, hi;
};

/* Has the kernel note writes to [lo, hi), whole pages that are reserved; once in a process. False:
 * it cannot, or must not. */
bool os_written_begin(uintptr_t lo, uintptr_t hi);

/* What the first write to a protected page takes longer than others, about, in nanoseconds: 800,
 * and 20,000 where the kernel runs in a virtual machine without support of its processor's. Found
 * out by os_written_begin. */
int64_t os_written_cost(void);

/* Finds ranges in [*at, hi) that were written to since they were last found, or ever, at most n,
 * and protects them in the same step: what is written from then on is found by the next call. What
 * was written before is there for who reads the pages now. Moves *at to where it has come. Returns
 * how many; or -1: it is not known what was written, for somebody has closed our descriptors. Any
 * thread, several at the same time. */
long os_written_find(uintptr_t *at, uintptr_t hi, struct os_range *found, size_t n);

/* Protects all of [lo, hi), whatever was written to; -1: as above. */
int os_written_protect(uintptr_t lo, uintptr_t hi);
/* Nothing there is protected any more, nor noted. */
void os_written_release(uintptr_t lo, uintptr_t hi);

/* Who has made a write that was found, has before that made all that it did before: after this call
 * others see it in this order. */
void os_written_sync(void);

/* In a child of fork nothing is noted. */
void os_written_after_fork(void);

#endif
