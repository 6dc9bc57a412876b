/* The table of descriptors' entries, by number: a directory of chunks, both made when they are
 * first needed and never freed, so that finding an entry takes no lock. The kernel gives the lowest
 * free number, so a chunk is well filled. */
#include "heap/malloc.h"
#include "os/os.h"
#include "sched/polldesc.h"

#include <limits.h>
#include <string.h>

enum { CHUNK = 1024, CHUNKS = INT_MAX / CHUNK + 1 };

static struct polldesc **directory; /* of CHUNKS; atomic, as are its entries */
static uint32_t nchunks;            /* none is there from this one on; grows; atomic */

/* Whoever is second throws his away. */
static struct polldesc **make_directory(void) {
  size_t size = CHUNKS * sizeof *directory;
  struct polldesc **d = os_map_table(size);
  if (d == NULL || cas_seqcst(&directory, NULL, d))
    return d;
  os_unmap(d, size);
  return load_acquire(&directory);
}

static void clear(struct polldesc *chunk, int first) {
  memset(chunk, 0, CHUNK * sizeof *chunk);
  for (int i = 0; i < CHUNK; i++)
    chunk[i].fd = first + i;
}

static void raise_nchunks(uint32_t to) {
  uint32_t n = load_relaxed(&nchunks);
  while (n < to && !cas_seqcst(&nchunks, n, to))
    n = load_relaxed(&nchunks);
}

static struct polldesc *make_chunk(struct polldesc **at, uint32_t i) {
  size_t size = CHUNK * sizeof **at;
  struct polldesc *chunk = os_map(size, os_page_size());
  if (chunk == NULL)
    return NULL;
  clear(chunk, (int)i * CHUNK);
  if (!cas_seqcst(at, NULL, chunk)) {
    os_unmap(chunk, size);
    return load_acquire(at);
  }
  add_relaxed(&persistent_sys, size);
  raise_nchunks(i + 1);
  return chunk;
}

static struct polldesc *chunk_of(uint32_t i) {
  struct polldesc **d = load_acquire(&directory);
  if (unlikely(d == NULL) && (d = make_directory()) == NULL)
    return NULL;
  struct polldesc *chunk = load_acquire(&d[i]);
  return likely(chunk != NULL) ? chunk : make_chunk(&d[i], i);
}

struct polldesc *polldesc_of(int fd) {
  if (fd < 0)
    return NULL;
  struct polldesc *chunk = chunk_of((uint32_t)fd / CHUNK);
  return likely(chunk != NULL) ? &chunk[(uint32_t)fd % CHUNK] : NULL;
}

void polltable_after_fork(void) {
  for (uint32_t i = 0; i < nchunks; i++)
    if (directory[i] != NULL)
      clear(directory[i], (int)i * CHUNK);
}
