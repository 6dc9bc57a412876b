/* Stopping the world: every attached thread but the caller's stands still, its stack and
 * registers published, and none of them holds a lock of the runtime. The argument is at the
 * top of stop.c. */
#ifndef GC_STOP_H
#define GC_STOP_H

#include "base/m.h"

void stop_init(void); /* installs the signal handler; before any thread is attached */

/* Asks a thread to call upcalls.safepoint at its next safe point. Any thread, no locks needed. */
void ask_preempt(struct m *m);

/* Returns with the world stopped and worldsema held; the caller was running, holds no locks
 * and is inside acquirem afterwards. While it waits for another who has stopped the world it is
 * blocked. A thread that is not attached may call it too (it may fork). `why` is for messages
 * and must be a literal. */
void stoptheworld(const char *why);
/* Lets it run on. */
void starttheworld(void);
bool world_is_stopped(void);
/* nanotime() when it was asked to. For who has stopped it. */
int64_t world_stopping_since(void);

/* In a signal handler that is not to return: the calling thread stands still as one that was
 * stopped, for good. But it returns if the thread is at work on the runtime, is blocked or not
 * attached. */
void stop_for_good(void *ucontext);

/* Around fork. In between no other thread is inside acquirem, and none can enter: each structure
 * of the runtime is whole, and no lock of it is held, when the memory is copied. But the threads
 * run on outside of the runtime, for fork itself takes locks that they may hold (malloc's). The
 * caller is inside acquirem afterwards. start_after_fork is for the parent and for the child. */
void stop_for_fork(void);
void start_after_fork(void);

/* The owner's view of blocking: between the two the thread is M_BLOCKED: it does not hold up
 * the collector, its stack is scanned as it was at entry (sp: the caller's; registers spilled
 * below it or given in m->regs), and entry may happen inside acquirem (locks are kept).
 * leaveblocked waits while the world is stopped. They nest through m->blocked; m->regs is read
 * from entry on and cleared on leaving. An sp that is not on m->stack is not taken: then m->sp
 * stands as systemstack left it. */
void enterblocked(struct m *m, uintptr_t sp);
void leaveblocked(struct m *m);
/* After enterblocked: when it returns no stop signal comes any more until leaveblocked. */
void await_signal(struct m *m);

/* At a safe point of the scheduler, without locks: stops here if asked to. Leaves a request to
 * be preempted as it is. */
void stop_if_asked(struct m *m);

/* Runs fn(arg) on the system stack of the calling thread, the caller's registers spilled and sp
 * published in m->sp; at once when it is there already. Inside acquirem: fn does not change
 * threads and is not stopped by a signal, but may block between enterblocked and leaveblocked. */
void systemstack(void (*fn)(void *), void *arg);
/* The same; publishes `from` (0: as above) in place of the stack pointer. For functions that the
 * program calls in order to collect: `from` is where spill_and_call has put the registers of the
 * program's own frame, and frames below it are the runtime's, with stale words in their gaps. */
void systemstack_from(uintptr_t from, void (*fn)(void *), void *arg);

/* The number of the stop signal, SIGURG or GORTSIGNAL. */
extern int stop_signal;

#endif
