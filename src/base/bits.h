/* Bit arithmetic: words, and bitmaps of words. */
#ifndef BASE_BITS_H
#define BASE_BITS_H

#include "base/base.h"

static inline unsigned ctz64(uint64_t x) { return (unsigned)__builtin_ctzll(x); }
static inline unsigned popcount64(uint64_t x) { return (unsigned)__builtin_popcountll(x); }

/* The n lowest bits; n at most 64. */
static inline uint64_t low_bits(unsigned n) {
  return n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1;
}

static inline bool bit_test(const uint64_t *w, size_t i) { return w[i >> 6] >> (i & 63) & 1; }
static inline void bit_set(uint64_t *w, size_t i) {
  __atomic_store_n(&w[i >> 6], w[i >> 6] | UINT64_C(1) << (i & 63), __ATOMIC_RELAXED);
}
static inline void bit_clear(uint64_t *w, size_t i) {
  __atomic_store_n(&w[i >> 6], w[i >> 6] & ~(UINT64_C(1) << (i & 63)), __ATOMIC_RELAXED);
}

/* The mask of the bits of word `w` that lie in [lo, hi). */
static inline uint64_t range_mask(size_t w, size_t lo, size_t hi) {
  size_t first = w * 64, from = lo > first ? lo - first : 0, to = hi > first ? hi - first : 0;
  if (from >= 64 || to == 0)
    return 0;
  return low_bits(to > 64 ? 64 : (unsigned)to) & ~low_bits((unsigned)from);
}

/* Of a bitmap that one thread changes and others may look at meanwhile: whole words are stored. Who
 * finds a bit set finds what was written before it. */
static inline void bits_set_range(uint64_t *w, size_t lo, size_t hi) {
  for (size_t i = lo >> 6; lo < hi && i <= (hi - 1) >> 6; i++)
    __atomic_store_n(&w[i], w[i] | range_mask(i, lo, hi), __ATOMIC_RELEASE);
}

static inline void bits_clear_range(uint64_t *w, size_t lo, size_t hi) {
  for (size_t i = lo >> 6; lo < hi && i <= (hi - 1) >> 6; i++)
    __atomic_store_n(&w[i], w[i] & ~range_mask(i, lo, hi), __ATOMIC_RELAXED);
}

static inline bool is_power_of_two(size_t x) { return x != 0 && (x & (x - 1)) == 0; }

#endif
