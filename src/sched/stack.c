/* Goroutines' stacks, and their overflow.
 *
 *   | guard, 64 KiB | stack, 256 KiB | guard | stack | ...
 *                   lo               hi
 *
 * Stacks of the default size come from a pool (stackpool.c). Others have a mapping each, for as
 * long as their goroutine lives. Memory comes as it is touched; huge pages are refused, for one
 * would make 2 MiB out of the first touch.
 *
 * An overflow touches the guard. The kernel then calls our handler on the thread's signal stack,
 * which throws. Every other fault is passed on as if we were not there. */
#include "sched/sched.h"

#include "base/throw.h"
#include "os/os.h"

#include <signal.h>
#include <string.h>

uint64_t stack_inuse;

void stack_no_memory(size_t size) {
  throw("out of memory: cannot map a goroutine's stack of %zu bytes", size);
}

uintptr_t stack_map(size_t bytes) {
  void *p = os_map(bytes, os_page_size());
  if (p)
    os_huge_pages(p, bytes, false);
  return (uintptr_t)p;
}

/* More than the address space has is not rounded up, lest it overflow. */
static size_t rounded(size_t size) {
  if (size > SIZE_MAX / 2)
    stack_no_memory(size);
  return ALIGN_UP(size < MIN_STACK ? (size_t)MIN_STACK : size, os_page_size());
}

void stack_alloc(struct g *g, size_t size) {
  size = rounded(size);
  uintptr_t lo = stack_map(STACK_GUARD + size);
  if (lo == 0 || !os_guard((void *)lo, STACK_GUARD))
    stack_no_memory(size);
  g->stack = (struct stack){lo + STACK_GUARD, lo + STACK_GUARD + size};
  add_relaxed(&stack_inuse, size);
}

void stack_unmap(struct g *g) {
  size_t size = g->stack.hi - g->stack.lo;
  os_unmap((void *)(g->stack.lo - STACK_GUARD), STACK_GUARD + size);
  add_relaxed(&stack_inuse, -size);
  g->stack = (struct stack){0, 0};
}

/* Overflow. */

static struct sigaction before; /* what handled faults before us; constant after stack_init, but
                                   for a handler that wants to be called once */

static void pass_on(int sig, siginfo_t *info, void *ucontext) {
  struct sigaction sa = before;
  bool by_hand = info->si_code <= 0; /* somebody has sent it: returning does not raise it again */
  if (sa.sa_flags & SA_RESETHAND)
    before.sa_handler = SIG_DFL;
  if (sa.sa_flags & SA_SIGINFO) {
    sa.sa_sigaction(sig, info, ucontext);
  } else if (sa.sa_handler == SIG_DFL || (sa.sa_handler == SIG_IGN && !by_hand)) {
    sigaction(sig, &sa, NULL);
    if (by_hand)
      raise(sig);
  } else if (sa.sa_handler != SIG_IGN) {
    sa.sa_handler(sig);
  }
}

static void on_fault(int sig, void *info, void *ucontext) {
  struct g *g = getg();
  uintptr_t at = os_siginfo_addr(info);
  if (g && at < g->stack.lo && at >= g->stack.lo - STACK_GUARD) {
    traceback_of(ucontext);
    throw("stack overflow: goroutine %llu exceeded its %zu-byte stack", (unsigned long long)g->goid,
          (size_t)(g->stack.hi - g->stack.lo));
  }
  pass_on(sig, info, ucontext);
}

void stack_init(void) {
  int err = sigaction(SIGSEGV, NULL, &before) != 0 ? -1 : os_sigaction(SIGSEGV, on_fault);
  if (err != 0)
    throw("cannot handle signal %d: error %d", SIGSEGV, err);
}
