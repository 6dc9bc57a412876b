/* gort_read, gort_write, gort_poll, gort_close.
 *
 * Each is a loop around an attempt that does not wait. The descriptor's own flags do not matter for
 * it: recv and send are told not to wait, and so are preadv2 and pwritev2. What answers that it
 * would have to wait is waited for, if the poller takes it; else it is a file on a device, which is
 * only slow, and the plain call is made on a thread that may block.
 *
 * Terminals, and pipes with older kernels, have no form of reading and writing that does not wait.
 * They can be waited for, though. So a plain call is made when something is there, by turns, so
 * that of two in this process one does not take it away from the other. Another process may; then
 * the thread waits, while others have its processor. */
#include "gort/io.h"

#include "base/throw.h"
#include "os/io.h"
#include "os/poll.h"
#include "sched/blocking.h"
#include "sched/polldesc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>

struct transfer {
  struct polldesc *pd;
  bool writes;
  char *buf;
  size_t n;
  int64_t deadline;
  long result; /* of a call that may block */
};

static short event_of(const struct transfer *t) { return t->writes ? POLLOUT : POLLIN; }

/* Whether it is a socket is found out by trying; a number that was one and is not any more, or the
 * other way round, works all the same. */

static long try_socket(const struct transfer *t) {
  long r = t->writes ? os_send_now(t->pd->fd, t->buf, t->n) : os_recv_now(t->pd->fd, t->buf, t->n);
  if (r == -ENOTSOCK)
    store_relaxed(&t->pd->not_socket, true);
  return r;
}

static long attempt(const struct transfer *t) {
  if (!load_relaxed(&t->pd->not_socket)) {
    long r = try_socket(t);
    if (r != -ENOTSOCK)
      return r;
  }
  return t->writes ? os_write_now(t->pd->fd, t->buf, t->n) : os_read_now(t->pd->fd, t->buf, t->n);
}

static void call_once(void *arg) {
  struct transfer *t = arg;
  do
    t->result = t->writes ? os_write(t->pd->fd, t->buf, t->n) : os_read(t->pd->fd, t->buf, t->n);
  while (t->result == -EINTR);
}

static long transfer_blocking(struct transfer t) {
  call_blocking(call_once, &t);
  return t.result;
}

/* -EAGAIN: somebody else has taken it. When a pipe or a terminal can take anything, it can take as
 * much as PIPE_BUF. */
static long take_turn(struct transfer t, struct look look) {
  long r = polldesc_begin_turn(t.pd, look, t.deadline);
  if (r != 0)
    return r;
  if (t.writes && t.n > PIPE_BUF)
    t.n = PIPE_BUF;
  r = os_poll(t.pd->fd, event_of(&t)) > 0 ? transfer_blocking(t) : -EAGAIN;
  polldesc_end_turn(t.pd, look);
  return r;
}

/* What is not open for it is never ready. */
static int may_wait(const struct transfer *t) {
  int flags = os_flags(t->pd->fd);
  if (flags < 0)
    return flags;
  return (flags & O_ACCMODE) == (t->writes ? O_RDONLY : O_WRONLY) ? -EBADF : 0;
}

static long transfer_by_turns(const struct transfer *t) {
  int err = may_wait(t);
  while (err == 0) {
    struct look look = polldesc_look(t->pd);
    bool ready = os_poll(t->pd->fd, event_of(t)) > 0;
    long r = ready ? take_turn(*t, look) : -EAGAIN;
    if (r != -EAGAIN)
      return r;
    if (!ready)
      err = polldesc_wait(t->pd, look, (uint32_t)event_of(t), t->deadline);
  }
  return err;
}

/* A read that would find nothing is not made, unless there is no time to wait. */
static bool finds_nothing(const struct transfer *t, struct look look) {
  return !t->writes && polldesc_is_drained(t->pd, look) && !polldesc_is_over(t->deadline);
}

static long attempt_after(const struct transfer *t, struct look look) {
  if (finds_nothing(t, look))
    return -EAGAIN;
  long r = attempt(t);
  if (!t->writes && r > 0 && (size_t)r < t->n)
    polldesc_note_short_read(t->pd, look);
  return r;
}

/* Something, or the end, or an error. */
static long transfer(const struct transfer *t) {
  for (;;) {
    struct look look = polldesc_look(t->pd);
    long r = attempt_after(t, look);
    if (r == -EINTR)
      continue;
    if (r == -EOPNOTSUPP)
      return os_is_file(t->pd->fd) ? transfer_blocking(*t) : transfer_by_turns(t);
    if (r != -EAGAIN)
      return r;
    int err = polldesc_wait(t->pd, look, (uint32_t)event_of(t), t->deadline);
    if (err == -EPERM)
      return transfer_blocking(*t);
    if (err != 0)
      return err;
  }
}

static int begin(int fd, size_t n, struct polldesc **pd) {
  int err = polldesc_begin(fd, pd);
  return err == 0 && n > SSIZE_MAX ? -EINVAL : err;
}

/* Of a file that was in memory in part only: users expect all that they ask for. */
static long read_rest(const struct transfer *t, long have) {
  if (!load_relaxed(&t->pd->not_socket) || !os_is_file(t->pd->fd))
    return have;
  struct transfer rest = *t;
  rest.buf += have;
  rest.n -= (size_t)have;
  long more = transfer_blocking(rest);
  return more > 0 ? have + more : have;
}

/* A socket would take 0 bytes for a question whether something is there. */
static long read_nothing(const struct transfer *t) {
  long r = os_read_now(t->pd->fd, t->buf, 0);
  if (r == -EOPNOTSUPP)
    r = os_flags(t->pd->fd);
  return r < 0 && r != -EAGAIN ? r : 0;
}

ssize_t gort_read_until(int fd, void *buf, size_t n, int64_t deadline_ns) {
  CHECK_ATTACHED("gort_read_until");
  struct transfer t = {.buf = buf, .n = n, .deadline = deadline_ns};
  int err = begin(fd, n, &t.pd);
  if (err != 0)
    return err;
  struct look look = polldesc_look(t.pd);
  long r = n > 0 ? transfer(&t) : read_nothing(&t);
  if (r > 0 && (size_t)r < n)
    r = read_rest(&t, r);
  return polldesc_result(t.pd, look, r);
}

/* Errors of the connection, which the kernel tells once. */
static bool to_be_kept(const struct transfer *t, long r) {
  return r < 0 && r != -ECANCELED && r != -EFAULT &&
         !(r == -ETIMEDOUT && polldesc_is_over(t->deadline));
}

ssize_t gort_write_until(int fd, const void *buf, size_t n, int64_t deadline_ns) {
  CHECK_ATTACHED("gort_write_until");
  struct transfer t = {
      .writes = true, .buf = (char *)(uintptr_t)buf, .n = n, .deadline = deadline_ns};
  long r = begin(fd, n, &t.pd);
  if (r != 0 || (r = polldesc_take_error(t.pd)) != 0)
    return r;
  struct look look = polldesc_look(t.pd);
  do {
    r = transfer(&t);
    t.buf += r > 0 ? r : 0;
    t.n -= r > 0 ? (size_t)r : 0;
  } while (r > 0 && t.n > 0);
  size_t done = n - t.n;
  if (done > 0 && to_be_kept(&t, r))
    polldesc_keep_error(t.pd, (int)r);
  return done > 0 ? (ssize_t)done : polldesc_result(t.pd, look, r);
}

ssize_t gort_read(int fd, void *buf, size_t n) {
  CHECK_ATTACHED("gort_read");
  return gort_read_until(fd, buf, n, -1);
}

ssize_t gort_write(int fd, const void *buf, size_t n) {
  CHECK_ATTACHED("gort_write");
  return gort_write_until(fd, buf, n, -1);
}

int gort_poll(int fd, short events, int64_t deadline_ns) {
  CHECK_ATTACHED("gort_poll");
  struct polldesc *pd;
  int err = polldesc_begin(fd, &pd);
  if (err != 0)
    return err;
  struct look first = polldesc_look(pd), look = first;
  int there;
  while (err == 0 && (there = os_poll(fd, events)) <= 0) {
    err = polldesc_wait(pd, look, (uint16_t)events, deadline_ns);
    look = polldesc_look(pd);
  }
  if (err == 0 && (there & POLLNVAL))
    err = -EBADF;
  return (int)polldesc_result(pd, first, err);
}

/* Closing. */

struct closing {
  int fd, result;
};

/* An interrupted close has closed it. */
static void close_blocked(void *arg) {
  struct closing *c = arg;
  c->result = os_close(c->fd);
  if (c->result == -EINTR)
    c->result = 0;
}

/* Who waited is woken when it is closed: what they try then with the number fails, or is meant for
 * another descriptor. */
int gort_close(int fd) {
  CHECK_ATTACHED("gort_close");
  struct polldesc *pd;
  int err = polldesc_begin(fd, &pd);
  if (err == 0 && os_flags(fd) < 0)
    err = -EBADF;
  if (err != 0)
    return err;
  struct closing c = {.fd = fd};
  struct waiter *waited = polldesc_closing(pd);
  call_blocking(close_blocked, &c);
  struct waiter *came = polldesc_closed(pd);
  waiter_wake_list(waited);
  waiter_wake_list(came);
  return c.result;
}
