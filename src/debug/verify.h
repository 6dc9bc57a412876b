/* The heap walker: verifies every structure of the heap, and throws at the first that is wrong.
 *
 * Run before and after marking, with the world stopped, under GORTDEBUG=verifyheap=1 and in
 * the torture build. */
#ifndef DEBUG_VERIFY_H
#define DEBUG_VERIFY_H

#include "base/base.h"

void verify_init(void);
/* World stopped, caches flushed. `when` is named in the throw. */
void verify_heap(const char *when);

#endif
