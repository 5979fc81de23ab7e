// SPDX-License-Identifier: Apache-2.0
//! Rows of one party waiting for another: pipes, turns on a CPU, signals, futexes, timers.
#![expect(
    unsafe_code,
    reason = "signals, usage and sleeps as the kernel offers them"
)]

use super::Batch;
use crate::sys::{self, Child, check};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One byte to another process and one back.
pub fn pipe() -> Result<Batch, String> {
    let (there, back) = (sys::pipe()?, sys::pipe()?);
    let partner = Child::fork(|| {
        while sys::read(there[0]) == Some(1) && sys::write(back[1]) {}
        0
    })?;
    Ok(Box::new(move |count| {
        let _alive = &partner;
        let start = sys::now();
        for _ in 0..count {
            if !sys::write(there[1]) || sys::read(back[0]) != Some(1) {
                return Err(sys::failed("the other process"));
            }
        }
        Ok(sys::now() - start)
    }))
}

/// One switch between two processes that yield a CPU to each other: the time of many yields
/// over the switches they were, as the kernel counts them.
pub fn switch() -> Result<Batch, String> {
    let mut before: libc::cpu_set_t = cpus()?;
    sys::pin()?;
    let partner = Child::fork(|| {
        loop {
            // SAFETY: takes and writes nothing.
            unsafe { libc::sched_yield() };
        }
    });
    let size = size_of::<libc::cpu_set_t>();
    Ok(Box::new(move |count| {
        let _alive = &partner;
        sys::pin()?;
        let (start, switches) = (sys::now(), switched()?);
        for _ in 0..count {
            // SAFETY: takes and writes nothing.
            unsafe { libc::sched_yield() };
        }
        let took = sys::now() - start;
        // Away and back are two.
        let switches = 2 * (switched()? - switches).max(1);
        // SAFETY: reads the set this process had.
        unsafe { libc::sched_setaffinity(0, size, &raw mut before) };
        Ok(took * count / switches)
    }))
}

fn cpus() -> Result<libc::cpu_set_t, String> {
    // SAFETY: an all-zero set is an empty one; the call writes it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        check(
            libc::sched_getaffinity(0, size, &raw mut set),
            "sched_getaffinity",
        )?;
        Ok(set)
    }
}

fn switched() -> Result<u64, String> {
    // SAFETY: all-zero counts are counts; the call writes them.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let result = libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        check(result, "getrusage")?;
        usage
    };
    Ok((usage.ru_nvcsw + usage.ru_nivcsw).cast_unsigned())
}

/// A signal from this process to itself: sent, handled, returned from.
pub fn signal() -> Result<Batch, String> {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: libc::c_int) {
        SEEN.fetch_add(1, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = handler;
    // SAFETY: the handler touches one atomic number.
    let old = unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    if old == libc::SIG_ERR {
        return Err(sys::failed("signal"));
    }
    Ok(Box::new(|count| {
        let (start, seen) = (sys::now(), SEEN.load(Ordering::Relaxed));
        for _ in 0..count {
            // SAFETY: this process has a handler for it.
            unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
        }
        let took = sys::now() - start;
        match SEEN.load(Ordering::Relaxed) - seen == count {
            true => Ok(took),
            false => Err("a signal to oneself that was not seen at once".to_owned()),
        }
    }))
}

const OURS: u32 = 0;
const THEIRS: u32 = 1;
const OVER: u32 = 2;

/// Tells the other thread that all is over, and waits for it.
struct Partner {
    turn: Arc<AtomicU32>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.turn.store(OVER, Ordering::SeqCst);
        sys::futex_wake(&self.turn, 1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A turn handed to another thread, which waits for it, and handed back.
pub fn futex() -> Result<Batch, String> {
    let turn = Arc::new(AtomicU32::new(OURS));
    let theirs = Arc::clone(&turn);
    let thread = std::thread::spawn(move || {
        loop {
            match theirs.load(Ordering::SeqCst) {
                OVER => return,
                THEIRS => {
                    // A store would lose an end that came meanwhile.
                    let handed = (THEIRS, OURS);
                    let order = Ordering::SeqCst;
                    if theirs
                        .compare_exchange(handed.0, handed.1, order, order)
                        .is_ok()
                    {
                        sys::futex_wake(&theirs, 1);
                    }
                }
                value => sys::futex_wait(&theirs, value),
            }
        }
    });
    let partner = Partner {
        turn,
        thread: Some(thread),
    };
    Ok(Box::new(move |count| {
        let turn = &partner.turn;
        let start = sys::now();
        for _ in 0..count {
            turn.store(THEIRS, Ordering::SeqCst);
            sys::futex_wake(turn, 1);
            while turn.load(Ordering::SeqCst) == THEIRS {
                sys::futex_wait(turn, THEIRS);
            }
        }
        Ok(sys::now() - start)
    }))
}

/// By how much a sleep of one millisecond is too long.
pub fn timer() -> Result<Batch, String> {
    const SLEEP: u64 = 1_000_000;
    Ok(Box::new(|count| {
        let mut late = 0;
        for _ in 0..count {
            let start = sys::now();
            let sleep = libc::timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            // SAFETY: reads one timespec; what is left of it is not asked for.
            unsafe { libc::nanosleep(&raw const sleep, std::ptr::null_mut()) };
            late += (sys::now() - start).saturating_sub(SLEEP);
        }
        Ok(late)
    }))
}
