/* Goroutines' stacks, and their overflow.
 *
 *   | guard, 64 KiB | stack, 256 KiB | guard | stack | ...
 *                   lo               hi
 *
 * Stacks of the default size are cut from larger mappings, which are never unmapped: a dead
 * goroutine keeps its stack for the next one (goroutine.c). Others have a mapping each, for as
 * long as their goroutine lives. Memory comes as it is touched; huge pages are refused, for one
 * would make 2 MiB out of the first touch.
 *
 * An overflow touches the guard. The kernel then calls our handler on the thread's signal stack,
 * which throws. Every other fault is passed on as if we were not there. */
#include "sched/sched.h"

#include "base/throw.h"
#include "os/os.h"
#include "sched/sanitizer.h"

#include <signal.h>
#include <string.h>

enum { SLOT = STACK_GUARD + DEFAULT_STACK, SLOTS_PER_MAPPING = 16 };

uint64_t stack_inuse;

/* The mapping that default stacks are being cut from. */
static struct {
  struct mutex lock;
  uintptr_t next, end; /* under lock */
} slots;

static GORT_NORETURN void no_memory(size_t size) {
  throw("out of memory: cannot map a goroutine's stack of %zu bytes", size);
}

static uintptr_t map_stacks(size_t bytes, size_t size) {
  void *p = os_map(bytes, os_page_size());
  if (!p)
    no_memory(size);
  os_huge_pages(p, bytes, false);
  return (uintptr_t)p;
}

/* A slot of guard and stack. The kernel is asked outside the lock's usual path only: one call in
 * sixteen maps. */
static uintptr_t take_slot(void) {
  lock(&slots.lock);
  if (slots.next == slots.end) {
    slots.next = map_stacks((size_t)SLOT * SLOTS_PER_MAPPING, DEFAULT_STACK);
    slots.end = slots.next + (size_t)SLOT * SLOTS_PER_MAPPING;
  }
  uintptr_t slot = slots.next;
  slots.next += SLOT;
  unlock(&slots.lock);
  return slot;
}

/* More than the address space has is not rounded up, lest it overflow. */
static size_t rounded(size_t size) {
  if (size > SIZE_MAX / 2)
    no_memory(size);
  return ALIGN_UP(size < MIN_STACK ? (size_t)MIN_STACK : size, os_page_size());
}

void stack_alloc(struct g *g, size_t size) {
  size = size == 0 ? DEFAULT_STACK : rounded(size);
  uintptr_t lo = size == DEFAULT_STACK ? take_slot() : map_stacks(STACK_GUARD + size, size);
  if (!os_guard((void *)lo, STACK_GUARD))
    no_memory(size);
  g->stack = (struct stack){lo + STACK_GUARD, lo + STACK_GUARD + size};
  add_relaxed(&stack_inuse, size);
  sanitize_stack(g->stack.lo, g->stack.hi);
}

bool stack_is_default(const struct g *g) { return g->stack.hi - g->stack.lo == DEFAULT_STACK; }

/* Not a default one. */
void stack_unmap(struct g *g) {
  size_t size = g->stack.hi - g->stack.lo;
  os_unmap((void *)(g->stack.lo - STACK_GUARD), STACK_GUARD + size);
  add_relaxed(&stack_inuse, -size);
  g->stack = (struct stack){0, 0};
}

void stack_after_fork(void) { slots.lock = (struct mutex){0}; }

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
  if (g && at < g->stack.lo && at >= g->stack.lo - STACK_GUARD)
    throw("stack overflow: goroutine %llu exceeded its %zu-byte stack", (unsigned long long)g->goid,
          (size_t)(g->stack.hi - g->stack.lo));
  pass_on(sig, info, ucontext);
}

void stack_init(void) {
  int err = sigaction(SIGSEGV, NULL, &before) != 0 ? -1 : os_sigaction(SIGSEGV, on_fault);
  if (err != 0)
    throw("cannot handle signal %d: error %d", SIGSEGV, err);
}
