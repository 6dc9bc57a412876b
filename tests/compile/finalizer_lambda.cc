/* A lambda can be a finalizer when it is made a function, and captures nothing. */
#include <gort.h>

struct file {
  int fd;
};

int main() {
  file *f = gort_new(file);
  int fd = -1;
#ifdef WRONG
  gort_set_finalizer(f, +[fd](file *p) { p->fd = fd; });
#else
  gort_set_finalizer(f, +[](file *p) { p->fd = -1; });
#endif
  (void)fd;
}
