/* The pacer: when the next cycle begins, and how much memory the runtime may hold.
 *
 * As Go's: the goal is the live heap and its percentage of growth on top, at least HEAP_MINIMUM
 * scaled likewise. A memory limit lowers the goal to what the limit leaves beside everything else
 * that the runtime holds. Near the limit cycles would follow each other without end; so however
 * low the limit, the heap may grow by a sixteenth, and by LEAST_STEP at least, with any percentage
 * as well: the limit is soft. */
#include "gc/cycle.h"
#include "gc/gc.h"
#include "gc/mark.h"
#include "gc/roots.h"
#include "gc/work.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/pagealloc.h"

enum { LEAST_STEP = 256 << 10, SCAVENGE_PIECE = 64 << 20 };

int gc_percent = 100;
int64_t gc_memory_limit = INT64_MAX; /* atomic */

static uint64_t goal = HEAP_MINIMUM; /* changed with the world stopped, or under mheap.lock */

uint64_t pacer_goal(void) { return goal; }

/* What the runtime holds beside pages. */
static uint64_t own_memory(void) {
  return load_relaxed(&persistent_sys) + load_relaxed(&work_sys) + mheap_table_bytes();
}

/* *spare: of it, free pages that could go back. */
static uint64_t memory_in_use(uint64_t *spare) {
  lock(&mheap.lock);
  *spare = pagealloc_stats.dirty_pages * PAGE_SIZE;
  uint64_t pages = mheap.pages_inuse * PAGE_SIZE;
  unlock(&mheap.lock);
  return pages + *spare + own_memory();
}

static uint64_t percent_goal(uint64_t live) {
  if (gc_percent < 0)
    return UINT64_MAX;
  uint64_t p = (uint64_t)gc_percent, least = HEAP_MINIMUM * p / 100;
  unsigned __int128 grown = live + (unsigned __int128)live * p / 100;
  if (grown < live + LEAST_STEP)
    grown = live + LEAST_STEP;
  return grown > UINT64_MAX ? UINT64_MAX : grown < least ? least : (uint64_t)grown;
}

static uint64_t limit_goal(uint64_t live) {
  if (gc_memory_limit == INT64_MAX)
    return UINT64_MAX;
  uint64_t inuse = load_relaxed(&mheap.pages_inuse) * PAGE_SIZE;
  uint64_t other = own_memory();
  /* What spans waste beside objects counts against the limit as well. */
  other += inuse > live ? (inuse - live) / 8 : 0;
  uint64_t limit = (uint64_t)gc_memory_limit;
  uint64_t room = limit > other ? limit - other : 0;
  uint64_t step = live / 16 < LEAST_STEP ? LEAST_STEP : live / 16;
  return room < live + step ? live + step : room;
}

/* Marking beside the program has to begin before the goal is reached: earlier by the part `lead` of
 * the room that there is. It is what was allocated meanwhile in cycles before, and more; and grows
 * at once when those who allocate had to help. Under the locks of the goal. */
static double lead = 0.5;
static const double LEAST_LEAD = 1.0 / 16, MOST_LEAD = 0.75;

/* Of what was allocated when the last cycle began, how much it marked. */
static double survived = 1;

/* For the time of marking; constant meanwhile. */
static struct {
  uint64_t begun_at, end_at; /* bytes in the heap: at the beginning, and wanted at the end */
  uint64_t work;             /* bytes that will be marked, about */
} span;

static uint64_t last_moment; /* bytes in the heap: nobody allocates beyond that; like goal */
static bool helped;          /* somebody had to, in this cycle; atomic */

static uint64_t room_above(uint64_t live) { return goal > live ? goal - live : 0; }

void pacer_set_goal(void) {
  uint64_t live = gcstats.marked, by_percent = percent_goal(live), by_limit = limit_goal(live);
  goal = by_percent < by_limit ? by_percent : by_limit;
  uint64_t room = room_above(live);
  uint64_t early = cycle_is_concurrent() ? (uint64_t)((double)room * lead) : 0;
  store_relaxed(&mheap.trigger, mheap.sbrk || goal == UINT64_MAX ? UINT64_MAX : goal - early);
  store_relaxed(&last_moment, goal > UINT64_MAX / 2 ? UINT64_MAX : goal + room / 4);
}

void pacer_begin_mark(uint64_t live) {
  uint64_t least = live + LEAST_STEP;
  span.begun_at = live;
  span.end_at = goal < least ? least : goal;
  span.work = (uint64_t)((double)live * survived);
  store_relaxed(&helped, false);
  if (last_moment < UINT64_MAX / 2)
    store_relaxed(&last_moment, span.end_at + (span.end_at - live) / 2);
}

static double within(double lo, double x, double hi) { return x < lo ? lo : x > hi ? hi : x; }

void pacer_end_mark(uint64_t allocated) {
  uint64_t room = room_above(gcstats.marked);
  double part = room > 0 ? 1.25 * (double)allocated / (double)room : 0;
  double next = load_relaxed(&helped) ? lead * 1.5 : (lead + part) / 2;
  lead = within(LEAST_LEAD, next, MOST_LEAD);
  if (span.begun_at > 0)
    survived = within(0.25, (double)mark_progress() / (double)span.begun_at, 1);
}

static double progress(void) {
  uint64_t done = mark_progress();
  return done >= span.work ? 1 : (double)done / (double)span.work;
}

bool pacer_is_behind(void) {
  uint64_t live = load_relaxed(&mheap.live), room = span.end_at - span.begun_at;
  if (live < span.begun_at + room / 16 ||
      (double)(live - span.begun_at) <= (double)room * progress())
    return false;
  store_relaxed(&helped, true);
  return true;
}

bool pacer_must_wait(void) { return load_relaxed(&mheap.live) > load_relaxed(&last_moment); }

/* In pieces, for the lock keeps the thread from being stopped meanwhile. */
static void scavenge(uint64_t bytes) {
  for (size_t n = 1; n != 0 && bytes != 0; bytes -= n < bytes ? n : bytes) {
    lock(&mheap.lock);
    n = pagealloc_scavenge(bytes < SCAVENGE_PIECE ? bytes : SCAVENGE_PIECE, true);
    unlock(&mheap.lock);
  }
}

void pacer_obey_limit(void) {
  if (load_relaxed(&gc_memory_limit) == INT64_MAX)
    return;
  uint64_t spare, held = memory_in_use(&spare), limit = (uint64_t)load_relaxed(&gc_memory_limit);
  if (held > limit && spare > 0)
    scavenge(held - limit < spare ? held - limit : spare);
}

void scavenge_all(void) { scavenge(UINT64_MAX); }
