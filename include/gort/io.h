/* Input and output that parks the goroutine, not the thread.
 *
 * Each function returns its result or a negative errno value; errno itself is not used. Any file
 * descriptor will do, and its flags are never changed, for another process may share it. Regular
 * files, which cannot be waited for, are read and written on a thread that may block while other
 * goroutines have its processor. No call raises SIGPIPE: -EPIPE is returned.
 *
 * -ETIMEDOUT: the deadline has passed. Deadlines are times of gort_nanotime(); negative: none;
 * what can be done at once is done even then. -ECANCELED: the descriptor was closed by gort_close
 * meanwhile. -EBADF: it is not open.
 *
 * Several may wait on one descriptor. Plain close(2) is allowed while nobody does, and a new
 * descriptor of the same number works. On an attached thread the call blocks. */
#ifndef GORT_IO_H
#define GORT_IO_H

#include "gort/base.h"

#include <sys/socket.h>
#include <sys/types.h>

GORT_BEGIN_DECLS

/* As read(2): at most n bytes; 0 at the end. All n of a regular file, if there are as many. */
GORT_API ssize_t gort_read(int fd, void *buf, size_t n);
GORT_API ssize_t gort_read_until(int fd, void *buf, size_t n, int64_t deadline_ns);

/* Writes all n bytes. An error after some of them returns their count, and the error next time. */
GORT_API ssize_t gort_write(int fd, const void *buf, size_t n);
GORT_API ssize_t gort_write_until(int fd, const void *buf, size_t n, int64_t deadline_ns);

/* As accept(2); addr and len may be NULL. The new descriptor is close-on-exec. Where another
 * process accepts from the same socket, that should be O_NONBLOCK: the other one may be faster, and
 * then the thread waits for the next connection, which neither a deadline nor gort_close ends. */
GORT_API int gort_accept(int fd, struct sockaddr *addr, socklen_t *len);
GORT_API int gort_accept_until(int fd, struct sockaddr *addr, socklen_t *len, int64_t deadline_ns);

/* As connect(2). After -ETIMEDOUT the socket goes on connecting, as after -EINPROGRESS. */
GORT_API int gort_connect(int fd, const struct sockaddr *addr, socklen_t len);
GORT_API int gort_connect_until(int fd, const struct sockaddr *addr, socklen_t len,
                                int64_t deadline_ns);

/* Waits until one of `events` (POLLIN, POLLOUT, POLLPRI, POLLRDHUP) is there, or an error or a
 * hang-up: 0. What cannot be waited for, as a regular file, is always ready. */
GORT_API int gort_poll(int fd, short events, int64_t deadline_ns);

/* Closes it, and then wakes who waits on it. */
GORT_API int gort_close(int fd);

GORT_END_DECLS

#endif
