/* heap_gort.h: what workloads.c asks of a heap, from gort. */
#include <gort.h>

#define HEAP_COLLECTS
#define HEAP_FINALIZER(f, T, x) static void f(T *x)
#define HEAP_TYPED GORT_TYPE

#define heap_start gort_init
#define heap_version() gort_version()
#define heap_new(T) gort_new(T)
#define heap_new_array(T, n) gort_new_array(T, (size_t)(n))
#define heap_new_of(T, id) gort_new_of(T, id)
#define heap_collect gort_gc
#define heap_set_finalizer(p, f) gort_set_finalizer(p, f)
#define heap_clear_finalizer(p) gort_clear_finalizer(p)
#define heap_run_finalizers() ((void)0)
#define heap_bytes(n) gort_alloc((size_t)(n))
#define heap_sleep(ns) gort_sleep(ns)
#define heap_drop_tree(t) ((void)0)

static struct cell *volatile last_cell;

#define heap_retire(i, p) ((i) % 1024 ? (void)0 : (void)(last_cell = (p)))

static inline double heap_pause(double took) {
  static gort_mem_stats s;
  (void)took;
  gort_read_mem_stats(&s);
  return (double)s.pause_ns[(s.num_gc + 255) % 256] / 1e9;
}

static inline void heap_thread(void (*fn)(void *)) {
  int error = gort_thread_start(fn, NULL);
  if (error != 0) {
    fprintf(stderr, "gort_thread_start: %s\n", strerror(error));
    exit(1);
  }
}
