#include "debug/trace.h"

#include "base/kernel.h"
#include "base/throw.h"
#include "debug/env.h"
#include "gc/gc.h"
#include "heap/mheap.h"
#include "heap/upcall.h"

static double ms(uint64_t ns) { return (double)ns / 1e6; }
static unsigned long mb(uint64_t bytes) { return (unsigned long)(bytes >> 20); }

/* gc 3 @0.104s 2%: 0.412 ms stopped (longest 0.307), 5.351 ms mark, 4->5->1 MB, 5 MB goal,
 * 167 KB roots, 2 workers, concurrent, 1 rounds
 *
 * Number of the cycle, when it began, the share of processor time that collecting took so far, how
 * long the world stood still, the heap before, at the end and what is live of it, ... */
static void print_cycle(const struct gccycle *c) {
  double at = (double)(c->start - runtime_started_at) / 1e9;
  int64_t run = nanotime() - runtime_started_at;
  double share = run > 0 ? 100.0 * (double)c->cpu / ((double)run * c->nworkers) : 0;
  fdprintf(2,
           "gc %lu @%.3fs %.0f%%: %.3f ms stopped (longest %.3f), %.3f ms mark, %lu->%lu->%lu MB, "
           "%lu MB goal, %lu KB roots, %d workers, %s, %d rounds%s\n",
           (unsigned long)c->number, at, share, ms(c->stop_ns), ms(c->longest_ns), ms(c->mark_ns),
           mb(c->before), mb(c->before + c->allocated), mb(c->marked), mb(c->goal),
           (unsigned long)(c->roots >> 10), c->nworkers,
           c->concurrent ? "concurrent" : "stop-the-world", c->rounds,
           c->forced ? " (forced)" : "");
}

static void print_alloc(uintptr_t p, size_t size) {
  fdprintf(2, "allocfreetrace: alloc 0x%lx, %zu bytes\n", (unsigned long)p, size);
}

static void print_free(uintptr_t p, size_t size) {
  fdprintf(2, "allocfreetrace: free 0x%lx, %zu bytes\n", (unsigned long)p, size);
}

void trace_init(void) {
  if (env.gctrace)
    upcalls.cycle_done = print_cycle;
  if (env.allocfreetrace) {
    upcalls.trace_alloc = print_alloc;
    upcalls.trace_free = print_free;
  }
}
