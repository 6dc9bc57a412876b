/* From a function that does not run at the moment to its caller. */
#ifndef SCHED_UNWIND_H
#define SCHED_UNWIND_H

#include "base/base.h"
#include "base/m.h"
#include "base/switch.h"

/* What may be read: the stacks that a goroutine and its thread run on. Of the first, the lowest
 * words from `copied` on may have to be read from a copy. */
struct readable {
  struct stack stack[4];
  uintptr_t copied;
  struct stack copy;
};

/* The caller of who has left its registers at sp, as base/switch.h says; false when sp cannot be
 * right. */
bool unwind_saved(struct frame *f, uintptr_t sp, const struct readable *r);
/* The caller of f; false at the end of the stack, or where nothing is known. */
bool unwind(struct frame *f, const struct readable *r);

#endif
