/* Calls that may block the thread: the runtime's own, so other than with gort_block_enter it is
 * known what runs in them. Nothing on the stack above changes while they last, and the registers
 * lie on it: no copy is needed, and no signal has to be waited for. */
#include "sched/blocking.h"

#include "base/switch.h"
#include "gc/stop.h"
#include "sched/sched.h"

struct call {
  struct m *m;
  void (*fn)(void *arg);
  void *arg;
};

/* As in gort_block_enter, the thread is inside acquirem only until it is blocked: without a P it
 * must not come to a safe point, as it might when it leaves acquirem later. */
static void call_blocked(uintptr_t sp, void *arg) {
  struct call *c = arg;
  enterblocked(c->m, sp);
  releasem(c->m);
  c->fn(c->arg);
  leaveblocked(c->m);
}

/* exitsyscall may park the goroutine until a P is free. */
void call_blocking(void (*fn)(void *arg), void *arg) {
  struct call c = {acquirem(), fn, arg};
  entersyscall(c.m);
  spill_and_call(call_blocked, &c);
  exitsyscall(c.m);
}
