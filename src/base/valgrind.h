/* What valgrind has to be told: when the stack is another one, what the collector reads, and which
 * memory is not in use. Elsewhere each of these is a test of one constant.
 *
 * memcheck knows of every bit whether it has a value, and complains when a branch depends on one
 * that has none. The collector takes whatever lies on a stack for a pointer. It does so between
 * valgrind_silence and valgrind_speak, and says valgrind_defined of what it keeps of that; the
 * program's own words stay as they are, so that its errors are found all the same. */
#ifndef BASE_VALGRIND_H
#define BASE_VALGRIND_H

#include "base/base.h"

extern bool valgrind_runs; /* this program; constant after valgrind_init */

void valgrind_init(void); /* before anything else here */

void valgrind_tell_leaving(uintptr_t sp);
void valgrind_tell_arrived(void);
void valgrind_tell_errors(bool on);
void valgrind_tell_defined(const void *p, size_t size);
void valgrind_tell_unused(const void *p, size_t size);

/* The next thing that the thread does is to go on at sp, on another stack; and there the first
 * thing is valgrind_arrived. */
static inline void valgrind_leaving_for(uintptr_t sp) {
  if (unlikely(valgrind_runs))
    valgrind_tell_leaving(sp);
}
static inline void valgrind_arrived(void) {
  if (unlikely(valgrind_runs))
    valgrind_tell_arrived();
}

/* No errors of the calling thread are reported in between. They nest. */
static inline void valgrind_silence(void) {
  if (unlikely(valgrind_runs))
    valgrind_tell_errors(false);
}
static inline void valgrind_speak(void) {
  if (unlikely(valgrind_runs))
    valgrind_tell_errors(true);
}

/* All bits there have a value. */
static inline void valgrind_defined(const void *p, size_t size) {
  if (unlikely(valgrind_runs))
    valgrind_tell_defined(p, size);
}

/* Nobody goes there, until it is defined; nor does memcheck look for leaks in it at the end. */
static inline void valgrind_unused(const void *p, size_t size) {
  if (unlikely(valgrind_runs))
    valgrind_tell_unused(p, size);
}

#endif
