/* NULL is no finalizer: gort_clear_finalizer clears. */
#include <gort.h>

struct file {
  int fd;
};

static void close_file(struct file *f) { f->fd = -1; }

int main(void) {
  struct file *f = gort_new(struct file);
#ifdef WRONG
  gort_set_finalizer(f, NULL);
#else
  gort_set_finalizer(f, close_file);
#endif
  return 0;
}
