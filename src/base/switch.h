/* Changing stacks: all that knows the processor is in switch_amd64.S and switch_arm64.S.
 *
 * Each saves what the ABI calls callee-saved, and no more, on the stack it leaves; so a stack
 * that is not running holds all its registers between its saved sp and its top, where the
 * collector scans them. */
#ifndef BASE_SWITCH_H
#define BASE_SWITCH_H

#include "base/base.h"

/* Saves the registers on this stack, stores its sp to *save, goes on at `sp` (as a former call
 * stored it, or as stack_prepare made it). Returns when somebody switches back. */
void switch_to(uintptr_t *save, uintptr_t sp);

/* Makes a stack whose first switch_to calls entry(arg), which must not return. `top` is its
 * highest address; returns the sp to switch to. */
uintptr_t stack_prepare(uintptr_t top, void (*entry)(void *), void *arg);

/* Saves the registers on this stack, stores its sp to *save, calls fn(arg) on the stack that
 * ends at `sp`, and comes back. */
void call_on_stack(uintptr_t *save, uintptr_t sp, void (*fn)(void *), void *arg);

/* Saves the registers on this stack and calls fn(sp, arg) right below, on the same stack:
 * scanning from sp up sees everything the caller holds. */
void spill_and_call(void (*fn)(uintptr_t sp, void *arg), void *arg);

/* A stack that was left by switch_to, call_on_stack or spill_and_call: where its caller's frame
 * pointer and the address at which it goes on lie, and how many bytes there are before the caller's
 * frame. */
struct frame_record {
  uintptr_t fp, pc;
};
static inline const struct frame_record *saved_frame(uintptr_t sp) {
  return (const struct frame_record *)(sp + 48);
}
#if defined(__x86_64__)
enum { SAVED_FRAME = 64 };
#elif defined(__aarch64__)
enum { SAVED_FRAME = 176 };
#endif

/* Where a function is that does not run at the moment. */
struct frame {
  uintptr_t pc, sp, fp;
  uintptr_t link;   /* of one that was interrupted, where the processor has a link register */
  bool interrupted; /* by a signal, at pc; else pc stands behind a call */
};

/* Stores the callee-saved registers to buf; returns the caller's sp. */
enum { SAVED_REGS = 24 };
uintptr_t save_registers(uintptr_t buf[SAVED_REGS]);

#endif
