/* Changing stacks on x86-64. What the functions do is in switch.h.
 *
 * The frame that each leaves on the stack, from the stack pointer up:
 *
 *    0  mxcsr (4 bytes), x87 control word (2 bytes)
 *    8  r15, r14, r13, r12, rbx
 *   48  rbp, return address: a frame record, where switch.h says it is
 *
 * The control words are callee-saved like the registers; the status flags that share mxcsr with
 * them are not, and travel along. A fresh stack is such a frame with rbp 0, which returns to
 * stack_begin; above it lies a return address 0. There debuggers and walkers of frame pointers
 * see the end. */

	.text

/* The CFA stays rsp + 64 when rsp changes to another stack that was left in the same way. */
.macro PUSH_FRAME
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbx, 0
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r12, 0
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r13, 0
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r14, 0
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r15, 0
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	movw	$0, 6(%rsp)
.endm

.macro POP_FRAME
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
	popq	%r15
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r15
	popq	%r14
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r14
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r13
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r12
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbx
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
.endm

.macro FUNCTION name
	.globl	\name
	.hidden	\name
	.type	\name, @function
	.p2align 4
\name:
	.cfi_startproc
	endbr64
.endm

.macro END name
	.cfi_endproc
	.size	\name, . - \name
.endm

/* void switch_to(uintptr_t *save, uintptr_t sp)
 *
 * Control words are loaded only where they differ: that is slow, and rare. */
FUNCTION switch_to
	PUSH_FRAME
	movq	%rsp, (%rdi)
	movl	(%rsp), %eax
	movzwl	4(%rsp), %ecx
	movq	%rsi, %rsp
	cmpl	(%rsp), %eax
	jne	1f
	cmpw	4(%rsp), %cx
	je	2f
1:	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
2:	POP_FRAME
	ret
END switch_to

/* uintptr_t stack_prepare(uintptr_t top, void (*entry)(void *), void *arg)
 *
 * entry finds its return address, 0, at top - 8, so the stack is aligned as after a call. */
FUNCTION stack_prepare
	andq	$-16, %rdi
	leaq	-72(%rdi), %rax
	stmxcsr	(%rax)
	fnstcw	4(%rax)
	movw	$0, 6(%rax)
	movq	$0, 8(%rax)
	movq	$0, 16(%rax)
	movq	$0, 24(%rax)
	movq	%rdx, 32(%rax)
	movq	%rsi, 40(%rax)
	movq	$0, 48(%rax)
	leaq	stack_begin(%rip), %rcx
	movq	%rcx, 56(%rax)
	movq	$0, 64(%rax)
	ret
END stack_prepare

/* What a fresh stack returns to: entry in rbx, its argument in r12. */
	.type	stack_begin, @function
	.p2align 4
stack_begin:
	.cfi_startproc
	.cfi_undefined %rip
	movq	%r12, %rdi
	jmpq	*%rbx
END stack_begin

/* void call_on_stack(uintptr_t *save, uintptr_t sp, void (*fn)(void *), void *arg)
 *
 * rbp points to the frame record meanwhile, so that frames can be followed from one stack to
 * the other, and leads back. fn keeps the control words. */
FUNCTION call_on_stack
	PUSH_FRAME
	movq	%rsp, (%rdi)
	leaq	48(%rsp), %rbp
	.cfi_remember_state
	.cfi_def_cfa %rbp, 16
	movq	%rsi, %rsp
	andq	$-16, %rsp
	movq	%rcx, %rdi
	callq	*%rdx
	leaq	-48(%rbp), %rsp
	.cfi_restore_state
	POP_FRAME
	ret
END call_on_stack

/* void spill_and_call(void (*fn)(uintptr_t sp, void *arg), void *arg) */
FUNCTION spill_and_call
	PUSH_FRAME
	movq	%rdi, %rax
	movq	%rsp, %rdi
	leaq	48(%rsp), %rbp
	callq	*%rax
	POP_FRAME
	ret
END spill_and_call

/* uintptr_t save_registers(uintptr_t buf[SAVED_REGS]): words that are not used become 0. */
FUNCTION save_registers
	movq	%rbx, (%rdi)
	movq	%rbp, 8(%rdi)
	movq	%r12, 16(%rdi)
	movq	%r13, 24(%rdi)
	movq	%r14, 32(%rdi)
	movq	%r15, 40(%rdi)
	xorl	%eax, %eax
	.irp	at, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184
	movq	%rax, \at(%rdi)
	.endr
	leaq	8(%rsp), %rax
	ret
END save_registers

	.section .note.GNU-stack, "", @progbits
