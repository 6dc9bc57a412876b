/* Cheap random numbers (xorshift64*), for stealing order and torture; not for secrets. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include "base/base.h"

static inline uint64_t random_next(uint64_t *state) {
  uint64_t x = *state;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  *state = x;
  return x * UINT64_C(2685821657736338717);
}

/* A number below n (n > 0). */
static inline uint32_t random_below(uint64_t *state, uint32_t n) {
  return (uint32_t)((random_next(state) >> 32) * n >> 32);
}

#endif
