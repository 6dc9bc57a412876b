/* The few services of the kernel that base itself needs. Only os/ calls the kernel: it
 * implements these. None takes a lock, allocates memory or changes errno. */
#ifndef BASE_KERNEL_H
#define BASE_KERNEL_H

#include "base/base.h"

/* Sleeps while *addr == expected, at most ns nanoseconds (negative: no limit). May wake early. */
void futexsleep(uint32_t *addr, uint32_t expected, int64_t ns);
/* Wakes at most n threads that sleep on addr. */
void futexwakeup(uint32_t *addr, int n);
/* Writes it all to a descriptor, or as much as can be. */
void write_fd(int fd, const char *s, size_t n);
/* CLOCK_MONOTONIC in nanoseconds. */
int64_t nanotime(void);
/* The same, some milliseconds behind: cheap enough for each finalizer. */
int64_t nanotime_coarse(void);
/* Lets another thread run. */
void osyield(void);

#endif
