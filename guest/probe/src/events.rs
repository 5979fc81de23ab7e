// SPDX-License-Identifier: Apache-2.0
//! Waiting for many things: epoll(7) over pipes, sockets, counters, timers and signals, and
//! io_uring(7) by bare system calls.
#![expect(
    unsafe_code,
    reason = "rings shared with the kernel, descriptors of every kind"
)]

use crate::sys::{self, Child, Mapping, check};
use std::sync::atomic::{AtomicU32, Ordering};

fn must(holds: bool, what: &str) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(what.to_owned()),
    }
}

pub fn epoll() -> Result<(), String> {
    // SAFETY: makes a descriptor.
    let set = check(unsafe { libc::epoll_create1(0) }, "epoll_create1")?;
    let [reads, writes] = sys::pipe()?;
    // SAFETY: each makes a descriptor.
    let (counter, timer) = unsafe {
        (
            check(libc::eventfd(0, libc::EFD_NONBLOCK), "eventfd")?,
            check(libc::timerfd_create(libc::CLOCK_MONOTONIC, 0), "timerfd")?,
        )
    };
    let mut pair = [0; 2];
    // SAFETY: writes two descriptors.
    let result =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) };
    check(result, "socketpair")?;
    for (file, events) in [
        (reads, libc::EPOLLIN),
        (counter, libc::EPOLLIN),
        (timer, libc::EPOLLIN),
        (pair[0], libc::EPOLLIN | libc::EPOLLET),
    ] {
        watch(set, file, events)?;
    }
    must(ready(set, 0)?.is_empty(), "ready before anything came")?;

    must(sys::write(writes), "write to a pipe")?;
    must(ready(set, 1000)? == [reads], "the pipe is not ready")?;
    must(ready(set, 1000)? == [reads], "level-triggered once only")?;
    sys::read(reads);

    must(sys::write(pair[1]), "write to a socket")?;
    must(ready(set, 1000)? == [pair[0]], "the socket is not ready")?;
    must(ready(set, 0)?.is_empty(), "edge-triggered twice")?;

    let soon = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: 0,
            tv_nsec: 3_000_000,
        },
    };
    // Before it is set: a pause right behind would look like a timer that is early.
    let start = sys::now();
    // SAFETY: reads the setting.
    let result = unsafe { libc::timerfd_settime(timer, 0, &raw const soon, std::ptr::null_mut()) };
    check(result, "timerfd_settime")?;
    must(ready(set, 10_000)? == [timer], "the timer is not ready")?;
    must(sys::now() - start >= 2_900_000, "the timer came early")?;
    let mut times = 0u64;
    // SAFETY: writes eight bytes.
    let read = unsafe { libc::read(timer, (&raw mut times).cast(), 8) };
    must(read == 8 && times == 1, "timerfd")?;

    // Asleep in the kernel when another process makes it ready.
    let child = Child::fork(|| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let one = 1u64;
        // SAFETY: reads eight bytes.
        i32::from(unsafe { libc::write(counter, (&raw const one).cast(), 8) } != 8)
    })?;
    must(ready(set, 30_000)? == [counter], "the counter is not ready")?;
    child.exits(0)?;
    println!("epoll sees pipes, sockets, counters and timers");
    Ok(())
}

fn watch(set: i32, file: i32, events: i32) -> Result<(), String> {
    let mut event = libc::epoll_event {
        events: events.cast_unsigned(),
        u64: u64::from(file.cast_unsigned()),
    };
    // SAFETY: reads the event.
    let result = unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, file, &raw mut event) };
    check(result, "epoll_ctl").map(drop)
}

fn ready(set: i32, milliseconds: i32) -> Result<Vec<i32>, String> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    // SAFETY: writes at most eight events.
    let found = unsafe { libc::epoll_wait(set, events.as_mut_ptr(), 8, milliseconds) };
    let found = usize::try_from(check(found, "epoll_wait")?).unwrap_or(0);
    let files = events[..found].iter().map(|event| event.u64);
    files
        .map(|file| i32::try_from(file).map_err(|_| format!("no file of ours: {file}")))
        .collect()
}

/// include/uapi/linux/io_uring.h: operations, and the fields of its structures used here.
const NOP: u8 = 0;
const POLL_ADD: u8 = 6;
const TIMEOUT: u8 = 11;
const READ: u8 = 22;
const WRITE: u8 = 23;
const ENTRIES: u32 = 8;
const GETEVENTS: u32 = 1;
const SQES: i64 = 0x1000_0000;
const SQE_WORDS: usize = 8;

/// struct io_uring_params, as words of 32 bits: offsets of the rings are behind ten others.
type Params = [u32; 30];
const SQ: usize = 10;
const CQ: usize = 20;

struct Ring {
    file: i32,
    params: Params,
    rings: Mapping,
    entries: *mut u64,
}

impl Ring {
    fn new() -> Result<Self, String> {
        let mut params: Params = [0; 30];
        // SAFETY: reads and writes the parameters, which are of the kernel's size.
        let file = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, params.as_mut_ptr()) };
        let file = check(i32::try_from(file).unwrap_or(-1), "io_uring_setup")?;
        // Both rings and the array of eight entries fit one page.
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let (prot, size) = (libc::PROT_READ | libc::PROT_WRITE, 4096);
        let rings = Mapping::new(size, prot, flags, file)?;
        // SAFETY: a new mapping at an address of the kernel's choosing.
        let entries = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, flags, file, SQES) };
        must(entries != libc::MAP_FAILED, "mmap of the entries")?;
        let entries = entries.cast();
        Ok(Self {
            file,
            params,
            rings,
            entries,
        })
    }

    fn word(&self, half: usize, field: usize) -> &AtomicU32 {
        let at = self.params[half + field] as usize;
        assert!(at + 4 <= self.rings.length);
        // SAFETY: inside the mapping, aligned by the kernel, and shared as an atomic is.
        unsafe { AtomicU32::from_ptr(self.rings.start.add(at).cast()) }
    }

    /// Queues an entry: operation, descriptor, address, length and what tells it apart;
    /// `extra` is the field behind the length, whose meaning is the operation's.
    fn queue(&self, operation: u8, file: i32, address: u64, length: u32, extra: u32, data: u64) {
        let (tail, mask) = (self.word(SQ, 1), self.word(SQ, 2).load(Ordering::Relaxed));
        let index = tail.load(Ordering::Relaxed) & mask;
        let fields = [
            u64::from(operation) | u64::from(file.cast_unsigned()) << 32,
            0,
            address,
            u64::from(length) | u64::from(extra) << 32,
            data,
            0,
            0,
            0,
        ];
        // SAFETY: entry `index` is below the mask, so inside the mapping, and the kernel has
        // consumed what was there.
        unsafe {
            let entry = self.entries.add(index as usize * SQE_WORDS);
            entry.cast::<[u64; SQE_WORDS]>().write_volatile(fields);
        }
        let array = self.params[SQ + 6] as usize + 4 * index as usize;
        assert!(array + 4 <= self.rings.length);
        // SAFETY: inside the mapping.
        unsafe {
            self.rings
                .start
                .add(array)
                .cast::<u32>()
                .write_volatile(index)
        };
        tail.fetch_add(1, Ordering::Release);
    }

    /// Hands over what is queued and waits for as many completions: (data, result) each.
    fn complete(&self, count: u32) -> Result<Vec<(u64, i32)>, String> {
        let mut found = Vec::new();
        let mut submit = count;
        // A timeout that passes ends a wait for more than itself.
        while found.len() < count as usize {
            let nothing = std::ptr::null::<libc::sigset_t>();
            // SAFETY: the ring's memory is mapped, and what its entries point to is alive.
            let taken = unsafe {
                let call = libc::SYS_io_uring_enter;
                libc::syscall(call, self.file, submit, 1, GETEVENTS, nothing, 0)
            };
            must(taken == i64::from(submit), "entries not taken")?;
            submit = 0;
            self.collect(&mut found);
        }
        found.sort_unstable();
        Ok(found)
    }

    fn collect(&self, found: &mut Vec<(u64, i32)>) {
        let (head, tail) = (self.word(CQ, 0), self.word(CQ, 1));
        let mask = self.word(CQ, 2).load(Ordering::Relaxed);
        while head.load(Ordering::Relaxed) != tail.load(Ordering::Acquire) {
            let index = (head.load(Ordering::Relaxed) & mask) as usize;
            let at = self.params[CQ + 5] as usize + 16 * index;
            assert!(at + 16 <= self.rings.length);
            // SAFETY: inside the mapping; the kernel has written it before the tail.
            found.push(unsafe {
                let entry = self.rings.start.add(at);
                let result = entry.add(8).cast::<i32>().read();
                (entry.cast::<u64>().read(), result)
            });
            head.fetch_add(1, Ordering::Release);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        sys::close(self.file);
    }
}

pub fn uring(rounds: usize) -> Result<(), String> {
    let ring = Ring::new()?;
    for _ in 0..rounds {
        for data in 0..4 {
            ring.queue(NOP, -1, 0, 0, 0, data);
        }
        must(
            ring.complete(4)? == [(0, 0), (1, 0), (2, 0), (3, 0)],
            "no-ops",
        )?;
    }

    // SAFETY: the name is a string that ends.
    let file = check(unsafe { libc::memfd_create(c"probe".as_ptr(), 0) }, "memfd")?;
    let (text, mut found) = (*b"through a ring", [0u8; 14]);
    ring.queue(WRITE, file, text.as_ptr() as u64, 14, 0, 10);
    must(ring.complete(1)? == [(10, 14)], "write")?;
    ring.queue(READ, file, found.as_mut_ptr() as u64, 14, 0, 11);
    must(ring.complete(1)? == [(11, 14)], "read")?;
    must(
        std::hint::black_box(&found) == &text,
        "other bytes were read",
    )?;

    // One that waits in the kernel for another process, together with one that times out.
    let [reads, writes] = sys::pipe()?;
    let soon = libc::timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    ring.queue(TIMEOUT, -1, (&raw const soon) as u64, 1, 0, 20);
    ring.queue(POLL_ADD, reads, 0, 0, libc::POLLIN as u32, 21);
    let child = Child::fork(|| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        i32::from(!sys::write(writes))
    })?;
    let done = ring.complete(2)?;
    child.exits(0)?;
    let wanted = [(20, -libc::ETIME), (21, i32::from(libc::POLLIN))];
    must(done == wanted, &format!("timeout and poll: {done:?}"))?;
    println!("io_uring: {rounds} rounds of no-ops, a file, a timeout and a poll");
    Ok(())
}
