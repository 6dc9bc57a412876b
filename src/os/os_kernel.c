/* What base needs of the kernel: futexes, output, the clock. System calls are made by number
 * where libc's function is a cancellation point: the runtime must not end in the middle. */
#include "base/kernel.h"

#include "os/errno_kept.h"
#include "os/proc.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SECOND = 1000000000 };

static struct timespec timespec_of(int64_t ns) {
  return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

void futexsleep(uint32_t *addr, uint32_t expected, int64_t ns) {
  struct timespec t = timespec_of(ns);
  (void)ERRNO_KEPT(syscall(SYS_futex, addr, FUTEX_WAIT_PRIVATE, expected, ns < 0 ? NULL : &t));
}

void futexwakeup(uint32_t *addr, int n) {
  (void)ERRNO_KEPT(syscall(SYS_futex, addr, FUTEX_WAKE_PRIVATE, n));
}

void write_fd(int fd, const char *s, size_t n) {
  while (n > 0) {
    long done = ERRNO_KEPT(syscall(SYS_write, fd, s, n));
    if (done == -EINTR)
      continue;
    if (done <= 0)
      return;
    s += done;
    n -= (size_t)done;
  }
}

bool read_proc(const char *path, char *buf, size_t size) {
  long fd = ERRNO_KEPT(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC));
  if (fd < 0)
    return false;
  size_t have = 0;
  long n;
  do {
    n = ERRNO_KEPT(syscall(SYS_read, fd, buf + have, size - 1 - have));
    have += n > 0 ? (size_t)n : 0;
  } while (n > 0 || n == -EINTR);
  (void)ERRNO_KEPT(syscall(SYS_close, fd));
  buf[have] = 0;
  return n == 0;
}

int64_t nanotime(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

void osyield(void) { (void)ERRNO_KEPT(sched_yield()); }
