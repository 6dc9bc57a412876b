/* netpoll: the poller, to which descriptors are registered while somebody waits for them. */
#ifndef SCHED_NETPOLL_H
#define SCHED_NETPOLL_H

#include "base/base.h"

struct m;
struct waiter;

/* Makes the poller, if it is not there: when the first descriptor is waited for. 0 or -errno. No
 * locks are held. */
int netpoll_ensure(void);
bool netpoll_inited(void);
int netpoll_fd(void); /* once it is there */

/* Somebody waits for a descriptor, from before it begins to until after. */
void netpoll_begin_wait(void);
void netpoll_end_wait(void);
bool netpoll_waited(void);

/* All of these return who is to be woken, by link: claimed, not woken. Inside acquirem, or sysmon.
 */

/* Waits until something happens, ns nanoseconds at most (negative: no limit), or until
 * netpoll_break(). One thread at a time; m is its own. */
struct waiter *netpoll_sleep(struct m *m, int64_t ns);
/* Ends the present or the next wait. */
void netpoll_break(void);
/* Whether something has happened, if nobody sleeps in the poller; patient: nor has just looked. */
struct waiter *netpoll_look(bool patient);
/* Nobody has looked since then, though somebody waits. */
bool netpoll_unlooked_since(int64_t when);
/* Makes sure that all who wait will be told: before a thread sleeps for lack of work. */
struct waiter *netpoll_verify(void);
/* sysmon's: both, every 10 ms, or anyway. */
struct waiter *netpoll_watch(int64_t now, bool anyway);

void netpoll_after_fork(void);

#endif
