/* The mutex, for the other locks. */
#ifndef SCHED_MUTEX_H
#define SCHED_MUTEX_H

#include "base/base.h"
#include "gort/lock.h"

void mutex_lock(gort_mutex *m);
/* True when it was handed over to a goroutine, which is next to run on this processor. For
 * goroutines and threads, and inside acquirem. */
bool mutex_unlock(gort_mutex *m);
/* Throws where mutex_unlock would. */
void mutex_check_locked(gort_mutex *m);

#endif
