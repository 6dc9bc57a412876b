/* A finalizer has one parameter. */
#include <gort.h>

struct file {
  int fd;
};

static void close_file(struct file *f) { f->fd = -1; }
static void close_two(struct file *f, int fd) { f->fd = fd; }

int main(void) {
  struct file *f = gort_new(struct file);
#ifdef WRONG
  gort_set_finalizer(f, close_two);
#else
  gort_set_finalizer(f, close_file);
#endif
  (void)close_two;
  return 0;
}
