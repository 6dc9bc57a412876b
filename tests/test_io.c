/* Reading, writing, waiting for and closing descriptors of all kinds. */
#include "descriptors.h"

#include <limits.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

static atomic_int finished;

/* --- Reading -------------------------------------------------------------------------------- */

struct reader {
  int fd;
  size_t n;
  int64_t deadline;
  ssize_t result;
  char buf[64];
  atomic_int begun, done;
};

static void read_once(void *arg) {
  struct reader *r = arg;
  atomic_store(&r->begun, 1);
  r->result = gort_read_until(r->fd, r->buf, r->n, r->deadline);
  atomic_store(&r->done, 1);
}

static struct reader reader_of(int fd, size_t n) {
  return (struct reader){.fd = fd, .n = n, .deadline = -1};
}

/* It waits, as far as can be seen. */
static void start_reader(bool thread, struct reader *r) {
  start_on(thread, read_once, r);
  WAIT_UNTIL(atomic_load(&r->begun));
  for (int i = 0; i < 5; i++)
    nap();
  CHECK(!atomic_load(&r->done));
}

static void await_reader(struct reader *r, ssize_t result) {
  WAIT_UNTIL(atomic_load(&r->done));
  CHECK(r->result == result);
}

/* Each kind, blocking or not, read on a goroutine or on a thread. */
static void for_all_kinds(void (*fn)(int kind, bool nonblocking, bool thread)) {
  for (int kind = 0; kind < KINDS; kind++)
    for (int i = 0; i < 4; i++)
      fn(kind, i & 1, i & 2);
}

static void read_some(int kind, bool nonblocking, bool thread) {
  int fd[2];
  make_pair(kind, nonblocking, fd);
  struct reader r = reader_of(fd[0], 5);
  start_reader(thread, &r);
  CHECK(write(fd[1], "1234567", 7) == 7);
  await_reader(&r, 5);
  CHECK(memcmp(r.buf, "12345", 5) == 0);
  CHECK(gort_read(fd[0], r.buf, sizeof r.buf) == 2);
  CHECK(memcmp(r.buf, "67", 2) == 0);
  close_pair(fd);
}

static void read_the_end(int kind, bool nonblocking, bool thread) {
  int fd[2];
  make_pair(kind, nonblocking, fd);
  struct reader r = reader_of(fd[0], 5);
  start_reader(thread, &r);
  close(fd[1]);
  await_reader(&r, 0);
  CHECK(gort_read(fd[0], r.buf, 1) == 0);
  close(fd[0]);
}

static void test_read_waits_for_what_comes(void **state) {
  (void)state;
  for_all_kinds(read_some);
  for_all_kinds(read_the_end);
}

static void test_read_of_an_eventfd(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    int fd = eventfd(0, EFD_CLOEXEC | (i & 1 ? EFD_NONBLOCK : 0));
    uint64_t value = 77;
    struct reader r = reader_of(fd, 64);
    start_reader(i & 2, &r);
    assert_int_equal(gort_write(fd, &value, sizeof value), 8);
    await_reader(&r, 8);
    assert_memory_equal(r.buf, &value, 8);
    close(fd);
  }
}

/* --- Reading and writing files -------------------------------------------------------------- */

enum { FILE_SIZE = 8 << 20 };

static int temporary_file(void) {
  char name[] = "/tmp/gort-test-XXXXXX";
  int fd = mkstemp(name);
  CHECK(fd >= 0 && unlink(name) == 0);
  return fd;
}

static void fill_with_numbers(char *p, size_t n) {
  struct rng rng = seeded_rng(n);
  for (size_t i = 0; i + 8 <= n; i += 8) {
    uint64_t x = rng_next(&rng);
    memcpy(p + i, &x, 8);
  }
}

/* Only the first half of it is in memory, as far as it can be told apart: the kernel keeps a file
 * in pieces of up to some megabytes. */
static void forget_half(int fd) {
  CHECK(fsync(fd) == 0);
  CHECK(posix_fadvise(fd, FILE_SIZE / 2, 0, POSIX_FADV_DONTNEED) == 0);
}

static void use_file(void *unused) {
  (void)unused;
  int fd = temporary_file();
  char *data = gort_alloc_noscan(FILE_SIZE), *back = gort_alloc_noscan(FILE_SIZE);
  fill_with_numbers(data, FILE_SIZE);
  CHECK(gort_write(fd, data, FILE_SIZE) == FILE_SIZE);
  CHECK(gort_read(fd, back, 10) == 0);
  forget_half(fd);
  CHECK(lseek(fd, 0, SEEK_SET) == 0);
  CHECK(gort_read(fd, back, 10) == 10);
  CHECK(gort_read(fd, back + 10, FILE_SIZE) == FILE_SIZE - 10);
  CHECK(memcmp(back, data, FILE_SIZE) == 0);
  CHECK(gort_read(fd, back, FILE_SIZE) == 0);
  CHECK(gort_close(fd) == 0);
}

static void test_files_are_read_and_written_whole(void **state) {
  (void)state;
  everywhere(use_file, NULL);
}

static void use_devices(void *unused) {
  (void)unused;
  char buf[100] = "x";
  int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY);
  int dir = open("/", O_RDONLY | O_DIRECTORY), proc = open("/proc/self/stat", O_RDONLY);
  CHECK(gort_read(null, buf, 100) == 0);
  CHECK(gort_write(null, buf, 100) == 100);
  CHECK(gort_read(zero, buf, 100) == 100 && buf[0] == 0);
  CHECK(gort_read(dir, buf, 100) == -EISDIR);
  CHECK(gort_read(proc, buf, 10) == 10 && strtol(buf, NULL, 10) == getpid());
  CHECK(gort_close(null) == 0 && gort_close(zero) == 0 && gort_close(dir) == 0 &&
        gort_close(proc) == 0);
}

static void test_devices_and_directories(void **state) {
  (void)state;
  everywhere(use_devices, NULL);
}

/* --- Errors --------------------------------------------------------------------------------- */

static void make_mistakes(void *unused) {
  (void)unused;
  char buf[8];
  int fd[2];
  pipe_pair(fd);
  int closed = dup(fd[0]), file = temporary_file();
  close(closed);
  int bad[] = {-1, INT_MIN, closed, 1 << 20, INT_MAX};
  for (size_t i = 0; i < COUNT_OF(bad); i++) {
    CHECK(gort_read(bad[i], buf, 8) == -EBADF);
    CHECK(gort_read(bad[i], buf, 0) == -EBADF);
    CHECK(gort_write(bad[i], buf, 8) == -EBADF);
    CHECK(gort_poll(bad[i], POLLIN, 0) == -EBADF);
    CHECK(gort_close(bad[i]) == -EBADF);
  }
  CHECK(gort_write(fd[0], buf, 8) == -EBADF);
  CHECK(gort_read(fd[1], buf, 8) == -EBADF);
  CHECK(gort_read(fd[0], buf, SIZE_MAX) == -EINVAL);
  CHECK(gort_write(fd[1], buf, SIZE_MAX) == -EINVAL);
  CHECK(gort_write(fd[1], NULL, 8) == -EFAULT);
  CHECK(gort_write(file, NULL, 8) == -EFAULT);
  CHECK(gort_write(fd[1], buf, 8) == 8);
  CHECK(gort_read(fd[0], NULL, 8) == -EFAULT);
  close_pair(fd);
  close(file);
}

static void test_errors_are_negative_numbers(void **state) {
  (void)state;
  everywhere(make_mistakes, NULL);
}

static void transfer_nothing(void *unused) {
  (void)unused;
  for (int kind = 0; kind < KINDS; kind++) {
    int fd[2];
    make_pair(kind, false, fd);
    CHECK(gort_read(fd[0], NULL, 0) == 0);
    CHECK(gort_write(fd[1], NULL, 0) == 0);
    close_pair(fd);
  }
}

static void test_0_bytes_do_not_wait(void **state) {
  (void)state;
  everywhere(transfer_nothing, NULL);
}

/* The result, of a call that must not touch errno. */
#define KEEPS(call)                                                                                \
  __extension__({                                                                                  \
    errno = 1234;                                                                                  \
    long r_ = (long)(call);                                                                        \
    CHECK(errno == 1234);                                                                          \
    r_;                                                                                            \
  })

/* What fails at once, what has to wait, and what goes. */
static void keep_errno_on(int kind, bool nonblocking) {
  char buf[8] = "1234567";
  int fd[2], full[2];
  make_pair(kind, nonblocking, fd);
  make_full_pair(kind, nonblocking, full);
  CHECK(KEEPS(gort_read_until(fd[0], buf, 8, from_now(MILLISECOND))) == -ETIMEDOUT);
  CHECK(KEEPS(gort_poll(fd[0], POLLIN, from_now(MILLISECOND))) == -ETIMEDOUT);
  CHECK(KEEPS(gort_write_until(full[1], buf, 8, from_now(MILLISECOND))) == -ETIMEDOUT);
  CHECK(KEEPS(gort_accept_until(fd[0], NULL, NULL, from_now(MILLISECOND))) < 0);
  CHECK(KEEPS(gort_connect(fd[0], NULL, 0)) < 0);
  CHECK(KEEPS(gort_write(fd[1], buf, 8)) == 8);
  CHECK(KEEPS(gort_read(fd[0], NULL, 8)) == -EFAULT);
  CHECK(KEEPS(gort_read(fd[0], buf, 8)) == 8);
  CHECK(KEEPS(gort_close(fd[0])) == 0);
  CHECK(KEEPS(gort_close(fd[0])) == -EBADF);
  gort_sleep(MILLISECOND);
  CHECK(kind == TCP || KEEPS(gort_write(fd[1], buf, 8)) == -EPIPE);
  close(fd[1]);
  close_pair(full);
}

static void keep_errno_while_connecting(bool nonblocking) {
  struct sockaddr_in nobody;
  struct sockaddr_un nowhere = {.sun_family = AF_UNIX, .sun_path = "/nowhere/at/all"};
  close(listen_on_loopback(&nobody, 1));
  int tcp = socket(AF_INET, SOCK_STREAM, 0), un = socket(AF_UNIX, SOCK_STREAM, 0);
  int l = listen_on_loopback(&(struct sockaddr_in){0}, 1);
  if (nonblocking) {
    set_nonblocking(tcp);
    set_nonblocking(l);
  }
  CHECK(KEEPS(gort_connect(tcp, (struct sockaddr *)&nobody, sizeof nobody)) == -ECONNREFUSED);
  CHECK(KEEPS(gort_connect(un, (struct sockaddr *)&nowhere, sizeof nowhere)) == -ENOENT);
  CHECK(KEEPS(gort_accept_until(l, NULL, NULL, from_now(MILLISECOND))) == -ETIMEDOUT);
  close(tcp);
  close(un);
  close(l);
}

/* errno is a thread's: a goroutine has to stay on one. */
static void keep_errno(void *unused) {
  (void)unused;
  char buf[8];
  int file = temporary_file(), dir = open("/", O_RDONLY | O_DIRECTORY);
  gort_lock_thread();
  for (int kind = 0; kind < KINDS; kind++)
    for (int i = 0; i < 2; i++)
      keep_errno_on(kind, i);
  keep_errno_while_connecting(false);
  keep_errno_while_connecting(true);
  CHECK(KEEPS(gort_read(-1, buf, 8)) == -EBADF);
  CHECK(KEEPS(gort_write(1 << 20, buf, 8)) == -EBADF);
  CHECK(KEEPS(gort_poll(1 << 20, POLLIN, -1)) == -EBADF);
  CHECK(KEEPS(gort_accept(1 << 20, NULL, NULL)) == -EBADF);
  CHECK(KEEPS(gort_connect(1 << 20, NULL, 0)) == -EBADF);
  CHECK(KEEPS(gort_read(dir, buf, 8)) == -EISDIR);
  CHECK(KEEPS(gort_write(file, NULL, 8)) == -EFAULT);
  CHECK(KEEPS(gort_poll(file, POLLIN, -1)) == 0);
  CHECK(KEEPS(gort_close(file)) == 0);
  close(dir);
  gort_unlock_thread();
}

static void test_errno_stays(void **state) {
  (void)state;
  everywhere(keep_errno, NULL);
}

/* --- What comes after a read that got less than it asked for -------------------------------- */

struct ends {
  int fd[2];
  atomic_int done;
};

static void read_to_the_end(void *arg) {
  struct ends *e = arg;
  char buf[64];
  ssize_t n;
  int got = 0;
  while ((n = gort_read(e->fd[0], buf, sizeof buf)) > 0)
    got += (int)n;
  CHECK(n == 0 && got == 6);
  atomic_store(&e->done, 1);
}

/* Data, and then the end, at once or a little later. */
static void come_to_the_end(int kind, bool nonblocking, bool thread) {
  struct rng rng = seeded_rng(3);
  for (int i = 0; i < 300 / SLOWNESS; i++) {
    struct ends e = {.done = 0};
    make_pair(kind, nonblocking, e.fd);
    start_on(thread && i % 10 == 0, read_to_the_end, &e);
    for (int part = 0; part < 2; part++) {
      for (volatile size_t spins = rng_below(&rng, 20000); spins > 0;)
        spins--;
      CHECK(write(e.fd[1], "abc", 3) == 3);
    }
    close(e.fd[1]);
    SLEEP_UNTIL(atomic_load(&e.done));
    close(e.fd[0]);
  }
}

static void test_the_end_after_a_short_read(void **state) {
  (void)state;
  for_all_kinds(come_to_the_end);
}

static ssize_t read_soon(int fd, char *buf) {
  return gort_read_until(fd, buf, 64, from_now((int64_t)10000 * MILLISECOND));
}

/* Reading stops at urgent data, and goes on behind it. */
static void read_around_urgent_data(void *unused) {
  (void)unused;
  char buf[64];
  int fd[2];
  tcp_pair(fd);
  for (int i = 0; i < 3; i++) {
    CHECK(write(fd[1], "a", 1) == 1);
    CHECK(read_soon(fd[0], buf) == 1);
  }
  CHECK(send(fd[1], "bc", 2, 0) == 2 && send(fd[1], "!", 1, MSG_OOB) == 1);
  CHECK(send(fd[1], "de", 2, 0) == 2);
  gort_sleep(5 * MILLISECOND);
  CHECK(read_soon(fd[0], buf) == 2 && memcmp(buf, "bc", 2) == 0);
  CHECK(read_soon(fd[0], buf) == 2 && memcmp(buf, "de", 2) == 0);
  close_pair(fd);
}

static void test_urgent_data(void **state) {
  (void)state;
  everywhere(read_around_urgent_data, NULL);
}

/* Messages are read one at a time, whatever one asks for. */
static void read_messages(void *unused) {
  (void)unused;
  char buf[64];
  int fd[2];
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) == 0);
  for (int i = 0; i < 3; i++) {
    CHECK(write(fd[1], "ab", 2) == 2 && write(fd[1], "c", 1) == 1);
    CHECK(read_soon(fd[0], buf) == 2);
    CHECK(read_soon(fd[0], buf) == 1);
  }
  close_pair(fd);
}

static void test_messages(void **state) {
  (void)state;
  everywhere(read_messages, NULL);
}

/* --- Writing -------------------------------------------------------------------------------- */

enum { LARGE = 8 << 20 };

struct flow {
  int fd;
  char *data;
  size_t n;
  atomic_int *done;
};

static void send_flow(void *arg) {
  struct flow *f = arg;
  CHECK(gort_write(f->fd, f->data, f->n) == (ssize_t)f->n);
  atomic_fetch_add(f->done, 1);
}

static void receive_flow(void *arg) {
  struct flow *f = arg;
  char *back = gort_alloc_noscan(f->n);
  size_t have = 0;
  while (have < f->n) {
    ssize_t n = gort_read(f->fd, back + have, f->n - have);
    CHECK(n > 0);
    have += (size_t)n;
  }
  CHECK(memcmp(back, f->data, f->n) == 0);
  atomic_fetch_add(f->done, 1);
}

/* Both ways at once, where that can be: a writer and a reader wait for each descriptor. */
static void transfer_much(int kind, bool nonblocking, bool thread) {
  int fd[2];
  make_pair(kind, nonblocking, fd);
  char *data = gort_alloc_noscan(LARGE);
  fill_with_numbers(data, LARGE);
  atomic_int done = 0;
  struct flow there = {fd[1], data, LARGE, &done}, to = {fd[0], data, LARGE, &done};
  start_on(thread, send_flow, &there);
  start_on(false, receive_flow, &to);
  if (kinds[kind].both_ways) {
    start_on(false, send_flow, &to);
    start_on(thread, receive_flow, &there);
  }
  WAIT_UNTIL(atomic_load(&done) == (kinds[kind].both_ways ? 4 : 2));
  close_pair(fd);
}

static void test_write_writes_all(void **state) {
  (void)state;
  for_all_kinds(transfer_much);
}

/* While the collector runs, too. What is on its way is not garbage. */
static void test_transfers_during_collections(void **state) {
  (void)state;
  start_collecting();
  transfer_much(TCP, false, false);
  transfer_much(PIPE, false, true);
  stop_collecting();
}

struct writer {
  int fd, times;
  ssize_t results[2];
  atomic_int done;
};

static void write_large(void *arg) {
  struct writer *w = arg;
  char *data = gort_alloc_noscan(LARGE);
  for (int i = 0; i < w->times; i++)
    w->results[i] = gort_write(w->fd, data, LARGE);
  atomic_store(&w->done, 1);
}

/* The other end is closed in the middle of it, with data that nobody has read. */
static void break_off(struct writer *w, int other, bool thread) {
  char buf[1000];
  start_on(thread, write_large, w);
  CHECK(gort_read(other, buf, sizeof buf) > 0);
  for (int i = 0; i < 5; i++)
    nap();
  CHECK(!atomic_load(&w->done));
  close(other);
  WAIT_UNTIL(atomic_load(&w->done));
  CHECK(w->results[0] > 0 && w->results[0] < LARGE);
}

static void fail_after_some(int kind, bool nonblocking, bool thread) {
  int fd[2];
  make_pair(kind, nonblocking, fd);
  struct writer w = {.fd = fd[1], .times = 2};
  break_off(&w, fd[0], thread);
  CHECK(w.results[1] == (kind == TCP ? -ECONNRESET : -EPIPE));
  CHECK(gort_write(fd[1], "x", 1) == -EPIPE);
  close(fd[1]);
}

static void test_an_error_comes_after_the_count(void **state) {
  (void)state;
  for_all_kinds(fail_after_some);
}

/* The error that is kept is that of a descriptor, not of its number. */
static void test_a_kept_error_is_not_inherited(void **state) {
  (void)state;
  int fd[2], other[2];
  tcp_pair(fd);
  struct writer w = {.fd = fd[1], .times = 1};
  break_off(&w, fd[0], false);
  unix_pair(other);
  assert_int_equal(dup2(other[1], fd[1]), fd[1]);
  assert_int_equal(gort_write(fd[1], "x", 1), 1);
  close_pair(other);
  close(fd[1]);
}

/* --- SIGPIPE -------------------------------------------------------------------------------- */

static void write_to_nobody(void *unused) {
  (void)unused;
  for (int kind = 0; kind < KINDS; kind++)
    for (int i = 0; i < 2; i++) {
      int fd[2];
      make_pair(kind, i & 1, fd);
      close(fd[0]);
      gort_sleep(MILLISECOND);
      ssize_t r = gort_write(fd[1], "x", 1);
      if (kind == TCP && r == 1) { /* the other side has to say that it is gone */
        gort_sleep(10 * MILLISECOND);
        r = gort_write(fd[1], "x", 1);
      }
      CHECK(r == -EPIPE || (kind == TCP && r == -ECONNRESET));
      CHECK(gort_write(fd[1], "x", 1) == -EPIPE);
      close(fd[1]);
    }
}

/* Its default action would end the process. */
static void test_no_call_raises_sigpipe(void **state) {
  (void)state;
  assert_true(signal(SIGPIPE, SIG_DFL) == SIG_DFL);
  everywhere(write_to_nobody, NULL);
}

static bool is_pending(int sig) {
  sigset_t pending;
  CHECK(sigpending(&pending) == 0);
  return sigismember(&pending, sig) == 1;
}

/* The mask is as before, and so is what waits. */
static void write_with_sigpipe_blocked(void *unused) {
  (void)unused;
  sigset_t set, before, after;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  write_to_nobody(NULL);
  pthread_sigmask(SIG_BLOCK, NULL, &before);
  CHECK(sigismember(&before, SIGPIPE) == 0);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  write_to_nobody(NULL);
  CHECK(!is_pending(SIGPIPE));
  pthread_kill(pthread_self(), SIGPIPE);
  write_to_nobody(NULL);
  CHECK(is_pending(SIGPIPE));
  pthread_sigmask(SIG_BLOCK, NULL, &after);
  CHECK(sigismember(&after, SIGPIPE) == 1);
  CHECK(sigtimedwait(&set, NULL, &(struct timespec){0, 0}) == SIGPIPE);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void test_a_sigpipe_of_the_programs_stays(void **state) {
  (void)state;
  in_thread(write_with_sigpipe_blocked, NULL);
}

/* --- Deadlines ------------------------------------------------------------------------------ */

static const int64_t terms[] = {1,      1000,        20000,           100000,
                                300000, MILLISECOND, 3 * MILLISECOND, 12 * MILLISECOND};

struct timing {
  int empty, full;
  atomic_int done;
};

static void expect_timeout(int64_t deadline, ssize_t result) {
  CHECK(result == -ETIMEDOUT);
  CHECK(gort_nanotime() >= deadline);
}

static void run_out_of_time(void *arg) {
  struct timing *t = arg;
  char buf[8];
  for (size_t i = 0; i < COUNT_OF(terms); i++) {
    int64_t deadline = from_now(terms[i]);
    expect_timeout(deadline, gort_read_until(t->empty, buf, 8, deadline));
    deadline = from_now(terms[i]);
    expect_timeout(deadline, gort_write_until(t->full, buf, 8, deadline));
    deadline = from_now(terms[i]);
    expect_timeout(deadline, gort_poll(t->empty, POLLIN, deadline));
    deadline = from_now(terms[i]);
    expect_timeout(deadline, gort_poll(t->full, POLLOUT, deadline));
  }
  atomic_fetch_add(&t->done, 1);
}

static void time_out_on(int kind, bool nonblocking, bool thread) {
  enum { WAITERS = 10 };
  int empty[2], full[2];
  make_pair(kind, nonblocking, empty);
  make_full_pair(kind, nonblocking, full);
  struct timing t = {empty[0], full[1], 0};
  for (int i = 0; i < WAITERS; i++)
    start_on(thread, run_out_of_time, &t);
  WAIT_UNTIL(atomic_load(&t.done) == WAITERS);
  close_pair(empty);
  close_pair(full);
}

static void test_deadlines_are_never_early(void **state) {
  (void)state;
  for_all_kinds(time_out_on);
}

/* 0 is long past. What is there is there. */
static void be_late(void *kind) {
  int fd[2];
  char buf[8];
  make_pair((int)(uintptr_t)kind, false, fd);
  CHECK(gort_poll(fd[0], POLLIN, 0) == -ETIMEDOUT);
  CHECK(gort_read_until(fd[0], buf, 8, 0) == -ETIMEDOUT);
  CHECK(gort_poll(fd[1], POLLOUT, 0) == 0);
  CHECK(gort_write_until(fd[1], "12345678", 8, 0) == 8);
  gort_sleep(MILLISECOND);
  CHECK(gort_poll(fd[0], POLLIN, 0) == 0);
  CHECK(gort_read_until(fd[0], buf, 8, 0) == 8);
  for (int i = 0; i < 20; i++) { /* what has just come, and was not reported yet */
    CHECK(gort_read_until(fd[0], buf, 8, from_now(1)) == -ETIMEDOUT);
    CHECK(write(fd[1], "1234", 4) == 4);
    CHECK(gort_read_until(fd[0], buf, 8, 0) == 4);
  }
  close_pair(fd);
}

/* After a read that got less than it asked for, of what had been reported. */
static void be_late_again(void *kind) {
  int fd[2];
  char buf[8];
  make_pair((int)(uintptr_t)kind, false, fd);
  for (int i = 0; i < 20; i++) {
    CHECK(gort_read_until(fd[0], buf, 8, from_now(MILLISECOND)) == -ETIMEDOUT);
    CHECK(write(fd[1], "1234", 4) == 4);
    gort_sleep(MILLISECOND);
    CHECK(gort_read_until(fd[0], buf, 8, 0) == 4);
    CHECK(write(fd[1], "1234", 4) == 4);
    CHECK(gort_read_until(fd[0], buf, 8, 0) == 4);
  }
  close_pair(fd);
}

static void test_what_is_there_wins_over_a_deadline(void **state) {
  (void)state;
  for (uintptr_t kind = 0; kind < KINDS; kind++)
    everywhere(be_late, (void *)kind);
  for (uintptr_t kind = 0; kind < KINDS; kind++)
    everywhere(be_late_again, (void *)kind);
}

static void wait_for_ever(int64_t deadline, bool thread) {
  int fd[2];
  pipe_pair(fd);
  struct reader r = reader_of(fd[0], 1);
  r.deadline = deadline;
  start_reader(thread, &r);
  CHECK(write(fd[1], "x", 1) == 1);
  await_reader(&r, 1);
  close_pair(fd);
}

static void test_no_deadline(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    wait_for_ever(-1, i);
    wait_for_ever(INT64_MIN, i);
    wait_for_ever(INT64_MAX, i);
    wait_for_ever(INT64_MAX - 1, i);
  }
}

/* Some of it could be written. */
static void test_a_deadline_after_some_bytes(void **state) {
  (void)state;
  int fd[2];
  char *data = calloc(1, LARGE);
  unix_pair(fd);
  ssize_t n = gort_write_until(fd[1], data, LARGE, from_now(5 * MILLISECOND));
  assert_true(n > 0 && n < LARGE);
  assert_int_equal(gort_write_until(fd[1], data, LARGE, from_now(MILLISECOND)), -ETIMEDOUT);
  free(data);
  close_pair(fd);
}

/* --- Waiting -------------------------------------------------------------------------------- */

static void poll_events(void *unused) {
  (void)unused;
  int fd[2], file = temporary_file(), null = open("/dev/null", O_RDWR);
  tcp_pair(fd);
  CHECK(gort_poll(fd[0], POLLIN | POLLPRI | POLLRDHUP, from_now(MILLISECOND)) == -ETIMEDOUT);
  CHECK(gort_poll(fd[0], POLLIN | POLLOUT, -1) == 0);
  CHECK(send(fd[1], "!", 1, MSG_OOB) == 1);
  CHECK(gort_poll(fd[0], POLLPRI, -1) == 0);
  CHECK(gort_poll(fd[0], POLLRDHUP, from_now(MILLISECOND)) == -ETIMEDOUT);
  CHECK(shutdown(fd[1], SHUT_WR) == 0);
  CHECK(gort_poll(fd[0], POLLRDHUP, -1) == 0);
  CHECK(gort_poll(fd[1], POLLIN, from_now(MILLISECOND)) == -ETIMEDOUT);
  CHECK(gort_poll(file, POLLIN, -1) == 0 && gort_poll(file, POLLOUT, -1) == 0);
  CHECK(gort_poll(null, POLLIN, -1) == 0);
  close_pair(fd);
  close(file);
  close(null);
}

static void test_poll(void **state) {
  (void)state;
  everywhere(poll_events, NULL);
}

struct poller {
  int fd;
  short events;
  int result;
  atomic_int begun, done;
};

static void poll_once(void *arg) {
  struct poller *p = arg;
  atomic_store(&p->begun, 1);
  p->result = gort_poll(p->fd, p->events, -1);
  atomic_store(&p->done, 1);
}

static void start_poller(bool thread, struct poller *p) {
  start_on(thread, poll_once, p);
  WAIT_UNTIL(atomic_load(&p->begun));
  for (int i = 0; i < 5; i++)
    nap();
  CHECK(!atomic_load(&p->done));
}

static void await_poller(struct poller *p, int result) {
  WAIT_UNTIL(atomic_load(&p->done));
  CHECK(p->result == result);
}

/* Whatever one waits for. */
static void hang_up(bool thread) {
  int fd[2], both[2];
  pipe_pair(fd);
  unix_pair(both);
  fill(fd[1]);
  struct poller p = {.fd = fd[1], .events = POLLOUT}, q = {.fd = both[0], .events = POLLPRI},
                r = {.fd = both[0]};
  start_poller(thread, &p);
  start_poller(thread, &q);
  start_poller(thread, &r);
  close(fd[0]);
  close(both[1]);
  await_poller(&p, 0);
  await_poller(&q, 0);
  await_poller(&r, 0);
  close(fd[1]);
  close(both[0]);
}

static void test_hang_up_and_error_count_as_ready(void **state) {
  (void)state;
  hang_up(false);
  hang_up(true);
}

/* Each event wakes who waits for it, and nobody in vain for good. */
static void test_events_of_one_descriptor(void **state) {
  (void)state;
  int fd[2];
  unix_pair(fd);
  fill(fd[0]);
  struct poller in = {.fd = fd[0], .events = POLLIN}, out = {.fd = fd[0], .events = POLLOUT};
  start_poller(false, &in);
  start_poller(true, &out);
  assert_int_equal(write(fd[1], "x", 1), 1);
  await_poller(&in, 0);
  assert_int_equal(atomic_load(&out.done), 0);
  char *buf = malloc(LARGE);
  while (gort_read_until(fd[1], buf, LARGE, 0) > 0)
    continue;
  await_poller(&out, 0);
  free(buf);
  close_pair(fd);
}

/* --- Many on one descriptor ----------------------------------------------------------------- */

enum { CROWD = 100, CROWD_THREADS = 3 };

static void take_one(void *arg) {
  char c;
  CHECK(gort_read(*(int *)arg, &c, 1) == 1);
  atomic_fetch_add(&finished, 1);
}

static void crowd_around(int kind, bool nonblocking, bool thread) {
  int fd[2];
  (void)thread;
  make_pair(kind, nonblocking, fd);
  atomic_store(&finished, 0);
  for (int i = 0; i < CROWD; i++)
    start_on(i < CROWD_THREADS, take_one, &fd[0]);
  for (int i = 0; i < 3; i++)
    nap();
  for (int i = 0; i < CROWD; i++) {
    CHECK(write(fd[1], "x", 1) == 1);
    WAIT_UNTIL(atomic_load(&finished) > i - 5);
  }
  WAIT_UNTIL(atomic_load(&finished) == CROWD);
  close_pair(fd);
}

static void test_many_wait_on_one_descriptor(void **state) {
  (void)state;
  for_all_kinds(crowd_around);
}

/* All at once: one event, which each of them has to see. */
static void test_many_see_one_event(void **state) {
  (void)state;
  int fd[2];
  pipe_pair(fd);
  static struct poller p[CROWD];
  for (int i = 0; i < CROWD; i++) {
    p[i] = (struct poller){.fd = fd[0], .events = POLLIN};
    start_on(i < CROWD_THREADS, poll_once, &p[i]);
  }
  for (int i = 0; i < 10; i++)
    nap();
  assert_int_equal(write(fd[1], "x", 1), 1);
  for (int i = 0; i < CROWD; i++)
    await_poller(&p[i], 0);
  close_pair(fd);
}

/* --- Others go on --------------------------------------------------------------------------- */

static atomic_int turns;

static void take_turns(void *unused) {
  (void)unused;
  for (;;) {
    atomic_fetch_add(&turns, 1);
    gort_yield();
  }
}

static void await_turns(void) {
  int from = atomic_load(&turns);
  SLEEP_UNTIL(atomic_load(&turns) > from + 10);
}

/* With one processor, which a blocked read would keep. */
static void read_slowly(void *unused) {
  (void)unused;
  gort_go(take_turns, NULL);
  for (int kind = 0; kind < KINDS; kind++) {
    int fd[2];
    make_pair(kind, false, fd);
    struct reader r = reader_of(fd[0], 1);
    gort_go(read_once, &r);
    SLEEP_UNTIL(atomic_load(&r.begun));
    await_turns();
    CHECK(gort_write(fd[1], "x", 1) == 1);
    SLEEP_UNTIL(atomic_load(&r.done));
    close_pair(fd);
  }
}
CASE(reading_on_one) { gort_main(read_slowly, NULL); }

/* A terminal that is not ready, whose reads cannot be told not to wait. */
static void read_terminal(void *unused) {
  (void)unused;
  gort_go(take_turns, NULL);
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0)
    return;
  CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  CHECK(slave >= 0);
  struct reader r = reader_of(slave, 10), late = reader_of(slave, 10);
  late.deadline = from_now(MILLISECOND);
  read_once(&late);
  CHECK(late.result == -ETIMEDOUT);
  gort_go(read_once, &r);
  SLEEP_UNTIL(atomic_load(&r.begun));
  await_turns();
  CHECK(gort_write(master, "a\nb\n", 4) == 4);
  SLEEP_UNTIL(atomic_load(&r.done));
  CHECK(r.result == 2 && memcmp(r.buf, "a\n", 2) == 0);
  CHECK(gort_read(slave, r.buf, 10) == 2 && memcmp(r.buf, "b\n", 2) == 0);
  close(slave);
  close(master);
}
CASE(reading_a_terminal) { gort_main(read_terminal, NULL); }

/* A file on a disk takes its time. One in memory never blocks a thread. */
static bool is_on_disk(int fd) {
  struct statfs s;
  return fstatfs(fd, &s) == 0 && s.f_type != TMPFS_MAGIC && s.f_type != RAMFS_MAGIC;
}

static void write_slowly(void *unused) {
  (void)unused;
  enum { SIZE = 64 << 20 };
  int fd = temporary_file();
  if (!is_on_disk(fd))
    return;
  char *data = gort_alloc_noscan(SIZE);
  gort_go(take_turns, NULL);
  await_turns();
  int before = atomic_load(&turns);
  CHECK(gort_write(fd, data, SIZE) == SIZE);
  CHECK(atomic_load(&turns) > before + 20);
  close(fd);
}
CASE(writing_on_one) { gort_main(write_slowly, NULL); }

static void test_others_go_on(void **state) {
  (void)state;
  expect_quiet_in(reading_on_one, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(reading_a_terminal, ENV("GORTMAXPROCS=1"));
  expect_quiet_in(writing_on_one, ENV("GORTMAXPROCS=1"));
}

/* --- Older kernels -------------------------------------------------------------------------- */

/* This one, with a filter that refuses what an older one lacks: calls without waiting on other
 * files than sockets, writing without SIGPIPE, waiting for nanoseconds. */
static void become_older(uint32_t flags, int how) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 5, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_preadv2, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pwritev2, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flags, 0, 2),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)how),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {COUNT_OF(code), code};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    exit(0); /* there is no such filter here */
}

static void do_it_all(void) {
  gort_init();
  for_all_kinds(read_some);
  for_all_kinds(read_the_end);
  for_all_kinds(transfer_much);
  for_all_kinds(fail_after_some);
  for_all_kinds(time_out_on);
  for_all_kinds(crowd_around);
  for (uintptr_t kind = 0; kind < KINDS; kind++)
    everywhere(be_late, (void *)kind);
  everywhere(use_file, NULL);
  everywhere(use_devices, NULL);
  everywhere(make_mistakes, NULL);
  everywhere(transfer_nothing, NULL);
  everywhere(write_to_nobody, NULL);
  in_thread(write_with_sigpipe_blocked, NULL);
}

enum { NOWAIT = 8, NOSIGNAL = 0x100 };

CASE(without_nosignal) {
  become_older(NOSIGNAL, EOPNOTSUPP);
  do_it_all();
}
CASE(without_nowait) {
  become_older(NOWAIT, EOPNOTSUPP);
  do_it_all();
}
CASE(without_both) {
  become_older(NOWAIT | NOSIGNAL, EOPNOTSUPP);
  do_it_all();
}
CASE(without_preadv2) {
  become_older(NOWAIT | NOSIGNAL, ENOSYS);
  do_it_all();
}

static void test_older_kernels(void **state) {
  (void)state;
  expect_quiet(without_nosignal);
  expect_quiet(without_nowait);
  expect_quiet(without_both);
  expect_quiet(without_preadv2);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_read_waits_for_what_comes),
      cmocka_unit_test(test_read_of_an_eventfd),
      cmocka_unit_test(test_files_are_read_and_written_whole),
      cmocka_unit_test(test_devices_and_directories),
      cmocka_unit_test(test_errors_are_negative_numbers),
      cmocka_unit_test(test_0_bytes_do_not_wait),
      cmocka_unit_test(test_errno_stays),
      cmocka_unit_test(test_the_end_after_a_short_read),
      cmocka_unit_test(test_urgent_data),
      cmocka_unit_test(test_messages),
      cmocka_unit_test(test_write_writes_all),
      cmocka_unit_test(test_transfers_during_collections),
      cmocka_unit_test(test_an_error_comes_after_the_count),
      cmocka_unit_test(test_a_kept_error_is_not_inherited),
      cmocka_unit_test(test_no_call_raises_sigpipe),
      cmocka_unit_test(test_a_sigpipe_of_the_programs_stays),
      cmocka_unit_test(test_deadlines_are_never_early),
      cmocka_unit_test(test_what_is_there_wins_over_a_deadline),
      cmocka_unit_test(test_no_deadline),
      cmocka_unit_test(test_a_deadline_after_some_bytes),
      cmocka_unit_test(test_poll),
      cmocka_unit_test(test_hang_up_and_error_count_as_ready),
      cmocka_unit_test(test_events_of_one_descriptor),
      cmocka_unit_test(test_many_wait_on_one_descriptor),
      cmocka_unit_test(test_many_see_one_event),
      cmocka_unit_test(test_others_go_on),
      cmocka_unit_test(test_older_kernels),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
