/* The tiny allocator: objects under 16 bytes without pointers share blocks of 16 bytes.
 *
 * A table beside the heap holds, for each block, where objects begin and end in it, a bit for each
 * byte: so that gort_realloc knows an object from its neighbours. */
#ifndef HEAP_TINY_H
#define HEAP_TINY_H

#include "base/m.h"

uint64_t tiny_borders_bytes(size_t arena_size);
void tiny_init(void *borders);
/* size in 1 .. 15. 0: out of memory. Within acquirem. */
uintptr_t tiny_alloc(struct m *m, size_t size, size_t align);
/* Whether an object of a tiny block begins at p, and where it ends. (A gap between two objects
 * looks like an object.) */
bool tiny_object(uintptr_t p, uintptr_t *end);

/* The same table, for small arrays of a type: how many words an element has. */
void note_element(uintptr_t p, size_t size);
size_t element_words(uintptr_t p);

#endif
