// SPDX-License-Identifier: Apache-2.0
//! Much of one thing: forks, signals into running code, threads at one lock.
#![expect(unsafe_code, reason = "signal handlers, registers held across them")]

use crate::sys::{self, Child, Mapping, check};
use std::arch::asm;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many children, one after the other and every eighth with a child of its own, that each
/// see the memory of their parent's moment and change it for themselves alone.
pub fn forks(count: usize) -> Result<(), String> {
    const PAGES: usize = 16;
    let memory = Mapping::private(PAGES * 4096)?;
    for round in 0..count {
        let stamp = round.to_le_bytes()[0];
        for page in 0..PAGES {
            memory.write(page * 4096, stamp);
        }
        let child = Child::fork(|| {
            let grandchild = (round % 8 == 0).then(|| Child::fork(|| change(&memory, stamp)));
            let own = change(&memory, stamp);
            match grandchild.map(|child| child?.exits(0)) {
                Some(Err(_)) => 3,
                _ => own,
            }
        })?;
        child
            .exits(0)
            .map_err(|why| format!("fork {round} of {count}: {why}"))?;
        if (0..PAGES).any(|page| memory.read(page * 4096) != stamp) {
            return Err(format!(
                "fork {round} of {count} changed its parent's memory"
            ));
        }
    }
    println!("{count} forks");
    Ok(())
}

fn change(memory: &Mapping, stamp: u8) -> i32 {
    for at in (0..memory.length).step_by(4096) {
        if memory.read(at) != stamp {
            return 1;
        }
        memory.write(at, !stamp);
    }
    i32::from(
        (0..memory.length)
            .step_by(4096)
            .any(|at| memory.read(at) != !stamp),
    ) * 2
}

static SEEN: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    // Whoever is interrupted holds these; a return that loses one is found out.
    // SAFETY: every register written is declared.
    unsafe {
        asm!("xor eax, eax", "xor r9d, r9d", "xor r10d, r10d", "stc", "pxor xmm0, xmm0",
            "pxor xmm15, xmm15", out("rax") _, out("r9") _, out("r10") _, out("xmm0") _, out("xmm15") _);
    }
    SEEN.fetch_add(1, Ordering::Relaxed);
}

/// For the timer to interrupt anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Signals of a timer into code that never makes a system call, on a stack of their own,
/// until so many have come; each must leave every register as it was.
pub fn signals(wanted: usize) -> Result<(), String> {
    let stack = Mapping::private(64 << 10)?;
    handle(libc::SIGALRM, &stack)?;
    handle(libc::SIGUSR1, &stack)?;
    let every = libc::timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    let timer = libc::itimerval {
        it_interval: every,
        it_value: every,
    };
    // SAFETY: reads the timer's setting.
    let result =
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    check(result, "setitimer")?;
    let mut sent = 0;
    // At least one of the timer's, which a processor that is wanted elsewhere has late.
    let until = Instant::now() + PATIENCE;
    let seen = || SEEN.load(Ordering::Relaxed);
    while seen() < wanted as u64 || (seen() == sent && Instant::now() < until) {
        steady()?;
        // And some that come at once, from the kernel's way out of a system call.
        // SAFETY: this process handles it.
        unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
        sent += 1;
    }
    let alarms = SEEN.load(Ordering::Relaxed) - sent;
    // SAFETY: an all-zero setting disarms the timer.
    unsafe {
        let off: libc::itimerval = std::mem::zeroed();
        libc::setitimer(libc::ITIMER_REAL, &raw const off, std::ptr::null_mut());
    }
    if alarms == 0 {
        return Err("no signal interrupted anything".to_owned());
    }
    println!("{wanted} signals");
    Ok(())
}

fn handle(signal: i32, stack: &Mapping) -> Result<(), String> {
    let handler: extern "C" fn(libc::c_int) = count;
    let alternative = libc::stack_t {
        ss_sp: stack.start.cast(),
        ss_flags: 0,
        ss_size: stack.length,
    };
    // SAFETY: the stack lives until the program ends or its last signal has come; an all-zero
    // action is one, and the handler touches registers and one atomic number.
    unsafe {
        check(
            libc::sigaltstack(&raw const alternative, std::ptr::null_mut()),
            "sigaltstack",
        )?;
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
        check(
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()),
            "sigaction",
        )?;
    }
    Ok(())
}

/// Some two million rounds that keep registers and the carry flag, and look at them.
fn steady() -> Result<(), String> {
    let lost: u64;
    // SAFETY: touches declared registers and no memory; the red zone is declared unused by
    // the compiler's default for asm.
    unsafe {
        asm!(
            "mov ecx, 2000000",
            "mov rax, {a}", "mov r9, {b}", "mov r10, {c}",
            "movq xmm0, {a}", "movq xmm15, {b}",
            "clc",
            "2:",
            "jc 3f",
            // lea and dec leave the carry flag alone.
            "dec ecx",
            "jnz 2b",
            "movq r11, xmm0", "cmp r11, {a}", "jne 3f",
            "movq r11, xmm15", "cmp r11, {b}", "jne 3f",
            "cmp rax, {a}", "jne 3f",
            "cmp r9, {b}", "jne 3f",
            "cmp r10, {c}", "jne 3f",
            "xor r11d, r11d",
            "jmp 4f",
            "3:", "mov r11d, 1",
            "4:",
            a = in(reg) 0x1234_5678_9abc_def0_u64,
            b = in(reg) 0x0fed_cba9_8765_4321_u64,
            c = in(reg) 0xdead_beef_0bad_cafe_u64,
            out("rax") _, out("rcx") _, out("r9") _, out("r10") _, out("r11") lost,
            out("xmm0") _, out("xmm15") _,
        );
    }
    match lost {
        0 => Ok(()),
        _ => Err("a signal changed a register of the code it interrupted".to_owned()),
    }
}

/// Free; held; held, and somebody waits.
const FREE: u32 = 0;
const HELD: u32 = 1;
const AWAITED: u32 = 2;

/// A lock as futex(7) tells of.
#[derive(Default)]
struct Lock(AtomicU32);

impl Lock {
    fn with(&self, work: impl FnOnce()) {
        let order = Ordering::SeqCst;
        if self.0.compare_exchange(FREE, HELD, order, order).is_err() {
            while self.0.swap(AWAITED, order) != FREE {
                sys::futex_wait(&self.0, AWAITED);
            }
        }
        work();
        if self.0.swap(FREE, order) == AWAITED {
            sys::futex_wake(&self.0, 1);
        }
    }
}

/// Threads that each add to one number so often, under one lock, and sleep with it held
/// now and then so that the others must wait in the kernel.
pub fn threads(count: usize, rounds: usize) -> Result<(), String> {
    let shared = Arc::new((Lock::default(), AtomicU64::new(0)));
    let threads: Vec<_> = (0..count)
        .map(|seed| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for round in 0..rounds {
                    shared.0.with(|| {
                        // Read and written apart: without the lock some are lost.
                        let value = shared.1.load(Ordering::Relaxed);
                        if (round + seed) % 4 == 0 {
                            std::thread::yield_now();
                        }
                        shared.1.store(value + 1, Ordering::Relaxed);
                    });
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")?;
    }
    let (found, wanted) = (shared.1.load(Ordering::Relaxed), (count * rounds) as u64);
    if found != wanted {
        return Err(format!("{found} additions of {wanted}"));
    }
    println!("{count} threads added {rounds} each");
    Ok(())
}
