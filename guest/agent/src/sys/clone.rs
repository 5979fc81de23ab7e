// SPDX-License-Identifier: Apache-2.0
//! Starting a process the way vfork does: the child borrows our memory until it executes
//! its program, so no page table is copied (which costs 100 ms where the guest's kernel is
//! interpreted), and it leaves word of a failure by writing it down.

use super::{Errno, Fd, call, word};
use alloc::ffi::CString;
use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;
use core::ffi::{CStr, c_char, c_int, c_long};
use core::ptr;

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Everything the child does before its program starts, prepared so that it allocates
/// nothing.
pub struct Plan<'a> {
    pub argv: &'a [CString],
    pub env: &'a [CString],
    /// Tried in this order until one is there.
    pub programs: &'a [CString],
    pub cwd: &'a CStr,
    /// Become descriptors 0, 1 and 2; all above 2.
    pub stdio: [&'a Fd; 3],
    /// Whether descriptor 0 becomes the controlling terminal.
    pub terminal: bool,
    /// `None` stays who we are.
    pub identity: Option<&'a Identity>,
    /// The folder of the control group it begins in, if it is not ours.
    pub cgroup: Option<&'a Fd>,
}

/// Where a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Clone,
    Streams,
    Terminal,
    WorkingDirectory,
    User,
    Exec,
}

/// The child's view of a plan: pointers the kernel takes as they are.
struct Child<'a> {
    plan: &'a Plan<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    failure: Option<(Step, Errno)>,
}

/// Bytes of the child's stack: it calls the kernel and little else.
const STACK: usize = 16 * 1024;

/// Runs `plan` and returns the process's id once its program is loaded.
pub fn spawn(plan: &Plan<'_>) -> Result<u32, (Step, Errno)> {
    let pointers = |strings: &[CString]| {
        let mut list: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        list.push(ptr::null());
        list
    };
    let mut child = Child {
        plan,
        argv: pointers(plan.argv),
        env: pointers(plan.env),
        failure: None,
    };
    let mut stack = vec![0u8; STACK];
    // The ABI wants the stack 16-byte aligned at a call.
    let bottom = (stack.as_mut_ptr().expose_provenance() + 15) & !15;
    let size = STACK - 32;
    let own: *mut Child<'_> = (&raw mut child).cast();
    // SAFETY: `bottom` and `size` are memory nobody else uses, `child` outlives the child's
    // use of it because CLONE_VFORK holds us here until it executed or ended, and
    // `child_main` never returns.
    let alone = || unsafe { clone(bottom + size, own) };
    let result = match plan.cgroup {
        Some(group) => {
            // SAFETY: as above; what fails has made no child.
            let result = unsafe { clone_into(bottom, size, group, own) };
            match result {
                // A kernel of before 5.7, or a group that programs of the image have made one
                // of groups only (no internal process, cgroup-v2.rst): it begins where we are.
                Err(errno) if NO_GROUP.iter().any(|code| errno.is(*code)) => alone(),
                result => result,
            }
        }
        None => alone(),
    };
    // SAFETY: `child` is alive; the read is volatile because the writer was another process.
    let failure = unsafe { ptr::read_volatile(&raw const child.failure) };
    let pid = result.map_err(|errno| (Step::Clone, errno))?;
    match failure {
        None => Ok(u32::try_from(pid).unwrap_or(0)),
        Some(failure) => {
            // SAFETY: waits for exactly that child and writes nothing.
            let _ = unsafe { call(libc::SYS_wait4, [pid, 0, 0, 0, 0, 0]) };
            Err(failure)
        }
    }
}

/// Why no process can begin in a group, although one could begin elsewhere.
const NO_GROUP: [c_int; 5] = [
    libc::ENOSYS,
    libc::E2BIG,
    libc::EINVAL,
    libc::EBUSY,
    libc::EOPNOTSUPP,
];

/// # Safety
/// `top` must be the aligned end of writable memory that is nobody else's until this
/// returns; `child` must point to a `Child` that nobody else uses meanwhile.
unsafe fn clone(top: usize, child: *mut Child<'_>) -> super::Result<usize> {
    let flags = word(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD);
    // SAFETY: the caller's promise; the child runs on the stack that ends at `top`.
    unsafe { divide(libc::SYS_clone, flags, top, child) }
}

/// The same, into a control group.
///
/// # Safety
/// As of `clone`, of the `size` bytes at `bottom`, both aligned.
unsafe fn clone_into(
    bottom: usize,
    size: usize,
    group: &Fd,
    child: *mut Child<'_>,
) -> super::Result<usize> {
    /// CLONE_INTO_CGROUP of linux/sched.h.
    const INTO_GROUP: usize = 0x2_0000_0000;
    let flags = word(libc::CLONE_VM | libc::CLONE_VFORK) | INTO_GROUP;
    // struct clone_args, up to its field `cgroup`.
    let mut args = [0usize; 11];
    args[0] = flags;
    args[4] = word(libc::SIGCHLD);
    args[5] = bottom;
    args[6] = size;
    args[10] = word(group.0);
    let pointer = args.as_ptr().expose_provenance();
    // SAFETY: the caller's promise; the kernel reads as many bytes as it is told there are.
    unsafe { divide(libc::SYS_clone3, pointer, size_of_val(&args), child) }
}

/// # Safety
/// `number` and its two arguments must be a call that makes a process which shares our memory
/// and suspends us, on a stack of its own; `child` as in `clone`.
unsafe fn divide(
    number: c_long,
    first: usize,
    second: usize,
    child: *mut Child<'_>,
) -> super::Result<usize> {
    let result: isize;
    // SAFETY: the parent continues after the label with its registers as they were but
    // for rax, rcx and r11. The child has its own stack and never comes back here.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") number as isize => result,
            in("rdi") first, in("rsi") second, in("rdx") 0, in("r10") 0, in("r8") 0,
            in("r12") child_main as extern "C" fn(*mut Child<'static>) -> !,
            in("r13") child,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    match u16::try_from(result.wrapping_neg()) {
        Ok(errno @ 1..=4095) => Err(Errno(errno)),
        _ => Ok(result.cast_unsigned()),
    }
}

extern "C" fn child_main(child: *mut Child<'static>) -> ! {
    // SAFETY: the parent is suspended, so this is the only reference.
    let child = unsafe { &mut *child };
    let failure = child.prepare().err().unwrap_or_else(|| child.execute());
    // SAFETY: as above; volatile because no code of this process reads it again.
    unsafe { ptr::write_volatile(&raw mut child.failure, Some(failure)) };
    loop {
        // SAFETY: ends this process only.
        let _ = unsafe { call(libc::SYS_exit, [127, 0, 0, 0, 0, 0]) };
    }
}

impl Child<'_> {
    fn prepare(&self) -> Result<(), (Step, Errno)> {
        let plan = self.plan;
        step(Step::Streams, libc::SYS_setsid, [0; 4])?;
        for (fd, number) in plan.stdio.iter().zip(0..) {
            step(Step::Streams, libc::SYS_dup3, [word(fd.0), number, 0, 0])?;
        }
        if plan.terminal {
            let request = libc::TIOCSCTTY as usize;
            step(Step::Terminal, libc::SYS_ioctl, [0, request, 0, 0])?;
        }
        step(
            Step::WorkingDirectory,
            libc::SYS_chdir,
            [plan.cwd.as_ptr().expose_provenance(), 0, 0, 0],
        )?;
        if let Some(identity) = plan.identity {
            let groups = identity.groups.as_ptr().expose_provenance();
            let (uid, gid) = (identity.uid as usize, identity.gid as usize);
            step(
                Step::User,
                libc::SYS_setgroups,
                [identity.groups.len(), groups, 0, 0],
            )?;
            step(Step::User, libc::SYS_setresgid, [gid, gid, gid, 0])?;
            step(Step::User, libc::SYS_setresuid, [uid, uid, uid, 0])?;
        }
        // We ignore no signal and handle none, so dispositions are the defaults already.
        let none = 0u64;
        let mask = (&raw const none).expose_provenance();
        step(
            Step::Exec,
            libc::SYS_rt_sigprocmask,
            [word(libc::SIG_SETMASK), mask, 0, 8],
        )
    }

    /// As execvp does: a program that may not be executed is passed over for one that may,
    /// and remembered.
    fn execute(&self) -> (Step, Errno) {
        let (argv, env) = (
            self.argv.as_ptr().expose_provenance(),
            self.env.as_ptr().expose_provenance(),
        );
        let mut reason = Errno(errno_of(libc::ENOENT));
        for program in self.plan.programs {
            let path = program.as_ptr().expose_provenance();
            let Err((_, errno)) = step(Step::Exec, libc::SYS_execve, [path, argv, env, 0]) else {
                continue;
            };
            if errno.is(libc::EACCES) {
                reason = errno;
            } else if !errno.is(libc::ENOENT) && !errno.is(libc::ENOTDIR) {
                return (Step::Exec, errno);
            }
        }
        (Step::Exec, reason)
    }
}

fn errno_of(code: c_int) -> u16 {
    u16::try_from(code).unwrap_or(0)
}

fn step(step: Step, number: c_long, args: [usize; 4]) -> Result<(), (Step, Errno)> {
    // SAFETY: called in this file only, with pointers into the plan, which outlives the
    // child's use of it.
    let result = unsafe { call(number, [args[0], args[1], args[2], args[3], 0, 0]) };
    result.map(drop).map_err(|errno| (step, errno))
}
