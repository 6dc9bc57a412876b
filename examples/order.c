/* order.c: finalizers run in the order of the pointers between their objects.
 *
 * A stream points to the file that it writes to. Both die at the same moment, but the stream's
 * finalizer runs first, and the file's only once the stream has been freed: flushing still finds
 * the file open.
 *
 * Prints
 *
 *     stream: flushed to an open file
 *     file: closed
 */
#include <gort.h>
#include <stdbool.h>
#include <stdio.h>

struct file {
  bool open;
};

struct stream {
  struct file *file;
};

static void close_file(struct file *f) {
  f->open = false;
  puts("file: closed");
}

static void flush(struct stream *s) {
  printf("stream: flushed to %s file\n", s->file->open ? "an open" : "a closed");
}

/* A function of its own, so that its caller's frame holds no copy of the pointers. */
__attribute__((noinline)) static void make(void) {
  struct file *f = gort_new(struct file);
  struct stream *s = gort_new(struct stream);
  f->open = true;
  s->file = f;
  gort_set_finalizer(f, close_file);
  gort_set_finalizer(s, flush);
}

static void run(void *unused) {
  (void)unused;
  make();
  gort_drain(-1);
}

int main(void) { return gort_main(run, NULL); }
