/* Roots: where marking begins. */
#ifndef GC_ROOTS_H
#define GC_ROOTS_H

#include "base/base.h"

/* Looks up the writable segments of all loaded objects and the sizes of their thread-local
 * storage, into memory of its own. World running, inside acquirem, no locks held: it takes the
 * loader's lock, which may be held by a thread that waits for the world to be stopped, so it waits
 * for it blocked (enterblocked), and holds nothing of the runtime's meanwhile. */
void roots_init(void); /* installs the upcall */
struct roots;
struct roots *roots_prepare(void);
/* With the world stopped: makes *r the list in force. */
void roots_install(struct roots *r);
/* With the world stopped: whether the list in force is of what is loaded now. */
bool roots_valid(void);

/* In a child of fork: no list is in force, for a library may have been half gone. */
void roots_after_fork(void);

/* Calls scan(lo, hi) for all root ranges: data and bss, added ranges, root objects, each thread's
 * stacks, registers, thread-local storage, goroutines (upcalls.scan_goroutines), queues
 * (upcalls.mark_queues). World stopped. Large ranges come in pieces. */
void roots_scan(void (*scan)(uintptr_t lo, uintptr_t hi));

/* Whether p is static data: data, bss or read-only data of any loaded object. World running. */
bool roots_is_static(const void *p);

/* Bytes of data, bss and stacks seen by the last roots_scan. */
extern uint64_t roots_bytes;

#endif
