/* A finalizer is a function, not a number. */
#include <gort.h>

struct file {
  int fd;
};

static void close_file(struct file *f) { f->fd = -1; }
static int number;

int main(void) {
  struct file *f = gort_new(struct file);
#ifdef WRONG
  gort_set_finalizer(f, number);
#else
  gort_set_finalizer(f, close_file);
#endif
  (void)number;
  return 0;
}
