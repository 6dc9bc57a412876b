/* echo.c [PORT | test [N]]: a TCP server that sends back what it gets, and closes nothing.
 *
 * Each connection has a goroutine of its own, which reads and writes as if it were alone: it waits,
 * and others have the thread. A connection is an object, whose finalizer closes the descriptor.
 * Nobody has to find out who is the last to use it; and running out of descriptors is one more
 * reason to collect, for dropped connections have them.
 *
 * With a port, serves there for good. Otherwise tests itself: connects to itself, N times at once
 * (1000, or as many as there are descriptors for), sends something over each connection and gets it
 * back, drops them all, and prints
 *
 *     connections at once    N
 *     bytes sent back        64 for each
 *     left open              0
 */
#include <arpa/inet.h>
#include <errno.h>
#include <gort.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, BUFFER = 4096, HALF = 32, MILLISECOND = 1000000 };

struct connection {
  int fd;
};

static atomic_long open_now, sent_back;

static void fail(const char *what, int error) {
  fprintf(stderr, "echo: %s: %s\n", what, strerror(error));
  exit(1);
}

static void close_connection(struct connection *c) {
  gort_close(c->fd);
  atomic_fetch_sub(&open_now, 1);
}

static struct connection *new_connection(int fd) {
  struct connection *c = gort_new(struct connection);
  c->fd = fd;
  atomic_fetch_add(&open_now, 1);
  gort_set_finalizer(c, close_connection);
  return c;
}

/* The server. */

static void send_back(void *arg) {
  struct connection *c = arg;
  char buffer[BUFFER];
  for (ssize_t n; (n = gort_read(c->fd, buffer, sizeof buffer)) > 0;) {
    if (gort_write(c->fd, buffer, (size_t)n) < n)
      break;
    atomic_fetch_add(&sent_back, n);
  }
  gort_keep_alive(c); /* not to be closed while it is in use */
}

/* Dead connections are closed by their finalizers; that takes a collection, and a moment. */
static bool wait_for_descriptors(int error) {
  if (error != -EMFILE && error != -ENFILE)
    return false;
  gort_gc();
  gort_sleep(MILLISECOND);
  return true;
}

/* A function of its own, so that no frame of the server's keeps the last connection. */
static __attribute__((noinline)) void begin_connection(int fd) {
  gort_go(send_back, new_connection(fd));
}

/* Until the listener is closed. */
static void serve(void *listener) {
  for (;;) {
    int fd = gort_accept((int)(intptr_t)listener, NULL, NULL);
    if (fd >= 0)
      begin_connection(fd);
    else if (!wait_for_descriptors(fd))
      return;
  }
}

static int listen_on(struct sockaddr_in *address) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
  socklen_t size = sizeof *address;
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(fd, (struct sockaddr *)address, size) != 0 || listen(fd, BACKLOG) != 0 ||
      getsockname(fd, (struct sockaddr *)address, &size) != 0)
    fail("cannot listen", errno);
  return fd;
}

/* The test. */

struct test {
  struct sockaddr_in server;
  gort_wait_group *connected, *done;
  gort_chan *all_are; /* closed when all are connected */
};

static struct connection *connect_to(const struct sockaddr_in *server) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    fail("socket", errno);
  struct connection *c = new_connection(fd);
  int error = gort_connect(fd, (const struct sockaddr *)server, sizeof *server);
  if (error != 0)
    fail("connect", -error);
  return c;
}

/* Sends HALF bytes, and waits for them to come back. */
static void ask(struct connection *c, const char *text) {
  char back[HALF];
  ssize_t n = gort_write(c->fd, text, HALF);
  if (n != HALF)
    fail("write", n < 0 ? (int)-n : EIO);
  for (size_t have = 0; have < HALF; have += (size_t)n)
    if ((n = gort_read(c->fd, back + have, HALF - have)) <= 0)
      fail("read", n < 0 ? (int)-n : EIO);
  if (memcmp(back, text, HALF) != 0)
    fail("something else came back", EIO);
}

/* The end of what is sent is the end for the server's side, too. */
static void be_a_client(void *arg) {
  struct test *t = arg;
  struct connection *c = connect_to(&t->server);
  ask(c, "who comes before all are there..");
  gort_wait_group_done(t->connected);
  gort_recv(t->all_are, NULL);
  ask(c, "has to wait until all have come.");
  shutdown(c->fd, SHUT_WR);
  gort_keep_alive(c);
  gort_wait_group_done(t->done);
}

static void connect_all(struct test *t, long n) {
  gort_wait_group_add(t->connected, (int)n);
  gort_wait_group_add(t->done, (int)n);
  for (long i = 0; i < n; i++)
    gort_go(be_a_client, t);
  gort_wait_group_wait(t->connected);
  printf("connections at once %10ld\n", atomic_load(&open_now) / 2);
  gort_chan_close(t->all_are);
  gort_wait_group_wait(t->done);
}

static void test(long n) {
  struct test *t = gort_new(struct test);
  t->server = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  t->connected = gort_new(gort_wait_group);
  t->done = gort_new(gort_wait_group);
  t->all_are = gort_chan_new(0, 0);
  int listener = listen_on(&t->server);
  gort_go(serve, (void *)(intptr_t)listener);
  connect_all(t, n);
  gort_close(listener);
  while (gort_num_goroutines() > 1)
    gort_sleep(MILLISECOND);
  gort_drain(-1);
  printf("bytes sent back     %10ld\n", atomic_load(&sent_back));
  printf("left open           %10ld\n", atomic_load(&open_now));
}

/* As many descriptors as this process may have. A connection of the test takes two. */
static long allow_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
    fail("getrlimit", errno);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_max < LONG_MAX ? (long)limit.rlim_max : LONG_MAX;
}

static void serve_on(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  serve((void *)(intptr_t)listen_on(&address));
}

static void run(void *arg) {
  char **arguments = arg;
  long most = (allow_descriptors() - 50) / 2, n = 1000;
  if (arguments[1] && strcmp(arguments[1], "test") != 0)
    serve_on(atoi(arguments[1]));
  else if (arguments[1] && arguments[2])
    test(atol(arguments[2]));
  else
    test(n < most ? n : most);
}

int main(int argc, char **argv) {
  (void)argc;
  return gort_main(run, argv);
}
