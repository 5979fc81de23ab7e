// SPDX-License-Identifier: Apache-2.0
//! Threads on every processor at locks of several kinds, and clocks that may not go back:
//! what a machine that is stopped, saved and restored in the midst of it must not break.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest time anybody waits for another thread: more, and a wake-up was lost.
const PATIENCE: Duration = Duration::from_secs(150);

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// Held by whoever made it true.
    spin: AtomicBool,
    spun: AtomicU64,
    slept: Mutex<u64>,
    /// Whose turn it is, of the threads that pass it on.
    turn: Mutex<usize>,
    passed: Condvar,
    /// The latest time anybody read, in nanoseconds since the start.
    latest: AtomicU64,
}

/// So many threads of each kind as there are processors and one more, for so long.
pub fn run(milliseconds: usize) -> Result<(), String> {
    let count = thread::available_parallelism().map_or(1, usize::from) + 1;
    let shared = Arc::new(Shared::default());
    let start = Instant::now();
    let mut threads: Vec<JoinHandle<Result<u64, String>>> = Vec::new();
    for place in 0..count {
        for kind in [spin, sleep, pipe] {
            let shared = Arc::clone(&shared);
            threads.push(thread::spawn(move || kind(&shared)));
        }
        let (pass, tick) = (Arc::clone(&shared), Arc::clone(&shared));
        threads.push(thread::spawn(move || turns(&pass, place, count)));
        threads.push(thread::spawn(move || clock(&tick, start)));
    }
    thread::sleep(Duration::from_millis(milliseconds as u64));
    {
        // With the lock held: whoever has just looked and is about to wait would not hear the
        // call, and nobody calls again.
        let _turn = shared.turn.lock().map_err(|_| "a lock is broken")?;
        shared.over.store(true, Ordering::Release);
    }
    shared.passed.notify_all();
    let mut rounds = 0;
    let (mut spun, mut slept) = (0, 0);
    for (index, thread) in threads.into_iter().enumerate() {
        let done = thread.join().map_err(|_| "a thread panicked")??;
        rounds += done;
        match index % 5 {
            0 => spun += done,
            1 => slept += done,
            _ => {}
        }
    }
    let found = shared.spun.load(Ordering::Relaxed);
    if found != spun {
        return Err(format!(
            "{found} additions of {spun} under a lock that spins"
        ));
    }
    let found = *shared.slept.lock().map_err(|_| "a lock is broken")?;
    if found != slept {
        return Err(format!(
            "{found} additions of {slept} under a lock that sleeps"
        ));
    }
    println!("{} threads held through {rounds} rounds", count * 5);
    Ok(())
}

/// Read and written apart: without the lock some additions are lost.
fn spin(shared: &Shared) -> Result<u64, String> {
    let mut rounds = 0;
    while !shared.over.load(Ordering::Acquire) {
        while shared.spin.swap(true, Ordering::Acquire) {
            thread::yield_now();
        }
        let value = shared.spun.load(Ordering::Relaxed);
        if rounds % 16 == 0 {
            thread::yield_now();
        }
        shared.spun.store(value + 1, Ordering::Relaxed);
        shared.spin.store(false, Ordering::Release);
        rounds += 1;
    }
    Ok(rounds)
}

fn sleep(shared: &Shared) -> Result<u64, String> {
    let mut rounds = 0;
    while !shared.over.load(Ordering::Acquire) {
        let mut value = shared.slept.lock().map_err(|_| "a lock is broken")?;
        let before = *value;
        if rounds % 4 == 0 {
            thread::yield_now();
        }
        *value = before + 1;
        rounds += 1;
    }
    Ok(rounds)
}

/// Bytes through a pipe to a thread and back, none lost and none twice.
fn pipe(shared: &Shared) -> Result<u64, String> {
    let fail = |error: std::io::Error| format!("a pipe: {error}");
    let (mut reader, mut there) = std::io::pipe().map_err(fail)?;
    let (mut back, mut writer) = std::io::pipe().map_err(fail)?;
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while reader.read(&mut byte).is_ok_and(|count| count == 1) {
            if writer.write_all(&byte).is_err() {
                return;
            }
        }
    });
    let mut rounds = 0u64;
    while !shared.over.load(Ordering::Acquire) {
        let [said, ..] = rounds.to_le_bytes();
        there.write_all(&[said]).map_err(fail)?;
        let mut heard = [0];
        back.read_exact(&mut heard).map_err(fail)?;
        if heard != [said] {
            return Err(format!("{said} went into a pipe and {} came out", heard[0]));
        }
        rounds += 1;
    }
    drop(there);
    echo.join().map_err(|_| "a thread panicked")?;
    Ok(rounds)
}

/// Each in its turn, woken by the one before.
fn turns(shared: &Shared, place: usize, count: usize) -> Result<u64, String> {
    let mut rounds = 0;
    let mut turn = shared.turn.lock().map_err(|_| "a lock is broken")?;
    loop {
        while *turn != place {
            if shared.over.load(Ordering::Acquire) {
                return Ok(rounds);
            }
            let waited = shared.passed.wait_timeout(turn, PATIENCE);
            let (next, result) = waited.map_err(|_| "a lock is broken")?;
            turn = next;
            if result.timed_out() && *turn != place {
                let (turn, spun) = (*turn, shared.spun.load(Ordering::Relaxed));
                let latest = shared.latest.load(Ordering::Relaxed);
                return Err(format!(
                    "the turn of thread {place} never came: it is {turn}'s, after {rounds} of \
                     its own, {spun} additions and {} ms",
                    latest / 1_000_000
                ));
            }
        }
        if shared.over.load(Ordering::Acquire) {
            return Ok(rounds);
        }
        *turn = (place + 1) % count;
        shared.passed.notify_all();
        rounds += 1;
    }
}

/// No processor's clock is behind what another one read before.
fn clock(shared: &Shared, start: Instant) -> Result<u64, String> {
    let mut rounds = 0;
    while !shared.over.load(Ordering::Acquire) {
        let before = shared.latest.load(Ordering::SeqCst);
        let now = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if now < before {
            return Err(format!("the clock went back by {} ns", before - now));
        }
        shared.latest.fetch_max(now, Ordering::SeqCst);
        if rounds % 64 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
        rounds += 1;
    }
    Ok(rounds)
}
