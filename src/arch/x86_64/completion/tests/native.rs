// SPDX-License-Identifier: Apache-2.0
//! Runs one instruction on the real processor with given registers, flags and extended state.
//! Test code only.
#![expect(unsafe_code, reason = "the point is to execute instructions")]

use std::arch::global_asm;

/// The address of the given instruction, assembled right here and followed by `ret`.
macro_rules! code {
    ($($text:literal),+ $(,)?) => {{
        let address: u64;
        // SAFETY: the instruction is jumped over, not executed; only its address is taken.
        unsafe {
            std::arch::asm!(
                "lea {a}, [rip + 2f]", "jmp 3f", "2:", $($text,)+ "ret", ".fill 16, 1, 0x90", "3:",
                a = out(reg) address,
                options(nomem, preserves_flags),
            );
        }
        address
    }};
}
pub(super) use code;

/// What an XSAVE area needs, with room for every component.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Area(pub [u8; 16384]);

impl Area {
    pub fn zeroed() -> Box<Self> {
        Box::new(Self([0; 16384]))
    }
}

/// Order of the registers: as encoded (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15).
#[repr(C)]
pub(super) struct Frame {
    pub gpr: [u64; 16],
    pub rflags: u64,
    code: u64,
    state: *mut u8,
    host: *mut u8,
}

global_asm!(
    "husk_completion_test_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "mov eax, -1",
    "mov edx, -1",
    "mov rcx, [rdi + 152]",
    "xsave64 [rcx]",
    "mov rcx, [rdi + 144]",
    "xrstor64 [rcx]",
    "push qword ptr [rdi + 136]",
    "push qword ptr [rdi + 128]",
    "popfq",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "call [rsp]",
    "xchg rdi, [rsp + 8]",
    "mov [rdi], rax",
    "mov [rdi + 8], rcx",
    "mov [rdi + 16], rdx",
    "mov [rdi + 24], rbx",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], rsi",
    "mov [rdi + 64], r8",
    "mov [rdi + 72], r9",
    "mov [rdi + 80], r10",
    "mov [rdi + 88], r11",
    "mov [rdi + 96], r12",
    "mov [rdi + 104], r13",
    "mov [rdi + 112], r14",
    "mov [rdi + 120], r15",
    "pushfq",
    "pop qword ptr [rdi + 128]",
    "mov rax, [rsp + 8]",
    "mov [rdi + 56], rax",
    "mov eax, -1",
    "mov edx, -1",
    "mov rcx, [rdi + 144]",
    "xsave64 [rcx]",
    "mov rcx, [rdi + 152]",
    "xrstor64 [rcx]",
    "add rsp, 16",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn husk_completion_test_run(frame: *mut Frame);
}

/// Executes the instruction at `code`. `state` is loaded before and overwritten after it.
pub(super) fn run(code: u64, gpr: &mut [u64; 16], rflags: &mut u64, state: &mut Area) {
    let mut host = Area::zeroed();
    let mut frame = Frame {
        gpr: *gpr,
        rflags: *rflags,
        code,
        state: state.0.as_mut_ptr(),
        host: host.0.as_mut_ptr(),
    };
    // XSAVE keeps header bits that are not its own; they must be none.
    // SAFETY: `code` comes of `code!`: one instruction and a return, given operands in memory
    // that the test owns. The trampoline keeps the callee-saved registers and the extended state,
    // and both areas are aligned and larger than any XSAVE area.
    unsafe { husk_completion_test_run(&raw mut frame) };
    *gpr = frame.gpr;
    *rflags = frame.rflags;
}

/// Loads and saves `state`: what the processor, and so KVM, makes of it.
pub(super) fn settle(state: &mut Area) {
    run(code!("nop"), &mut [0; 16], &mut 2, state);
}

/// The bytes at `code`.
pub(super) fn bytes(code: u64) -> [u8; 15] {
    let mut bytes = [0; 15];
    for (byte, address) in bytes.iter_mut().zip(code..) {
        // SAFETY: `code!` puts sixteen bytes of padding behind the instruction.
        *byte = unsafe { *(address as *const u8) };
    }
    bytes
}

/// XCR0.
pub(super) fn xcr0() -> u64 {
    // SAFETY: every processor with XSAVE has XGETBV; the trampoline needs XSAVE anyway.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}
