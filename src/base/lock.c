/* Mutexes and notes on futexes. */
#include "base/lock.h"

#include "base/atomic.h"
#include "base/kernel.h"
#include "base/m.h"
#include "base/throw.h"

enum { FREE, HELD, WAITED_FOR };
enum { SPINS = 30 };

static bool try_raw(struct mutex *l) { return cas_seqcst(&l->state, FREE, HELD); }

void lock_raw(struct mutex *l) {
  for (int i = 0; i < SPINS; i++) {
    if (load_relaxed(&l->state) == FREE && try_raw(l))
      return;
    cpu_relax();
  }
  /* From here on the lock is taken as waited for: somebody else may be asleep too. */
  while (xchg_seqcst(&l->state, WAITED_FOR) != FREE)
    futexsleep(&l->state, WAITED_FOR, -1);
}

void unlock_raw(struct mutex *l) {
  uint32_t was = xchg_seqcst(&l->state, FREE);
  if (was == FREE)
    throw("unlock of a lock that is free");
  if (was == WAITED_FOR)
    futexwakeup(&l->state, 1);
}

void lock(struct mutex *l) {
  acquirem();
  if (!try_raw(l))
    lock_raw(l);
}

void unlock(struct mutex *l) {
  unlock_raw(l);
  releasem(getm());
}

void lock_any(struct mutex *l) {
  if (attached())
    acquirem();
  lock_raw(l);
}

void unlock_any(struct mutex *l) {
  unlock_raw(l);
  if (attached())
    releasem(getm());
}

void spin_lock_slow(struct spinlock *l) {
  int64_t nap = 10000;
  for (int tries = 0;; tries++) {
    if (load_relaxed(&l->held) == 0 && __atomic_exchange_n(&l->held, 1, __ATOMIC_ACQUIRE) == 0)
      return;
    if (tries < 20 * SPINS) {
      cpu_relax();
    } else if (tries < 21 * SPINS) {
      osyield();
    } else {
      futexsleep(&l->held, 1, nap);
      nap = nap < 1000000 ? nap * 2 : nap;
    }
  }
}

void noteclear(struct note *n) { store_relaxed(&n->set, 0); }

void notewakeup(struct note *n) {
  if (xchg_seqcst(&n->set, 1) != 0)
    throw("notewakeup: woken twice");
  futexwakeup(&n->set, 1);
}

bool notesleep(struct note *n, int64_t ns) {
  int64_t until = 0;
  if (ns >= 0 && __builtin_add_overflow(nanotime(), ns, &until))
    ns = -1; /* three hundred years are for ever */
  while (load_acquire(&n->set) == 0) {
    int64_t left = ns >= 0 ? until - nanotime() : -1;
    if (ns >= 0 && left <= 0)
      return false;
    futexsleep(&n->set, 0, left);
  }
  return true;
}
