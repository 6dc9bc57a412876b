#include "heap/torture.h"

#ifdef GORT_TORTURE

#include "base/m.h"
#include "base/random.h"
#include "heap/mheap.h"
#include "heap/upcall.h"

enum { MEAN_BETWEEN_COLLECTIONS = 2000, MEAN_BETWEEN_FAILURES = 3000 };

static uint64_t first_seed, threads; /* the latter atomic */
static uint64_t state = 1;           /* atomic; races lose randomness, nothing else */

/* splitmix64: seeds that follow each other have nothing in common after it. Never 0. */
static uint64_t seed_number(uint64_t i) {
  uint64_t z = first_seed + i * UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return (z ^ z >> 31) | 1;
}

static uint32_t next_below(uint32_t n) {
  uint64_t s = load_relaxed(&state);
  uint32_t r = random_below(&s, n);
  store_relaxed(&state, s);
  return r;
}

void torture_init(uint64_t seed) {
  first_seed = seed;
  state = seed_number(0);
}

uint64_t thread_seed(void) { return seed_number(add_relaxed(&threads, 1)); }

void torture_alloc(void) {
  if (next_below(MEAN_BETWEEN_COLLECTIONS) == 0 && getm()->locks == 0)
    upcalls.gc_for_memory();
}

/* Where a collection can mend it. */
bool torture_fails(void) {
  return next_below(MEAN_BETWEEN_FAILURES) == 0 && getm()->locks == 0 && !mheap.sbrk;
}

#endif
