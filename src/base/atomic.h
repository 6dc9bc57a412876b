/* Atomic operations on plain fields. Atomics stand only where there is a race; the name says
 * the order, and the place says why that order is enough. */
#ifndef BASE_ATOMIC_H
#define BASE_ATOMIC_H

#ifndef GORT_BUILD
#error "internal to gort"
#endif

#include "base/base.h"

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_seqcst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_seqcst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define xchg_seqcst(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#define add_relaxed(p, v) __atomic_add_fetch((p), (v), __ATOMIC_RELAXED)
#define add_seqcst(p, v) __atomic_add_fetch((p), (v), __ATOMIC_SEQ_CST)
#define or_relaxed(p, v) __atomic_fetch_or((p), (v), __ATOMIC_RELAXED)
#define and_relaxed(p, v) __atomic_fetch_and((p), (v), __ATOMIC_RELAXED)

/* Stores `to` when *p is `from`; true when it did. */
#define cas_seqcst(p, from, to)                                                                    \
  __extension__({                                                                                  \
    __typeof__(*(p)) cas_from_ = (from);                                                           \
    __atomic_compare_exchange_n((p), &cas_from_, (to), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  })

/* Stores before it are seen by all before loads after it are made. The thread sanitizer has no
 * fences; an exchange does the same on the processors at hand. */
static inline void full_fence(void) {
#if defined(GORT_TSAN)
  int dummy = 0;
  (void)__atomic_exchange_n(&dummy, 1, __ATOMIC_SEQ_CST);
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Orders the compiler only: against a signal handler on the same thread. */
#define signal_fence() __atomic_signal_fence(__ATOMIC_SEQ_CST)

static inline void cpu_relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  __asm__ __volatile__("yield");
#endif
}

#endif
