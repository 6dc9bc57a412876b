/* A finalizer has a parameter. */
#include <gort.h>

struct file {
  int fd;
};

static void close_file(struct file *f) { f->fd = -1; }
static void close_none(void) {}

int main(void) {
  struct file *f = gort_new(struct file);
#ifdef WRONG
  gort_set_finalizer(f, close_none);
#else
  gort_set_finalizer(f, close_file);
#endif
  (void)close_none;
  return 0;
}
