/* The background thread: sweeps after each cycle, then gives memory back to the system that the
 * program does not need.
 *
 * It is attached, so it stands still with the world, and inside acquirem for each span it
 * sweeps. Memory is given back slowly: what is above the goal and a tenth more, a few huge pages
 * at a time, and only after a second in which no new cycle began; taking memory back costs the
 * program page faults. */
#include "base/kernel.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "heap/mheap.h"
#include "heap/pagealloc.h"
#include "os/os.h"

enum { SPANS_AT_ONCE = 16, SCAVENGE_STEP = 8 << 20 };
static const int64_t SECOND = 1000000000, SCAVENGE_PAUSE = 10000000;

static struct {
  uint32_t started; /* atomic */
  uint32_t wakeup;  /* grows with each call of background_wake; atomic */
} background;

/* Waits for a change of `wakeup`; the collector does not wait for us meanwhile. */
static void sleep_for(struct m *m, uint32_t seen, int64_t ns) {
  enterblocked(m, (uintptr_t)__builtin_frame_address(0));
  futexsleep(&background.wakeup, seen, ns);
  leaveblocked(m);
}

static void sweep_all(struct m *m) {
  for (int n = 1; sweepone() != SIZE_MAX; n++)
    if (n % SPANS_AT_ONCE == 0) {
      stop_if_asked(m);
      osyield();
    }
}

/* How much memory the system should have back. */
static uint64_t excess(void) {
  uint64_t held = (mheap.pages_inuse + pagealloc_stats.dirty_pages) * PAGE_SIZE;
  uint64_t keep = pacer_goal() == UINT64_MAX ? gcstats.marked * 2 : pacer_goal();
  keep += keep / 10;
  return held > keep ? held - keep : 0;
}

static bool scavenge_step(void) {
  lock(&mheap.lock);
  uint64_t n = excess();
  if (n > 0)
    n = pagealloc_scavenge(n < SCAVENGE_STEP ? n : SCAVENGE_STEP, false);
  unlock(&mheap.lock);
  return n > 0;
}

static void scavenge(struct m *m, uint32_t seen) {
  sleep_for(m, seen, SECOND);
  while (load_acquire(&background.wakeup) == seen && scavenge_step())
    sleep_for(m, seen, SCAVENGE_PAUSE);
}

static void background_main(void *arg) {
  (void)arg;
  struct m *m = thread_attach(true);
  m->stack = (struct stack){0, 0}; /* nothing on it is a root */
  for (;;) {
    uint32_t seen = load_acquire(&background.wakeup);
    sweep_all(m);
    pacer_obey_limit();
    scavenge(m, seen);
    if (load_acquire(&background.wakeup) == seen)
      sleep_for(m, seen, -1);
  }
}

/* Started by the first cycle: a program that never collects has no thread for it. Without the
 * thread, sweeping is done by those who allocate. */
void background_init(void) {
  if (load_relaxed(&background.started) || xchg_seqcst(&background.started, 1))
    return;
  int err = os_thread_start(background_main, NULL, 0, stop_signal, "gort-sweep");
  if (err != 0)
    warn("cannot start the thread that sweeps: error %d\n", err);
}

void background_wake(void) {
  add_seqcst(&background.wakeup, 1);
  futexwakeup(&background.wakeup, 1);
}

void background_after_fork(void) { background.started = 0; }
