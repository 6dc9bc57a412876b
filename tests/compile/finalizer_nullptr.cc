/* Nor is nullptr a finalizer. */
#include <gort.h>

struct file {
  int fd;
};

static void close_file(file *f) { f->fd = -1; }

int main() {
  file *f = gort_new(file);
#ifdef WRONG
  gort_set_finalizer(f, nullptr);
#else
  gort_set_finalizer(f, close_file);
#endif
}
