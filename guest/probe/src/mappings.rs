// SPDX-License-Identifier: Apache-2.0
//! mmap(2) and its relatives in the forms programs use, each with what must be seen of it:
//! contents, sharing, and the signal where there is nothing.
#![expect(
    unsafe_code,
    reason = "mappings made, moved, executed and missed on purpose"
)]

use crate::sys::{self, Child, Mapping, check};
use std::ptr;

const PAGE: usize = 4096;
const NONE: i32 = libc::PROT_NONE;
const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const EXECUTE: i32 = libc::PROT_READ | libc::PROT_EXEC;

type Check = fn() -> Result<(), String>;

pub fn check_all() -> Result<(), String> {
    let checks: [(&str, Check); 9] = [
        ("private and shared memory across fork", sharing),
        ("files, private and shared", files),
        ("protections", protections),
        ("code written and run", code),
        ("mremap", moving),
        ("fixed addresses", fixed),
        ("advice", advice),
        ("huge pages", huge),
        ("a stack that grows", stack),
    ];
    for (name, check) in checks {
        check().map_err(|why| format!("{name}: {why}"))?;
    }
    println!("{} kinds of mappings are as they should be", checks.len());
    Ok(())
}

fn must(holds: bool, what: &str) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(what.to_owned()),
    }
}

/// `access` in a child must end it with `signal`.
fn dies(signal: i32, access: impl FnOnce()) -> Result<(), String> {
    let child = Child::fork(|| {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: reads a limit: no core file is wanted of what dies on purpose.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
        access();
        0
    })?;
    let status = child.wait()?;
    let found = libc::WTERMSIG(status);
    must(
        libc::WIFSIGNALED(status) && found == signal,
        &format!("an access that must end by signal {signal}: status {status:#x}"),
    )
}

fn sharing() -> Result<(), String> {
    let (private, shared) = (Mapping::private(PAGE)?, Mapping::shared(PAGE)?);
    must(private.read(0) == 0 && shared.read(0) == 0, "not zero")?;
    private.write(0, 1);
    Child::fork(|| {
        let inherited = private.read(0) == 1;
        private.write(0, 2);
        shared.write(0, 2);
        i32::from(!inherited)
    })?
    .exits(0)?;
    must(private.read(0) == 1, "a child changed private memory")?;
    must(shared.read(0) == 2, "a child did not change shared memory")
}

fn files() -> Result<(), String> {
    // SAFETY: the name is a string that ends.
    let file = check(unsafe { libc::memfd_create(c"probe".as_ptr(), 0) }, "memfd")?;
    // SAFETY: the descriptor is ours.
    check(unsafe { libc::ftruncate(file, 100) }, "ftruncate")?;
    let shared = Mapping::new(2 * PAGE, WRITE, libc::MAP_SHARED, file)?;
    let private = Mapping::new(PAGE, WRITE, libc::MAP_PRIVATE, file)?;
    shared.write(7, 7);
    must(
        private.read(7) == 7,
        "a private mapping of a file lacks its bytes",
    )?;
    private.write(7, 8);
    must(shared.read(7) == 7, "a private write reached the file")?;
    // SAFETY: the mapping is whole.
    let synced = unsafe { libc::msync(shared.start.cast(), PAGE, libc::MS_SYNC) };
    check(synced, "msync")?;
    let mut found = [0u8; 8];
    // SAFETY: writes at most eight bytes.
    let read = unsafe { libc::pread(file, found.as_mut_ptr().cast(), 8, 0) };
    must(
        read == 8 && found[7] == 7,
        "read(2) does not see a shared write",
    )?;
    must(
        shared.read(99) == 0 && shared.read(PAGE - 1) == 0,
        "not zero",
    )?;
    dies(libc::SIGBUS, || _ = shared.read(PAGE))?;
    sys::close(file);
    Ok(())
}

fn protections() -> Result<(), String> {
    let memory = Mapping::private(3 * PAGE)?;
    memory.write(PAGE, 5);
    memory.protect(READ)?;
    must(memory.read(PAGE) == 5, "lost by mprotect")?;
    dies(libc::SIGSEGV, || memory.write(PAGE, 6))?;
    dies(libc::SIGSEGV, || memory.write(0, 6))?;
    memory.protect(NONE)?;
    dies(libc::SIGSEGV, || _ = memory.read(PAGE))?;
    memory.protect(WRITE)?;
    memory.write(PAGE, 6);
    must(memory.read(PAGE) == 6, "not writable again")?;
    // What belongs to the kernel is nobody else's, in whatever ring that one runs. Neither
    // address is mapped by any kernel: one above all memory, one not canonical.
    dies(libc::SIGSEGV, || read_at(0xffff_8fff_ffff_f000))?;
    dies(libc::SIGSEGV, || read_at(0x0000_8000_0000_0000))?;
    dies(libc::SIGSEGV, || read_at(8))
}

fn read_at(address: usize) {
    let pointer = ptr::without_provenance::<u8>(address);
    // SAFETY: meant to fault: the process is there to die of it.
    unsafe { pointer.read_volatile() };
}

fn code() -> Result<(), String> {
    let memory = Mapping::private(PAGE)?;
    // mov eax, N; ret
    for value in [1u8, 2, 3] {
        for (at, byte) in [0xb8, value, 0, 0, 0, 0xc3].into_iter().enumerate() {
            memory.write(at, byte);
        }
        memory.protect(EXECUTE)?;
        // SAFETY: the code just written, which follows the calling convention.
        let found = unsafe {
            let run: extern "C" fn() -> u32 = std::mem::transmute(memory.start);
            run()
        };
        must(found == u32::from(value), "old code was run")?;
        memory.protect(WRITE)?;
    }
    dies(libc::SIGSEGV, || {
        // SAFETY: meant to fault: the page may not be executed.
        unsafe {
            let run: extern "C" fn() -> u32 = std::mem::transmute(memory.start);
            run();
        }
    })
}

fn moving() -> Result<(), String> {
    let mut memory = Mapping::private(4 * PAGE)?;
    let fence = Mapping::private(PAGE)?;
    for page in 0..4u8 {
        memory.write(usize::from(page) * PAGE, page + 1);
    }
    let length = 64 * PAGE;
    // SAFETY: the mapping is ours and known by `memory` alone, which learns of its new place.
    let start = unsafe {
        let old = memory.start.cast();
        libc::mremap(old, memory.length, length, libc::MREMAP_MAYMOVE)
    };
    must(start != libc::MAP_FAILED, "mremap")?;
    let old = memory.start;
    (memory.start, memory.length) = (start.cast(), length);
    for page in 0..64usize {
        let wanted = if page < 4 { page + 1 } else { 0 };
        must(
            usize::from(memory.read(page * PAGE)) == wanted,
            "other contents",
        )?;
    }
    if memory.start != old {
        dies(libc::SIGSEGV, || read_at(old.addr()))?;
    }
    drop(fence);
    Ok(())
}

fn fixed() -> Result<(), String> {
    let memory = Mapping::private(4 * PAGE)?;
    memory.write(PAGE, 1);
    memory.write(2 * PAGE, 1);
    let middle = memory.start.wrapping_add(PAGE).cast();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: replaces a page of a mapping of ours, or fails.
    unsafe {
        let careful = flags | libc::MAP_FIXED_NOREPLACE;
        let found = libc::mmap(middle, PAGE, WRITE, careful, -1, 0);
        must(found == libc::MAP_FAILED, "MAP_FIXED_NOREPLACE replaced")?;
        let found = libc::mmap(middle, PAGE, WRITE, flags | libc::MAP_FIXED, -1, 0);
        must(found == middle, "MAP_FIXED elsewhere")?;
    }
    must(
        memory.read(PAGE) == 0,
        "the old page is seen at a fixed address",
    )?;
    must(memory.read(2 * PAGE) == 1, "the page behind was lost")?;
    // SAFETY: a hole in a mapping of ours.
    check(unsafe { libc::munmap(middle, PAGE) }, "munmap")?;
    dies(libc::SIGSEGV, || _ = memory.read(PAGE))
}

fn advice() -> Result<(), String> {
    let memory = Mapping::private(8 * PAGE)?;
    memory.write(PAGE, 1);
    memory.advise(libc::MADV_DONTNEED)?;
    must(memory.read(PAGE) == 0, "MADV_DONTNEED kept a page")?;
    memory.advise(libc::MADV_POPULATE_WRITE)?;
    let mut there = [0u8; 8];
    // SAFETY: writes a byte for each page.
    let result = unsafe { libc::mincore(memory.start.cast(), memory.length, there.as_mut_ptr()) };
    check(result, "mincore")?;
    must(
        there.iter().all(|page| page & 1 == 1),
        "pages not populated",
    )?;
    memory.write(0, 9);
    memory.advise(libc::MADV_WIPEONFORK)?;
    Child::fork(|| i32::from(memory.read(0)))?.exits(0)?;
    must(memory.read(0) == 9, "wiped in the parent")?;
    let start = memory.start.cast();
    // SAFETY: pages of ours.
    let (locked, unlocked) = unsafe {
        let locked = libc::mlock(start, memory.length);
        (locked, libc::munlock(start, memory.length))
    };
    check(locked, "mlock")?;
    check(unlocked, "munlock")?;
    Ok(())
}

fn huge() -> Result<(), String> {
    const HUGE: usize = 2 << 20;
    let memory = Mapping::private(2 * HUGE)?;
    memory.advise(libc::MADV_HUGEPAGE)?;
    for at in (0..memory.length).step_by(PAGE) {
        memory.write(at, (at / PAGE).to_le_bytes()[0]);
    }
    // A page in the middle: whatever is huge is split.
    let inside = memory.start.wrapping_add(HUGE + PAGE).cast();
    // SAFETY: a page of ours.
    check(unsafe { libc::mprotect(inside, PAGE, READ) }, "mprotect")?;
    dies(libc::SIGSEGV, || memory.write(HUGE + PAGE, 0))?;
    Child::fork(|| {
        memory.write(0, 0xff);
        i32::from(memory.read(HUGE) != 0)
    })?
    .exits(0)?;
    let whole = (0..memory.length)
        .step_by(PAGE)
        .all(|at| memory.read(at) == (at / PAGE).to_le_bytes()[0]);
    must(whole, "contents lost")
}

fn stack() -> Result<(), String> {
    // Two hundred pages deep, on the stack the kernel grows.
    fn down(depth: usize) -> usize {
        let frame = std::hint::black_box([depth; PAGE / 8]);
        match depth {
            0 => 0,
            _ => down(depth - 1) + usize::from(frame[depth % frame.len()] == depth),
        }
    }
    must(down(200) == 200, "frames lost")
}
