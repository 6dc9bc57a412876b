/* A cycle of the collector, from what starts it to its end.
 *
 *   sweep what the last cycle left                                      world running
 *   stop the world; look up the loaded libraries if they have changed
 *   take all spans from the threads' caches; finish sweeping
 *   GCmark: mark from the roots, all workers                           stopped
 *   GCmarktermination: set the goal of the next cycle
 *   GCoff: sweepgen += 2: every span is unswept now
 *   start the world
 *   sweep: by allocation, in the background; at once for gort_gc       world running
 *
 * Cycles follow each other under worldsema (gc/stop.h). Whoever asks for a collection while
 * another waits for its turn is served by that one's cycle if it begins after the question. */
#include "gc/gc.h"

#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/mark.h"
#include "gc/roots.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "gort/collector.h"
#include "heap/mcache.h"
#include "heap/mheap.h"
#include "heap/upcall.h"
#include "os/os.h"

uint32_t gcphase;
struct gcstats gcstats;

static uint64_t cycles_begun; /* with the world stopped; read by all; atomic */

static void set_phase(enum gcphase phase) {
  mheap.marking = phase != GCoff;
  store_seqcst(&gcphase, phase);
}

static void flush_caches(void) {
  for (struct m *m = allm; m != NULL; m = m->alllink)
    if (m->in_use)
      mcache_flush(m);
}

/* Stops the world with a list of loaded libraries that is true then. It mostly is still the one of
 * the last cycle. If not, the world runs on while it is made, for that takes the loader's lock; and
 * if a library comes or goes meanwhile, it is made once more. */
static void stop_with_roots(void) {
  stoptheworld("collect");
  while (!roots_valid()) {
    starttheworld();
    osyield();
    struct roots *r = roots_prepare();
    stoptheworld("collect");
    roots_install(r);
  }
}

static void mark_phase(struct gccycle *c) {
  int64_t begin = nanotime();
  set_phase(GCmark);
  gcstats.marked = c->marked = mark_all();
  c->roots = roots_bytes;
  set_phase(GCmarktermination);
  c->mark_ns = (uint64_t)(nanotime() - begin);
}

static void begin_sweep(void) {
  store_relaxed(&mheap.live, gcstats.marked);
  pacer_set_goal();
  store_relaxed(&gcstats.pages_swept, 0);
  store_release(&mheap.sweepgen, mheap.sweepgen + 2);
  set_phase(GCoff);
}

static void count_pause(uint64_t ns) {
  uint64_t at = gcstats.num_gc % 256;
  gcstats.pause[at] = ns;
  gcstats.pause_end[at] = gcstats.last_end = (uint64_t)os_walltime();
  gcstats.pause_total += ns;
  if (ns > gcstats.pause_max)
    gcstats.pause_max = ns;
}

static void begin_cycle(struct gccycle *c, bool forced) {
  store_release(&cycles_begun, cycles_begun + 1);
  gcstats.num_forced += forced;
  *c = (struct gccycle){.start = world_stopping_since(),
                        .before = load_relaxed(&mheap.live),
                        .goal = pacer_goal(),
                        .nworkers = mark_workers(),
                        .forced = forced};
}

static void end_cycle(struct gccycle *c, int64_t cpu) {
  c->stop_ns = (uint64_t)(nanotime() - c->start);
  count_pause(c->stop_ns);
  c->number = ++gcstats.num_gc;
  store_relaxed(&gcstats.last_end_mono, nanotime());
  c->cpu = gcstats.cpu += (uint64_t)cpu;
}

static void collect_stopped(struct gccycle *c, bool forced) {
  int64_t cpu = os_process_cputime();
  begin_cycle(c, forced);
  flush_caches();
  sweep_finish();
  upcalls.verify_heap("before marking");
  mark_phase(c);
  begin_sweep();
  upcalls.verify_heap("after marking");
  end_cycle(c, os_process_cputime() - cpu);
}

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
  mark_prepare();
  background_init();
  leaveblocked(m);
}

/* Another may have run a cycle while this one waited. World stopped. */
static bool is_needed(const struct request *q) {
  switch (q->reason) {
  case HEAP:
    return load_relaxed(&mheap.live) >= load_relaxed(&mheap.trigger);
  case TIME:
    return gc_time_left(nanotime()) <= 0;
  default:
    return load_acquire(&cycles_begun) == q->begun;
  }
}

/* On the system stack, so that nothing of the collector's own is found on the caller's. */
static void collect(void *arg) {
  struct request *q = arg;
  start_threads();
  sweep_finish();
  stop_with_roots();
  q->ran = is_needed(q);
  if (q->ran)
    collect_stopped(&q->cycle, q->reason == FORCED);
  starttheworld();
  if (q->ran)
    background_wake();
}

static void run_cycle(enum reason reason, uintptr_t sp) {
  if (mheap.sbrk)
    return;
  struct request q = {.reason = reason, .begun = load_acquire(&cycles_begun)};
  systemstack_from(sp, collect, &q);
  if (q.ran)
    upcalls.cycle_done(&q.cycle);
}

static uint32_t starting; /* a thread is about to run a cycle that the pacer asked for; atomic */

/* One thread starts the cycle; the others allocate on until it stops them. */
void gc_trigger(void) {
  if (getm()->locks > 0 || xchg_seqcst(&starting, 1) != 0)
    return;
  run_cycle(HEAP, 0);
  store_release(&starting, 0);
  sweep_wake();
  pacer_obey_limit();
}

/* A program that allocates little holds what is dead, and finalizers that could run, for two
 * minutes at most (Go's forcegcperiod). */
int64_t gc_period = INT64_C(120000000000);

int64_t gc_time_left(int64_t now) {
  int64_t last = load_relaxed(&gcstats.last_end_mono);
  return last == 0 || load_relaxed(&gc_percent) < 0 ? gc_period : last + gc_period - now;
}

void gc_periodic(void) {
  if (gc_time_left(nanotime()) <= 0)
    run_cycle(TIME, 0);
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
  mark_after_fork();
  background_after_fork();
}

void gc_init(void) {
  sweep_init();
  roots_init();
  upcalls.gc_trigger = gc_trigger;
  upcalls.gc_for_memory = gc_for_memory;
  pacer_set_goal();
}
