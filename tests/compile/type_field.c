/* GORT_TYPE names fields that there are. */
#include <gort.h>

struct node {
  struct node *left, *right;
};

#ifdef WRONG
GORT_TYPE(node_type, struct node, left, middle);
#else
GORT_TYPE(node_type, struct node, left, right);
#endif

int main(void) { return gort_new_of(struct node, node_type) == NULL; }
