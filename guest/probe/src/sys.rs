// SPDX-License-Identifier: Apache-2.0
//! The few system calls the questions share: processes, memory shared with them, the clock.
#![expect(unsafe_code, reason = "fork, wait and mmap as the kernel offers them")]

use std::ptr;

/// The last system call's error behind what was tried.
pub fn failed(what: &str) -> String {
    format!("{what}: {}", std::io::Error::last_os_error())
}

/// `result` of a system call that says -1 where it fails.
pub fn check(result: libc::c_int, what: &str) -> Result<libc::c_int, String> {
    match result {
        -1 => Err(failed(what)),
        result => Ok(result),
    }
}

/// A child process; whatever becomes of its parent, it does not outlive this.
pub struct Child(libc::pid_t);

impl Child {
    /// Forks one that runs `work` and exits with what that returns.
    pub fn fork(work: impl FnOnce() -> i32) -> Result<Self, String> {
        // SAFETY: whoever forks here has no thread but this one, so the child may do anything.
        match check(unsafe { libc::fork() }, "fork")? {
            // SAFETY: ends this process, without the parent's exit handlers.
            0 => unsafe { libc::_exit(work()) },
            child => Ok(Self(child)),
        }
    }

    /// One that was made otherwise.
    pub fn of(pid: libc::pid_t) -> Self {
        Self(pid)
    }

    pub fn pid(&self) -> libc::pid_t {
        self.0
    }

    /// Waits for its end, or its next stop where it is traced: the raw status.
    pub fn wait(&self) -> Result<libc::c_int, String> {
        let mut status = 0;
        // SAFETY: waits for a child of ours and writes one integer.
        check(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, "wait")?;
        Ok(status)
    }

    /// Waits for its end, which must be an exit with `code`.
    pub fn exits(mut self, code: i32) -> Result<(), String> {
        let status = self.wait()?;
        self.0 = 0;
        match libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == code {
            true => Ok(()),
            false => Err(format!("a child ended with {status:#x}, not exit {code}")),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.0 > 0 {
            // SAFETY: a child of ours that was not waited for to its end, or none of that
            // number any more: this program makes no other.
            unsafe {
                libc::kill(self.0, libc::SIGKILL);
                libc::waitpid(self.0, ptr::null_mut(), 0);
            }
        }
    }
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A mapping, gone when this is.
pub struct Mapping {
    pub start: *mut u8,
    pub length: usize,
}

impl Mapping {
    pub fn new(length: usize, prot: i32, flags: i32, file: i32) -> Result<Self, String> {
        // SAFETY: a new mapping at an address of the kernel's choosing touches no other.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, prot, flags, file, 0) };
        if start == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        let start = start.cast();
        Ok(Self { start, length })
    }

    /// Memory of this process alone, to be read and written.
    pub fn private(length: usize) -> Result<Self, String> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        Self::new(length, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }

    /// Memory that children share.
    pub fn shared(length: usize) -> Result<Self, String> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        Self::new(length, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }

    pub fn write(&self, at: usize, byte: u8) {
        assert!(at < self.length);
        // SAFETY: inside the mapping; volatile, because the fault is what is wanted.
        unsafe { self.start.add(at).write_volatile(byte) };
    }

    pub fn read(&self, at: usize) -> u8 {
        assert!(at < self.length);
        // SAFETY: as for `write`.
        unsafe { self.start.add(at).read_volatile() }
    }

    pub fn advise(&self, advice: i32) -> Result<(), String> {
        // SAFETY: the whole of a mapping of ours, to which nothing else points.
        let result = unsafe { libc::madvise(self.start.cast(), self.length, advice) };
        check(result, "madvise").map(drop)
    }

    pub fn protect(&self, prot: i32) -> Result<(), String> {
        // SAFETY: as for `advise`.
        let result = unsafe { libc::mprotect(self.start.cast(), self.length, prot) };
        check(result, "mprotect").map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, and nothing points into it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// Both ends of a pipe: to read, to write.
pub fn pipe() -> Result<[libc::c_int; 2], String> {
    let mut ends = [0; 2];
    // SAFETY: writes two descriptors.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }, "pipe")?;
    Ok(ends)
}

/// This process and its later children share CPU 0.
pub fn pin() -> Result<(), String> {
    // SAFETY: an all-zero CPU set is an empty one; the call reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    check(result, "sched_setaffinity").map(drop)
}

/// Waits while `word` is `value`. May return early, as the call may.
pub fn futex_wait(word: &std::sync::atomic::AtomicU32, value: u32) {
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let forever = ptr::null::<libc::timespec>();
    // SAFETY: the kernel reads the word, which is borrowed meanwhile.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, forever) };
}

/// Wakes up to `waiters` that wait at `word`.
pub fn futex_wake(word: &std::sync::atomic::AtomicU32, waiters: i32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word's address is a name only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, waiters) };
}

pub fn close(file: libc::c_int) {
    // SAFETY: a descriptor of the caller's making, which it uses no more.
    unsafe { libc::close(file) };
}

/// Bytes read into a buffer of one: 1, 0 at the end, `None` where it failed.
pub fn read(file: libc::c_int) -> Option<usize> {
    let mut byte = 0u8;
    // SAFETY: writes one byte at most.
    let result = unsafe { libc::read(file, (&raw mut byte).cast(), 1) };
    usize::try_from(result).ok()
}

/// Writes one byte.
pub fn write(file: libc::c_int) -> bool {
    // SAFETY: reads one byte.
    unsafe { libc::write(file, c"x".as_ptr().cast(), 1) == 1 }
}
