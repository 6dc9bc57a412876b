/* Tells the sanitizers and valgrind which stack runs: otherwise the first takes a switch for a
 * stack gone wild, the second sees races between goroutines on one thread, or none, and the third
 * takes what lies between two stacks for a frame.
 *
 * A switch is: before_switch(from, to) on the stack that is left, switch_to, and on the stack
 * that is arrived at, after_switch(its own g). g0 stands for a thread's own stack. */
#ifndef SCHED_SANITIZER_H
#define SCHED_SANITIZER_H

#include "base/valgrind.h"
#include "sched/g.h"

#if defined(GORT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(GORT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

/* What switches must not be instrumented itself: it begins on one stack and ends on another. */
#if defined(__clang__)
#define SWITCHES NOINLINE __attribute__((disable_sanitizer_instrumentation))
#elif defined(GORT_TSAN)
#define SWITCHES NOINLINE __attribute__((no_sanitize("thread")))
#else
#define SWITCHES NOINLINE
#endif

/* For a g0, on its own thread. */
static inline void sanitize_thread(struct g *g0) {
#if defined(GORT_TSAN)
  g0->tsan_fiber = __tsan_get_current_fiber();
#else
  (void)g0;
#endif
}

static inline void sanitize_new(struct g *g) {
#if defined(GORT_TSAN)
  g->tsan_fiber = __tsan_create_fiber(0);
#else
  (void)g;
#endif
}

/* The goroutine has ended; not called on its stack. Frames that it has not left properly may have
 * left poison behind. */
static inline void sanitize_end(struct g *g) {
#if defined(GORT_TSAN)
  __tsan_destroy_fiber(g->tsan_fiber);
  g->tsan_fiber = NULL;
#endif
#if defined(GORT_ASAN)
  __asan_unpoison_memory_region((void *)g->stack.lo, g->stack.hi - g->stack.lo);
#endif
  (void)g;
}

/* `ends`: from does not come back, and its fake stack goes. */
static inline __attribute__((always_inline)) void before_switch(struct g *from, struct g *to,
                                                                bool ends) {
#if defined(GORT_ASAN)
  __sanitizer_start_switch_fiber(ends ? NULL : &from->asan_fake_stack, (void *)to->stack.lo,
                                 to->stack.hi - to->stack.lo);
#endif
#if defined(GORT_TSAN)
  __tsan_switch_to_fiber(to->tsan_fiber, 0);
#endif
  valgrind_leaving_for(to->sp);
  (void)from, (void)ends;
}

static inline __attribute__((always_inline)) void after_switch(struct g *here) {
  valgrind_arrived();
#if defined(GORT_ASAN)
  __sanitizer_finish_switch_fiber(here->asan_fake_stack, NULL, NULL);
#endif
  (void)here;
}

#endif
