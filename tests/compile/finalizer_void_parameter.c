/* Not even a void * will do for another pointer: gort_set_finalizer_fn takes that. */
#include <gort.h>

struct file {
  int fd;
};

static void close_file(struct file *f) { f->fd = -1; }
static void close_any(void *f) { (void)f; }

int main(void) {
  struct file *f = gort_new(struct file);
#ifdef WRONG
  gort_set_finalizer(f, close_any);
#else
  gort_set_finalizer(f, close_file);
#endif
  (void)close_any;
  return 0;
}
