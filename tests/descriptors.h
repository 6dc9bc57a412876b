/* What the tests of input and output share: pairs of connected descriptors, of several kinds. */
#ifndef GORT_TESTS_DESCRIPTORS_H
#define GORT_TESTS_DESCRIPTORS_H

#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { MILLISECOND = 1000000 };

SHARED_HELPER int listen_on_loopback(struct sockaddr_in *addr, int backlog) {
  int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t len = sizeof *addr;
  *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  CHECK(l >= 0 && bind(l, (struct sockaddr *)addr, len) == 0 && listen(l, backlog) == 0);
  CHECK(getsockname(l, (struct sockaddr *)addr, &len) == 0);
  return l;
}

SHARED_HELPER void tcp_pair(int fd[2]) {
  struct sockaddr_in addr;
  int l = listen_on_loopback(&addr, 1), yes = 1;
  fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(connect(fd[1], (struct sockaddr *)&addr, sizeof addr) == 0);
  CHECK((fd[0] = accept(l, NULL, NULL)) >= 0);
  for (int i = 0; i < 2; i++)
    CHECK(setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) == 0);
  close(l);
}

SHARED_HELPER void unix_pair(int fd[2]) {
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
}

SHARED_HELPER void pipe_pair(int fd[2]) { CHECK(pipe2(fd, O_CLOEXEC) == 0); }

/* Read from fd[0] what was written to fd[1]; and the other way round, if it goes both ways. */
static const struct kind {
  const char *name;
  void (*make)(int fd[2]);
  bool both_ways;
} kinds[] = {{"tcp", tcp_pair, true}, {"unix", unix_pair, true}, {"pipe", pipe_pair, false}};

enum { TCP, UNIX, PIPE, KINDS };

SHARED_HELPER void set_nonblocking(int fd) {
  CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
}

SHARED_HELPER void make_pair(int kind, bool nonblocking, int fd[2]) {
  kinds[kind].make(fd);
  for (int i = 0; i < 2 && nonblocking; i++)
    set_nonblocking(fd[i]);
}

SHARED_HELPER void close_pair(const int fd[2]) {
  CHECK(close(fd[0]) == 0);
  CHECK(close(fd[1]) == 0);
}

/* Fills it, so that whoever writes has to wait. What has been sent may still be on its way, and
 * make room when it has arrived. */
SHARED_HELPER void fill(int fd) {
  static const char zeros[4096];
  int flags = fcntl(fd, F_GETFL);
  CHECK(fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
  for (bool more = true; more;) {
    for (more = false; write(fd, zeros, sizeof zeros) > 0 || write(fd, zeros, 1) > 0;)
      more = true;
    CHECK(errno == EAGAIN);
    for (int i = 0; i < 10; i++)
      nap();
  }
  CHECK(fcntl(fd, F_SETFL, flags) == 0);
}

/* Nothing can be written to fd[1]. With TCP the other side takes a little now and then. */
SHARED_HELPER void make_full_pair(int kind, bool nonblocking, int fd[2]) {
  make_pair(kind == TCP ? UNIX : kind, nonblocking, fd);
  fill(fd[1]);
}

/* Runs fn(arg) on a goroutine, and then on a thread. */
SHARED_HELPER void everywhere(void (*fn)(void *), void *arg) {
  in_goroutine(fn, arg);
  in_thread(fn, arg);
}

/* Starts fn(arg) on a goroutine or on a thread. */
SHARED_HELPER void start_on(bool thread, void (*fn)(void *), void *arg) {
  if (thread)
    CHECK(gort_thread_start(fn, arg) == 0);
  else
    gort_go(fn, arg);
}

/* For code that runs on a goroutine or on a thread. */
#define SLEEP_UNTIL(cond)                                                                          \
  do {                                                                                             \
    while (!(cond))                                                                                \
      gort_sleep(MILLISECOND / 5);                                                                 \
  } while (0)

SHARED_HELPER int64_t from_now(int64_t ns) { return gort_nanotime() + ns; }

#endif
