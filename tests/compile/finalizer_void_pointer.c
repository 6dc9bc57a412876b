/* Nor is it a pointer to anything. */
#include <gort.h>

struct file {
  int fd;
};

static void close_file(struct file *f) { f->fd = -1; }
static void *anything;

int main(void) {
  struct file *f = gort_new(struct file);
#ifdef WRONG
  gort_set_finalizer(f, anything);
#else
  gort_set_finalizer(f, close_file);
#endif
  (void)anything;
  return 0;
}
