/* Each macro, where strict warnings are on. */
#include <gort.h>

struct pair {
  void *left, *right;
};
struct tree {
  struct tree *child[2];
  struct pair pair;
  long value;
};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic" /* C++ has no flexible array */
struct line {
  size_t length;
  char text[];
};
#pragma GCC diagnostic pop

GORT_TYPE(pair_type, struct pair, left, right);
GORT_TYPE(tree_type, struct tree, child, pair.left, pair.right);
GORT_TYPE(edge_type, struct tree, child[1], pair);
GORT_TYPE_NOSCAN(long_type, long);

/* Not used here, as a type in a header may be. */
GORT_TYPE(unused_type, struct pair, left);
GORT_TYPE_NOSCAN(unused_noscan_type, int);

static gort_mutex mutex = GORT_MUTEX_INIT;
static gort_rwmutex rwmutex = GORT_RWMUTEX_INIT;
static gort_cond cond = GORT_COND_INIT;
static gort_wait_group wait_group = GORT_WAIT_GROUP_INIT;
static gort_once once = GORT_ONCE_INIT;

static void use_locks(void) {
  gort_mutex_lock(&mutex);
  gort_rwmutex_lock(&rwmutex);
  gort_cond_signal(&cond);
  gort_wait_group_wait(&wait_group);
  gort_once_do(&once, NULL, NULL);
}

static void fell(struct tree *t) { t->value = 0; }
static void forget(void *p) { (void)p; }

int main(void) {
  use_locks();
  struct tree *t = gort_new(struct tree);
  struct tree *typed = gort_new_of(struct tree, tree_type);
  struct tree *edged = gort_new_of(struct tree, edge_type);
  struct pair *pairs = gort_new_array(struct pair, 10);
  struct pair *pair = gort_new_of(struct pair, pair_type);
  long *number = gort_new_noscan(long);
  struct line *line = gort_new_flex(struct line, text, 80);
  void *any = gort_new(struct pair);
  gort_set_finalizer(t, fell);
  gort_set_finalizer(t->child[0], fell);
  gort_set_finalizer(any, forget);
  gort_mem_stats stats;
  gort_read_mem_stats(&stats);
  gort_keep_alive(t), gort_keep_alive(pair);
  return typed && edged && pairs && pair && number && line && gort_type_size(&long_type);
}
