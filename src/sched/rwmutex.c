/* Readers and writers.
 *
 * The word: WRITER, held by a writer; how many readers hold it; and the marks WRITERS_WAIT and
 * READERS_WAIT, for the two queues (sema.h).
 *
 * Nobody overtakes who waits. A reader goes into its queue if a writer holds the lock or waits for
 * it; a writer, if anybody holds it. When a writer unlocks, it makes the lock that of all readers
 * who wait, or, if there are none, of the first writer. When the last reader unlocks, it makes it
 * that of the first writer. So readers and writers take turns, and where somebody waits the lock is
 * never free: who is woken has it.
 *
 * While a writer waits, then, the number of readers only falls, and the last of them, with the root
 * locked, has the word to itself. So has the writer that holds the lock.
 *
 * When the lock's memory may go: an unlock changes the word once, from held by the caller to what
 * comes then, and does not look at it after that. It does so with the root locked if somebody is to
 * be woken. */
#include "gort/lock.h"
#include "sched/sched.h"
#include "sched/sema.h"

#define WRITER UINT64_C(1)
#define WRITERS_WAIT UINT64_C(2)
#define READERS_WAIT UINT64_C(4)
#define READER UINT64_C(8) /* and up: how many */

/* What it is to lock it. */
struct side {
  uint64_t closed; /* it has to wait, if one of these is in the word */
  uint64_t gain;   /* is added */
  uint64_t mark;   /* is set when it waits */
  size_t queue;    /* waits on the lock's address + this */
  enum waitreason why;
};

static const struct side reader = {WRITER | WRITERS_WAIT, READER, READERS_WAIT, 0,
                                   waitReasonRWMutexRLock};
static const struct side writer = {UINT64_MAX, WRITER, WRITERS_WAIT, 1, waitReasonRWMutexLock};

static const void *queue(const gort_rwmutex *rw, const struct side *side) {
  return (const char *)rw + side->queue;
}
_Static_assert(sizeof(gort_rwmutex) == 8 && _Alignof(gort_rwmutex) == 8, "both have one root");

/* In a child of fork: removes the mark of those who are gone. */
static void remove_old_mark(gort_rwmutex *rw, struct semaroot *root, const struct side *side) {
  if (!sema_first(root, queue(rw, side)))
    __atomic_fetch_and(&rw->state, ~side->mark, __ATOMIC_SEQ_CST);
}

static struct semaroot *lock_root(gort_rwmutex *rw) {
  struct semaroot *root = sema_lock(rw);
  if (unlikely(sema_forked)) {
    remove_old_mark(rw, root, &reader);
    remove_old_mark(rw, root, &writer);
  }
  return root;
}

/* Locking. */

static inline bool try(gort_rwmutex *rw, const struct side *side) {
  for (;;) {
    uint64_t s = load_relaxed(&rw->state);
    if (s & side->closed)
      return false;
    if (likely(cas_seqcst(&rw->state, s, s + side->gain)))
      return true;
  }
}

static bool try_or_mark(gort_rwmutex *rw, const struct side *side) {
  for (;;) {
    uint64_t s = load_relaxed(&rw->state);
    bool open = !(s & side->closed);
    if (cas_seqcst(&rw->state, s, open ? s + side->gain : s | side->mark))
      return open;
  }
}

/* For a short time, and only while nobody waits: who spins is in no queue yet. */
static bool spin(gort_rwmutex *rw, const struct side *side) {
  for (int i = 0; sema_can_spin(i); i++) {
    if (load_relaxed(&rw->state) & (WRITERS_WAIT | READERS_WAIT))
      return false;
    sema_spin();
    if (try(rw, side))
      return true;
  }
  return false;
}

static NOINLINE void lock_slow(gort_rwmutex *rw, const struct side *side) {
  if (spin(rw, side))
    return;
  struct semawaiter w = {.w = waiter_self()};
  struct semaroot *root = lock_root(rw);
  if (try_or_mark(rw, side)) {
    sema_unlock(root);
    return;
  }
  sema_queue(root, &w, queue(rw, side));
  sema_wait(root, &w, side->why);
}

/* Unlocking. */

/* The caller has the word to itself, with the root locked: gives the lock to the first writer.
 * Returns it; NULL: nobody waits. */
static struct semawaiter *to_writer(gort_rwmutex *rw, struct semaroot *root) {
  struct semawaiter *w = sema_dequeue(root, queue(rw, &writer));
  uint64_t writers = sema_waiting(root, queue(rw, &writer)) ? WRITERS_WAIT : 0;
  uint64_t marks = load_relaxed(&rw->state) & READERS_WAIT;
  store_release(&rw->state, w ? WRITER | writers | marks : 0);
  return w;
}

/* Likewise, to all readers who wait. */
static struct semawaiter *to_readers(gort_rwmutex *rw, struct semaroot *root) {
  uint64_t n = sema_waiting(root, queue(rw, &reader));
  struct semawaiter *list = sema_dequeue_all(root, queue(rw, &reader));
  if (list)
    store_release(&rw->state, n * READER + (load_relaxed(&rw->state) & WRITERS_WAIT));
  return list;
}

static NOINLINE void unlock_slow(gort_rwmutex *rw) {
  if (!(load_relaxed(&rw->state) & WRITER))
    throw("unlock of unlocked rwmutex");
  struct semaroot *root = lock_root(rw);
  struct semawaiter *list = to_readers(rw, root);
  if (!list)
    list = to_writer(rw, root);
  sema_wake(root, list);
}

/* One reader holds it, and a writer waits. */
static bool is_last(uint64_t s) { return (s & ~READERS_WAIT) == (READER | WRITERS_WAIT); }

/* False when the caller is not the last reader any more. What the others did before they left
 * happened before the writer goes: hence acquire. */
static NOINLINE bool last_runlock(gort_rwmutex *rw) {
  struct semaroot *root = lock_root(rw);
  bool last = is_last(load_acquire(&rw->state));
  struct semawaiter *w = last ? to_writer(rw, root) : NULL;
  sema_wake(root, w);
  return last;
}

/* The public functions. */

void gort_rwmutex_rlock(gort_rwmutex *rw) {
  sema_enter("gort_rwmutex_rlock");
  if (unlikely(!try(rw, &reader)))
    lock_slow(rw, &reader);
}

bool gort_rwmutex_try_rlock(gort_rwmutex *rw) {
  sema_enter("gort_rwmutex_try_rlock");
  return try(rw, &reader);
}

void gort_rwmutex_runlock(gort_rwmutex *rw) {
  CHECK_ATTACHED("gort_rwmutex_runlock");
  for (;;) {
    uint64_t s = load_relaxed(&rw->state);
    if (unlikely(s < READER))
      throw("runlock of unlocked rwmutex");
    if (unlikely(is_last(s))) {
      if (last_runlock(rw))
        return;
    } else if (likely(cas_seqcst(&rw->state, s, s - READER))) {
      return;
    }
  }
}

void gort_rwmutex_lock(gort_rwmutex *rw) {
  sema_enter("gort_rwmutex_lock");
  if (unlikely(!try(rw, &writer)))
    lock_slow(rw, &writer);
}

bool gort_rwmutex_try_lock(gort_rwmutex *rw) {
  sema_enter("gort_rwmutex_try_lock");
  return try(rw, &writer);
}

void gort_rwmutex_unlock(gort_rwmutex *rw) {
  CHECK_ATTACHED("gort_rwmutex_unlock");
  if (unlikely(!cas_seqcst(&rw->state, WRITER, 0)))
    unlock_slow(rw);
}
