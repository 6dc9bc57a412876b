/* The torture build (GORT_TORTURE): a collection at every Nth allocation, N random, and
 * allocations that fail the first time; goroutines that give way at random. From the seed of
 * GORTTORTURE=N, which is printed. */
#ifndef HEAP_TORTURE_H
#define HEAP_TORTURE_H

#include "base/base.h"
#include "os/os.h"

#ifdef GORT_TORTURE
void torture_init(uint64_t seed);
/* Before an allocation in the slow path: may collect. */
void torture_alloc(void);
/* Whether this allocation is to find no memory at the first try. */
bool torture_fails(void);
/* Where the random numbers of the next thread begin: they say when its goroutines give way. */
uint64_t thread_seed(void);
#else
static inline void torture_init(uint64_t seed) { (void)seed; }
static inline void torture_alloc(void) {}
static inline bool torture_fails(void) { return false; }
static inline uint64_t thread_seed(void) { return os_random(); }
#endif

#endif
