/* Roots: data and bss, what the program names, threads.
 *
 * The collector reads all of this with the world stopped, without locks: the sets of ranges and
 * of root objects change only under a lock, so no stopped thread is in the middle of a change.
 *
 * A thread has these places: the stack it runs on from its published stack pointer up; its
 * registers, where these are not on that stack; what lies suspended beneath a goroutine on its
 * own stack; and thread-local variables, static ones beside its control block and blocks that
 * were allocated for libraries loaded later. A thread's own stack holds nothing while the thread
 * runs goroutines, but its thread-local variables do, whoever uses it now. */
#include "gc/roots.h"

#include "base/atomic.h"
#include "base/lock.h"
#include "base/m.h"
#include "base/throw.h"
#include "gc/objects.h"
#include "gc/rangeset.h"
#include "gc/threads.h"
#include "gort/memory.h"
#include "heap/malloc.h"
#include "heap/upcall.h"
#include "os/os.h"
#include "os/tls.h"

typedef void scan_fn(uintptr_t lo, uintptr_t hi);

uint64_t roots_bytes;

static struct roots *loaded; /* the list in force; changed with the world stopped */

static struct mutex rootlock;
static struct rangeset ranges;      /* gort_add_roots; under rootlock */
static struct rangeset rootobjects; /* gort_alloc_root: lo is the object, hi WAS_EMPTY or 0; under
                                       rootlock */

/* In pieces, whole words only. */
static void scan_range(uintptr_t lo, uintptr_t hi, scan_fn *scan) {
  const uintptr_t piece = 128 << 10;
  lo = ALIGN_UP(lo, PTR_SIZE);
  hi = ALIGN_DOWN(hi, PTR_SIZE);
  if (lo >= hi)
    return;
  roots_bytes += hi - lo;
  for (; hi - lo > piece; lo += piece)
    scan(lo, lo + piece);
  scan(lo, hi);
}

static void scan_stack(struct stack s, scan_fn *scan) { scan_range(s.lo, s.hi, scan); }

/* A stack pointer that is not known is published as the stack's lowest address; there nothing
 * may be mapped yet, for the main thread's stack grows. */
static void scan_own_stack(const struct m *m, scan_fn *scan) {
  if (m->stack.hi == 0)
    return;
  uintptr_t lo = m->sp > m->stack.lo ? m->sp : os_lowest_mapped(m->stack.lo, m->stack.hi);
  scan_range(lo, m->stack.hi, scan);
}

/* A block that lies within the static storage is scanned with that. A thread may have been
 * stopped while its vector was being replaced; what is found there is not believed blindly. */
static void scan_tls_block(const struct m *m, const struct segment *s, scan_fn *scan) {
  uintptr_t p = os_tls_block(m->tcb, s->tls_module), end = p + (s->hi - s->lo);
  bool is_static = p >= m->tls.lo && p < m->tls.hi;
  if (p != 0 && !is_static && os_is_mapped(p, end))
    scan_range(p, end, scan);
}

static void scan_tls(const struct m *m, scan_fn *scan) {
  scan_stack(m->tls, scan);
  for (size_t i = 0; m->tcb != 0 && i < loaded->n; i++)
    if (loaded->segment[i].tls_module != 0)
      scan_tls_block(m, &loaded->segment[i], scan);
}

static void scan_data(scan_fn *scan) {
  for (size_t i = 0; i < loaded->n; i++)
    if (loaded->segment[i].tls_module == 0)
      scan_range(loaded->segment[i].lo, loaded->segment[i].hi, scan);
}

static void scan_thread(const struct m *m, scan_fn *scan) {
  scan_own_stack(m, scan);
  scan_stack(m->under, scan);
  scan_stack(m->regs, scan);
  scan_tls(m, scan);
}

static void scan_set(const struct rangeset *s, scan_fn *scan) {
  for (size_t i = 0; i < s->size; i++)
    if (s->table[i].count != 0)
      scan_range(s->table[i].lo, s->table[i].hi, scan);
}

/* The words of the table that are no objects are small numbers. */
static void scan_root_objects(scan_fn *scan) {
  const struct rangeset *s = &rootobjects;
  scan_range((uintptr_t)s->table, (uintptr_t)(s->table + s->size), scan);
}

struct roots *roots_prepare(void) {
  return objects_list();
}

void roots_install(struct roots *r) {
  if (loaded != NULL)
    objects_free(loaded);
  loaded = r;
}

bool roots_valid(void) { return loaded != NULL && objects_unchanged(loaded); }

void roots_after_fork(void) {
  if (loaded != NULL)
    objects_free(loaded);
  loaded = NULL;
}

void roots_scan(void (*scan)(uintptr_t lo, uintptr_t hi)) {
  roots_bytes = 0;
  scan_data(scan);
  scan_set(&ranges, scan);
  scan_root_objects(scan);
  for (const struct m *m = allm; m != NULL; m = m->alllink)
    if (m->in_use)
      scan_thread(m, scan);
  upcalls.scan_goroutines(scan);
  upcalls.mark_queues(scan);
}

bool roots_is_static(const void *p) { return objects_have((uintptr_t)p); }

/* What the program names. */

static bool change(struct rangeset *s, bool (*op)(struct rangeset *, uintptr_t, uintptr_t),
                   const void *lo, const void *hi) {
  lock(&rootlock);
  bool done = op(s, (uintptr_t)lo, (uintptr_t)hi);
  unlock(&rootlock);
  return done;
}

void gort_add_roots(const void *lo, const void *hi) {
  CHECK_ATTACHED("gort_add_roots");
  if (lo > hi)
    throw("gort_add_roots: lo %p is above hi %p", lo, hi);
  if (!change(&ranges, rangeset_add, lo, hi))
    throw("gort_add_roots: out of memory");
}

void gort_remove_roots(const void *lo, const void *hi) {
  CHECK_ATTACHED("gort_remove_roots");
  if (lo > hi)
    throw("gort_remove_roots: lo %p is above hi %p", lo, hi);
  if (!change(&ranges, rangeset_remove, lo, hi))
    throw("gort_remove_roots: [%p, %p) was not added", lo, hi);
}

/* Root objects. Those of size 0 are all the one zero-size object, which is in the set once for
 * each. When it grows by gort_realloc nobody knows whether that is one of the roots or plain memory
 * of size 0. So as long as any of them is left the new object becomes a root, WAS_EMPTY, and all
 * remain, until one such object is freed. */
enum { WAS_EMPTY = 1 };

/* Until it is in the set the object is on this stack. */
void *gort_alloc_root(size_t size) {
  CHECK_ATTACHED("gort_alloc_root");
  void *p = mallocgc_or_throw(size, malloc_align(size), GORT_SCAN, NULL, "gort_alloc_root");
  if (!change(&rootobjects, rangeset_add, p, NULL))
    throw_out_of_memory("gort_alloc_root", size);
  return p;
}

static bool remove_root_object(uintptr_t p) {
  return rangeset_remove(&rootobjects, p, 0) ||
         (rangeset_remove(&rootobjects, p, WAS_EMPTY) &&
          rangeset_remove(&rootobjects, (uintptr_t)zerobase, 0));
}

void gort_free_root(void *p) {
  CHECK_ATTACHED("gort_free_root");
  if (p == NULL)
    return;
  lock(&rootlock);
  bool done = remove_root_object((uintptr_t)p);
  unlock(&rootlock);
  if (!done)
    throw("gort_free_root: %p is no root object", p);
}

/* False when there is no memory. */
static bool move_root_object(uintptr_t from, uintptr_t to) {
  const uintptr_t empty = (uintptr_t)zerobase;
  if (from == empty)
    return !rangeset_has(&rootobjects, empty, 0) || rangeset_add(&rootobjects, to, WAS_EMPTY);
  if (rangeset_remove(&rootobjects, from, 0))
    return rangeset_add(&rootobjects, to, 0);
  if (rangeset_remove(&rootobjects, from, WAS_EMPTY))
    return to == empty || rangeset_add(&rootobjects, to, WAS_EMPTY);
  return true;
}

/* A root object that moves stays one. */
static void root_moved(uintptr_t from, uintptr_t to) {
  if (load_relaxed(&rootobjects.size) == 0)
    return;
  lock(&rootlock);
  bool done = move_root_object(from, to);
  unlock(&rootlock);
  if (!done)
    throw("gort_realloc: out of memory: cannot grow the table of root objects");
}

void roots_init(void) { upcalls.object_moved = root_moved; }
