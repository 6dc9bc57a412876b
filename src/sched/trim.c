/* Giving the memory of stacks back to the system that is not needed any more.
 *
 * Free stacks are the pool's business (stackpool.c). But most of a stack may be idle while its
 * goroutine lives: what lies below sp in one that is parked was needed by calls that have returned,
 * and a program has many goroutines that once went deep and now wait. So of those that have waited
 * for long, whose sp is where it will go on, everything below goes back.
 *
 * Nothing must run a goroutine meanwhile, and asking the system takes about a microsecond even
 * where there is nothing to give: too long to do it for all with the world stopped. So it is done
 * in slices of a few goroutines, which go round through allgs,
 *
 *   - by sysmon while all Ps are idle, under sched.lock, so that none can be taken;
 *   - by whoever stops the world, mostly for a collection, but one in 50 ms at the most.
 *
 * It is not done on the way: when a goroutine parks nobody knows for how long. */
#include "sched/sched.h"

#include "base/kernel.h"
#include "heap/upcall.h"
#include "os/os.h"

enum {
  PIECE = 256 << 10, /* bytes of a stack, at once */
  LOOKS = 4,         /* pieces or goroutines, between two looks at the clock */
};

/* In ns. */
static const int64_t SLICE = 30000, IDLE_PAUSE = 2000000;
#ifdef GORT_TORTURE
static const int64_t STOPPED_PAUSE = 0;
int64_t trim_patience = 1000000;
#else
static const int64_t STOPPED_PAUSE = 50000000;
int64_t trim_patience = 10000000000;
#endif

/* The way through allgs; under sched.lock. */
static struct {
  struct g *at; /* the next one; NULL: none goes on */
  size_t done;  /* bytes of its stack that have been given back */
  bool again;   /* some have not waited for long enough */
  int64_t next; /* when the next slice is due; INT64_MAX: there is nothing to do, which only sysmon
                   changes; atomic */
} tour;

/* What nobody needs while g is parked. The page below that of sp is the first that it will want. */
static struct stack idle_part(const struct g *g) {
  uintptr_t page = os_page_size(), hi = ALIGN_DOWN(g->sp, page) - page;
  return (struct stack){g->stack.lo, hi > g->stack.lo ? hi : g->stack.lo};
}

/* Gives a piece back; true when that was the last. */
static bool trim_piece(struct g *g) {
  struct stack s = idle_part(g);
  uintptr_t lo = s.lo + tour.done, hi = lo < s.hi && s.hi - lo > PIECE ? lo + PIECE : s.hi;
  if (lo < hi)
    (void)os_release((void *)lo, hi - lo);
  tour.done += PIECE;
  if (hi < s.hi)
    return false;
  store_relaxed(&g->waitsince, g->waitsince | TRIMMED);
  return true;
}

/* True when it has been seen to. */
static bool visit(struct g *g, int64_t now) {
  int64_t since = load_relaxed(&g->waitsince);
  if (load_acquire(&g->status) != Gwaiting || !g->begun || since == 0 || (since & TRIMMED))
    return true;
  if (now - since >= trim_patience)
    return trim_piece(g);
  tour.again = true;
  return true;
}

static void begin_tour(void) {
  tour.at = load_acquire(&allgs);
  tour.again = false;
}

/* Under sched.lock; no goroutine runs before it is released. */
static void slice(int64_t now, int64_t pause) {
  if (!tour.at)
    begin_tour();
  for (int n = 1; tour.at; n++) {
    if (visit(tour.at, now)) {
      tour.at = tour.at->alllink;
      tour.done = 0;
    }
    if (n % LOOKS == 0 && nanotime() - now >= SLICE)
      break;
  }
  store_relaxed(&tour.next, tour.at ? now + pause : tour.again ? now + trim_patience : INT64_MAX);
}

static void slice_while_idle(int64_t now) {
  lock_raw(&sched.lock);
  if (all_idle())
    slice(now, IDLE_PAUSE);
  unlock_raw(&sched.lock);
}

static void world_stopped(void) {
  int64_t now = nanotime();
  lock_raw(&sched.lock);
  stackpool_flush();
  if (now >= load_relaxed(&tour.next))
    slice(now, STOPPED_PAUSE);
  unlock_raw(&sched.lock);
}

static int64_t trim_parked(int64_t now) {
  if (!all_idle()) {
    if (load_relaxed(&tour.next) == INT64_MAX)
      store_relaxed(&tour.next, now + trim_patience);
    return INT64_MAX;
  } else if (now >= load_relaxed(&tour.next)) {
    slice_while_idle(now);
  }
  int64_t next = load_relaxed(&tour.next);
  return next == INT64_MAX ? next : next > now ? next - now : 0;
}

int64_t stacks_trim(int64_t now) {
  int64_t pool = stackpool_trim(now), parked = trim_parked(now);
  return pool < parked ? pool : parked;
}

/* The way may have been in the middle of a goroutine that is used anew now. */
void trim_after_fork(void) {
  tour.at = NULL;
  tour.next = 0;
}

void trim_init(void) {
  upcalls.world_stopped = world_stopped;
  upcalls.release_stacks = stackpool_trim_all;
}
