// SPDX-License-Identifier: Apache-2.0
//! ptrace(2) as debuggers use it: a child stepped instruction by instruction, stopped at a
//! breakpoint written into it, at its system calls, and by a watched address.
#![expect(unsafe_code, reason = "ptrace, and code at known addresses")]

use crate::sys::{Child, check, failed};
use std::ptr;

// `traced_path` is stepped from its first instruction: what each must do is written beside it.
std::arch::global_asm!(
    ".global traced_path, traced_break, traced_end",
    "traced_path:",
    "mov eax, 1",   // 0: rax = 1
    "add rax, 41",  // 1: rax = 42
    "push rax",     // 2
    "mov eax, 110", // 3: getppid
    "syscall",      // 4: one step, over the kernel
    "pop rax",      // 5: rax = 42
    "traced_break:",
    "nop", // 6
    "traced_end:",
    "ret",
);

unsafe extern "C" {
    fn traced_path() -> u64;
    static traced_break: u8;
    static traced_end: u8;
}

/// Instructions from `traced_path` to `traced_end`.
const STEPS: usize = 7;
const TRAP: i32 = libc::SIGTRAP;
/// Written by the child, watched by the parent.
static mut WATCHED: u64 = 0;

pub fn check_all(watch: bool) -> Result<(), String> {
    step()?;
    breakpoint()?;
    system_calls()?;
    if watch {
        watchpoint()?;
    }
    println!("steps, breakpoint and system calls of a traced process are as they should be");
    Ok(())
}

/// A traced child that has stopped itself before it runs `work`.
fn stopped(work: impl FnOnce() -> i32) -> Result<Child, String> {
    let child = Child::fork(|| {
        // SAFETY: asks to be traced, and stops until the parent lets it go on.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
        work()
    })?;
    stops(&child, libc::SIGSTOP)?;
    Ok(child)
}

fn run_path() -> i32 {
    // SAFETY: follows the calling convention; changes rax, rcx and r11 only.
    i32::from(unsafe { traced_path() } != 42)
}

#[track_caller]
fn stops(child: &Child, signal: i32) -> Result<(), String> {
    let line = std::panic::Location::caller().line();
    let status = child.wait()?;
    match libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == signal {
        true => Ok(()),
        false => Err(format!("line {line}: {status:#x}, not a stop by {signal}")),
    }
}

fn ptrace(request: libc::c_uint, child: &Child, address: u64, data: u64) -> Result<i64, String> {
    // SAFETY: requests that read or write the child alone.
    let result = unsafe { libc::ptrace(request, child.pid(), address, data) };
    match result {
        -1 => Err(failed("ptrace")),
        result => Ok(result),
    }
}

fn registers(child: &Child) -> Result<libc::user_regs_struct, String> {
    // SAFETY: all-zero registers are registers; the call writes them.
    unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        let to = &raw mut registers;
        if libc::ptrace(libc::PTRACE_GETREGS, child.pid(), 0, to) == -1 {
            return Err(failed("PTRACE_GETREGS"));
        }
        Ok(registers)
    }
}

/// Writes int3 over the byte at `address`, and tells the word that was there.
fn plant(child: &Child, address: u64) -> Result<u64, String> {
    let word = ptrace(libc::PTRACE_PEEKTEXT, child, address, 0)?.cast_unsigned();
    ptrace(libc::PTRACE_POKETEXT, child, address, word & !0xff | 0xcc)?;
    Ok(word)
}

/// Lets the child run to a breakpoint at `address`, and takes that away.
fn run_to(child: &Child, address: u64) -> Result<(), String> {
    let word = plant(child, address)?;
    ptrace(libc::PTRACE_CONT, child, 0, 0)?;
    stops(child, TRAP)?;
    let mut found = registers(child)?;
    if found.rip != address + 1 {
        return Err(format!(
            "stopped at {:#x}, not behind {address:#x}",
            found.rip
        ));
    }
    ptrace(libc::PTRACE_POKETEXT, child, address, word)?;
    found.rip = address;
    // SAFETY: reads the registers.
    if unsafe { libc::ptrace(libc::PTRACE_SETREGS, child.pid(), 0, &raw mut found) } == -1 {
        return Err(failed("PTRACE_SETREGS"));
    }
    Ok(())
}

fn step() -> Result<(), String> {
    let child = stopped(run_path)?;
    let start = traced_path as *const () as u64;
    let end = (&raw const traced_end) as u64;
    run_to(&child, start)?;
    let mut rax = Vec::new();
    for _ in 0..STEPS {
        ptrace(libc::PTRACE_SINGLESTEP, &child, 0, 0)?;
        stops(&child, TRAP)?;
        let found = registers(&child)?;
        rax.push(found.rax);
        if found.eflags & 0x100 != 0 {
            return Err(format!("the trap flag shows in {:#x}", found.eflags));
        }
    }
    // SAFETY: takes and writes nothing.
    let parent = u64::from(unsafe { libc::getpid() }.cast_unsigned());
    if rax != [1, 42, 42, 110, parent, 42, 42] {
        return Err(format!("after each step rax was {rax:?}"));
    }
    let rip = registers(&child)?.rip;
    if rip != end {
        return Err(format!("{STEPS} steps led to {rip:#x}, not to {end:#x}"));
    }
    ptrace(libc::PTRACE_CONT, &child, 0, 0)?;
    child.exits(0)
}

fn breakpoint() -> Result<(), String> {
    let child = stopped(run_path)?;
    run_to(&child, (&raw const traced_break) as u64)?;
    match registers(&child)?.rax {
        42 => {}
        rax => return Err(format!("rax is {rax} at the breakpoint")),
    }
    ptrace(libc::PTRACE_CONT, &child, 0, 0)?;
    child.exits(0)
}

/// Stops before and after a system call, whose number and result can be changed.
fn system_calls() -> Result<(), String> {
    let child = stopped(|| {
        // SAFETY: takes and writes nothing.
        i32::from(unsafe { libc::syscall(libc::SYS_getppid) } != 4711)
    })?;
    loop {
        ptrace(libc::PTRACE_SYSCALL, &child, 0, 0)?;
        stops(&child, TRAP)?;
        if i64::try_from(registers(&child)?.orig_rax) == Ok(libc::SYS_getppid) {
            break;
        }
    }
    if registers(&child)?.rax != (-i64::from(libc::ENOSYS)).cast_unsigned() {
        return Err("rax is not -ENOSYS before a system call".to_owned());
    }
    ptrace(libc::PTRACE_SYSCALL, &child, 0, 0)?;
    stops(&child, TRAP)?;
    let rax = std::mem::offset_of!(libc::user_regs_struct, rax) as u64;
    ptrace(libc::PTRACE_POKEUSER, &child, rax, 4711)?;
    ptrace(libc::PTRACE_CONT, &child, 0, 0)?;
    child.exits(0)
}

/// A debug register on a variable: the processor stops the child behind the write.
fn watchpoint() -> Result<(), String> {
    let child = stopped(|| {
        // SAFETY: one thread, and no reference to it exists.
        unsafe { ptr::write_volatile(&raw mut WATCHED, 42) };
        0
    })?;
    let registers = std::mem::offset_of!(libc::user, u_debugreg) as u64;
    ptrace(
        libc::PTRACE_POKEUSER,
        &child,
        registers,
        (&raw const WATCHED) as u64,
    )?;
    // Local enable of register 0, on writes, of eight bytes.
    let control = 1 | 0b01 << 16 | 0b10 << 18;
    ptrace(libc::PTRACE_POKEUSER, &child, registers + 7 * 8, control)?;
    ptrace(libc::PTRACE_CONT, &child, 0, 0)?;
    stops(&child, TRAP).map_err(|why| format!("a watched variable: {why}"))?;
    let hit = ptrace(libc::PTRACE_PEEKUSER, &child, registers + 6 * 8, 0)?;
    check(
        if hit & 1 == 1 { 0 } else { -1 },
        "DR6 without the register",
    )?;
    ptrace(libc::PTRACE_CONT, &child, 0, 0)?;
    child.exits(0)
}
