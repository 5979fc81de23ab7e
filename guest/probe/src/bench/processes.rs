// SPDX-License-Identifier: Apache-2.0
//! Rows of the way into the kernel and back, and of processes that come and go.
#![expect(unsafe_code, reason = "bare system calls, clone and execve")]

use super::Batch;
use crate::sys::{self, Child, Mapping, check, failed};
use std::ffi::CString;
use std::ptr;

fn timed(mut operation: impl FnMut() -> Result<(), String> + 'static) -> Batch {
    Box::new(move |count| {
        let start = sys::now();
        for _ in 0..count {
            operation()?;
        }
        Ok(sys::now() - start)
    })
}

/// getppid(2), which libc does not answer itself.
pub fn system_call() -> Result<Batch, String> {
    Ok(timed(|| {
        // SAFETY: takes and writes nothing.
        unsafe { libc::syscall(libc::SYS_getppid) };
        Ok(())
    }))
}

/// clock_gettime(2) as libc has it: without the kernel, where the vDSO knows the clock.
pub fn clock() -> Result<Batch, String> {
    Ok(timed(|| {
        std::hint::black_box(sys::now());
        Ok(())
    }))
}

pub fn fork() -> Result<Batch, String> {
    Ok(timed(|| Child::fork(|| 0)?.exits(0)))
}

/// A child in this process's memory that exits at once.
pub fn vfork() -> Result<Batch, String> {
    extern "C" fn leave(_: *mut libc::c_void) -> libc::c_int {
        0
    }
    let stack = Mapping::private(STACK)?;
    Ok(timed(move || spawn(&stack, leave, ptr::null_mut())))
}

/// vfork, execve of this program with `nothing`, wait.
pub fn exec_static() -> Result<Batch, String> {
    exec(c"/proc/self/exe".to_owned())
}

/// vfork, execve of a program of three instructions, wait.
pub fn exec_tiny() -> Result<Batch, String> {
    // SAFETY: the name is a string that ends.
    let file = check(unsafe { libc::memfd_create(c"tiny".as_ptr(), 0) }, "memfd")?;
    let program = tiny();
    // SAFETY: reads the program's bytes.
    let written = unsafe { libc::write(file, program.as_ptr().cast(), program.len()) };
    if usize::try_from(written) != Ok(program.len()) {
        return Err(failed("writing a program"));
    }
    exec(CString::new(format!("/proc/self/fd/{file}")).expect("no zero in it"))
}

const STACK: usize = 64 << 10;

struct Program {
    path: CString,
    argv: [*const libc::c_char; 3],
    envp: [*const libc::c_char; 1],
}

fn exec(path: CString) -> Result<Batch, String> {
    extern "C" fn start(program: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `spawn` was given a Program that outlives the child's use of this memory.
        unsafe {
            let program = &*program.cast::<Program>();
            let (argv, envp) = (program.argv.as_ptr(), program.envp.as_ptr());
            libc::execve(program.path.as_ptr(), argv, envp);
        }
        127
    }
    let argv = [c"probe".as_ptr(), c"nothing".as_ptr(), ptr::null()];
    let envp = [ptr::null()];
    let mut program = Box::new(Program { path, argv, envp });
    let stack = Mapping::private(STACK)?;
    Ok(timed(move || {
        spawn(&stack, start, (&raw mut *program).cast())
    }))
}

/// What vfork does, on a stack of the child's own; then waits for its exit with 0.
fn spawn(
    stack: &Mapping,
    work: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
) -> Result<(), String> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack grows down from its end and is the child's alone; this thread stands
    // still until the child has exited or is another program.
    let child = unsafe {
        let top = stack.start.add(stack.length).cast();
        libc::clone(work, top, flags, argument)
    };
    Child::of(check(child, "clone")?).exits(0)
}

/// An ELF program: xor edi, edi; mov eax, 60 (exit); syscall.
fn tiny() -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    const CODE: [u8; 9] = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let length = HEADERS + CODE.len() as u64;
    let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    // Executable, x86-64; 64 bytes of header, then one program header of 56.
    let (kind, loadable, readable_executable) = (word(0x003e_0002, 1), 1, 5);
    let fields = [
        u64::from_le_bytes(*b"\x7fELF\x02\x01\x01\x00"),
        0,
        kind,
        ADDRESS + HEADERS,
        64,
        0,
        word(0, 0x0038_0040),
        word(1, 0),
        word(loadable, readable_executable),
        0,
        ADDRESS,
        ADDRESS,
        length,
        length,
        0x1000,
    ];
    let headers = fields.into_iter().flat_map(u64::to_le_bytes);
    headers.chain(CODE).collect()
}
