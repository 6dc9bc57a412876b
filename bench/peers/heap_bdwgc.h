/* heap_bdwgc.h: what workloads.c asks of a heap, from the Boehm-Demers-Weiser collector. */
#define GC_THREADS
#include <gc.h>

#include "threads.h"

#define HEAP_COLLECTS
#define HEAP_FINALIZER(f, T, x)                                                                    \
  static void f##_of(T *x);                                                                        \
  static void f(void *p, void *unused) {                                                           \
    (void)unused;                                                                                  \
    f##_of(p);                                                                                     \
  }                                                                                                \
  static void f##_of(T *x)

#define heap_new(T) ((T *)GC_MALLOC(sizeof(T)))
#define heap_new_array(T, n) ((T *)GC_MALLOC(sizeof(T) * (size_t)(n)))
#define heap_collect GC_gcollect
#define heap_set_finalizer(p, f) GC_register_finalizer(p, f, NULL, NULL, NULL)
#define heap_clear_finalizer(p) GC_register_finalizer(p, NULL, NULL, NULL, NULL)
#define heap_run_finalizers() GC_invoke_finalizers()
#define heap_bytes(n) GC_MALLOC((size_t)(n))
#define heap_pause(took) (took) /* the world stands all the time */
#define heap_drop_tree(t) ((void)0)

static inline void heap_start(void) {
  GC_INIT();
  GC_start_mark_threads(); /* or else a single thread marks, until there is a second one */
}

static struct cell *volatile last_cell;

#define heap_retire(i, p) ((i) % 1024 ? (void)0 : (void)(last_cell = (p)))

static inline const char *heap_version(void) {
  static char version[32];
  unsigned v = GC_get_version();
  snprintf(version, sizeof version, "%u.%u.%u", v >> 16, v >> 8 & 0xff, v & 0xff);
  return version;
}
