# SPDX-License-Identifier: Apache-2.0
#
# The guest that finds out whether this host can run a kernel in ring 3. No operating system,
# one processor, started in ring 0 at `program`; everything after the first IRETQ runs at CPL 3
# at kernel addresses, as the ring-3 kernel will. Assembled into husk, copied into guest memory
# and run there; the host never executes a byte of it.
#
# AT&T syntax. Position independent but for the constants below, which mod.rs knows by the same
# names. What it finds it writes to FACTS (64-bit words, the SLOT_ numbers); STEP says what it
# is about to try, so that a host that stops it is known by where it did. It judges nothing.

	.set	BASE, -0x80000000		# guest-physical 0, seen from the guest
	.set	TABLE, BASE + 0x4000		# page table of BASE's first 2 MiB
	.set	FACTS, BASE + 0x8000
	.set	VARIABLES, BASE + 0x8800	# the program's own
	.set	INTERRUPT_STACK, BASE + 0x12000	# IST 1: external interrupts
	.set	FAULT_STACK, BASE + 0x14000	# IST 2: page faults
	.set	FAULT_FRAME, FAULT_STACK - 48	# what the processor pushes there
	.set	FAULT_RETURN, FAULT_FRAME - 0x40	# what the stub returns through
	.set	EXCEPTION_STACK, BASE + 0x16000	# IST 3: what goes straight to ring 3
	.set	STACK, BASE + 0x1c000		# ring 3
	.set	NESTED_STACK, BASE + 0x1e000	# ring 3, interrupts
	.set	XSAVE_AREA, BASE + 0x20000
	.set	DEMAND, BASE + 0x30000		# pages that are not mapped yet
	.set	DEMAND_PAGES, 16
	.set	APIC, BASE + 0x1fe000
	.set	END_PAGE, BASE + 0x1ff000	# a write here ends the run

	.set	KERNEL_CS, 0x10
	.set	USER_SS, 0x2b
	.set	USER_CS, 0x33
	.set	IF, 0x200
	.set	TF, 0x100

	# Registers of the local APIC (SDM vol. 3, table 11-1).
	.set	APIC_TPR, APIC + 0x80
	.set	APIC_EOI, APIC + 0xb0
	.set	APIC_SPURIOUS, APIC + 0xf0
	.set	APIC_IRR_40, APIC + 0x220	# requests for vectors 0x40 to 0x5f
	.set	APIC_LVT_TIMER, APIC + 0x320
	.set	APIC_INITIAL_COUNT, APIC + 0x380
	.set	APIC_DIVIDE, APIC + 0x3e0
	.set	DIVIDE_BY_1, 0xb
	.set	APIC_ENABLED, 0x1ff

	.set	VECTOR_MASKED, 0x40		# to ring 0, whose stub goes on in ring 3
	.set	VECTOR_DIRECT, 0x41		# straight to ring 3
	.set	VECTOR_IDLE, 0x42		# to ring 0, and stays there

	.set	TIMER_COUNT, 50000		# at KVM's 1 GHz: 50 us
	.set	PATIENCE, 20000			# looks at the APIC for an interrupt to come
	.set	KERNEL_GS_BASE, 0xc0000102
	.set	MAGIC, 0x5a5a1234

	.set	SLOT_STEP, 0
	.set	SLOT_DROP_CS, 1
	.set	SLOT_SYSCALL_CS, 2
	.set	SLOT_SYSCALL_CYCLES, 3
	.set	SLOT_BREAKPOINT_CS, 4
	.set	SLOT_OPCODE_CS, 5
	.set	SLOT_OPCODE_STACK, 6
	.set	SLOT_PROTECTION_CS, 7
	.set	SLOT_CALL_CS, 8
	.set	SLOT_CALL_MSR, 9
	.set	SLOT_CALL_CYCLES, 10
	.set	SLOT_FAULTS, 11
	.set	SLOT_FAULT_SUM, 12
	.set	SLOT_FAULT_ADDRESS, 13
	.set	SLOT_FAULT_CYCLES, 14
	.set	SLOT_FAULTS_AFTER_FLUSH, 15
	.set	SLOT_GS_BASE, 16
	.set	SLOT_VECTOR_LOW, 17
	.set	SLOT_VECTOR_HIGH, 18
	.set	SLOT_TIMER_CS, 19
	.set	SLOT_MASKED_PENDING, 20
	.set	SLOT_MASKED_IN_HANDLER, 21
	.set	SLOT_MASKED_AFTER_RETURN, 22
	.set	SLOT_UNMASKED, 23
	.set	SLOT_FRAME_FLAGS, 24
	.set	SLOT_SYSCALL_UNMASKED, 25
	.set	SLOT_DIRECT_CS, 26
	.set	SLOT_DIRECT_MASKED, 27
	.set	SLOT_DIRECT_UNMASKED, 28
	.set	SLOT_IDLE_CS, 29
	.set	SLOT_IDLE_WOKEN, 30
	.set	SLOT_STEPS_TRAPPED, 31

	.set	saved_rsp, VARIABLES
	.set	started, VARIABLES + 8
	.set	ticks, VARIABLES + 16
	.set	frame, VARIABLES + 32		# what the timer's stub returns through

	.macro	fact slot
	movq	%rax, FACTS + 8 * (\slot)
	.endm

	.macro	step number
	movl	$\number, FACTS
	.endm

	.macro	cycles
	rdtsc
	shlq	$32, %rdx
	orq	%rdx, %rax
	.endm

	.macro	begin_timing
	cycles
	movq	%rax, started
	.endm

	.macro	end_timing slot
	cycles
	subq	started, %rax
	fact	\slot
	.endm

	.macro	own_cs slot
	xorl	%eax, %eax
	movl	%cs, %eax
	fact	\slot
	.endm

	# Runs a routine of the section "ring 0" below. INT 4 (#OF) beside INT 3 is the only
	# software interrupt some hosts deliver: their own IDT forbids ring 3 all others.
	.macro	in_ring_0 routine
	leaq	\routine(%rip), %rax
	int	$4
	.endm

	.macro	arm_timer vector
	movl	$\vector, APIC_LVT_TIMER
	movl	$TIMER_COUNT, APIC_INITIAL_COUNT
	.endm

	# ECX is left zero if the interrupt was not requested in time.
	.macro	await_request vector
	movl	$PATIENCE, %ecx
1:	testl	$1 << (\vector - 0x40), APIC_IRR_40
	jnz	2f
	decl	%ecx
	jnz	1b
2:
	.endm

	# ECX is left zero if the handler did not run in time.
	.macro	await_tick
	movl	$PATIENCE, %ecx
1:	cmpq	$0, ticks
	jne	2f
	movl	APIC_TPR, %edx
	decl	%ecx
	jnz	1b
2:
	.endm

	.section .rodata.husk_ring3, "a", @progbits
	.balign 64
	.globl	husk_ring3_start, husk_ring3_end
	.hidden	husk_ring3_start, husk_ring3_end
husk_ring3_start:
	# Where things are, in the order of `Entry` in mod.rs.
	.long	program - husk_ring3_start
	.long	system_call - husk_ring3_start
	.long	debug - husk_ring3_start
	.long	breakpoint - husk_ring3_start
	.long	ring_0_call - husk_ring3_start
	.long	invalid_opcode - husk_ring3_start
	.long	protection - husk_ring3_start
	.long	page_fault - husk_ring3_start
	.long	interrupt - husk_ring3_start
	.long	direct_interrupt - husk_ring3_start
	.long	idle_interrupt - husk_ring3_start

# ---- 1: out of ring 0, for good --------------------------------------------------------------
program:
	step	1
	pushq	$USER_SS
	pushq	$STACK
	pushq	$2
	pushq	$USER_CS
	leaq	dropped(%rip), %rax
	pushq	%rax
	iretq
dropped:
	own_cs	SLOT_DROP_CS

# ---- 2: SYSCALL, there and back --------------------------------------------------------------
	step	2
	syscall
	begin_timing
	movl	$64, %ebx
1:	syscall
	decl	%ebx
	jnz	1b
	end_timing SLOT_SYSCALL_CYCLES

# ---- 3 to 5: exceptions that stay in ring 3 --------------------------------------------------
	step	3
	int3
	step	4
	movq	%rsp, saved_rsp
	ud2
	step	5
	hlt

# ---- 6: a routine in ring 0 ------------------------------------------------------------------
	step	6
	movl	$MAGIC, %edi
	movl	$KERNEL_GS_BASE, %ecx
	in_ring_0 write_msr
	in_ring_0 read_msr
	movl	%eax, %eax
	fact	SLOT_CALL_MSR
	begin_timing
	movl	$16, %ebx
1:	in_ring_0 nothing
	decl	%ebx
	jnz	1b
	end_timing SLOT_CALL_CYCLES

# ---- 7: page faults, and page tables written in ring 3 ---------------------------------------
	step	7
	leaq	fault_in_ring_3(%rip), %rax
	movq	%rax, FAULT_RETURN
	movq	$USER_CS, FAULT_RETURN + 8
	movq	$2, FAULT_RETURN + 16
	movq	$FAULT_FRAME - 0x80, FAULT_RETURN + 24
	movq	$USER_SS, FAULT_RETURN + 32
	movq	$DEMAND, %rsi
	movl	$DEMAND_PAGES, %ebx
	xorl	%edi, %edi
	begin_timing
1:	addq	(%rsi), %rdi
	addq	$0x1000, %rsi
	decl	%ebx
	jnz	1b
	end_timing SLOT_FAULT_CYCLES
	movq	%rdi, %rax
	fact	SLOT_FAULT_SUM
	movq	FACTS + 8 * SLOT_FAULTS, %rbx
	# Unmapped again: seen once it is flushed, whatever was seen before.
	movq	$DEMAND, %rdi
	movq	$0, TABLE + 8 * 0x30
	in_ring_0 flush_page
	movq	(%rdi), %rax
	movq	FACTS + 8 * SLOT_FAULTS, %rax
	subq	%rbx, %rax
	fact	SLOT_FAULTS_AFTER_FLUSH
	movq	%rbx, %rax
	fact	SLOT_FAULTS

# ---- 8: GS base ------------------------------------------------------------------------------
	step	8
	movq	$BASE, %rax
	wrgsbase %rax
	xorl	%eax, %eax
	rdgsbase %rax
	fact	SLOT_GS_BASE

# ---- 9: vector state through XSAVE -----------------------------------------------------------
	step	9
	movl	$MAGIC, %eax
	movq	%rax, %xmm3
	xorl	%ecx, %ecx
	xgetbv
	andl	$4, %eax
	movl	%eax, %ebx			# AVX is on
	jz	1f
	vinsertf128 $1, %xmm3, %ymm3, %ymm3
1:	movl	$-1, %eax
	movl	$-1, %edx
	movq	$XSAVE_AREA, %rdi
	xsave64	(%rdi)
	pxor	%xmm3, %xmm3
	testl	%ebx, %ebx
	jz	2f
	vzeroall
2:	movl	$-1, %eax
	movl	$-1, %edx
	xrstor64 (%rdi)
	movq	%xmm3, %rax
	fact	SLOT_VECTOR_LOW
	testl	%ebx, %ebx
	jz	3f
	vextractf128 $1, %ymm3, %xmm3
	movq	%xmm3, %rax
3:	fact	SLOT_VECTOR_HIGH

# ---- 10: interrupts through ring 0, masked in ring 3 -----------------------------------------
	step	10
	movl	$APIC_ENABLED, APIC_SPURIOUS
	movl	$0, %eax
	movl	%eax, APIC_TPR
	movl	$DIVIDE_BY_1, APIC_DIVIDE
	leaq	interrupted(%rip), %rax
	movq	%rax, frame
	movq	$USER_CS, frame + 8
	movq	$2, frame + 16			# IF off
	movq	$NESTED_STACK, frame + 24
	movq	$USER_SS, frame + 32
	movq	$0, ticks
	in_ring_0 unmask
	arm_timer VECTOR_MASKED
	await_tick
	# The handler left a second one pending, and returned without ring 0.
	movq	ticks, %rax
	fact	SLOT_MASKED_AFTER_RETURN
	in_ring_0 unmask
	movq	ticks, %rax
	fact	SLOT_UNMASKED

# ---- 11: does SYSCALL unmask? ----------------------------------------------------------------
	step	11
	in_ring_0 mask
	movq	$1, ticks
	arm_timer VECTOR_MASKED
	await_request VECTOR_MASKED
	syscall
	movq	ticks, %rax
	decq	%rax
	fact	SLOT_SYSCALL_UNMASKED
	# Twice: an interrupt that waited is taken at the first, and leaves them masked.
	in_ring_0 unmask
	in_ring_0 unmask

# ---- 12: interrupts straight to ring 3 -------------------------------------------------------
	step	12
	movq	$0, ticks
	arm_timer VECTOR_DIRECT
	await_tick
	arm_timer VECTOR_DIRECT
	await_request VECTOR_DIRECT
	movq	ticks, %rax
	fact	SLOT_DIRECT_MASKED
	in_ring_0 unmask
	movq	ticks, %rax
	fact	SLOT_DIRECT_UNMASKED

# ---- 13: sleep -------------------------------------------------------------------------------
	step	13
	in_ring_0 mask
	movq	$0, ticks
	arm_timer VECTOR_IDLE
	in_ring_0 sleep
	movq	ticks, %rax
	fact	SLOT_IDLE_WOKEN

# ---- 14: single steps: from the NOP up to the POPF that ends them, six instructions ----------
	step	14
	pushfq
	orl	$TF, (%rsp)
	popfq
	nop
	nop
	nop
	pushfq
	andl	$~TF, (%rsp)
	popfq

	step	15
	movl	$1, END_PAGE
1:	jmp	1b

# ---- handlers in ring 3 ----------------------------------------------------------------------
	# RCX: back to there; R11: flags. RSP is the caller's.
system_call:
	movq	%rsp, saved_rsp
	own_cs	SLOT_SYSCALL_CS
	pushq	$USER_SS
	pushq	saved_rsp
	pushq	%r11
	pushq	$USER_CS
	pushq	%rcx
	iretq

debug:
	incq	FACTS + 8 * SLOT_STEPS_TRAPPED
	iretq

breakpoint:
	own_cs	SLOT_BREAKPOINT_CS
	iretq

	# No IST: on the interrupted stack, aligned to 16 bytes (SDM vol. 3, 6.14.2).
invalid_opcode:
	own_cs	SLOT_OPCODE_CS
	movq	saved_rsp, %rax
	andq	$-16, %rax
	subq	%rsp, %rax
	fact	SLOT_OPCODE_STACK
	addq	$2, (%rsp)			# over UD2
	iretq

protection:
	own_cs	SLOT_PROTECTION_CS
	addq	$8, %rsp
	incq	(%rsp)				# over HLT
	iretq

	# From the stub below: RAX and CR2 lie at RSP, the processor's frame 0x80 above.
fault_in_ring_3:
	pushq	%rcx
	incq	FACTS + 8 * SLOT_FAULTS
	movq	16(%rsp), %rax
	fact	SLOT_FAULT_ADDRESS
	subq	$BASE, %rax
	movq	%rax, %rcx
	shrq	$12, %rcx
	andq	$-0x1000, %rax
	orq	$7, %rax			# present, writable, user
	movq	%rax, TABLE(, %rcx, 8)
	popq	%rcx
	movq	(%rsp), %rax
	leaq	0x88(%rsp), %rsp		# at the frame, behind its error code
	iretq

	# First tick: see that a second one stays pending. Later ones: only count.
interrupted:
	pushq	%rax
	pushq	%rcx
	incq	ticks
	cmpq	$1, ticks
	jne	3f
	own_cs	SLOT_TIMER_CS
	movl	$0, APIC_EOI
	arm_timer VECTOR_MASKED
	await_request VECTOR_MASKED
	movl	%ecx, %eax
	fact	SLOT_MASKED_PENDING
	int3					# an exception and its IRETQ change nothing
	movq	EXCEPTION_STACK - 24, %rax
	fact	SLOT_FRAME_FLAGS
	pushfq
	orl	$IF, (%rsp)
	popfq					# nor does POPF in ring 3
	movq	ticks, %rax
	fact	SLOT_MASKED_IN_HANDLER
	jmp	4f
3:	movl	$0, APIC_EOI
4:	popq	%rcx
	popq	%rax
	movq	$INTERRUPT_STACK - 40, %rsp
	iretq

direct_interrupt:
	pushq	%rax
	own_cs	SLOT_DIRECT_CS
	incq	ticks
	movl	$0, APIC_EOI
	popq	%rax
	iretq

# ---- ring 0 ----------------------------------------------------------------------------------
ring_0_call:
	jmpq	*%rax

nothing:
	iretq
read_msr:
	rdmsr
	iretq
write_msr:
	movl	%edi, %eax
	xorl	%edx, %edx
	wrmsr
	xorl	%eax, %eax
	movl	%cs, %eax
	fact	SLOT_CALL_CS
	iretq
flush_page:
	invlpg	(%rdi)
	iretq
mask:
	andl	$~IF, 16(%rsp)
	iretq
unmask:
	orl	$IF, 16(%rsp)
	iretq
sleep:
	sti
	hlt
	cli
	iretq

	# An error code lies at RSP. The frame this returns through was put there beforehand.
page_fault:
	movq	%rax, -0x80(%rsp)
	movq	%cr2, %rax
	movq	%rax, -0x78(%rsp)
	leaq	-0x40(%rsp), %rsp
	iretq

interrupt:
	movq	$frame, %rsp
	iretq

	# CPL 0 was interrupted, in `sleep`.
idle_interrupt:
	pushq	%rax
	movq	16(%rsp), %rax
	fact	SLOT_IDLE_CS
	incq	ticks
	movl	$0, APIC_EOI
	popq	%rax
	iretq
husk_ring3_end:
	.previous
