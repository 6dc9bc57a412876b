/* Workers are threads of their own, not attached: they touch no mutator's state, and are not
 * stopped. They sleep until `round` changes. It says how many of them take part, so that one that
 * has just been started does not take part in a round that was begun without it. */
#include "gc/workers.h"

#include "base/atomic.h"
#include "base/kernel.h"
#include "base/throw.h"
#include "os/os.h"

#include <limits.h>

enum {
  MAX_WORKERS = 16,
  ROUND = 256, /* a round counts this much; the rest is how many threads take part */
};
_Static_assert((int)MAX_WORKERS < (int)ROUND, "their number fits");

static struct {
  uint32_t wanted, threads; /* changed by who set `starting`; atomic */
  uint32_t starting;        /* atomic */
  uint32_t round;           /* rounds begun * ROUND + threads that take part in this one; atomic */
  uint32_t busy;            /* threads that have not finished this round; atomic */
  void (*fn)(void);         /* of this round; written before `round` */
} workers;

/* Who forks holds them: the memory is copied while they hold no lock. Both sides write first and
 * read then. */
static uint32_t held;   /* atomic; a futex */
static uint32_t active; /* workers in a round that do not pause; atomic */

static void go_on(void) {
  for (;;) {
    add_seqcst(&active, 1);
    if (likely(load_seqcst(&held) == 0))
      return;
    add_seqcst(&active, -1u);
    futexsleep(&held, 1, -1);
  }
}

static void pause(void) { add_seqcst(&active, -1u); }

void workers_may_pause(void) {
  if (unlikely(load_relaxed(&held) != 0)) {
    pause();
    go_on();
  }
}

void workers_hold(void) {
  store_seqcst(&held, 1);
  while (load_seqcst(&active) != 0)
    osyield();
}

void workers_release(void) {
  store_seqcst(&held, 0);
  futexwakeup(&held, INT_MAX);
}

static void run(void (*fn)(void)) {
  go_on();
  fn();
  pause();
}

static void take_part(void) {
  run(workers.fn);
  if (add_seqcst(&workers.busy, -1u) == 0)
    futexwakeup(&workers.busy, 1);
}

static void worker(void *number) {
  for (uint32_t seen = 0;;) {
    uint32_t round = load_acquire(&workers.round);
    if (round == seen)
      futexsleep(&workers.round, seen, -1);
    else if ((uintptr_t)number < round % ROUND)
      take_part();
    seen = round;
  }
}

static void start_threads(uint32_t n) {
  for (uint32_t i = workers.threads; i < n; i++) {
    int err = os_thread_start(worker, (void *)(uintptr_t)i, 0, 0, "gort-mark");
    if (err != 0) {
      warn("cannot start thread %u of %u for marking: error %d\n", i + 1, n, err);
      store_relaxed(&workers.wanted, i); /* said once is enough */
      return;
    }
    store_release(&workers.threads, i + 1);
  }
}

void workers_init(int n) {
  workers.wanted = n < 1 ? 0 : (uint32_t)(n > MAX_WORKERS ? MAX_WORKERS : n) - 1;
}

int workers_count(void) { return (int)load_relaxed(&workers.threads) + 1; }

/* Whoever comes second leaves it to the first. */
void workers_prepare(void) {
  if (load_relaxed(&workers.threads) == load_relaxed(&workers.wanted) ||
      xchg_seqcst(&workers.starting, 1))
    return;
  start_threads(workers.wanted);
  store_release(&workers.starting, 0);
}

void workers_after_fork(void) {
  workers.threads = 0;
  workers.starting = 0;
  workers.round = 0;
  workers.busy = 0;
  active = 0;
}

static void begin_round(uint32_t n) {
  store_relaxed(&workers.busy, n);
  uint32_t round = load_relaxed(&workers.round);
  store_seqcst(&workers.round, round - round % ROUND + ROUND + n);
  if (n > 0)
    futexwakeup(&workers.round, INT_MAX);
}

static void await_others(void) {
  for (uint32_t n; (n = load_acquire(&workers.busy)) != 0;)
    futexsleep(&workers.busy, n, -1);
}

void workers_run(void (*fn)(void), int n) {
  workers.fn = fn;
  begin_round((uint32_t)n - 1);
  run(fn);
  await_others();
}
