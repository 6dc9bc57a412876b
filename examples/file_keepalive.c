/* file_keepalive.c: a file that closes itself, and why gort_keep_alive is needed with it.
 *
 * An object may die as soon as nothing uses it any more, and that can be earlier than it looks:
 * below, nothing uses the file once its descriptor has been read out of it. Its finalizer could
 * then close the descriptor before the end of read(), or another file could get its number.
 * gort_keep_alive(f) says that f is in use up to there.
 *
 * Prints
 *
 *     read 10 bytes
 *     closed
 */
#include <fcntl.h>
#include <gort.h>
#include <stdio.h>
#include <unistd.h>

struct file {
  int fd;
};

static void close_file(struct file *f) {
  close(f->fd);
  puts("closed");
}

static struct file *open_file(const char *path) {
  struct file *f = gort_new(struct file);
  f->fd = open(path, O_RDONLY | O_CLOEXEC);
  if (f->fd < 0)
    perror(path);
  else
    gort_set_finalizer(f, close_file);
  return f;
}

/* A function of its own, so that its caller's frame holds no copy of f. */
__attribute__((noinline)) static void read_some(void) {
  struct file *f = open_file("/dev/zero");
  int fd = f->fd;
  gort_drain(-1); /* as happens at any time: without the last line, f could die here */
  char buf[10];
  printf("read %zd bytes\n", read(fd, buf, sizeof buf));
  gort_keep_alive(f);
}

static void run(void *unused) {
  (void)unused;
  read_some();
  gort_drain(-1);
}

int main(void) { return gort_main(run, NULL); }
