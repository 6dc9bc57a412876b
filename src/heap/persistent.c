/* Memory for the runtime's own structures: persistentalloc, which never frees, and fixalloc, which
 * hands out objects of one size and uses freed ones anew. */
#include "base/atomic.h"
#include "base/lock.h"
#include "base/throw.h"
#include "heap/malloc.h"
#include "os/os.h"

#include <string.h>

enum { CHUNK = 256 << 10, FIX_CHUNK = 64 << 10 };

uint64_t persistent_sys;

static struct mutex persistent_lock; /* guards the two below */
static uintptr_t chunk, chunk_end;

static uintptr_t map(size_t size) {
  void *p = os_map(ALIGN_UP(size, os_page_size()), os_page_size());
  if (p == NULL)
    throw("out of memory: cannot map %zu bytes for the runtime", size);
  add_relaxed(&persistent_sys, ALIGN_UP(size, os_page_size()));
  return (uintptr_t)p;
}

void persistent_hold(void) { lock_any(&persistent_lock); }

void persistent_release(void) { unlock_any(&persistent_lock); }

void *persistentalloc(size_t size, size_t align) {
  if (align == 0)
    align = PTR_SIZE;
  if (size >= CHUNK / 4)
    return (void *)map(size);
  lock_any(&persistent_lock);
  uintptr_t p = ALIGN_UP(chunk, align);
  if (p + size > chunk_end || chunk == 0) {
    chunk = map(CHUNK);
    chunk_end = chunk + CHUNK;
    p = ALIGN_UP(chunk, align);
  }
  chunk = p + size;
  unlock_any(&persistent_lock);
  return (void *)p;
}

static bool has_room(struct fixalloc *f) {
  if (f->chunk_end - f->chunk >= f->size)
    return true;
  void *p = os_map(FIX_CHUNK, os_page_size());
  if (p == NULL)
    return false;
  add_relaxed(&persistent_sys, FIX_CHUNK);
  f->chunk = (uintptr_t)p;
  f->chunk_end = f->chunk + FIX_CHUNK;
  return true;
}

void *fixalloc_alloc(struct fixalloc *f) {
  void *p = f->free;
  if (p != NULL) {
    f->free = *(void **)p;
    return memset(p, 0, f->size);
  }
  if (!has_room(f))
    return NULL;
  p = (void *)f->chunk;
  f->chunk += f->size;
  return p;
}

void fixalloc_free(struct fixalloc *f, void *p) {
  *(void **)p = f->free;
  f->free = p;
}
