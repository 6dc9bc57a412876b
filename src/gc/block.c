/* Leaving the stack, and leaving the runtime: systemstack, gort_block_enter and _exit.
 *
 * Between gort_block_enter and _exit the thread runs the program's code while the collector may
 * scan its stack. What was reachable at entry is to stay alive. The stack above the caller's
 * frame does not change unless the program writes to it; but the caller's own frame and the
 * registers are the compiler's, which may move a pointer from one place to another at any time,
 * past the eyes of the collector. So a copy is made at entry: of the registers and of the lowest
 * 2 KiB of the stack, which hold the caller's frame or at least its temporaries. Copy and stack
 * are both roots then. */
#include "gc/stop.h"

#include "base/switch.h"
#include "base/throw.h"
#include "base/valgrind.h"
#include "gort/goroutine.h"
#include "heap/upcall.h"

struct call {
  void (*fn)(void *);
  void *arg;
  const uintptr_t *left; /* the stack pointer of the caller: right after the switch */
};

static void on_system_stack(void *p) {
  valgrind_arrived();
  const struct call *c = p;
  uintptr_t back = *c->left;
  c->fn(c->arg);
  valgrind_leaving_for(back);
}

void systemstack_from(uintptr_t from, void (*fn)(void *), void *arg) {
  struct m *m = acquirem();
  uintptr_t sp = m->systemsp, here;
  if (sp == 0) {
    fn(arg);
  } else {
    m->systemsp = 0;
    m->sp = from;
    uintptr_t *left = from != 0 ? &here : &m->sp;
    valgrind_leaving_for(sp);
    call_on_stack(left, sp, on_system_stack, &(struct call){fn, arg, left});
    valgrind_arrived();
    m->systemsp = sp;
  }
  releasem(m);
}

void systemstack(void (*fn)(void *), void *arg) { systemstack_from(0, fn, arg); }

/* The registers that the ABI preserves lie on the stack, from sp up, and all frames above. */
UNSANITIZED static void copy_frames(struct m *m, uintptr_t sp) {
  size_t n = 0;
  for (const uintptr_t *w = (const uintptr_t *)sp;
       n < M_SAVED_WORDS && w < (uintptr_t *)m->stack.hi; w++)
    m->saved[n++] = *w;
  m->regs = (struct stack){(uintptr_t)m->saved, (uintptr_t)(m->saved + n)};
}

static void block(uintptr_t sp, void *arg) {
  struct m *m = arg;
  if (sp >= m->stack.lo && sp < m->stack.hi)
    copy_frames(m, sp);
  enterblocked(m, sp);
  await_signal(m);
}

/* Inside acquirem the handler stays away from what is published. The thread's P goes to others
 * first, while it may still take the scheduler's locks. */
static void block_outermost(void) {
  struct m *m = acquirem();
  upcalls.entersyscall(m);
  spill_and_call(block, m);
  releasem(m);
}

void gort_block_enter(void) {
  CHECK_ATTACHED("gort_block_enter");
  struct m *m = getm();
  if (m->blocked > 0)
    m->blocked++;
  else
    block_outermost();
}

/* exitsyscall may park the goroutine until a P is free, and wake it on this thread or another:
 * m is not used after it. */
void gort_block_exit(void) {
  CHECK_ATTACHED("gort_block_exit");
  struct m *m = getm();
  if (m->blocked == 0)
    throw("gort_block_exit: without gort_block_enter");
  if (m->blocked > 1) {
    m->blocked--;
    return;
  }
  leaveblocked(m);
  upcalls.exitsyscall(m);
}
