/* netpoll: waiting for descriptors. */
#ifndef SCHED_NETPOLL_H
#define SCHED_NETPOLL_H

#include "base/base.h"

struct waiter;

/* Whether the poller is there: it is made when the first descriptor is waited for. */
bool netpoll_inited(void);
/* Whether somebody waits for a descriptor. */
bool netpoll_waited(void);

/* Waits until something happens, ns nanoseconds at most (0: does not wait; negative: no limit), or
 * until netpoll_break(). Returns who is to be woken for it, by link: claimed, not woken. One thread
 * at a time waits; others may look meanwhile. Any thread of the runtime's, attached or not. */
struct waiter *netpoll(int64_t ns);
/* Ends the present or the next wait. */
void netpoll_break(void);

void netpoll_after_fork(void);

#endif
