/* Conditions.
 *
 * The word is a mark alone: somebody waits. It changes under the root's lock.
 *
 * gort_cond_wait goes into the queue before it unlocks the mutex, so who has the mutex after it,
 * and signals, wakes it. It unlocks the mutex when it has left its stack, and before that nobody
 * else could get to sleep or be woken in between: the root is unlocked there, too. From then on a
 * signal may wake it, on another thread even before the mutex is unlocked; but it does not get
 * further than to where it waits for the mutex, so that the mutex is still there to be unlocked.
 *
 * When the condition's memory may go: a signal changes the mark before it wakes those that it has
 * taken out, and only if it took out somebody, whose call has not returned. */
#include "gort/lock.h"
#include "sched/mutex.h"
#include "sched/sema.h"

struct release {
  struct semaroot *root;
  gort_mutex *m;
};

/* What arg points to may be gone when the root is unlocked. */
static void release_both(void *arg) {
  struct release r = *(struct release *)arg;
  sema_unlock(r.root);
  mutex_unlock(r.m);
}

void gort_cond_wait(gort_cond *c, gort_mutex *m) {
  sema_enter("gort_cond_wait");
  mutex_check_locked(m);
  struct semawaiter w = {.w = waiter_self()};
  struct release r = {sema_lock(c), m};
  store_relaxed(&c->state, 1);
  sema_queue(r.root, &w, c);
  waiter_wait(&w.w, release_both, &r, waitReasonCondWait);
  mutex_lock(m);
}

/* Who changed something with the mutex locked, or locked it since, sees the mark of all who waited
 * before. */
static bool nobody_waits(const gort_cond *c) { return load_relaxed(&c->state) == 0; }

void gort_cond_signal(gort_cond *c) {
  sema_enter("gort_cond_signal");
  if (likely(nobody_waits(c)))
    return;
  struct semaroot *root = sema_lock(c);
  struct semawaiter *w = sema_dequeue(root, c);
  if (w && !sema_first(root, c))
    store_relaxed(&c->state, 0);
  sema_wake(root, w);
}

void gort_cond_broadcast(gort_cond *c) {
  sema_enter("gort_cond_broadcast");
  if (likely(nobody_waits(c)))
    return;
  struct semaroot *root = sema_lock(c);
  struct semawaiter *list = sema_dequeue_all(root, c);
  if (list)
    store_relaxed(&c->state, 0);
  sema_wake(root, list);
}
