/* Waiting until something happens to descriptors: epoll, and a look at one of them.
 *
 * Events are those of poll(2): POLLIN and so on. */
#ifndef OS_POLL_H
#define OS_POLL_H

#include "base/base.h"

struct os_event {
  uint32_t events;
  uint64_t data; /* as it was registered */
};

enum { OS_EVENTS = 128 }; /* so many are taken at a time */

/* A new epoll instance, or a new eventfd; close-on-exec; or -errno. */
int os_poller(void);
int os_eventfd(void);
/* Adds 1 to an eventfd: 0 or -errno; takes all of it. */
int os_eventfd_add(int fd);
void os_eventfd_take(int fd);

/* What is registered is reported once, and again each time that it comes about (EPOLLET); _level:
 * as long as it is there. What is there at the time of the call is reported, too. 0 or -errno. */
int os_poller_add(int poller, int fd, uint32_t events, uint64_t data);
int os_poller_add_level(int poller, int fd, uint32_t events, uint64_t data);
int os_poller_change(int poller, int fd, uint32_t events, uint64_t data);
int os_poller_remove(int poller, int fd);
/* Waits for ns nanoseconds at most (0: does not wait; negative: no limit), never for less unless
 * interrupted. How many have come, or -errno. */
int os_poller_wait(int poller, struct os_event events[OS_EVENTS], int64_t ns);

/* What is there now, POLLNVAL, POLLERR and POLLHUP included; or -errno. */
int os_poll(int fd, short events);

#endif
