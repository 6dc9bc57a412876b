/* A finalizer returns nothing. */
#include <gort.h>

struct file {
  int fd;
};

static void close_file(struct file *f) { f->fd = -1; }
static int close_result(struct file *f) { return f->fd; }

int main(void) {
  struct file *f = gort_new(struct file);
#ifdef WRONG
  gort_set_finalizer(f, close_result);
#else
  gort_set_finalizer(f, close_file);
#endif
  (void)close_result;
  return 0;
}
