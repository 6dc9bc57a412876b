/* gort_read_mem_stats: Go's MemStats, taken with the world stopped, so that its identities hold. */
#include <string.h>

#include "base/kernel.h"
#include "base/throw.h"
#include "debug/env.h"
#include "gc/gc.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "gc/work.h"
#include "gc/workers.h"
#include "gort/collector.h"
#include "heap/malloc.h"
#include "heap/mcache.h"
#include "heap/mheap.h"
#include "heap/pagealloc.h"
#include "sched/sched.h"
#include "special/special.h"

static void fill_objects(gort_mem_stats *s) {
  struct heap_totals t = {0};
  uint64_t tiny = mheap.dead.tinyallocs;
  heap_totals_add(&t, &mheap.dead);
  for (struct m *m = allm; m != NULL; m = m->alllink) {
    heap_totals_add(&t, &m->stats);
    tiny += m->stats.tinyallocs;
  }
  s->total_alloc = t.total_alloc;
  s->alloc = s->heap_alloc = t.total_alloc - t.total_free;
  s->mallocs = t.mallocs + tiny; /* as in Go: a tiny object is freed with its block, and counted */
  s->frees = t.frees + tiny;     /* as freed from the start */
  s->heap_objects = s->mallocs - s->frees;
}

static void fill_memory(gort_mem_stats *s) {
  s->heap_sys = pagealloc_stats.grown_pages * PAGE_SIZE;
  s->heap_inuse = mheap.pages_inuse * PAGE_SIZE;
  s->heap_idle = s->heap_sys - s->heap_inuse;
  s->heap_released = (pagealloc_stats.free_pages - pagealloc_stats.dirty_pages) * PAGE_SIZE;
  s->stack_inuse = load_relaxed(&stack_inuse);
  s->gc_sys = load_relaxed(&persistent_sys) + work_sys + mheap_table_bytes();
  s->sys = s->heap_sys + s->stack_inuse + s->gc_sys;
}

static void fill_cycles(gort_mem_stats *s) {
  s->next_gc = pacer_goal();
  s->last_gc_ns = gcstats.last_end;
  s->pause_total_ns = gcstats.pause_total;
  s->pause_max_ns = gcstats.pause_max;
  memcpy(s->pause_ns, gcstats.pause, sizeof s->pause_ns);
  memcpy(s->pause_end_ns, gcstats.pause_end, sizeof s->pause_end_ns);
  s->num_gc = gcstats.num_gc;
  s->num_forced_gc = gcstats.num_forced;
  s->num_concurrent_gc = gcstats.num_concurrent;
  int64_t run = nanotime() - runtime_started_at;
  double all = (double)run * workers_count();
  double share = all > 0 ? (double)gcstats.cpu / all : 0;
  s->gc_cpu_fraction = share > 1 ? 1 : share;
}

static void fill_finalizers(gort_mem_stats *s) {
  int64_t since = load_relaxed(&finstats.running_since), now = nanotime();
  s->finalizers_set = mheap.dead.finalizers_set;
  for (struct m *m = allm; m != NULL; m = m->alllink)
    s->finalizers_set += m->stats.finalizers_set;
  s->finalizers_queued = load_relaxed(&finstats.queued);
  s->finalizers_run = load_relaxed(&finstats.run);
  s->finalizer_running_ns = since == 0 || now <= since ? 0 : (uint64_t)(now - since);
}

/* The caches are emptied, so that what they hold in store is not counted as objects. */
static void fill(void *arg) {
  stoptheworld("statistics");
  for (struct m *m = allm; m != NULL; m = m->alllink)
    if (m->in_use)
      mcache_flush(m);
  fill_objects(arg);
  fill_memory(arg);
  fill_cycles(arg);
  fill_finalizers(arg);
  starttheworld();
}

void gort_read_mem_stats_sized(gort_mem_stats *out, size_t size) {
  CHECK_ATTACHED("gort_read_mem_stats");
  gort_mem_stats s;
  memset(&s, 0, sizeof s);
  systemstack(fill, &s);
  memcpy(out, &s, size < sizeof s ? size : sizeof s);
}
