/* Shapes: types that are known only by which of their words are pointers.
 *
 * A small array knows no more of its elements. When gort_realloc makes it large, it needs a type
 * that lives for good; of one shape there is one. */
#ifndef HEAP_SHAPE_H
#define HEAP_SHAPE_H

#include "base/base.h"
#include "gort/type.h"

/* The type of `words` words (at most 64) of which those in the mask are pointers. Any thread. */
const gort_type *shape_type(uint64_t mask, size_t words);

#endif
