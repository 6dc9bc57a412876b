/* Waiting for a group.
 *
 * The word: the counter, and WAITERS, the mark that somebody waits for it to become 0 (sema.h).
 *
 * The counter becomes 0 and the mark goes in one step: a word without a count is 0. So whoever
 * finds the counter at 0 may take the group's memory, or use the group anew; those who wait are
 * taken out of the table under the same lock of the root, and belong to nobody else's count.
 *
 * When the memory may go: the step to 0 is the last time that it is touched. Where somebody waits
 * it is taken with the root locked, else without. */
#include "gort/lock.h"
#include "heap/malloc.h"
#include "sched/sched.h"
#include "sched/sema.h"

#define WAITERS UINT64_C(1)
#define ONE UINT64_C(2) /* the counter is what is above the mark */

/* The word, n added to its counter. */
static uint64_t sum(uint64_t s, int n) {
  int64_t count = (int64_t)(s / ONE) + n;
  if (count < 0)
    throw("negative wait group counter");
  return count == 0 ? 0 : (uint64_t)count * ONE | (s & WAITERS);
}

/* Somebody waits for this step. */
static NOINLINE void add_and_wake(gort_wait_group *wg, int n) {
  struct semaroot *root = sema_lock(wg);
  uint64_t s, to;
  do {
    s = load_relaxed(&wg->state);
    to = sum(s, n);
  } while (!cas_seqcst(&wg->state, s, to));
  sema_wake(root, to == 0 ? sema_dequeue_all(root, wg) : NULL);
}

static void add(gort_wait_group *wg, int n) {
  uint64_t s, to;
  do {
    s = load_relaxed(&wg->state);
    to = sum(s, n);
    if (unlikely((s & WAITERS) && to == 0)) {
      add_and_wake(wg, n);
      return;
    }
  } while (!cas_seqcst(&wg->state, s, to));
}

/* False when there is nothing to wait for. */
static bool mark(gort_wait_group *wg) {
  uint64_t s;
  do {
    s = load_acquire(&wg->state);
    if (s < ONE)
      return false;
  } while (!cas_seqcst(&wg->state, s, s | WAITERS));
  return true;
}

static NOINLINE void wait(gort_wait_group *wg) {
  struct semawaiter w = {.w = waiter_self()};
  struct semaroot *root = sema_lock(wg);
  if (!mark(wg)) {
    sema_unlock(root);
    return;
  }
  sema_queue(root, &w, wg);
  sema_wait(root, &w, waitReasonWaitGroupWait);
}

/* Members. */

struct start {
  gort_wait_group *wg;
  void (*fn)(void *);
  void *arg;
};

struct member {
  struct deferred end; /* first */
  gort_wait_group *wg;
};

static void end_member(struct deferred *d) { add(((struct member *)d)->wg, -1); }

/* What fn drops is garbage: no copy of its argument stays. */
static void run_member(void *p) {
  struct start s = *(struct start *)p;
  struct member self = {{end_member, NULL}, s.wg};
  *(struct start *)p = (struct start){NULL, NULL, NULL};
  call_deferring(s.fn, s.arg, &self.end);
}

/* The public functions. */

void gort_wait_group_add(gort_wait_group *wg, int n) {
  sema_enter("gort_wait_group_add");
  add(wg, n);
}

void gort_wait_group_done(gort_wait_group *wg) {
  sema_enter("gort_wait_group_done");
  add(wg, -1);
}

void gort_wait_group_wait(gort_wait_group *wg) {
  sema_enter("gort_wait_group_wait");
  if (load_acquire(&wg->state) >= ONE)
    wait(wg);
}

void gort_wait_group_go(gort_wait_group *wg, void (*fn)(void *), void *arg) {
  static const char name[] = "gort_wait_group_go";
  sema_enter(name);
  if (!fn)
    throw("%s: fn is nil", name);
  struct start *s = mallocgc_or_throw(sizeof *s, PTR_SIZE, GORT_SCAN, NULL, name);
  *s = (struct start){wg, fn, arg};
  add(wg, 1);
  newproc(run_member, s, 0, false);
}
