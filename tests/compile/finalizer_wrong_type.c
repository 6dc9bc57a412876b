/* A finalizer's parameter has the type of the pointer. */
#include <gort.h>

struct file {
  int fd;
};
struct socket {
  int fd;
};

static void close_file(struct file *f) { f->fd = -1; }
static void close_socket(struct socket *s) { s->fd = -1; }

int main(void) {
  struct file *f = gort_new(struct file);
  struct socket *s = gort_new(struct socket);
  gort_set_finalizer(s, close_socket);
#ifdef WRONG
  gort_set_finalizer(f, close_socket);
#else
  gort_set_finalizer(f, close_file);
#endif
  return 0;
}
