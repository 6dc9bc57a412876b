/* Requests to valgrind.
 *
 * A program asks valgrind for something by instructions that come to nothing on the processor and
 * that no compiler makes: some rotations, with the address of six words in one register, the
 * request first, and the answer, unless valgrind knows better, in another. So neither its headers
 * nor the tool are needed to build the library.
 *
 * Stacks. As the stack pointer falls and rises valgrind takes it that frames come and go, and marks
 * their memory accordingly; if it comes into a stack that was registered, other than the current
 * one, it has only been moved. So one might register all stacks. But the current stack is one for
 * all threads, though they run in turns: when two of them run on registered stacks, valgrind takes
 * one for the other, and misses a frame. So one stack is registered, which is all of memory, and
 * the current one. For a switch a new one is registered, where the thread is going to; the old one
 * is made to be nowhere; and when the thread has arrived, the new one is made to be all of memory.
 */
#include "base/valgrind.h"

#include "base/lock.h"

/* Their numbers are fixed for good. Those of memcheck's own begin with its letters, MC. */
enum {
  RUNNING_ON_VALGRIND = 0x1001,
  STACK_REGISTER = 0x1501,
  STACK_DEREGISTER = 0x1502,
  STACK_CHANGE = 0x1503,
  CHANGE_ERR_DISABLEMENT = 0x1801,
  MAKE_MEM_NOACCESS = 'M' << 24 | 'C' << 16,
  MAKE_MEM_DEFINED = MAKE_MEM_NOACCESS + 2,
};

bool valgrind_runs;

static struct {
  struct mutex lock;    /* held by who switches */
  uintptr_t stack, old; /* numbers: of the one that is registered, of the one before */
} known;

/* 0 where nobody answers. */
static uintptr_t request(uintptr_t what, uintptr_t a, uintptr_t b, uintptr_t c) {
  const uintptr_t words[6] = {what, a, b, c, 0, 0};
#if defined(__x86_64__)
  uintptr_t answer = 0;
  __asm__ volatile("rolq $3, %%rdi\n\trolq $13, %%rdi\n\trolq $61, %%rdi\n\trolq $51, %%rdi\n\t"
                   "xchgq %%rbx, %%rbx"
                   : "+d"(answer)
                   : "a"(words)
                   : "cc", "memory");
#elif defined(__aarch64__)
  register uintptr_t answer __asm__("x3") = 0;
  register const uintptr_t *at __asm__("x4") = words;
  __asm__ volatile("ror x12, x12, #3\n\tror x12, x12, #13\n\t"
                   "ror x12, x12, #51\n\tror x12, x12, #61\n\t"
                   "orr x10, x10, x10"
                   : "+r"(answer)
                   : "r"(at)
                   : "cc", "memory");
#endif
  return answer;
}

static void be_everywhere(uintptr_t stack) { request(STACK_CHANGE, stack, 0, UINTPTR_MAX); }
static void be_nowhere(uintptr_t stack) { request(STACK_CHANGE, stack, 0, 0); }

/* Number 0 is the stack that the program began on, which valgrind has registered itself. */
void valgrind_init(void) {
  valgrind_runs = request(RUNNING_ON_VALGRIND, 0, 0, 0) != 0;
  if (valgrind_runs)
    be_everywhere(0);
}

/* The lock is released on the other stack, by the same thread. valgrind does not see each value of
 * the stack pointer: where registers are saved or restored right away, it sees the next one. */
void valgrind_tell_leaving(uintptr_t sp) {
  const uintptr_t near = 256;
  lock_raw(&known.lock);
  known.old = known.stack;
  known.stack = request(STACK_REGISTER, sp - near, sp + near, 0);
  be_nowhere(known.old);
}

void valgrind_tell_arrived(void) {
  be_everywhere(known.stack);
  request(STACK_DEREGISTER, known.old, 0, 0);
  unlock_raw(&known.lock);
}

void valgrind_tell_errors(bool on) { request(CHANGE_ERR_DISABLEMENT, on ? UINTPTR_MAX : 1, 0, 0); }

void valgrind_tell_defined(const void *p, size_t size) {
  request(MAKE_MEM_DEFINED, (uintptr_t)p, size, 0);
}

void valgrind_tell_unused(const void *p, size_t size) {
  request(MAKE_MEM_NOACCESS, (uintptr_t)p, size, 0);
}
