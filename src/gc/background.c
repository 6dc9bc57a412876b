/* The background thread: sweeps after each cycle, then gives memory back to the system that the
 * program does not need.
 *
 * It is attached, so it stands still with the world, and inside acquirem for each span it
 * sweeps. Memory is given back slowly, for taking it back costs the program page faults: what is
 * above the largest goal of the last second or two and a tenth more, a few huge pages at a time.
 * However often a program collects, what it once needed goes back. */
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
  bool runs;        /* atomic */
  bool collect;     /* a cycle is wanted; atomic */
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

/* What the program is going to need, and what it has needed lately: the largest in the second that
 * began at `since`, and in the one before. The background thread's alone. */
static uint64_t most, most_before;
static int64_t since;

static uint64_t need(void) {
  uint64_t bytes = pacer_goal() == UINT64_MAX ? gcstats.marked * 2 : pacer_goal();
  return bytes + bytes / 10;
}

static void note_need(int64_t now) {
  if (now - since >= SECOND) {
    most_before = most;
    most = 0;
    since = now;
  }
  most = need() > most ? need() : most;
}

static uint64_t held_above(uint64_t keep) {
  lock(&mheap.lock);
  uint64_t held = (mheap.pages_inuse + pagealloc_stats.dirty_pages) * PAGE_SIZE;
  unlock(&mheap.lock);
  return held > keep ? held - keep : 0;
}

static size_t scavenge(uint64_t bytes) {
  lock(&mheap.lock);
  size_t n = pagealloc_scavenge(bytes < SCAVENGE_STEP ? bytes : SCAVENGE_STEP, false);
  unlock(&mheap.lock);
  return n;
}

/* Gives some memory back where it is time to. How long until it is time again; -1: there is nothing
 * to give before the next cycle. */
static int64_t give_back(void) {
  static int64_t next;
  int64_t now = nanotime();
  note_need(now);
  uint64_t excess = held_above(most > most_before ? most : most_before);
  if (excess == 0)
    return held_above(need()) > 0 ? SECOND : -1;
  if (now < next)
    return next - now;
  size_t n = scavenge(excess);
  next = now + (n > 0 ? SCAVENGE_PAUSE : SECOND);
  return n > 0 ? SCAVENGE_PAUSE : -1;
}

static void background_main(void *arg) {
  (void)arg;
  struct m *m = thread_attach(true);
  m->stack = (struct stack){0, 0}; /* nothing on it is a root */
  store_release(&background.runs, true);
  for (;;) {
    uint32_t seen = load_acquire(&background.wakeup);
    if (load_relaxed(&background.collect) && xchg_seqcst(&background.collect, false))
      gc_when_due();
    sweep_all(m);
    pacer_obey_limit();
    sleep_for(m, seen, give_back());
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

void background_collect(void) {
  store_seqcst(&background.collect, true);
  background_wake();
}

bool background_runs(void) { return load_acquire(&background.runs); }

void background_after_fork(void) {
  background.started = 0;
  background.runs = false;
}
