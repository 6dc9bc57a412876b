/* Who asks for a cycle of the collector, and who runs it; the public functions.
 *
 * Cycles follow each other under cyclesema. Whoever asks for a collection while another waits for
 * its turn is served by that one's cycle if it begins after the question. */
#include "gc/gc.h"

#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/cycle.h"
#include "gc/mark.h"
#include "gc/roots.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "gc/work.h"
#include "gc/workers.h"
#include "gc/written.h"
#include "gort/collector.h"
#include "heap/mcentral.h"
#include "heap/mheap.h"
#include "heap/upcall.h"

enum reason {
  HEAP,   /* it has reached its goal */
  TIME,   /* the last cycle was long ago */
  FORCED, /* somebody waits for a whole one */
};

struct request {
  enum reason reason;
  uint64_t begun; /* cycles begun when the request was made */
  bool ran;       /* a cycle was run for it: this one */
  struct gccycle cycle;
};

/* The collector's own threads, started by the first cycle. Creating a thread takes locks of the C
 * library, which a thread that another stopper has stopped may hold: so we wait for them
 * blocked. Our stack was published when we came to the system stack. */
static void start_threads(void) {
  struct m *m = getm();
  enterblocked(m, 0);
  workers_prepare();
  background_init();
  leaveblocked(m);
}

/* Another may have run a cycle while this one waited for cyclesema, which it holds now. */
static bool is_needed(const struct request *q) {
  switch (q->reason) {
  case HEAP:
    return load_relaxed(&mheap.live) >= load_relaxed(&mheap.trigger);
  case TIME:
    return gc_time_left(nanotime()) <= 0;
  default:
    return cycles_begun() == q->begun;
  }
}

static struct mutex cyclesema; /* held by who runs a cycle, or is about to; longer than any lock may
                                  be held that others wait for while they run */

static void take_cyclesema(void) {
  struct m *m = getm();
  enterblocked(m, 0);
  lock_raw(&cyclesema);
  leaveblocked(m);
}

static void run_one(struct gccycle *c, bool forced) {
  sweep_finish();
  cycle_prepare();
  stop_with_roots();
  cycle_run(c, forced);
  starttheworld();
  cycle_end();
}

/* On the system stack, so that nothing of the collector's own is found on the caller's. */
static void collect(void *arg) {
  struct request *q = arg;
  start_threads();
  take_cyclesema();
  q->ran = is_needed(q);
  if (q->ran)
    run_one(&q->cycle, q->reason == FORCED);
  unlock_raw(&cyclesema);
  if (q->ran)
    background_wake();
}

static void run_cycle(enum reason reason, uintptr_t sp) {
  if (mheap.sbrk)
    return;
  struct request q = {.reason = reason, .begun = cycles_begun()};
  systemstack_from(sp, collect, &q);
  if (q.ran)
    upcalls.cycle_done(&q.cycle);
}

/* A program that allocates little holds what is dead, and finalizers that could run, for two
 * minutes at most (Go's forcegcperiod). */
int64_t gc_period = INT64_C(120000000000);

int64_t gc_time_left(int64_t now) {
  int64_t last = load_relaxed(&gcstats.last_end_mono);
  return last == 0 || load_relaxed(&gc_percent) < 0 ? gc_period : last + gc_period - now;
}

static uint32_t starting; /* a cycle that the pacer asked for is about to be run; atomic */

void gc_when_due(void) {
  if (load_acquire(&starting) != 0) {
    run_cycle(HEAP, 0);
    store_release(&starting, 0);
  } else if (gc_time_left(nanotime()) <= 0) {
    run_cycle(TIME, 0);
  }
}

static void collect_here(void) {
  run_cycle(HEAP, 0);
  sweep_wake();
  pacer_obey_limit();
}

static void start_cycle(void) {
  if (cycle_is_concurrent() && background_runs()) {
    background_collect();
    return;
  }
  collect_here();
  store_release(&starting, 0);
}

/* Those who allocate while marking goes on see to it that it keeps up with them. */
static void assist(void) {
  struct m *m = acquirem();
  if (pacer_is_behind())
    mark_help();
  releasem(m);
}

bool gc_has_idle_work(void) { return work_can_be_joined() || !mcentral_all_swept(); }

bool gc_idle_work(void) { return mark_help() || sweep_some(); }

/* The background thread runs the cycle, if there is one; others allocate on until they are stopped.
 * But when it does not come to it in time, or marking does not come to its end, they wait. */
void gc_trigger(void) {
  if (getm()->locks > 0)
    return;
  if (pacer_must_wait())
    collect_here();
  else if (mheap.marking)
    assist();
  else if (xchg_seqcst(&starting, 1) == 0)
    start_cycle();
}

static void finish_sweep(void *arg) {
  (void)arg;
  sweep_finish();
}

void gc_collect(uintptr_t sp) {
  run_cycle(FORCED, sp);
  systemstack_from(sp, finish_sweep, NULL);
  sweep_wake();
}

static bool gc_for_memory(void) {
  if (getm()->locks > 0 || mheap.sbrk)
    return false;
  gc_collect(0);
  return true;
}

static void collect_below(uintptr_t sp, void *arg) {
  (void)arg;
  gc_collect(sp);
}

void gort_gc(void) {
  CHECK_ATTACHED("gort_gc");
  spill_and_call(collect_below, NULL);
}

void gort_free_os_memory(void) {
  CHECK_ATTACHED("gort_free_os_memory");
  spill_and_call(collect_below, NULL);
  scavenge_all();
  upcalls.release_stacks();
}

/* New settings, and the old ones. With the world stopped no cycle runs and the goal can change. */
struct settings {
  const int *percent;   /* NULL: stays */
  const int64_t *limit; /* NULL: stays */
  int old_percent;
  int64_t old_limit;
};

static void change_settings(void *arg) {
  struct settings *s = arg;
  stoptheworld("settings");
  s->old_percent = gc_percent;
  s->old_limit = gc_memory_limit;
  if (s->percent != NULL)
    store_relaxed(&gc_percent, *s->percent);
  if (s->limit != NULL)
    store_relaxed(&gc_memory_limit, *s->limit);
  pacer_set_goal();
  starttheworld();
}

int gort_set_gc_percent(int percent) {
  CHECK_ATTACHED("gort_set_gc_percent");
  int value = percent < 0 ? -1 : percent;
  struct settings s = {.percent = &value};
  systemstack(change_settings, &s);
  return s.old_percent;
}

int64_t gort_set_memory_limit(int64_t bytes) {
  CHECK_ATTACHED("gort_set_memory_limit");
  struct settings s = {.limit = bytes < 0 ? NULL : &bytes};
  systemstack(change_settings, &s);
  pacer_obey_limit();
  return s.old_limit;
}

void gc_after_fork(void) {
  starting = 0; /* by a thread that is gone */
  cyclesema = (struct mutex){0};
  cycle_after_fork();
  background_after_fork();
}

void gc_init(void) {
  sweep_init();
  roots_init();
  upcalls.gc_trigger = gc_trigger;
  upcalls.gc_for_memory = gc_for_memory;
  pacer_set_goal();
}
