/* Copies of pages as they were when marking last looked at them. */
#ifndef GC_COPIES_H
#define GC_COPIES_H

#include "base/base.h"

/* Makes room for some; at the beginning of a cycle. */
void copies_begin(void);
/* The copy of the page of the system's that p lies in, at p's place in it; zero where nothing was
 * looked at yet. NULL: there is no room for more. For who works on the page, one worker at a time.
 */
uintptr_t *copy_at(uintptr_t p);
/* The cycle is over. */
void copies_forget(void);

#endif
