/* The defaults of the table of upcalls: nothing. */
#include "heap/upcall.h"

static bool sweep_nothing(struct mspan *s, bool preserve) {
  (void)s, (void)preserve;
  return false;
}
static bool no_specials(struct mspan *s) {
  (void)s;
  return false;
}
static bool no(void) { return false; }
static bool not_by_m(struct m *m) {
  (void)m;
  return false;
}
static bool no_slot_has(struct mspan *s, size_t i) {
  (void)s, (void)i;
  return false;
}
static void nothing(void) {}
static void nothing_size(size_t n) { (void)n; }
static void nothing_cycle(const struct gccycle *c) { (void)c; }
static void nothing_m(struct m *m) { (void)m; }
static void nothing_scan(void (*scan)(uintptr_t lo, uintptr_t hi)) { (void)scan; }
static void nothing_said(const char *what) { (void)what; }
static void nothing_traced(uintptr_t p, size_t size) { (void)p, (void)size; }
static char **no_slot(void) { return NULL; }
static size_t no_shards(void) { return 0; }

struct upcalls upcalls = {
    .sweep = sweep_nothing,
    .swept = nothing,
    .gc_trigger = nothing,
    .gc_for_memory = no,
    .large_allocated = nothing_size,
    .object_moved = nothing_traced,
    .safepoint = not_by_m,
    .scan_goroutines = nothing_scan,
    .entersyscall = nothing_m,
    .exitsyscall = nothing_m,
    .world_stopped = nothing,
    .world_started = nothing,
    .release_stacks = nothing,
    .wake_finalizers = nothing,
    .sweep_specials = no_specials,
    .special_shards = no_shards,
    .mark_special_shard = nothing_size,
    .has_finalizer = no_slot_has,
    .mark_queues = nothing_scan,
    .createfing = nothing,
    .last_error = no_slot,
    .set_last_error = nothing_said,
    .on_fing = no,
    .cycle_done = nothing_cycle,
    .verify_heap = nothing_said,
    .trace_alloc = nothing_traced,
    .trace_free = nothing_traced,
};
