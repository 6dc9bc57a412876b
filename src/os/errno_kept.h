/* Calls into libc and the kernel that leave errno as it was: a caller of the runtime does not
 * expect it to change, and a signal handler must not change it. */
#ifndef OS_ERRNO_KEPT_H
#define OS_ERRNO_KEPT_H

#include "base/base.h"

#include <errno.h>

/* The value of a call that sets errno and returns -1 when it fails, as a value or -errno. */
static inline long result_of(long r, int saved) {
  if (r == -1)
    r = -errno;
  errno = saved;
  return r;
}
#define ERRNO_KEPT(call)                                                                           \
  __extension__({                                                                                  \
    int errno_before_ = errno;                                                                     \
    result_of((long)(call), errno_before_);                                                        \
  })

#endif
