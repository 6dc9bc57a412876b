/* A program of somebody who has gort installed. */
#include <gort.h>
#include <stdio.h>

struct file {
  int fd;
};

static bool closed;

static void close_file(struct file *f) { closed = f->fd == 3; }

static __attribute__((noinline)) void open_file(void) {
  struct file *f = gort_new(struct file);
  f->fd = 3;
  gort_set_finalizer(f, close_file);
}

#ifdef STATIC
/* Names that the library uses inside are the program's to use. */
void throw(const char *what);
void throw(const char *what) { puts(what); }
int lock(int n);
int lock(int n) { return n; }
#endif

static void run(void *arg) {
  (void)arg;
  for (int i = 0; i < 10 && !closed; i++) {
    open_file();
    gort_drain(-1);
  }
}

int main(void) {
  gort_main(run, NULL);
  puts(closed ? "the finalizer has run" : "no finalizer has run");
  return 0;
}
