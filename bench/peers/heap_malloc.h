/* heap_malloc.h: what workloads.c asks of a heap, from calloc and free: glibc's, or those of
 * a library that is loaded before it. */
#include <gnu/libc-version.h>

#include "threads.h"

#define heap_start() ((void)0)
#define heap_new(T) ((T *)calloc(1, sizeof(T)))

/* Each thread frees its objects itself, 1024 allocations later. */
#define heap_retire(i, p)                                                                          \
  do {                                                                                             \
    static _Thread_local void *kept[1024];                                                         \
    free(kept[(i) % 1024]);                                                                        \
    kept[(i) % 1024] = (p);                                                                        \
  } while (0)

extern int mi_version(void) __attribute__((weak)); /* there when mimalloc is loaded */

static inline const char *heap_version(void) {
  static char version[32];
  if (!mi_version)
    return gnu_get_libc_version();
  int v = mi_version();
  snprintf(version, sizeof version, "%d.%d.%d", v / 100, v / 10 % 10, v % 10);
  return version;
}

static inline void heap_drop_tree(struct node *tree) {
  if (tree->left) {
    heap_drop_tree(tree->left);
    heap_drop_tree(tree->right);
  }
  free(tree);
}
