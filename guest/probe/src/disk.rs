// SPDX-License-Identifier: Apache-2.0
//! How fast a file or a disk is: blocks read and written in order and at random, and made
//! durable. One JSON object a row on standard output. What was in the file is lost.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Of buffers and places, as O_DIRECT wants it.
const ALIGNMENT: usize = 4096;
/// Of requests in order.
const LARGE: usize = 1 << 20;
/// Of requests at random.
const SMALL: usize = 4096;
/// Requests at random that are under way together, in the rows that say so.
const DEPTH: usize = 8;

#[derive(Clone, Copy)]
enum Act {
    Read,
    Write,
    /// Writes and waits until it is durable.
    Sync,
}

struct Row {
    name: &'static str,
    act: Act,
    bytes: usize,
    threads: usize,
    random: bool,
}

const fn row(name: &'static str, act: Act, bytes: usize, threads: usize, random: bool) -> Row {
    Row {
        name,
        act,
        bytes,
        threads,
        random,
    }
}

const ROWS: &[Row] = &[
    row("write-in-order", Act::Write, LARGE, 1, false),
    row("read-in-order", Act::Read, LARGE, 1, false),
    row("read-at-random", Act::Read, SMALL, 1, true),
    row("read-at-random-8", Act::Read, SMALL, DEPTH, true),
    row("write-at-random", Act::Write, SMALL, 1, true),
    row("write-at-random-8", Act::Write, SMALL, DEPTH, true),
    row("write-and-sync", Act::Sync, SMALL, 1, true),
];

/// Measures each row for so many milliseconds in the first `mib` MiB of the file; `cached`
/// goes through the page cache of the kernel this runs on, else around it.
pub fn measure(path: &str, mib: usize, milliseconds: usize, cached: bool) -> Result<(), String> {
    let length = mib << 20;
    let flags = if cached { 0 } else { libc::O_DIRECT };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| format!("{path}: {error}"))?;
    let blank = Buffer::new(LARGE);
    for at in (0..length).step_by(LARGE) {
        let written = file.write_all_at(blank.bytes(), at as u64);
        written.map_err(|error| format!("{path}: {error}"))?;
    }
    file.sync_all()
        .map_err(|error| format!("{path}: {error}"))?;
    let time = Duration::from_millis(milliseconds as u64);
    for row in ROWS {
        let (count, took) = run(&file, row, length, time)?;
        let each = took.as_secs_f64() / count.max(1) as f64;
        println!(
            "{{\"row\":\"{}\",\"requests\":{count},\"microseconds\":{:.1},\"mib_per_second\":{:.1}}}",
            row.name,
            each * 1e6,
            row.bytes as f64 / each / f64::from(1 << 20)
        );
    }
    Ok(())
}

fn run(file: &File, row: &Row, length: usize, time: Duration) -> Result<(u64, Duration), String> {
    let done = AtomicU64::new(0);
    let start = Instant::now();
    let worker = &|seed: usize| -> Result<(), String> {
        let mut buffer = Buffer::new(row.bytes);
        let places = length / row.bytes;
        let (mut state, mut next) = (seed as u64 * 2 + 0x9e37_79b9_7f4a_7c15, 0usize);
        while start.elapsed() < time {
            // A xorshift: which place comes next need not be secret, only scattered.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let scattered = usize::try_from(state >> 20).unwrap_or(0) % places;
            let at = if row.random { scattered } else { next % places } * row.bytes;
            next += 1;
            let result = match row.act {
                Act::Read => file.read_exact_at(buffer.bytes_mut(), at as u64),
                Act::Write => file.write_all_at(buffer.bytes(), at as u64),
                Act::Sync => file
                    .write_all_at(buffer.bytes(), at as u64)
                    .and_then(|()| file.sync_data()),
            };
            result.map_err(|error| format!("{}: {error}", row.name))?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..row.threads)
            .map(|seed| scope.spawn(move || worker(seed)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        })
    })?;
    Ok((done.load(Ordering::Relaxed), start.elapsed()))
}

/// Bytes that begin where O_DIRECT wants them to.
struct Buffer {
    store: Vec<u8>,
    from: usize,
    length: usize,
}

impl Buffer {
    fn new(length: usize) -> Self {
        let store = vec![0x5a; length + ALIGNMENT];
        let from = store.as_ptr().addr().next_multiple_of(ALIGNMENT) - store.as_ptr().addr();
        Self {
            store,
            from,
            length,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.store[self.from..self.from + self.length]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.store[self.from..self.from + self.length]
    }
}
