/* A cycle of the collector, from beginning to end.
 *
 *   world running   the heap's pages are protected: who writes to one is noted
 *   world stopped   caches emptied, sweeping finished; GCmark; roots are read
 *   world running   everything reachable from the roots is marked; then, again and again, what was
 *                   written to meanwhile
 *   world stopped   caches emptied; roots once more, and pages written since; GCmarktermination:
 *                   the goal of the next cycle; GCoff: sweepgen += 2: every span is unswept now
 *
 * and after it sweeping, by allocation, in the background, at once for gort_gc. Where the kernel
 * does not note which pages are written to, or the program asks for it (gcstoptheworld=1), the
 * world stands all the time, and there is one stop.
 *
 * Why nothing is missed. There are no write barriers: the program stores pointers as it likes. At
 * the end, in the stopped world, this must hold: what a marked object points to is marked. Let O be
 * marked when marking has come to its end.
 *
 *   - O was there when the cycle began. Somebody marked it, and scanned it after that. If nobody
 *     wrote to it afterwards, what it points to was found then. If somebody did, the page was
 * written to after it was protected, for it is protected before anything is scanned. So the kernel
 * has noted it, and the first written_find after that reports it, at the latest that in the stopped
 *     world; O is scanned again then, as every marked object on the page is. written_find and the
 *     protection are one step for each page: a write comes before it, and is seen by the scan that
 *     follows, or after it, and is reported the next time. os_written_find says why.
 *   - O was born since. It is born marked, and was zero. What was stored in it made its page one
 * that was written to, after it was protected: for that was before GCmark. A page that is new is
 * not protected, and counts as written.
 *   - O is not marked but has a finalizer, and what it reaches must be whole. Its contents are
 * scanned with the special records, or by addfinalizer (special/sweep.c); and as a marked object's
 * when its page was written to.
 *
 * The scan of a page must see the marks of objects that were scanned before it was protected. Those
 * were set by others, perhaps: so pages are asked for when no worker marks, between rounds. In the
 * stopped world nobody writes, and both may be done together.
 *
 * Roots are read at the beginning only so that there is something to mark. All of them are read
 * again at the end: registers, stacks, thread-local variables, data and bss, queued finalizers. So
 * it does not matter who writes to whose stack, which threads come and go, what the kernel writes
 * (its writes are noted as any other's), nor in what order; nor is a library that goes meanwhile
 * looked at. The list of libraries is made anew for each stop if need be.
 *
 * While marking goes on no memory is freed: sweeping is over before it begins, and begins again
 * after it. So a page's entry in the table only ever changes from free to in use, which is the last
 * word of it that is written. A new object's type is not looked at while its slot may be in
 * somebody's hands (in_run in mark.c).
 *
 * A child of fork has no workers, and nobody notes what it writes: it gives the cycle up. */
#include "gc/cycle.h"

#include "base/kernel.h"
#include "base/m.h"
#include "base/valgrind.h"
#include "gc/checkmark.h"
#include "gc/copies.h"
#include "gc/gc.h"
#include "gc/mark.h"
#include "gc/roots.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "gc/workers.h"
#include "gc/written.h"
#include "heap/mcache.h"
#include "heap/mheap.h"
#include "heap/upcall.h"
#include "os/os.h"

uint32_t gcphase;
struct gcstats gcstats;

static uint64_t begun;          /* cycles; changed with the world stopped; atomic */
static enum concurrency wanted; /* constant after start */
static bool beside;             /* this cycle; who runs it */

/* Valgrind does not know the system calls. */
void cycle_init(enum concurrency c) { wanted = valgrind_runs ? GC_STOPPED : c; }

/* It is marked in a millisecond or two, and that is less than what protection costs. */
static bool is_little(void) {
  enum { LITTLE = 1 << 20 };
  return load_relaxed(&gcstats.marked) <= LITTLE && load_relaxed(&mheap.live) <= 8 * LITTLE;
}

/* A program that stores at random writes to each page, again and again: with a fault of 20 us each
 * there is little else that it does while the heap is marked. */
bool cycle_is_concurrent(void) {
  switch (wanted) {
  case GC_STOPPED:
    return false;
  case GC_BY_SIZE:
    return !is_little() && written_cheap();
  default:
    return written_available();
  }
}

uint64_t cycles_begun(void) { return load_acquire(&begun); }

static void set_phase(enum gcphase phase) {
  mheap.marking = phase != GCoff;
  store_seqcst(&gcphase, phase);
}

static void flush_caches(void) {
  for (struct m *m = allm; m != NULL; m = m->alllink)
    if (m->in_use)
      mcache_flush(m);
}

/* The list mostly is still the one of the last cycle. If not, the world runs on while it is made,
 * for that takes the loader's lock; and if a library comes or goes meanwhile, it is made once more.
 */
void stop_with_roots(void) {
  stoptheworld("collect");
  while (!roots_valid()) {
    starttheworld();
    osyield();
    struct roots *r = roots_prepare();
    stoptheworld("collect");
    roots_install(r);
  }
}

/* In a stopped world all that the process does is collecting. */
static int64_t stopped_cpu; /* the process's processor time when it had stopped; who runs a cycle */

static void world_has_stopped(void) { stopped_cpu = os_process_cputime(); }

/* The time that the world has stood still since it was asked to. */
static void count_stop(struct gccycle *c) {
  uint64_t ns = (uint64_t)(nanotime() - world_stopping_since());
  c->stop_ns += ns;
  if (ns > c->longest_ns)
    c->longest_ns = ns;
  gcstats.cpu += (uint64_t)(os_process_cputime() - stopped_cpu);
}

/* With the program running. The caller is as blocked meanwhile: whoever else stops the world does
 * not wait for it. */
static void run_meanwhile(void (*fn)(struct gccycle *), struct gccycle *c) {
  struct m *m = getm();
  count_stop(c);
  starttheworld();
  enterblocked(m, 0);
  uint64_t cpu = mark_cputime();
  fn(c);
  cpu = mark_cputime() - cpu;
  leaveblocked(m);
  stop_with_roots();
  world_has_stopped();
  gcstats.cpu += cpu;
}

static size_t find_written(void) {
  size_t pages = 0;
  for (size_t i = 0, n = written_parts(); i < n; i++)
    pages += written_find(i);
  written_sync();
  return pages;
}

/* What was written before this was so before anything is scanned or born marked. */
void cycle_prepare(void) {
  beside = cycle_is_concurrent();
  if (beside)
    written_watch();
}

/* A quarter of the processors; all of them when somebody waits for the end. */
static int background_workers(const struct gccycle *c) {
  return c->forced ? workers_count() : (workers_count() + 3) / 4;
}

enum {
  ROUNDS = 10,
  FEW_PAGES = 256, /* can be left for the stopped world */
};

/* Looks again at what was written to until little is left, or it becomes less no more. */
static void mark_and_repeat(struct gccycle *c) {
  int n = background_workers(c);
  mark_concurrently(n);
  size_t before = SIZE_MAX / 4;
  for (c->rounds = 0; c->rounds < ROUNDS; c->rounds++) {
    size_t pages = find_written();
    if (pages <= FEW_PAGES || pages * 4 > before * 3)
      return;
    before = pages;
    mark_noted(n);
  }
}

static void mark_concurrent(struct gccycle *c) {
  uint64_t before = load_relaxed(&mheap.live);
  pacer_begin_mark(before);
  copies_begin();
  mark_begin();
  run_meanwhile(mark_and_repeat, c);
  flush_caches();
  c->allocated = load_relaxed(&mheap.live) - before;
  c->marked = mark_finish() + c->allocated;
  pacer_end_mark(c->allocated);
}

static void mark(struct gccycle *c) {
  int64_t start = nanotime();
  set_phase(GCmark);
  c->concurrent = beside && written_available();
  if (c->concurrent)
    mark_concurrent(c);
  else
    c->marked = mark_all();
  c->roots = roots_bytes;
  checkmark();
  store_relaxed(&gcstats.marked, c->marked);
  set_phase(GCmarktermination);
  c->mark_ns = (uint64_t)(nanotime() - start);
}

static void begin_sweep(void) {
  store_relaxed(&mheap.live, gcstats.marked);
  pacer_set_goal();
  store_relaxed(&gcstats.pages_swept, 0);
  store_release(&mheap.sweepgen, mheap.sweepgen + 2);
  set_phase(GCoff);
}

static void count_pause(const struct gccycle *c) {
  uint64_t at = gcstats.num_gc % 256;
  gcstats.pause[at] = c->stop_ns;
  gcstats.pause_end[at] = gcstats.last_end = (uint64_t)os_walltime();
  gcstats.pause_total += c->stop_ns;
  if (c->stop_ns > gcstats.pause_max)
    gcstats.pause_max = c->stop_ns;
}

static void begin_cycle(struct gccycle *c, bool forced) {
  store_release(&begun, begun + 1);
  gcstats.num_forced += forced;
  *c = (struct gccycle){.start = world_stopping_since(),
                        .before = load_relaxed(&mheap.live),
                        .goal = pacer_goal(),
                        .nworkers = workers_count(),
                        .forced = forced};
}

static void end_cycle(struct gccycle *c) {
  count_stop(c);
  count_pause(c);
  c->number = ++gcstats.num_gc;
  gcstats.num_concurrent += c->concurrent;
  store_relaxed(&gcstats.last_end_mono, nanotime());
  c->cpu = gcstats.cpu;
}

void cycle_run(struct gccycle *c, bool forced) {
  world_has_stopped();
  begin_cycle(c, forced);
  flush_caches();
  sweep_finish();
  upcalls.verify_heap("before marking");
  mark(c);
  begin_sweep();
  upcalls.verify_heap("after marking");
  end_cycle(c);
}

/* Nothing that is allocated is marked. */
static void unmark(struct mspan *s) {
  for (unsigned w = 0; s->state == SPAN_INUSE && w < s->nwords; w++)
    store_relaxed(&s->gcmarkBits[w], ~s->allocBits[w]);
}

void cycle_end(void) {
  if (beside && written_available())
    written_end();
  copies_forget();
}

void cycle_after_fork(void) {
  beside = false;
  copies_forget();
  written_after_fork();
  mark_after_fork();
  if (gcphase == GCoff)
    return;
  set_phase(GCoff);
  for (uint32_t i = 1; i < mheap.nspans; i++)
    unmark(&mheap.spans[i]);
}
