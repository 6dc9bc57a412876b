/* workloads: the same work for every heap of C's that is compared.
 *
 *     bench_HEAP WORKLOAD [N [M]]
 *
 * One source, so that only the heap differs: it is compiled once for each header that HEAP
 * names, and each of those defines the same few words in its own terms:
 *
 *     heap_start()               before anything else
 *     heap_version()             what is measured, as a string
 *     heap_new(T)                a zeroed T
 *     heap_sleep(ns)
 *     heap_thread(fn)            run fn(NULL) on a thread that may use the heap
 *     heap_drop_tree(t)          t is needed no more
 *     heap_retire(i, p)          neither is p, the ith object of its thread
 *     HEAP_COLLECTS              defined where there is a collector, which adds
 *       heap_new_array(T, n)
 *       heap_bytes(n)            n zeroed bytes, which may hold pointers
 *       heap_collect()           a whole collection
 *       heap_pause(took)         how many seconds of the last one the world stood still; took: how
 *                                many it took
 *       HEAP_FINALIZER(f, T, x)  the head of the finalizer f, whose argument is T *x
 *       heap_set_finalizer(p, f), heap_clear_finalizer(p)
 *       heap_run_finalizers()    let them run, where they do not by themselves
 *     HEAP_TYPED(id, T, ...)     defined where a type can say where its pointers are, with
 *       heap_new_of(T, id)
 */
#include "bench.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct node {
  struct node *left, *right;
};

struct cell { /* 32 bytes */
  struct cell *next;
  uint64_t value[3];
};

struct object { /* 56 bytes */
  struct object *next;
  uint64_t value[6];
};

#include HEAP

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", heap_version(), what);
  exit(1);
}

/* trees: a long-lived binary tree of depth n, and many short-lived smaller ones. */

typedef struct node *build_fn(long depth);

static struct node *build(long depth) {
  struct node *left = depth ? build(depth - 1) : NULL;
  struct node *right = depth ? build(depth - 1) : NULL;
  struct node *node = heap_new(struct node);
  *node = (struct node){left, right};
  return node;
}

static long count(const struct node *node) {
  return node->left ? 1 + count(node->left) + count(node->right) : 1;
}

static void check_tree(const struct node *tree, long depth) {
  if (count(tree) != (2L << depth) - 1)
    fail("a tree has lost nodes");
}

static void plant(long depth, build_fn *build_one) {
  double start = now();
  struct node *large = build_one(depth);
  for (long d = 4; d <= depth; d += 4) {
    for (long i = 1L << (depth - d + 4); i > 0; i--) {
      struct node *tree = build_one(d);
      check_tree(tree, d);
      heap_drop_tree(tree);
    }
  }
  check_tree(large, depth);
  report("time", now() - start, "s");
}

static void trees(long depth, long unused) {
  (void)unused;
  plant(depth, build);
}

#ifdef HEAP_TYPED
HEAP_TYPED(node_type, struct node, left, right);

static struct node *build_typed(long depth) {
  struct node *left = depth ? build_typed(depth - 1) : NULL;
  struct node *right = depth ? build_typed(depth - 1) : NULL;
  struct node *node = heap_new_of(struct node, node_type);
  *node = (struct node){left, right};
  return node;
}

static void trees_typed(long depth, long unused) {
  (void)unused;
  plant(depth, build_typed);
}
#endif

/* alloc: n cells on each of some threads, which die at once (malloc: after 1024 more). */

static long cells;
static atomic_bool go;
static atomic_long finished;

static void allocate(void *unused) {
  (void)unused;
  while (!atomic_load(&go))
    ;
  for (long i = 0; i < cells; i++) {
    struct cell *cell = heap_new(struct cell);
    heap_retire(i, cell);
  }
  atomic_fetch_add(&finished, 1);
}

static void alloc(long n, long threads) {
  cells = n;
  for (long i = 0; i < threads; i++)
    heap_thread(allocate);
  double start = now();
  atomic_store(&go, true);
  while (atomic_load(&finished) < threads)
    heap_sleep(1000000);
  report("each", (now() - start) * 1e9 / (double)n, "ns");
}

#ifdef HEAP_COLLECTS

static uint64_t random_state = 88172645463325252;

static long random_below(long n) { /* xorshift64 */
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (long)(random_state % (uint64_t)n);
}

static void *volatile lasting; /* what is to live; volatile, so that compilers keep it */

static struct object **new_objects(long n) {
  struct object **objects = heap_new_array(struct object *, n);
  lasting = objects;
  for (long i = 0; i < n; i++)
    objects[i] = heap_new(struct object);
  return objects;
}

static void timed_collection(void) {
  double start = now();
  heap_collect();
  double took = now() - start;
  report("collect", took * 1e3, "ms");
  report("pause", heap_pause(took) * 1e3, "ms");
}

/* mark: collecting a heap of n live objects, each of which points to another at random, and
 * which are found in random order. */

static void shuffle(struct object **objects, long n) {
  for (long i = 0; i < n; i++)
    objects[i]->next = objects[random_below(n)];
  for (long i = n - 1; i > 0; i--) {
    long j = random_below(i + 1);
    struct object *object = objects[i];
    objects[i] = objects[j];
    objects[j] = object;
  }
}

static void mark(long n, long unused) {
  (void)unused;
  struct object **objects = new_objects(n);
  shuffle(objects, n);
  heap_collect();
  for (int i = 0; i < 3; i++)
    timed_collection();
}

/* size: objects of n bytes, which die at once: two gigabytes of them, or 20 million if that is
 * less.
 */

static void size(long n, long unused) {
  (void)unused;
  long count = (2L << 30) / n < 20000000 ? (2L << 30) / n : 20000000;
  double start = now();
  for (long i = 0; i < count; i++) {
    void *p = heap_bytes(n);
    if (i % 64 == 0)
      lasting = p;
  }
  report("each", (now() - start) * 1e9 / (double)count, "ns");
}

/* fin: n objects that die at once, each with a finalizer: setting them, while some run, and
 * until all have run. */

static atomic_long finalized;

HEAP_FINALIZER(count_finalized, struct cell, cell) {
  (void)cell;
  atomic_fetch_add(&finalized, 1);
}

/* Stale words on a stack may keep some of them; a heap that loses more is at fault. */
static void await_finalizers(long n) {
  for (long tries = 1; atomic_load(&finalized) < n - 100; tries++) {
    heap_run_finalizers();
    heap_sleep(100000);
    if (tries % 1000 == 0)
      heap_collect();
    if (tries > 100000)
      fail("finalizers do not run");
  }
}

static void fin(long n, long unused) {
  (void)unused;
  for (int round = 0; round < 3; round++) {
    atomic_store(&finalized, 0);
    double start = now();
    for (long i = 0; i < n; i++)
      heap_set_finalizer(heap_new(struct cell), count_finalized);
    double set = now();
    heap_collect();
    await_finalizers(n);
    report("set", (set - start) * 1e9 / (double)n, "ns");
    report("in all", (now() - start) * 1e9 / (double)n, "ns");
  }
}

/* finlive: collecting while n finalizers are set on live objects; clearing them. */

static void finlive(long n, long unused) {
  (void)unused;
  struct cell **live = heap_new_array(struct cell *, n);
  lasting = live;
  for (long i = 0; i < n; i++) {
    live[i] = heap_new(struct cell);
    heap_set_finalizer(live[i], count_finalized);
  }
  heap_collect();
  for (int i = 0; i < 3; i++)
    timed_collection();
  double start = now();
  for (long i = 0; i < n; i++)
    heap_clear_finalizer(live[i]);
  report("clear", (now() - start) * 1e9 / (double)n, "ns");
}

/* pause: the longest that 64 allocations and stores took, over a heap of n live objects that
 * are replaced at random all the time; and how many went through in a second. */

static void replace_some(struct object **objects, long n) {
  for (int i = 0; i < 64; i++) {
    struct object *object = heap_new(struct object);
    object->next = objects[random_below(n)];
    objects[random_below(n)] = object;
    object->next = NULL;
  }
}

static void pause_longest(long n, long seconds) {
  struct object **objects = new_objects(n);
  double start = now(), last = start, longest = 0, replaced = 0;
  while (last < start + (double)seconds) {
    replace_some(objects, n);
    replaced += 64;
    double t = now();
    longest = t - last > longest ? t - last : longest;
    last = t;
  }
  report("longest", longest * 1e3, "ms");
  report("rate", replaced / 1e6 / (last - start), "M/s");
}

#endif

static const struct workload workloads[] = {
    {"trees", trees},
    {"alloc", alloc},
#ifdef HEAP_TYPED
    {"trees-typed", trees_typed},
#endif
#ifdef HEAP_COLLECTS
    {"mark", mark},
    {"size", size},
    {"fin", fin},
    {"finlive", finlive},
    {"pause", pause_longest},
#endif
    {NULL, NULL},
};

int main(int argc, char **argv) {
  heap_start();
  if (wants_version(argc, argv))
    return puts(heap_version()) < 0;
  int status = run_workload(workloads, argv + 1);
  report_peak();
  return status;
}
