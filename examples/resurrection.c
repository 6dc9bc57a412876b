/* resurrection.c: a finalizer may make its object reachable again.
 *
 * The object is then as alive as any other. Its finalizer has run and is set no more; it may be
 * set anew. This is how a pool takes back what its users have dropped.
 *
 * Prints
 *
 *     buffer 1 comes back
 *     in the pool: buffer 1
 *     buffer 1 comes back
 *     in the pool: buffer 1
 */
#include <gort.h>
#include <stdio.h>

struct buffer {
  int number;
  char bytes[4096];
};

static struct buffer *pool; /* a global variable is a root */

static void come_back(struct buffer *b) {
  printf("buffer %d comes back\n", b->number);
  pool = b;
}

static struct buffer *new_buffer(void) {
  static int buffers;
  struct buffer *b = gort_new(struct buffer);
  b->number = ++buffers;
  return b;
}

/* Functions of their own, so that their caller's frame holds no copy of the pointer. */
__attribute__((noinline)) static void borrow_and_drop(void) {
  struct buffer *b = pool ? pool : new_buffer();
  pool = NULL;
  gort_set_finalizer(b, come_back);
}

__attribute__((noinline)) static void show_pool(void) {
  printf("in the pool: buffer %d\n", pool->number);
}

static void run(void *unused) {
  (void)unused;
  for (int i = 0; i < 2; i++) {
    borrow_and_drop();
    gort_drain(-1);
    show_pool();
  }
}

int main(void) { return gort_main(run, NULL); }
