/* Reading, writing and connecting. System calls are made by number where libc's function is a
 * cancellation point: the runtime must not end in the middle. */
#define _GNU_SOURCE
#include "os/io.h"

#include "base/atomic.h"
#include "os/errno_kept.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif
#ifndef RWF_NOSIGNAL
#define RWF_NOSIGNAL 0x00000100 /* since Linux 6.18 */
#endif

/* Sockets. */

long os_recv_now(int fd, void *buf, size_t n) {
  return ERRNO_KEPT(syscall(SYS_recvfrom, fd, buf, n, MSG_DONTWAIT, NULL, NULL));
}

long os_send_now(int fd, const void *buf, size_t n) {
  return ERRNO_KEPT(syscall(SYS_sendto, fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0));
}

int os_accept(int fd, struct sockaddr *addr, uint32_t *len) {
  return (int)ERRNO_KEPT(syscall(SYS_accept4, fd, addr, len, SOCK_CLOEXEC));
}

int os_connect(int fd, const struct sockaddr *addr, uint32_t len) {
  return (int)ERRNO_KEPT(syscall(SYS_connect, fd, addr, len));
}

static int get_option(int fd, int option, void *value, socklen_t size) {
  return (int)ERRNO_KEPT(getsockopt(fd, SOL_SOCKET, option, value, &size));
}

/* A time limit for sending is one for connecting as well. Nobody sends on a socket that is not
 * connected, so nobody else notices it. */
int os_connect_soon(int fd, const struct sockaddr *addr, uint32_t len) {
  struct timeval before, soon = {.tv_usec = 1};
  int err = get_option(fd, SO_SNDTIMEO, &before, sizeof before);
  if (err != 0)
    return err;
  (void)ERRNO_KEPT(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon));
  err = os_connect(fd, addr, len);
  (void)ERRNO_KEPT(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &before, sizeof before));
  return err;
}

int os_is_listening(int fd) {
  int yes = 0, err = get_option(fd, SO_ACCEPTCONN, &yes, sizeof yes);
  return err != 0 ? err : yes != 0;
}

int os_socket_error(int fd) {
  int waits = 0, err = get_option(fd, SO_ERROR, &waits, sizeof waits);
  return err != 0 ? err : -waits;
}

bool os_is_tcp(int fd) {
  int type = 0, protocol = 0;
  return get_option(fd, SO_TYPE, &type, sizeof type) == 0 && type == SOCK_STREAM &&
         get_option(fd, SO_PROTOCOL, &protocol, sizeof protocol) == 0 && protocol == IPPROTO_TCP;
}

int os_has_peer(int fd) {
  struct sockaddr_storage addr;
  socklen_t len = sizeof addr;
  return (int)ERRNO_KEPT(getpeername(fd, (struct sockaddr *)&addr, &len));
}

/* SIGPIPE. */

static void only_sigpipe(sigset_t *set) {
  sigemptyset(set);
  sigaddset(set, SIGPIPE);
}

static bool sigpipe_is_pending(void) {
  sigset_t pending;
  return sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
}

static void take_sigpipe(const sigset_t *set) {
  struct timespec none = {0, 0};
  while (ERRNO_KEPT(syscall(SYS_rt_sigtimedwait, set, NULL, &none, _NSIG / 8)) == -EINTR)
    continue;
}

static long write_as(int fd, const struct iovec *v, int flags) {
  return ERRNO_KEPT(flags != 0 ? syscall(SYS_pwritev2, fd, v, 1, -1L, -1L, flags)
                               : syscall(SYS_write, fd, v->iov_base, v->iov_len));
}

/* The signal is blocked meanwhile, and taken if the write has raised it. One that waited before is
 * the program's; two at a time are one. */
static long write_guarded(int fd, const struct iovec *v, int flags) {
  sigset_t set, before;
  only_sigpipe(&set);
  bool waited = sigpipe_is_pending();
  pthread_sigmask(SIG_BLOCK, &set, &before);
  long n = write_as(fd, v, flags);
  if (n == -EPIPE && !waited)
    take_sigpipe(&set);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return n;
}

/* Whether the kernel knows RWF_NOSIGNAL: it does if it has taken it, and does not if it has taken
 * the other flags without it. Atomic. */
enum { UNKNOWN, KNOWS, LACKS };
static uint32_t nosignal;

/* The flags were understood. */
static bool taken(long r) { return r >= 0 || r == -EAGAIN || r == -EPIPE; }
static bool refused(long r) { return r == -EOPNOTSUPP || r == -ENOSYS; }

static long write_guarded_now(int fd, const struct iovec *v) {
  long r = write_guarded(fd, v, RWF_NOWAIT);
  if (taken(r))
    store_relaxed(&nosignal, LACKS);
  return refused(r) ? -EOPNOTSUPP : r;
}

static long write_nosignal(int fd, const struct iovec *v, int flags) {
  if (load_relaxed(&nosignal) == LACKS)
    return -EOPNOTSUPP;
  long r = write_as(fd, v, flags | RWF_NOSIGNAL);
  if (taken(r) && load_relaxed(&nosignal) != KNOWS)
    store_relaxed(&nosignal, KNOWS);
  return refused(r) ? -EOPNOTSUPP : r;
}

/* Reading and writing at the present position, as an offset of -1 means. */

long os_read_now(int fd, void *buf, size_t n) {
  struct iovec v = {buf, n};
  long r = ERRNO_KEPT(syscall(SYS_preadv2, fd, &v, 1, -1L, -1L, RWF_NOWAIT));
  return refused(r) ? -EOPNOTSUPP : r;
}

long os_write_now(int fd, const void *buf, size_t n) {
  struct iovec v = {(void *)(uintptr_t)buf, n};
  long r = write_nosignal(fd, &v, RWF_NOWAIT);
  if (r == -EOPNOTSUPP && load_relaxed(&nosignal) != KNOWS)
    r = write_guarded_now(fd, &v);
  return r;
}

long os_read(int fd, void *buf, size_t n) { return ERRNO_KEPT(syscall(SYS_read, fd, buf, n)); }

long os_write(int fd, const void *buf, size_t n) {
  struct iovec v = {(void *)(uintptr_t)buf, n};
  long r = write_nosignal(fd, &v, 0);
  return r == -EOPNOTSUPP ? write_guarded(fd, &v, 0) : r;
}

/* Files. */

int os_close(int fd) { return (int)ERRNO_KEPT(syscall(SYS_close, fd)); }

int os_flags(int fd) {
  int flags = (int)ERRNO_KEPT(fcntl(fd, F_GETFL));
  return flags < 0 ? flags : flags & (O_ACCMODE | O_NONBLOCK);
}

bool os_is_file(int fd) {
  struct stat st;
  return ERRNO_KEPT(fstat(fd, &st)) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}
