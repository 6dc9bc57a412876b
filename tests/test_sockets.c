/* Accepting and connecting. */
#include "descriptors.h"

static atomic_int finished;

/* A listener of its own for each test, in both domains. */
struct listener {
  int fd;
  union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_un un;
  } addr;
  socklen_t len;
};

enum { INET, LOCAL, DOMAINS };

static struct listener listen_in(int domain, bool nonblocking, int backlog) {
  static atomic_int count;
  struct listener l = {.len = sizeof l.addr.in};
  if (domain == INET) {
    l.fd = listen_on_loopback(&l.addr.in, backlog);
  } else {
    l.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    l.addr.un.sun_family = AF_UNIX;
    int n = snprintf(l.addr.un.sun_path + 1, sizeof l.addr.un.sun_path - 1, "gort-test-%d-%d",
                     getpid(), atomic_fetch_add(&count, 1));
    l.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    CHECK(bind(l.fd, &l.addr.any, l.len) == 0 && listen(l.fd, backlog) == 0);
  }
  if (nonblocking)
    set_nonblocking(l.fd);
  return l;
}

static int new_socket(const struct listener *l, bool nonblocking) {
  int fd = socket(l->addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  if (nonblocking)
    set_nonblocking(fd);
  return fd;
}

static int connect_to(const struct listener *l, bool nonblocking) {
  int fd = new_socket(l, nonblocking);
  CHECK(gort_connect(fd, &l->addr.any, l->len) == 0);
  return fd;
}

static void for_all(void (*fn)(int domain, bool nonblocking, bool thread)) {
  for (int domain = 0; domain < DOMAINS; domain++)
    for (int i = 0; i < 4; i++)
      fn(domain, i & 1, i & 2);
}

/* --- Accepting ------------------------------------------------------------------------------ */

struct accepter {
  int fd;
  int64_t deadline;
  int result;
  atomic_int begun, done;
};

static void accept_once(void *arg) {
  struct accepter *a = arg;
  atomic_store(&a->begun, 1);
  a->result = gort_accept_until(a->fd, NULL, NULL, a->deadline);
  atomic_store(&a->done, 1);
}

static void start_accepter(bool thread, struct accepter *a) {
  start_on(thread, accept_once, a);
  SLEEP_UNTIL(atomic_load(&a->begun));
  gort_sleep(3 * MILLISECOND);
  CHECK(!atomic_load(&a->done));
}

static void await_accepter(struct accepter *a) { SLEEP_UNTIL(atomic_load(&a->done)); }

static void accept_one(int domain, bool nonblocking, bool thread) {
  struct listener l = listen_in(domain, nonblocking, 10);
  struct accepter a = {.fd = l.fd, .deadline = -1};
  int before = fcntl(l.fd, F_GETFL);
  start_accepter(thread, &a);
  int fd = connect_to(&l, nonblocking);
  await_accepter(&a);
  CHECK(a.result >= 0);
  CHECK(fcntl(a.result, F_GETFD) == FD_CLOEXEC);
  CHECK(fcntl(a.result, F_GETFL) == O_RDWR);
  CHECK(fcntl(l.fd, F_GETFL) == before);
  char c = 0;
  CHECK(gort_write(fd, "x", 1) == 1 && gort_read(a.result, &c, 1) == 1 && c == 'x');
  close(fd);
  close(a.result);
  close(l.fd);
}

static void test_accept(void **state) {
  (void)state;
  for_all(accept_one);
}

static void accept_late(int domain, bool nonblocking, bool thread) {
  struct listener l = listen_in(domain, nonblocking, 10);
  struct accepter a = {.fd = l.fd};
  for (int64_t term = 1000; term < 30 * MILLISECOND; term *= 5) {
    a.deadline = from_now(term);
    thread ? in_thread(accept_once, &a) : in_goroutine(accept_once, &a);
    CHECK(a.result == -ETIMEDOUT && gort_nanotime() >= a.deadline);
  }
  int fd = connect_to(&l, false);
  CHECK((a.result = gort_accept_until(l.fd, NULL, NULL, 0)) >= 0);
  close(a.result);
  close(fd);
  close(l.fd);
}

static void test_accept_until(void **state) {
  (void)state;
  for_all(accept_late);
}

static void accept_closed(int domain, bool nonblocking, bool thread) {
  struct listener l = listen_in(domain, nonblocking, 10);
  struct accepter a[3];
  for (int i = 0; i < 3; i++) {
    a[i] = (struct accepter){.fd = l.fd, .deadline = -1};
    start_accepter(thread, &a[i]);
  }
  CHECK(gort_close(l.fd) == 0);
  for (int i = 0; i < 3; i++) {
    await_accepter(&a[i]);
    CHECK(a[i].result == -ECANCELED);
  }
  CHECK(gort_accept(l.fd, NULL, NULL) == -EBADF);
}

static void test_close_ends_accepting(void **state) {
  (void)state;
  for_all(accept_closed);
}

static void know_the_other_side(void *unused) {
  (void)unused;
  struct listener l = listen_in(INET, false, 10);
  int fd = connect_to(&l, false);
  struct sockaddr_in peer, own;
  socklen_t peer_len = sizeof peer, own_len = sizeof own;
  int got = gort_accept(l.fd, (struct sockaddr *)&peer, &peer_len);
  CHECK(got >= 0 && getsockname(fd, (struct sockaddr *)&own, &own_len) == 0);
  CHECK(peer_len == sizeof peer && peer.sin_port == own.sin_port);
  close(got);
  close(fd);
  close(l.fd);
}

static void accept_what_does_not_listen(void *unused) {
  (void)unused;
  int fd[2], udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
  pipe_pair(fd);
  CHECK(gort_accept(-1, NULL, NULL) == -EBADF);
  CHECK(gort_accept(fd[0], NULL, NULL) == -ENOTSOCK);
  CHECK(gort_accept(tcp, NULL, NULL) == -EINVAL);
  CHECK(gort_accept(udp, NULL, NULL) == -EOPNOTSUPP);
  close_pair(fd);
  close(udp);
  close(tcp);
}

static void test_results_of_accept(void **state) {
  (void)state;
  everywhere(know_the_other_side, NULL);
  everywhere(accept_what_does_not_listen, NULL);
}

/* Several accept by turns, and none takes a connection away for good. */
static void accept_some(void *listener) {
  int fd;
  while ((fd = gort_accept(*(int *)listener, NULL, NULL)) >= 0) {
    close(fd);
    atomic_fetch_add(&finished, 1);
  }
  CHECK(fd == -ECANCELED || fd == -EBADF);
  atomic_fetch_add(&finished, 1000000);
}

static void accept_in_a_crowd(int domain, bool nonblocking, bool thread) {
  enum { CROWD = 20, CONNECTIONS = 200 };
  struct listener l = listen_in(domain, nonblocking, CONNECTIONS);
  atomic_store(&finished, 0);
  for (int i = 0; i < CROWD; i++)
    start_on(thread && i < 3, accept_some, &l.fd);
  for (int i = 0; i < CONNECTIONS; i++)
    close(connect_to(&l, nonblocking));
  WAIT_UNTIL(atomic_load(&finished) == CONNECTIONS);
  CHECK(gort_close(l.fd) == 0);
  WAIT_UNTIL(atomic_load(&finished) == CROWD * 1000000 + CONNECTIONS);
}

static void test_many_accept(void **state) {
  (void)state;
  for_all(accept_in_a_crowd);
}

/* Another process takes the connection that both have been told of. */
static void accept_beside_a_process(void *unused) {
  (void)unused;
  struct listener l = listen_in(INET, true, 10);
  struct accepter a = {.fd = l.fd, .deadline = -1};
  start_accepter(false, &a);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    for (int fd = -1; fd < 0; fd = accept(l.fd, NULL, NULL))
      continue;
    _exit(0);
  }
  int one = connect_to(&l, false), two = connect_to(&l, false);
  await_accepter(&a);
  await_child(pid);
  CHECK(a.result >= 0);
  close(one);
  close(two);
  close(a.result);
  close(l.fd);
}

static void test_accept_beside_a_process(void **state) {
  (void)state;
  if (!UNDER_TSAN)
    everywhere(accept_beside_a_process, NULL);
}

/* --- Connecting ----------------------------------------------------------------------------- */

struct connecter {
  int fd;
  const struct listener *to;
  int64_t deadline;
  int result;
  atomic_int begun, done;
};

static void connect_once(void *arg) {
  struct connecter *c = arg;
  atomic_store(&c->begun, 1);
  c->result = gort_connect_until(c->fd, &c->to->addr.any, c->to->len, c->deadline);
  atomic_store(&c->done, 1);
}

static void await_connecter(struct connecter *c) { SLEEP_UNTIL(atomic_load(&c->done)); }

static void be_refused(int domain, bool nonblocking, bool thread) {
  struct listener l = listen_in(domain, false, 1);
  close(l.fd);
  struct connecter c = {.fd = new_socket(&l, nonblocking), .to = &l, .deadline = -1};
  start_on(thread, connect_once, &c);
  await_connecter(&c);
  CHECK(c.result == -ECONNREFUSED);
  close(c.fd);
}

static void test_connect_is_refused(void **state) {
  (void)state;
  for_all(be_refused);
}

static void connect_wrongly(void *unused) {
  (void)unused;
  struct listener l = listen_in(INET, false, 10);
  int fd[2], udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = connect_to(&l, false);
  pipe_pair(fd);
  CHECK(gort_connect(-1, &l.addr.any, l.len) == -EBADF);
  CHECK(gort_connect(fd[0], &l.addr.any, l.len) == -ENOTSOCK);
  CHECK(gort_connect(tcp, &l.addr.any, l.len) == -EISCONN);
  CHECK(gort_connect(udp, &l.addr.any, l.len) == 0);
  CHECK(gort_connect(udp, NULL, l.len) == -EFAULT);
  close_pair(fd);
  close(udp);
  close(tcp);
  close(l.fd);
}

static void test_results_of_connect(void **state) {
  (void)state;
  everywhere(connect_wrongly, NULL);
}

/* Fills the queue of a listener that nobody accepts from, until connecting has to wait. */
static int fill_queue(const struct listener *l, int fds[16]) {
  int n = 0;
  for (int err = 0; err == 0; n++) {
    CHECK(n < 16);
    fds[n] = new_socket(l, true);
    err = gort_connect_until(fds[n], &l->addr.any, l->len, from_now(20 * MILLISECOND));
    CHECK(err == 0 || err == -ETIMEDOUT);
  }
  return n;
}

static void close_all(const int *fds, int n) {
  for (int i = 0; i < n; i++)
    close(fds[i]);
}

static void connect_late(int domain, bool nonblocking, bool thread) {
  struct listener l = listen_in(domain, true, 1);
  int fds[16], n = fill_queue(&l, fds);
  struct connecter c = {.fd = new_socket(&l, nonblocking), .to = &l};
  c.deadline = from_now(30 * MILLISECOND);
  start_on(thread, connect_once, &c);
  await_connecter(&c);
  CHECK(c.result == -ETIMEDOUT && gort_nanotime() >= c.deadline);
  close(c.fd);
  close_all(fds, n);
  close(l.fd);
}

static void test_connect_until(void **state) {
  (void)state;
  for_all(connect_late);
}

/* It waits until there is room. */
static void connect_when_there_is_room(int domain, bool nonblocking, bool thread) {
  struct listener l = listen_in(domain, true, 1);
  int fds[16], n = fill_queue(&l, fds), fd;
  struct connecter c = {.fd = new_socket(&l, nonblocking), .to = &l, .deadline = -1};
  struct timeval limit = {.tv_sec = 7}, now;
  socklen_t len = sizeof now;
  CHECK(setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
  start_on(thread, connect_once, &c);
  gort_sleep(10 * MILLISECOND);
  CHECK(!atomic_load(&c.done));
  while (!atomic_load(&c.done)) {
    while ((fd = gort_accept_until(l.fd, NULL, NULL, 0)) >= 0)
      close(fd);
    gort_sleep(MILLISECOND);
  }
  CHECK(c.result == 0);
  CHECK(getsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &now, &len) == 0 && now.tv_sec == 7);
  CHECK(((fcntl(c.fd, F_GETFL) & O_NONBLOCK) != 0) == nonblocking);
  close(c.fd);
  close_all(fds, n);
  close(l.fd);
}

static void test_connect_waits(void **state) {
  (void)state;
  for_all(connect_when_there_is_room);
}

static void connect_closed(int domain, bool nonblocking, bool thread) {
  struct listener l = listen_in(domain, true, 1);
  int fds[16], n = fill_queue(&l, fds);
  struct connecter c = {.fd = new_socket(&l, nonblocking), .to = &l, .deadline = -1};
  start_on(thread, connect_once, &c);
  SLEEP_UNTIL(atomic_load(&c.begun));
  gort_sleep(30 * MILLISECOND);
  CHECK(!atomic_load(&c.done));
  CHECK(gort_close(c.fd) == 0);
  await_connecter(&c);
  CHECK(c.result == -ECANCELED);
  close_all(fds, n);
  close(l.fd);
}

static void test_close_ends_connecting(void **state) {
  (void)state;
  for_all(connect_closed);
}

/* Two at once: one connects, the other finds the socket connected. */
static void connect_twice(int domain, bool nonblocking, bool thread) {
  struct listener l = listen_in(domain, false, 10);
  int fd = new_socket(&l, nonblocking);
  struct connecter c[2];
  for (int i = 0; i < 2; i++) {
    c[i] = (struct connecter){.fd = fd, .to = &l, .deadline = -1};
    start_on(thread, connect_once, &c[i]);
  }
  await_connecter(&c[0]);
  await_connecter(&c[1]);
  CHECK(c[0].result + c[1].result == -EISCONN && (c[0].result == 0 || c[1].result == 0));
  close(fd);
  close(l.fd);
}

static void test_two_connect_one_socket(void **state) {
  (void)state;
  for_all(connect_twice);
}

/* --- Many connections ----------------------------------------------------------------------- */

static void echo(void *arg) {
  int fd = (int)(intptr_t)arg;
  char buf[256];
  for (ssize_t n; (n = gort_read(fd, buf, sizeof buf)) > 0;)
    CHECK(gort_write(fd, buf, (size_t)n) == n);
  CHECK(gort_close(fd) == 0);
  atomic_fetch_sub(&finished, 1);
}

static void serve(void *listener) {
  for (int fd; (fd = gort_accept(*(int *)listener, NULL, NULL)) >= 0;) {
    atomic_fetch_add(&finished, 1);
    gort_go_stack(echo, (void *)(intptr_t)fd, 64 << 10);
  }
}

static void ask(int fd, int number) {
  char text[32], back[32];
  int n = snprintf(text, sizeof text, "%d of many", number), have = 0;
  CHECK(gort_write(fd, text, (size_t)n) == n);
  while (have < n) {
    ssize_t got = gort_read(fd, back + have, (size_t)(n - have));
    CHECK(got > 0);
    have += (int)got;
  }
  CHECK(memcmp(text, back, (size_t)n) == 0);
}

struct client {
  const struct listener *to;
  int number;
  atomic_int *connected, *go, *done;
};

static void be_a_client(void *arg) {
  struct client *c = arg;
  int fd = connect_to(c->to, false);
  ask(fd, c->number);
  atomic_fetch_add(c->connected, 1);
  while (!atomic_load(c->go))
    gort_sleep(10 * MILLISECOND);
  for (int i = 0; i < 3; i++)
    ask(fd, c->number);
  close(fd);
  atomic_fetch_add(c->done, 1);
}

static int most_connections(void) {
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = limit.rlim_max;
  (void)!setrlimit(RLIMIT_NOFILE, &limit);
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  rlim_t most = (limit.rlim_cur - 100) / 2, wanted = 2000 / SLOWNESS;
  return (int)(most < wanted ? most : wanted);
}

static int open_descriptors(void) {
  int n = 0;
  for (int fd = 0; fd < 20000; fd++)
    n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

static void test_many_connections_at_once(void **state) {
  (void)state;
  int n = most_connections(), before = open_descriptors();
  struct listener l = listen_in(INET, false, 4096);
  struct client *clients = calloc((size_t)n, sizeof *clients);
  atomic_int connected = 0, go = 0, done = 0;
  atomic_store(&finished, 0);
  gort_go(serve, &l.fd);
  for (int i = 0; i < n; i++) {
    clients[i] = (struct client){&l, i, &connected, &go, &done};
    gort_go_stack(be_a_client, &clients[i], 64 << 10);
  }
  WAIT_UNTIL(atomic_load(&connected) == n);
  assert_int_equal(atomic_load(&finished), n);
  atomic_store(&go, 1);
  WAIT_UNTIL(atomic_load(&done) == n && atomic_load(&finished) == 0);
  assert_int_equal(gort_close(l.fd), 0);
  assert_int_equal(open_descriptors(), before);
  free(clients);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_accept),
      cmocka_unit_test(test_accept_until),
      cmocka_unit_test(test_close_ends_accepting),
      cmocka_unit_test(test_results_of_accept),
      cmocka_unit_test(test_many_accept),
      cmocka_unit_test(test_accept_beside_a_process),
      cmocka_unit_test(test_connect_is_refused),
      cmocka_unit_test(test_results_of_connect),
      cmocka_unit_test(test_connect_until),
      cmocka_unit_test(test_connect_waits),
      cmocka_unit_test(test_close_ends_connecting),
      cmocka_unit_test(test_two_connect_one_socket),
      cmocka_unit_test(test_many_connections_at_once),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
