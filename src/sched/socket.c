/* gort_accept, gort_connect.
 *
 * For neither is there a form that says with the call that it must not wait: that is the socket's
 * own O_NONBLOCK. Where it is not set,
 *
 *   accept   is called when a connection is there, by turns. Another process that has the same
 *            socket may be faster: then the thread waits for the next one, while others have its
 *            processor, and neither a deadline nor gort_close ends that.
 *   connect  is called with a time limit of the shortest, and goes on by itself after that.
 *
 * Both on a thread that may block. */
#include "gort/io.h"

#include "base/kernel.h"
#include "base/throw.h"
#include "os/io.h"
#include "os/poll.h"
#include "sched/blocking.h"
#include "sched/polldesc.h"
#include "sched/timer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>

/* Accepting. */

struct accepting {
  struct polldesc *pd;
  struct sockaddr *addr;
  socklen_t *len;
  int64_t deadline;
  int result;
};

/* A connection that was broken off before it was taken is nobody's business. */
static bool try_again(int err) { return err == -EINTR || err == -ECONNABORTED; }

static void accept_blocked(void *arg) {
  struct accepting *a = arg;
  a->result = os_accept(a->pd->fd, a->addr, a->len);
}

/* -EAGAIN: it is not there any more. */
static int accept_in_turn(struct accepting *a, struct look look) {
  int err = polldesc_begin_turn(a->pd, look, a->deadline);
  if (err != 0)
    return err;
  a->result = -EAGAIN;
  if (os_poll(a->pd->fd, POLLIN) > 0)
    call_blocking(accept_blocked, a);
  polldesc_end_turn(a->pd, look);
  return a->result;
}

/* What does not listen says so at once. */
static int accept_blocking(struct accepting *a, struct look look) {
  int listens = os_is_listening(a->pd->fd);
  if (listens < 0)
    return listens;
  if (!listens)
    return os_accept(a->pd->fd, a->addr, a->len);
  return os_poll(a->pd->fd, POLLIN) > 0 ? accept_in_turn(a, look) : -EAGAIN;
}

static int accept_now(struct accepting *a, struct look look) {
  int flags = os_flags(a->pd->fd);
  if (flags < 0)
    return flags;
  return flags & O_NONBLOCK ? os_accept(a->pd->fd, a->addr, a->len) : accept_blocking(a, look);
}

static int accept_until(struct accepting *a, struct look look) {
  for (;; look = polldesc_look(a->pd)) {
    int r = accept_now(a, look);
    if (try_again(r))
      continue;
    if (r != -EAGAIN)
      return r;
    r = polldesc_wait(a->pd, look, POLLIN, a->deadline);
    if (r != 0)
      return r;
  }
}

int gort_accept_until(int fd, struct sockaddr *addr, socklen_t *len, int64_t deadline_ns) {
  CHECK_ATTACHED("gort_accept_until");
  struct accepting a = {.addr = addr, .len = len, .deadline = deadline_ns};
  int r = polldesc_begin(fd, &a.pd);
  if (r != 0)
    return r;
  struct look look = polldesc_look(a.pd);
  r = accept_until(&a, look);
  struct polldesc *made = r >= 0 ? polldesc_of(r) : NULL;
  if (made)
    polldesc_renew(made);
  return (int)polldesc_result(a.pd, look, r);
}

int gort_accept(int fd, struct sockaddr *addr, socklen_t *len) {
  CHECK_ATTACHED("gort_accept");
  return gort_accept_until(fd, addr, len, -1);
}

/* Connecting. */

enum { FIRST_NAP = 100000, LAST_NAP = 20000000 }; /* ns */

struct connecting {
  struct polldesc *pd;
  const struct sockaddr *addr;
  socklen_t len;
  int64_t deadline;
  int result;
};

static void connect_blocked(void *arg) {
  struct connecting *c = arg;
  c->result = os_connect_soon(c->pd->fd, c->addr, c->len);
}

static int start_connecting(struct connecting *c) {
  int flags = os_flags(c->pd->fd);
  if (flags < 0)
    return flags;
  if (flags & O_NONBLOCK)
    return os_connect(c->pd->fd, c->addr, c->len);
  call_blocking(connect_blocked, c);
  return c->result;
}

static bool goes_on(int err) { return err == -EINPROGRESS || err == -EALREADY || err == -EINTR; }

/* The kernel takes note that a socket is connected when it is asked to connect it again; before
 * that it would not say -EISCONN to others who ask. */
static int settle(const struct connecting *c) {
  int err = os_has_peer(c->pd->fd);
  if (err == 0)
    (void)os_connect(c->pd->fd, c->addr, c->len);
  return err;
}

/* Until the socket is connected, or is not and says why. */
static int await_connection(struct connecting *c, struct look look) {
  for (;;) {
    look.reports = polldesc_look(c->pd).reports;
    if (os_poll(c->pd->fd, POLLOUT) > 0)
      break;
    int err = polldesc_wait(c->pd, look, POLLOUT, c->deadline);
    if (err != 0)
      return err;
  }
  int err = os_socket_error(c->pd->fd);
  return err != 0 ? err : settle(c);
}

/* Not past the deadline. */
static int64_t end_of_nap(int64_t ns, int64_t deadline) {
  int64_t until = deadline_in(ns);
  return deadline >= 0 && deadline < until ? deadline : until;
}

/* Of a Unix socket whose listener has no room in its queue nobody says when there is some. */
static int connect_in_turn(struct connecting *c, struct look look) {
  for (int64_t ns = FIRST_NAP;; ns = ns * 2 < LAST_NAP ? ns * 2 : LAST_NAP) {
    int err = start_connecting(c);
    if (goes_on(err))
      return await_connection(c, look);
    if (err != -EAGAIN || c->addr->sa_family != AF_UNIX)
      return err;
    if (polldesc_is_over(c->deadline))
      return -ETIMEDOUT;
    err = polldesc_nap(c->pd, look, end_of_nap(ns, c->deadline));
    if (err != 0)
      return err;
  }
}

/* The socket may have the number of a descriptor that was closed. Who comes second finds it
 * connected, or tries himself. */
int gort_connect_until(int fd, const struct sockaddr *addr, socklen_t len, int64_t deadline_ns) {
  CHECK_ATTACHED("gort_connect_until");
  struct connecting c = {.addr = addr, .len = len, .deadline = deadline_ns};
  int err = polldesc_begin(fd, &c.pd);
  if (err != 0)
    return err;
  struct look look = polldesc_look(c.pd);
  err = polldesc_begin_turn(c.pd, look, deadline_ns);
  if (err != 0)
    return err;
  polldesc_renew(c.pd);
  err = connect_in_turn(&c, look);
  polldesc_end_turn(c.pd, look);
  return (int)polldesc_result(c.pd, look, err);
}

int gort_connect(int fd, const struct sockaddr *addr, socklen_t len) {
  CHECK_ATTACHED("gort_connect");
  return gort_connect_until(fd, addr, len, -1);
}
