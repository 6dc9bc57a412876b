#include "heap/tiny.h"

#include "base/bits.h"
#include "heap/mcache.h"
#include "heap/mheap.h"

static uint16_t *borders; /* of each 16 bytes of the arena; written by the thread that owns the
                             block until it is full */

uint64_t tiny_borders_bytes(size_t arena_size) { return arena_size / TINY_SIZE * sizeof *borders; }

void tiny_init(void *table) { borders = table; }

static uint16_t *borders_of(uintptr_t p) { return &borders[(p - mheap.arena) / TINY_SIZE]; }

/* The end of the block is a border anyhow. */
static uintptr_t mark_object(uintptr_t p, size_t size) {
  unsigned at = p % TINY_SIZE;
  *borders_of(p) |= (uint16_t)(1u << at | 1u << (at + size));
  return p;
}

uintptr_t tiny_alloc(struct m *m, size_t size, size_t align) {
  size_t off = ALIGN_UP(m->tinyoffset, align);
  if (m->tiny != 0 && off + size <= TINY_SIZE) {
    m->tinyoffset = off + size;
    m->stats.tinyallocs++;
    return mark_object(m->tiny + off, size);
  }
  uintptr_t block = mcache_alloc(m, TINY_SPAN_CLASS);
  if (block == 0)
    return 0;
  *borders_of(block) = 0;
  if (m->tiny == 0 || size < m->tinyoffset) { /* the new block has more room left */
    m->tiny = block;
    m->tinyoffset = size;
  }
  return mark_object(block, size);
}

bool tiny_object(uintptr_t p, uintptr_t *end) {
  unsigned at = p % TINY_SIZE, bits = *borders_of(p);
  unsigned later = bits & ~(unsigned)low_bits(at + 1);
  *end = p - at + (later ? ctz64(later) : TINY_SIZE);
  return bits >> at & 1;
}

/* Two arrays of 8 bytes share an entry, which says 1 for both. */
void note_element(uintptr_t p, size_t size) {
  *borders_of(p) = (uint16_t)(size % PTR_SIZE == 0 ? size / PTR_SIZE : 1);
}

size_t element_words(uintptr_t p) { return *borders_of(p); }
