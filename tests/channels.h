/* What the tests of channels, select, timers and the scheduler share: goroutines and attached
 * threads that take part, and how to know that somebody waits.
 *
 * What holds on goroutines and on attached threads alike is a function of CHECKs, run on_both. */
#ifndef GORT_TESTS_CHANNELS_H
#define GORT_TESTS_CHANNELS_H

#include "check.h"

#include <sys/mman.h>
#include <sys/stat.h>

enum { MILLISECOND = 1000000 };
#define HOUR (INT64_C(3600) * 1000 * MILLISECOND)

/* --- Who takes part ------------------------------------------------------------------------- */

enum role { GOROUTINE, THREAD, ROLES };

struct job {
  void (*fn)(void *);
  void *arg;
};

static atomic_int jobs; /* started and not ended */

SHARED_HELPER void run_job(void *p) {
  struct job *j = p;
  j->fn(j->arg);
  atomic_fetch_sub(&jobs, 1);
}

SHARED_HELPER void start_job(enum role role, void (*fn)(void *), void *arg) {
  struct job *j = gort_new(struct job);
  *j = (struct job){fn, arg};
  atomic_fetch_add(&jobs, 1);
  if (role == GOROUTINE)
    gort_go(run_job, j);
  else
    CHECK(gort_thread_start(run_job, j) == 0);
}

/* For goroutines and threads. */
#define UNTIL(cond)                                                                                \
  do {                                                                                             \
    while (!(cond))                                                                                \
      gort_sleep(MILLISECOND / 5);                                                                 \
  } while (0)

SHARED_HELPER void await_jobs(void) { UNTIL(atomic_load(&jobs) == 0); }

/* What waits in vain has time to show that it does not. */
SHARED_HELPER void wait_a_little(void) { gort_sleep(5 * MILLISECOND); }

SHARED_HELPER void on_both(void (*fn)(void *), void *arg) {
  fn(arg);
  in_goroutine(fn, arg);
}

/* --- Who waits ------------------------------------------------------------------------------ */

/* What gort_print_goroutines prints; the caller frees it. */
SHARED_HELPER char *goroutines_text(void) {
  struct stat s;
  int fd = memfd_create("goroutines", MFD_CLOEXEC);
  CHECK(fd >= 0);
  gort_print_goroutines(fd);
  CHECK(fstat(fd, &s) == 0);
  char *text = calloc(1, (size_t)s.st_size + 1);
  CHECK(text && pread(fd, text, (size_t)s.st_size, 0) == s.st_size);
  close(fd);
  return text;
}

/* How many goroutines are in this state, as traces name it. */
SHARED_HELPER int goroutines_in(const char *state) {
  char alone[64], further[64], *text = goroutines_text();
  snprintf(alone, sizeof alone, " [%s]:", state);
  snprintf(further, sizeof further, " [%s, ", state);
  size_t n = occurrences(text, alone) + occurrences(text, further);
  free(text);
  return (int)n;
}

SHARED_HELPER void await_goroutines_in(const char *state, int n) {
  UNTIL(goroutines_in(state) >= n);
}

/* Until the one that was started last waits. Where it is no goroutine it has had time to. */
SHARED_HELPER void await_one_in(enum role role, const char *state) {
  if (role == GOROUTINE)
    await_goroutines_in(state, 1);
  else
    wait_a_little();
}

/* --- Numbers as elements -------------------------------------------------------------------- */

SHARED_HELPER gort_chan *new_numbers(size_t capacity) {
  return gort_chan_new(sizeof(int64_t), capacity);
}

SHARED_HELPER void send_number(gort_chan *c, int64_t n) { gort_send(c, &n); }

/* Of a channel that is not closed. */
SHARED_HELPER int64_t recv_number(gort_chan *c) {
  int64_t n = -1;
  CHECK(gort_recv(c, &n));
  return n;
}

SHARED_HELPER void fill(gort_chan *c) {
  for (size_t i = 0; i < gort_chan_cap(c); i++)
    send_number(c, (int64_t)i);
}

SHARED_HELPER gort_chan *new_signals(size_t capacity) { return gort_chan_new(0, capacity); }
SHARED_HELPER void signal_on(gort_chan *c) { gort_send(c, NULL); }
SHARED_HELPER void await_signal(gort_chan *c) { CHECK(gort_recv(c, NULL)); }

/* --- Select --------------------------------------------------------------------------------- */

#define SEND(chan_, elem_) ((gort_case){.dir = GORT_SEND, .chan = (chan_), .elem = (elem_)})
#define RECV(chan_, elem_) ((gort_case){.dir = GORT_RECV, .chan = (chan_), .elem = (elem_)})

SHARED_HELPER int64_t from_now(int64_t ns) { return gort_nanotime() + ns; }

/* What somebody who takes part is told. */
struct numbered {
  gort_chan *c, *out;
  int64_t number;
};

SHARED_HELPER struct numbered *new_numbered(gort_chan *c, gort_chan *out, int64_t number) {
  struct numbered *n = gort_new(struct numbered);
  *n = (struct numbered){c, out, number};
  return n;
}

/* --- Objects as elements -------------------------------------------------------------------- */

/* An object that shows whether it was freed too early. */
struct thing {
  uint64_t number, check;
};

/* Watched, and reachable by nothing but what the caller does with it. */
SHARED_HELPER NOINLINE struct thing *new_thing(uint64_t number) {
  struct thing *t = gort_alloc_noscan(sizeof *t);
  *t = (struct thing){number, ~number};
  return watch(t);
}

SHARED_HELPER bool thing_is(const struct thing *t, uint64_t number) {
  return t->number == number && t->check == ~number;
}

#endif
