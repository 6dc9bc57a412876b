#include "heap/torture.h"

#ifdef GORT_TORTURE

#include "base/m.h"
#include "base/random.h"
#include "heap/mheap.h"
#include "heap/upcall.h"

enum { MEAN_BETWEEN_COLLECTIONS = 2000, MEAN_BETWEEN_FAILURES = 3000 };

static uint64_t state = 1; /* atomic; races lose randomness, nothing else */

static uint32_t next_below(uint32_t n) {
  uint64_t s = load_relaxed(&state);
  uint32_t r = random_below(&s, n);
  store_relaxed(&state, s);
  return r;
}

void torture_init(uint64_t seed) { state = seed | 1; }

void torture_alloc(void) {
  if (next_below(MEAN_BETWEEN_COLLECTIONS) == 0 && getm()->locks == 0)
    upcalls.gc_for_memory();
}

/* Where a collection can mend it. */
bool torture_fails(void) {
  return next_below(MEAN_BETWEEN_FAILURES) == 0 && getm()->locks == 0 && !mheap.sbrk;
}

#endif
