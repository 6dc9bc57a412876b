/* gort_drain: collecting until nothing new dies and every finalizer has run.
 *
 * Counting tells. Let q be how many finalizers were queued in all, found equal to how many have
 * run: at that moment none waits and none runs. When a whole collection that began after that
 * moment has queued none, q still being the number, then no finalizer ran meanwhile either, and
 * nothing that has one is unreachable but waits to be found. Any other outcome means another round.
 */
#include "base/kernel.h"
#include "base/m.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "gort/collector.h"
#include "gort/goroutine.h"
#include "heap/upcall.h"
#include "sched/sched.h"
#include "special/special.h"

/* True when all that were queued have run; *n: how many. `run` first: it never overtakes. */
static bool idle(uint64_t *n) {
  *n = load_seqcst(&finstats.run);
  return *n == load_seqcst(&finstats.queued);
}

static bool is_past(int64_t deadline) { return deadline >= 0 && nanotime() >= deadline; }

/* An eighth of what we have waited already, so that waiting costs little and ends in time. */
static int64_t next_nap(int64_t begin, int64_t deadline) {
  const int64_t least = 20000, most = 1000000;
  int64_t now = nanotime(), nap = (now - begin) / 8;
  nap = nap < least ? least : nap > most ? most : nap;
  return deadline >= 0 && deadline - now < nap ? deadline - now : nap;
}

/* Waits until no finalizer waits or runs. False: the time is up. Who has queued some may not have
 * come to the point yet at which it wakes fing: we do. */
static bool wait_until_idle(int64_t deadline, uint64_t *n) {
  if (idle(n))
    return true;
  upcalls.swept();
  upcalls.wake_finalizers();
  gort_yield();
  for (int64_t begin = nanotime(); !idle(n);) {
    if (is_past(deadline))
      return false;
    gort_sleep(next_nap(begin, deadline));
    upcalls.swept();
  }
  return true;
}

static int64_t deadline_after(int64_t timeout_ns) {
  int64_t deadline;
  if (timeout_ns < 0 || __builtin_add_overflow(nanotime(), timeout_ns, &deadline))
    return -1;
  return deadline;
}

/* One collection; true when there was nothing to run before it and it found nothing. */
static bool nothing_dies(uintptr_t sp, bool was_idle, uint64_t n) {
  uint64_t now;
  gc_collect(sp);
  return was_idle && idle(&now) && now == n;
}

struct drain {
  int64_t timeout_ns;
  bool done;
};

/* sp: of the program's own frame; see systemstack_from. */
static void drain(uintptr_t sp, void *arg) {
  struct drain *d = arg;
  uint64_t n;
  if (d->timeout_ns == 0) {
    bool was_idle = idle(&n);
    d->done = nothing_dies(sp, was_idle, n);
    return;
  }
  int64_t deadline = deadline_after(d->timeout_ns);
  while (!d->done && wait_until_idle(deadline, &n)) {
    d->done = nothing_dies(sp, true, n);
    if (!d->done && is_past(deadline))
      return;
  }
}

bool gort_drain(int64_t timeout_ns) {
  CHECK_ATTACHED("gort_drain");
  struct drain d = {.timeout_ns = timeout_ns};
  if (!upcalls.on_fing())
    spill_and_call(drain, &d);
  return d.done;
}
