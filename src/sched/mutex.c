/* The mutex.
 *
 * Its word: LOCKED; WAITERS, the mark that there is somebody in its queue (sema.h); and WOKEN.
 *
 * As a rule an unlock makes the mutex free and wakes the first waiter, who takes it if nobody else
 * is faster. That is far cheaper than handing it over: a running goroutine can take it many times
 * while the one that was woken is on its way. WOKEN says that there is one, and then unlock wakes
 * no other. It is removed by the one that was woken, when it takes the mutex, or when it finds that
 * taken and goes back into the queue, as the first.
 *
 * But who has waited for a millisecond is not woken to try: unlock hands the mutex to it, and the
 * word stays LOCKED. So if who was woken comes too late once or twice, the next unlock makes up for
 * that.
 *
 * Nobody is forgotten. WAITERS is set, under the root's lock, only while the mutex is LOCKED; so
 * its holder has yet to unlock it, and will wake the first then, or sees WOKEN. Whose mark that is
 * will take the mutex, and unlock it in turn, or finds that somebody else has it, who will unlock
 * it. In a child of fork WOKEN may be that of somebody who is gone, so there the first to go into
 * the queue removes it; if it was somebody's after all, one is woken too many.
 *
 * When the mutex's memory may go: unlock changes the word once, by the compare and swap that
 * makes the mutex free or somebody else's, and does not look at it after that. */
#include "sched/mutex.h"

#include "base/kernel.h"
#include "sched/sched.h"
#include "sched/sema.h"

enum { LOCKED = 1, WAITERS = 2, WOKEN = 4 };

enum { LONG_WAIT = 1000000 }; /* ns */

struct mutex_waiter {
  struct semawaiter s; /* first */
  int64_t since;       /* when it first went into the queue; 0: not yet */
  bool woken;          /* WOKEN is its own; the waiter's */
  bool handed;         /* the mutex is its own; set by who wakes it */
};

/* Locking. */

static bool try_lock(gort_mutex *m, bool woken) {
  for (;;) {
    uint32_t s = load_relaxed(&m->state), to = woken ? s & ~(uint32_t)WOKEN : s;
    if (s & LOCKED)
      return false;
    if (likely(cas_seqcst(&m->state, s, to | LOCKED)))
      return true;
  }
}

/* Marks the mutex as waited for. False when it has become free. */
static bool mark(gort_mutex *m, bool woken) {
  for (;;) {
    uint32_t s = load_relaxed(&m->state), to = woken ? s & ~(uint32_t)WOKEN : s;
    if (!(s & LOCKED))
      return false;
    if (likely(cas_seqcst(&m->state, s, to | WAITERS)))
      return true;
  }
}

/* Waits to be woken; unless the mutex has become free meanwhile. */
static void wait(gort_mutex *m, struct mutex_waiter *w) {
  int64_t now = nanotime();
  struct semaroot *root = sema_lock(m);
  bool nobodys = sema_forked && !sema_first(root, m);
  if (!mark(m, w->woken || nobodys)) {
    sema_unlock(root);
    return;
  }
  if (w->since != 0) {
    sema_queue_first(root, &w->s, m);
  } else {
    w->since = now;
    sema_queue(root, &w->s, m);
  }
  sema_wait(root, &w->s, waitReasonMutexLock);
  w->woken = true;
}

static bool spin(gort_mutex *m, bool woken) {
  for (int i = 0; sema_can_spin(i); i++) {
    sema_spin();
    if (try_lock(m, woken))
      return true;
  }
  return false;
}

static NOINLINE void lock_slow(gort_mutex *m) {
  struct mutex_waiter w = {.s = {.w = waiter_self()}};
  while (!w.handed && !try_lock(m, w.woken) && !spin(m, w.woken))
    wait(m, &w);
}

void mutex_lock(gort_mutex *m) {
  if (unlikely(!cas_seqcst(&m->state, 0, LOCKED)))
    lock_slow(m);
}

/* Unlocking. */

static bool has_to_wake(uint32_t s) { return (s & (WAITERS | WOKEN)) == WAITERS; }

/* Makes the mutex free, or the first waiter's, with the root locked. Returns whom to wake. Nobody
 * else sets or removes WAITERS meanwhile, nor sets WOKEN; and while it is not set, nobody removes
 * it. */
static struct mutex_waiter *pass_on(gort_mutex *m, struct semaroot *root) {
  struct mutex_waiter *w = (struct mutex_waiter *)sema_dequeue(root, m);
  uint32_t to = sema_first(root, m) ? WAITERS : 0;
  if (w) {
    w->handed = nanotime() - w->since > LONG_WAIT;
    to |= w->handed ? LOCKED : WOKEN;
  }
  store_release(&m->state, to);
  return w;
}

static bool unlock_and_wake(gort_mutex *m) {
  struct semaroot *root = sema_lock(m);
  struct mutex_waiter *w = pass_on(m, root);
  bool next_here = w && w->handed && w->s.w.g;
  sema_wake(root, w ? &w->s : NULL);
  return next_here;
}

static NOINLINE bool unlock_slow(gort_mutex *m) {
  for (;;) {
    uint32_t s = load_relaxed(&m->state);
    if (!(s & LOCKED))
      throw("unlock of unlocked mutex");
    if (has_to_wake(s))
      return unlock_and_wake(m);
    if (likely(cas_seqcst(&m->state, s, s - LOCKED)))
      return false;
  }
}

bool mutex_unlock(gort_mutex *m) {
  return unlikely(!cas_seqcst(&m->state, LOCKED, 0)) && unlock_slow(m);
}

void mutex_check_locked(gort_mutex *m) {
  if (!(load_relaxed(&m->state) & LOCKED))
    throw("unlock of unlocked mutex");
}

/* The public functions. */

void gort_mutex_lock(gort_mutex *m) {
  sema_enter("gort_mutex_lock");
  mutex_lock(m);
}

bool gort_mutex_try_lock(gort_mutex *m) {
  sema_enter("gort_mutex_try_lock");
  return try_lock(m, false);
}

/* Whose the mutex is now runs at once: until then it would be of use to nobody. */
void gort_mutex_unlock(gort_mutex *m) {
  CHECK_ATTACHED("gort_mutex_unlock");
  if (unlikely(mutex_unlock(m)))
    yield_to_next();
}
