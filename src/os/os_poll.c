/* Waiting for descriptors: epoll, poll, eventfd. System calls are made by number where libc's
 * function is a cancellation point. */
#define _GNU_SOURCE
#include "os/poll.h"

#include "base/atomic.h"
#include "os/errno_kept.h"

#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

enum { SECOND = 1000000000, MILLISECOND = 1000000 };

_Static_assert(POLLIN == EPOLLIN && POLLOUT == EPOLLOUT && POLLPRI == EPOLLPRI &&
                   POLLERR == EPOLLERR && POLLHUP == EPOLLHUP && POLLRDHUP == EPOLLRDHUP,
               "the events of poll are those of epoll");

int os_poller(void) { return (int)ERRNO_KEPT(epoll_create1(EPOLL_CLOEXEC)); }
int os_eventfd(void) { return (int)ERRNO_KEPT(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

int os_eventfd_add(int fd) {
  uint64_t one = 1;
  long n = ERRNO_KEPT(syscall(SYS_write, fd, &one, sizeof one));
  return n < 0 ? (int)n : 0;
}

void os_eventfd_take(int fd) {
  uint64_t all;
  (void)ERRNO_KEPT(syscall(SYS_read, fd, &all, sizeof all));
}

static int control(int poller, int op, int fd, uint32_t events, uint64_t data) {
  struct epoll_event e = {.events = events, .data.u64 = data};
  return (int)ERRNO_KEPT(epoll_ctl(poller, op, fd, &e));
}

int os_poller_add(int poller, int fd, uint32_t events, uint64_t data) {
  return control(poller, EPOLL_CTL_ADD, fd, events | EPOLLET, data);
}

int os_poller_add_level(int poller, int fd, uint32_t events, uint64_t data) {
  return control(poller, EPOLL_CTL_ADD, fd, events, data);
}

int os_poller_change(int poller, int fd, uint32_t events, uint64_t data) {
  return control(poller, EPOLL_CTL_MOD, fd, events | EPOLLET, data);
}

int os_poller_remove(int poller, int fd) { return control(poller, EPOLL_CTL_DEL, fd, 0, 0); }

/* In milliseconds: what older kernels have. Rounded up, so that it is never early. */
static long wait_ms(int poller, struct epoll_event *e, int64_t ns) {
  int64_t ms = ns <= 0 ? ns : (ns - 1) / MILLISECOND + 1;
  int timeout = ms < 0 ? -1 : ms > INT_MAX ? INT_MAX : (int)ms;
  return ERRNO_KEPT(syscall(SYS_epoll_pwait, poller, e, OS_EVENTS, timeout, NULL, 0));
}

/* Since Linux 5.11. Where system calls are filtered, one that is not known may not be allowed. */
static long wait_ns(int poller, struct epoll_event *e, int64_t ns) {
  static uint32_t absent; /* atomic */
  struct timespec t = {.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
  if (ns <= 0 || load_relaxed(&absent))
    return wait_ms(poller, e, ns);
  long n = ERRNO_KEPT(syscall(SYS_epoll_pwait2, poller, e, OS_EVENTS, &t, NULL, 0));
  if (n != -ENOSYS && n != -EPERM)
    return n;
  store_relaxed(&absent, 1);
  return wait_ms(poller, e, ns);
}

int os_poller_wait(int poller, struct os_event events[OS_EVENTS], int64_t ns) {
  struct epoll_event e[OS_EVENTS];
  long n = wait_ns(poller, e, ns);
  for (long i = 0; i < n; i++)
    events[i] = (struct os_event){e[i].events, e[i].data.u64};
  return (int)n;
}

int os_poll(int fd, short events) {
  struct pollfd p = {.fd = fd, .events = events};
  struct timespec none = {0, 0};
  long n = ERRNO_KEPT(syscall(SYS_ppoll, &p, 1, &none, NULL, 0));
  return n < 0 ? (int)n : p.revents;
}
