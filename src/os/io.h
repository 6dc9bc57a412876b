/* Reading, writing and connecting, on descriptors whose flags belong to others: whether a call may
 * block is said with each call, as far as the kernel has such a form of it.
 *
 * All return -errno for an error. None raises SIGPIPE. */
#ifndef OS_IO_H
#define OS_IO_H

#include "base/base.h"

struct sockaddr;

/* Sockets only (-ENOTSOCK). -EAGAIN: it would have to wait. */
long os_recv_now(int fd, void *buf, size_t n);
long os_send_now(int fd, const void *buf, size_t n);

/* -EAGAIN: it would have to wait. -EOPNOTSUPP: the kernel has no such form for this file. */
long os_read_now(int fd, void *buf, size_t n);
long os_write_now(int fd, const void *buf, size_t n);

/* These may block. */
long os_read(int fd, void *buf, size_t n);
long os_write(int fd, const void *buf, size_t n);
int os_close(int fd);

/* As accept(2) and connect(2): they block where the descriptor's flags say so. The new descriptor
 * is close-on-exec. */
int os_accept(int fd, struct sockaddr *addr, uint32_t *len);
int os_connect(int fd, const struct sockaddr *addr, uint32_t len);
/* The same for a socket that would block: it does so for a few milliseconds at most, then it is
 * -EINPROGRESS, or -EAGAIN where the other side has no room in its queue. */
int os_connect_soon(int fd, const struct sockaddr *addr, uint32_t len);

/* O_ACCMODE and O_NONBLOCK of it; or -errno. */
int os_flags(int fd);
/* Whether the socket listens: 1, 0 or -errno. */
int os_is_listening(int fd);
/* The error that waits in a socket, as -errno, which is taken out; 0: none. */
int os_socket_error(int fd);
/* Whether a socket has an address on the other side: 0 or -errno. */
int os_has_peer(int fd);
/* Whether it is a TCP connection. */
bool os_is_tcp(int fd);
/* Whether it is a file whose contents are on a device: what is asked for is there, or it is the
 * end; it is only slow. */
bool os_is_file(int fd);

#endif
