/* Changing stacks on aarch64. What the functions do is in switch.h.
 *
 * The frame that each leaves on the stack, from the stack pointer up:
 *
 *    0  d8 .. d13
 *   48  x29, x30: a frame record, where switch.h says it is
 *   64  d14, d15
 *   80  x19 .. x28
 *  160  fpcr
 *
 * fpcr is no callee-saved register, but belongs to the thread, and a goroutine takes its
 * rounding mode along when it goes on in another. A fresh stack is such a frame with x29 0, which
 * returns to stack_begin; that clears x30. There debuggers and walkers of frame pointers see the
 * end. `hint #34` is bti c. */

	.text

	.equ	FRAME, 176
	.equ	RECORD, 48

/* The CFA stays sp + FRAME when sp changes to another stack that was left in the same way. */
.macro PUSH_FRAME
	sub	sp, sp, #FRAME
	.cfi_adjust_cfa_offset FRAME
	stp	d8, d9, [sp]
	stp	d10, d11, [sp, #16]
	stp	d12, d13, [sp, #32]
	stp	x29, x30, [sp, #RECORD]
	.cfi_rel_offset x29, RECORD
	.cfi_rel_offset x30, RECORD + 8
	stp	d14, d15, [sp, #64]
	stp	x19, x20, [sp, #80]
	.cfi_rel_offset x19, 80
	.cfi_rel_offset x20, 88
	stp	x21, x22, [sp, #96]
	.cfi_rel_offset x21, 96
	.cfi_rel_offset x22, 104
	stp	x23, x24, [sp, #112]
	.cfi_rel_offset x23, 112
	.cfi_rel_offset x24, 120
	stp	x25, x26, [sp, #128]
	.cfi_rel_offset x25, 128
	.cfi_rel_offset x26, 136
	stp	x27, x28, [sp, #144]
	.cfi_rel_offset x27, 144
	.cfi_rel_offset x28, 152
	mrs	x9, fpcr
	stp	x9, xzr, [sp, #160]
.endm

.macro POP_FRAME
	ldp	d8, d9, [sp]
	ldp	d10, d11, [sp, #16]
	ldp	d12, d13, [sp, #32]
	ldp	x29, x30, [sp, #RECORD]
	.cfi_restore x29
	.cfi_restore x30
	ldp	d14, d15, [sp, #64]
	ldp	x19, x20, [sp, #80]
	.cfi_restore x19
	.cfi_restore x20
	ldp	x21, x22, [sp, #96]
	.cfi_restore x21
	.cfi_restore x22
	ldp	x23, x24, [sp, #112]
	.cfi_restore x23
	.cfi_restore x24
	ldp	x25, x26, [sp, #128]
	.cfi_restore x25
	.cfi_restore x26
	ldp	x27, x28, [sp, #144]
	.cfi_restore x27
	.cfi_restore x28
	add	sp, sp, #FRAME
	.cfi_adjust_cfa_offset -FRAME
.endm

.macro FUNCTION name
	.globl	\name
	.hidden	\name
	.type	\name, %function
	.p2align 4
\name:
	.cfi_startproc
	hint	#34
.endm

.macro END name
	.cfi_endproc
	.size	\name, . - \name
.endm

/* void switch_to(uintptr_t *save, uintptr_t sp)
 *
 * Writing fpcr is slow and seldom needed. */
FUNCTION switch_to
	PUSH_FRAME
	mov	x10, sp
	str	x10, [x0]
	mov	sp, x1
	ldr	x10, [sp, #160]
	cmp	x9, x10
	b.eq	1f
	msr	fpcr, x10
1:
	POP_FRAME
	ret
END switch_to

/* uintptr_t stack_prepare(uintptr_t top, void (*entry)(void *), void *arg) */
FUNCTION stack_prepare
	and	x0, x0, #-16
	sub	x0, x0, #FRAME
	stp	xzr, xzr, [x0]
	stp	xzr, xzr, [x0, #16]
	stp	xzr, xzr, [x0, #32]
	adr	x9, stack_begin
	stp	xzr, x9, [x0, #RECORD]
	stp	xzr, xzr, [x0, #64]
	stp	x1, x2, [x0, #80]
	stp	xzr, xzr, [x0, #96]
	stp	xzr, xzr, [x0, #112]
	stp	xzr, xzr, [x0, #128]
	stp	xzr, xzr, [x0, #144]
	mrs	x9, fpcr
	stp	x9, xzr, [x0, #160]
	ret
END stack_prepare

/* What a fresh stack returns to: entry in x19, its argument in x20. */
	.type	stack_begin, %function
	.p2align 4
stack_begin:
	.cfi_startproc
	.cfi_undefined x30
	mov	x0, x20
	mov	x16, x19
	mov	x30, xzr
	br	x16
END stack_begin

/* void call_on_stack(uintptr_t *save, uintptr_t sp, void (*fn)(void *), void *arg)
 *
 * x29 points to the frame record meanwhile, so that frames can be followed from one stack to
 * the other, and leads back. */
FUNCTION call_on_stack
	PUSH_FRAME
	mov	x9, sp
	str	x9, [x0]
	add	x29, sp, #RECORD
	.cfi_remember_state
	.cfi_def_cfa x29, FRAME - RECORD
	and	x1, x1, #-16
	mov	sp, x1
	mov	x0, x3
	blr	x2
	sub	sp, x29, #RECORD
	.cfi_restore_state
	POP_FRAME
	ret
END call_on_stack

/* void spill_and_call(void (*fn)(uintptr_t sp, void *arg), void *arg) */
FUNCTION spill_and_call
	PUSH_FRAME
	mov	x9, x0
	mov	x0, sp
	add	x29, sp, #RECORD
	blr	x9
	POP_FRAME
	ret
END spill_and_call

/* uintptr_t save_registers(uintptr_t buf[SAVED_REGS]): words that are not used become 0. */
FUNCTION save_registers
	stp	x19, x20, [x0]
	stp	x21, x22, [x0, #16]
	stp	x23, x24, [x0, #32]
	stp	x25, x26, [x0, #48]
	stp	x27, x28, [x0, #64]
	stp	x29, x30, [x0, #80]
	stp	d8, d9, [x0, #96]
	stp	d10, d11, [x0, #112]
	stp	d12, d13, [x0, #128]
	stp	d14, d15, [x0, #144]
	stp	xzr, xzr, [x0, #160]
	stp	xzr, xzr, [x0, #176]
	mov	x0, sp
	ret
END save_registers

	.section .note.GNU-stack, "", %progbits
