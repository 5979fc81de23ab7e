// SPDX-License-Identifier: Apache-2.0
//! What the same work costs wherever this program is: `work MILLISECONDS FOLDER DISK [ROW]…` does
//! each row for about so long and says `row NAME OPERATIONS NANOSECONDS`, the median of its
//! batches; `fault NAME WHY` for one that cannot be had here, and `done` at the end. The rows
//! `file-*` are of files in FOLDER, and `disk-*` of files in DISK, unless that is `-`; `place
//! NUMBER` and `disk NUMBER` tell the kinds of their file systems. One thread; partners are
//! processes.
//!
//! A row is done in batches, as many operations each as take a twentieth of its time, so that
//! one program serves a native kernel and an interpreted one that is a thousand times slower.

use super::serve;
use crate::own::Trouble;
use crate::sys::{self, Errno, Fd};
use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::{CStr, c_int};
use core::hint::black_box;

/// Does so many operations and tells the nanoseconds they took together.
type Batch = Box<dyn FnMut(u64) -> Result<u64, Errno>>;

struct Row {
    name: &'static str,
    /// Operations in one batch, at most.
    most: u64,
    prepare: fn(&CStr) -> Result<Batch, Errno>,
}

const fn row(name: &'static str, most: u64, prepare: fn(&CStr) -> Result<Batch, Errno>) -> Row {
    Row {
        name,
        most,
        prepare,
    }
}

/// The host knows each by its name: `bench::work::rows`.
const ROWS: &[Row] = &[
    row("cpu", 1 << 20, compute),
    row("memory-write", 1 << 12, memory_write),
    row("memory-read", 1 << 12, memory_read),
    row("memory-copy", 1 << 12, memory_copy),
    row("page-fault", MOST_PAGES, page_fault),
    row("system-call", 1 << 20, system_call),
    row("fork", 1 << 12, fork),
    row("exec", 1 << 12, exec),
    row("pipe", 1 << 16, pipe),
    row("file-write", 1 << 12, file_write),
    row("file-read", 1 << 12, file_read),
    row("file-sync", 1 << 12, file_sync),
    row("disk-write", 1 << 12, file_write),
    row("disk-read", 1 << 12, file_read),
    row("disk-direct", 1 << 12, file_direct),
    row("disk-sync", 1 << 12, file_sync),
    row("tcp-turn", 1 << 16, tcp_turn),
    row("tcp-stream", 1 << 12, tcp_stream),
    row("http", 1 << 14, http),
];

/// Batches a row has at least, whatever they take.
const LEAST_BATCHES: usize = 3;
/// And at most: a row whose operations cost nothing would never end.
const MOST_BATCHES: usize = 1000;
/// 16 MiB, which every guest can spare.
const MOST_PAGES: u64 = 4096;
/// Of one operation of the rows that move bytes.
const BLOCK: usize = 1 << 20;
/// What the rows of memory go through: more than most processors have of cache for one.
const MEMORY: usize = 48 << 20;
/// What the rows of files go through: those of the page cache, and those that wait for a disk,
/// which has to take it all first.
const FILE: u64 = 32 << 20;
const DURABLE: u64 = 8 << 20;
/// What is made durable at once; what O_DIRECT wants a buffer to be aligned to, and more.
const PAGE: usize = 4096;
/// Beginning of the names of rows that are done in the second folder; and what it is called
/// where there is none.
const ON_DISK: &str = "disk-";
const NO_DISK: &CStr = c"-";

pub fn run(
    milliseconds: &CStr,
    folder: &CStr,
    disk: &CStr,
    rows: &[CString],
) -> Result<(), Trouble> {
    let number = milliseconds
        .to_str()
        .ok()
        .and_then(|word| word.parse().ok());
    let budget: u64 = number.ok_or_else(|| Trouble::new("that is no number", Errno(0)))?;
    let budget = budget.saturating_mul(1_000_000);
    for name in rows {
        if !ROWS
            .iter()
            .any(|row| row.name.as_bytes() == name.to_bytes())
        {
            return Err(Trouble::new(
                &format!("no row {}", name.to_string_lossy()),
                Errno(0),
            ));
        }
    }
    tell_kind("place", folder)?;
    if disk != NO_DISK {
        tell_kind("disk", disk)?;
    }
    for row in ROWS {
        let named = |name: &CString| name.to_bytes() == row.name.as_bytes();
        if !rows.is_empty() && !rows.iter().any(named) {
            continue;
        }
        let folder = match row.name.starts_with(ON_DISK) {
            true if disk == NO_DISK => continue,
            true => disk,
            false => folder,
        };
        say(&match one(row, folder, budget) {
            Ok((operations, took)) => format!("row {} {operations} {took}", row.name),
            Err(errno) => format!("fault {} errno {}", row.name, errno.0),
        })?;
    }
    say("done")
}

/// The kind of file system that a folder is on.
fn tell_kind(name: &str, folder: &CStr) -> Result<(), Trouble> {
    let opened = sys::open(folder, libc::O_RDONLY, 0);
    let opened = opened.map_err(|errno| Trouble::at(folder.to_bytes(), errno))?;
    match sys::file_system(&opened) {
        Ok(kind) => say(&format!("{name} {kind:x}")),
        Err(_) => Ok(()),
    }
}

fn say(line: &str) -> Result<(), Trouble> {
    let mut line = String::from(line);
    line.push('\n');
    crate::own::write_all(line.as_bytes())
}

/// Operations of a batch, and what the median batch took.
fn one(row: &Row, folder: &CStr, budget: u64) -> Result<(u64, u64), Errno> {
    let mut batch = (row.prepare)(folder)?;
    let mut size = 1;
    // The first batch waits for its partner, and any may be interrupted: the quicker of two.
    while batch(size)?.min(batch(size)?) < budget / 20 && size < row.most {
        size = (size * 2).min(row.most);
    }
    let (mut all, mut spent) = (Vec::new(), 0);
    while all.len() < LEAST_BATCHES || (spent < budget && all.len() < MOST_BATCHES) {
        let took = batch(size)?;
        spent += took.max(1);
        all.push(took);
    }
    all.sort_unstable();
    Ok((size, all.get(all.len() / 2).copied().unwrap_or(0)))
}

fn timed(mut operation: impl FnMut() -> Result<(), Errno> + 'static) -> Batch {
    Box::new(move |count| {
        let start = sys::monotonic();
        for _ in 0..count {
            operation()?;
        }
        Ok(sys::monotonic() - start)
    })
}

/// 1024 steps of a generator each of which waits for the one before.
fn compute(_: &CStr) -> Result<Batch, Errno> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    Ok(timed(move || {
        for _ in 0..1024 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        black_box(state);
        Ok(())
    }))
}

/// Goes round in `length`, a block at a time.
struct Round {
    next: usize,
    length: usize,
}

impl Round {
    const fn new(length: usize) -> Self {
        Self { next: 0, length }
    }

    fn step(&mut self) -> core::ops::Range<usize> {
        let from = self.next;
        self.next = (from + BLOCK) % self.length;
        from..from + BLOCK
    }
}

fn memory_write(_: &CStr) -> Result<Batch, Errno> {
    let (mut memory, mut round, mut byte) = (vec![1u8; MEMORY], Round::new(MEMORY), 0u8);
    Ok(timed(move || {
        byte = byte.wrapping_add(1);
        let block = memory.get_mut(round.step()).unwrap_or_default();
        block.fill(byte);
        black_box(block);
        Ok(())
    }))
}

fn memory_read(_: &CStr) -> Result<Batch, Errno> {
    let (memory, mut round) = (vec![1u64; MEMORY / 8], Round::new(MEMORY));
    Ok(timed(move || {
        let range = round.step();
        let block = memory
            .get(range.start / 8..range.end / 8)
            .unwrap_or_default();
        // Four sums, so that a load need not wait for the addition before it.
        let mut sums = [0u64; 4];
        for four in block.chunks_exact(4) {
            if let &[a, b, c, d] = four {
                sums[0] ^= a;
                sums[1] ^= b;
                sums[2] ^= c;
                sums[3] ^= d;
            }
        }
        black_box(sums);
        Ok(())
    }))
}

fn memory_copy(_: &CStr) -> Result<Batch, Errno> {
    let (from, mut to) = (vec![1u8; MEMORY / 2], vec![2u8; MEMORY / 2]);
    let mut round = Round::new(MEMORY / 2);
    Ok(timed(move || {
        let range = round.step();
        let source = from.get(range.clone()).unwrap_or_default();
        let target = to.get_mut(range).unwrap_or_default();
        target.copy_from_slice(source);
        black_box(target);
        Ok(())
    }))
}

fn page_fault(_: &CStr) -> Result<Batch, Errno> {
    Ok(Box::new(|pages| {
        sys::touch_fresh(usize::try_from(pages).unwrap_or(1))
    }))
}

fn system_call(_: &CStr) -> Result<Batch, Errno> {
    Ok(timed(|| {
        black_box(sys::parent_pid());
        Ok(())
    }))
}

fn fork(_: &CStr) -> Result<Batch, Errno> {
    Ok(timed(|| ended(sys::fork(|| 0)?)))
}

/// A child that becomes this program again, which ends at once.
fn exec(_: &CStr) -> Result<Batch, Errno> {
    Ok(timed(|| {
        let become_another = || {
            let errno = sys::become_program(c"/proc/self/exe", c"nothing");
            u8::try_from(errno.0).unwrap_or(u8::MAX).max(1)
        };
        ended(sys::fork(become_another)?)
    }))
}

/// A child must end with 0, or with the errno it met.
fn ended(pid: i32) -> Result<(), Errno> {
    match sys::wait_for(pid)? {
        0 => Ok(()),
        status => Err(Errno(u16::try_from(status >> 8 & 0xff).unwrap_or(0))),
    }
}

fn errno(code: c_int) -> Errno {
    Errno(u16::try_from(code).unwrap_or(0))
}

/// A process at the other end, ended with this.
struct Partner(i32);

impl Partner {
    fn start(work: impl FnOnce()) -> Result<Self, Errno> {
        let run = || {
            work();
            0
        };
        sys::fork(run).map(Self)
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = sys::kill(self.0, 9);
        let _ = sys::wait_for(self.0);
    }
}

fn fill(from: &Fd, buffer: &mut [u8]) -> Result<(), Errno> {
    let mut filled = 0;
    while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
        match sys::read(from, space) {
            Ok(0) => return Err(errno(libc::EPIPE)),
            Ok(n) => filled += n,
            Err(errno) if errno.is(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn pour(to: &Fd, bytes: &[u8]) -> Result<(), Errno> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match sys::write(to, rest) {
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(errno) if errno.is(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// One byte to another process and back.
fn turn(there: Fd, back: Fd, partner: Partner) -> Batch {
    timed(move || {
        let _alive = &partner;
        pour(&there, &[1])?;
        fill(&back, &mut [0])
    })
}

fn echo(from: &Fd, to: &Fd) {
    let mut byte = [0];
    while fill(from, &mut byte).and_then(|()| pour(to, &byte)).is_ok() {}
}

fn pipe(_: &CStr) -> Result<Batch, Errno> {
    let ((from, there), (back, to)) = (sys::pipe()?, sys::pipe()?);
    let partner = Partner::start(|| echo(&from, &to))?;
    Ok(turn(there, back, partner))
}

/// A file of its own in the folder; its name is gone before it is used.
fn file(folder: &CStr) -> Result<Fd, Errno> {
    created(folder, 0, FILE).map(|(file, _)| file)
}

/// As `file`, and on the disk with all its blocks.
fn durable(folder: &CStr, again: c_int) -> Result<(Fd, Option<Fd>), Errno> {
    let both = created(folder, again, DURABLE)?;
    sys::make_durable(&both.0)?;
    Ok(both)
}

/// The file, and where `again` are flags, the same once more with these.
fn created(folder: &CStr, again: c_int, length: u64) -> Result<(Fd, Option<Fd>), Errno> {
    let path = [folder.to_bytes(), b"/.husk-work"].concat();
    let path = sys::c_string(&path);
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
    let file = sys::open(&path, flags, 0o600)?;
    let second = match again {
        0 => Ok(None),
        again => sys::open(&path, libc::O_RDONLY | again, 0).map(Some),
    };
    sys::unlink(&path)?;
    let second = second?;
    let block = vec![1u8; BLOCK];
    for at in (0..length).step_by(BLOCK) {
        sys::write_at(&file, &block, at)?;
    }
    Ok((file, second))
}

/// So many bytes each time, round and round in a file of this length.
fn moves(
    mut one: impl FnMut(u64) -> Result<usize, Errno> + 'static,
    bytes: usize,
    length: u64,
) -> Batch {
    let mut next = 0;
    timed(move || {
        let moved = one(next)?;
        next = (next + bytes as u64) % length;
        match moved == bytes {
            true => Ok(()),
            false => Err(errno(libc::EIO)),
        }
    })
}

/// Through the page cache, as programs do; what is written is not waited for.
fn file_write(folder: &CStr) -> Result<Batch, Errno> {
    let (file, block) = (file(folder)?, vec![3u8; BLOCK]);
    let one = move |at| sys::write_at(&file, &block, at);
    Ok(moves(one, BLOCK, FILE))
}

/// From the page cache.
fn file_read(folder: &CStr) -> Result<Batch, Errno> {
    let (file, mut block) = (file(folder)?, vec![0u8; BLOCK]);
    let one = move |at| sys::read_at(&file, &mut block, at);
    Ok(moves(one, BLOCK, FILE))
}

/// Past the page cache of this kernel (open(2), O_DIRECT).
fn file_direct(folder: &CStr) -> Result<Batch, Errno> {
    let (_, direct) = durable(folder, libc::O_DIRECT)?;
    let direct = direct.ok_or(errno(libc::EINVAL))?;
    let mut space = vec![0u8; BLOCK + PAGE];
    let start = space.as_ptr().align_offset(PAGE);
    let one = move |at| {
        let block = space.get_mut(start..).and_then(|it| it.get_mut(..BLOCK));
        sys::read_at(&direct, block.unwrap_or_default(), at)
    };
    Ok(moves(one, BLOCK, DURABLE))
}

fn file_sync(folder: &CStr) -> Result<Batch, Errno> {
    let ((file, _), page) = (durable(folder, 0)?, vec![4u8; PAGE]);
    let one = move |at| {
        let written = sys::write_at(&file, &page, at)?;
        sys::make_durable(&file)?;
        Ok(written)
    };
    Ok(moves(one, PAGE, DURABLE))
}

/// A connection to a partner over loopback; the partner's end is what `work` is given.
fn connected(work: impl FnOnce(Fd)) -> Result<(Fd, Partner), Errno> {
    let listener = sys::listen_tcp(0)?;
    let port = sys::own_port(&listener)?;
    let partner = Partner::start(|| {
        if let Some(client) = next_client(&listener) {
            work(client);
        }
    })?;
    Ok((sys::connect_loopback(port)?, partner))
}

fn next_client(listener: &Fd) -> Option<Fd> {
    let forever: c_int = -1;
    loop {
        let _ = sys::poll(&mut [super::waiting(listener)], forever);
        match sys::accept_waiting(listener) {
            Ok(client) => return Some(client),
            Err(errno) if errno.is(libc::EAGAIN) || errno.is(libc::EINTR) => {}
            Err(_) => return None,
        }
    }
}

fn tcp_turn(_: &CStr) -> Result<Batch, Errno> {
    let (link, partner) = connected(|client| echo(&client, &client))?;
    Ok(timed(move || {
        let _alive = &partner;
        pour(&link, &[1])?;
        fill(&link, &mut [0])
    }))
}

/// So many blocks, of which the partner is told how many they are, and says when it has them all.
fn tcp_stream(_: &CStr) -> Result<Batch, Errno> {
    let (link, partner) = connected(|client| {
        let (mut block, mut count) = (vec![0u8; BLOCK], [0; 8]);
        while fill(&client, &mut count).is_ok() {
            for _ in 0..u64::from_le_bytes(count) {
                if fill(&client, &mut block).is_err() {
                    return;
                }
            }
            let _ = pour(&client, &[1]);
        }
    })?;
    let block = vec![5u8; BLOCK];
    Ok(Box::new(move |count| {
        let _alive = &partner;
        let start = sys::monotonic();
        pour(&link, &count.to_le_bytes())?;
        for _ in 0..count {
            pour(&link, &block)?;
        }
        fill(&link, &mut [0])?;
        Ok(sys::monotonic() - start)
    }))
}

/// A connection, a request and its whole answer, of the server that `web` is.
fn http(_: &CStr) -> Result<Batch, Errno> {
    let listener = sys::listen_tcp(0)?;
    let port = sys::own_port(&listener)?;
    let partner = Partner::start(|| {
        while let Some(client) = next_client(&listener) {
            serve(&client);
        }
    })?;
    Ok(timed(move || {
        let _alive = &partner;
        let link = sys::connect_loopback(port)?;
        pour(&link, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = [0; 512];
        let mut filled = 0;
        while let Some(space) = answer.get_mut(filled..).filter(|space| !space.is_empty()) {
            match sys::read(&link, space)? {
                0 => break,
                n => filled += n,
            }
        }
        match answer.starts_with(b"HTTP/1.1 200 ") {
            true => Ok(()),
            false => Err(errno(libc::EPROTO)),
        }
    }))
}
