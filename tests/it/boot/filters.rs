// SPDX-License-Identifier: Apache-2.0
//! The system call filters of the processes that parse what guests send: each is made to try,
//! from outside and as it runs beside a guest, what it must never do, and dies of it.

use crate::support::husk::Host;
use crate::support::leftovers::{children, eventually};
use crate::support::ports::free_port;
use crate::support::skipped;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Nothing was refused: an argument stands for one of any value.
const NONE: u64 = 0;
const CALLS: [(&str, i64, [u64; 3]); 7] = [
    ("execve", nix::libc::SYS_execve, [NONE; 3]),
    ("ptrace", nix::libc::SYS_ptrace, [NONE; 3]),
    (
        "io_uring_setup",
        nix::libc::SYS_io_uring_setup,
        [1, NONE, NONE],
    ),
    ("fork", nix::libc::SYS_fork, [NONE; 3]),
    ("a Unix socket", nix::libc::SYS_socket, [1, 1, 0]),
    ("a netlink socket", nix::libc::SYS_socket, [16, 3, 0]),
    ("memory that is code", nix::libc::SYS_mmap, [0, 4096, 5]),
];

/// The child of `parent` that is this hidden verb of husk's.
fn child(parent: Pid, verb: &str) -> Pid {
    let mut found = None;
    let there = eventually(|| {
        found = children(parent).into_iter().find(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).nth(1) == Some(verb.as_bytes())
        });
        found.is_some()
    });
    assert!(there, "no husk {verb}");
    found.expect("there")
}

fn seccomp_mode(pid: Pid) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    line.unwrap_or_default().trim().to_owned()
}

/// Has the process make a call in the place of the one it waits in; how it ended.
fn inject(pid: Pid, number: i64, arguments: [u64; 3]) -> Option<Signal> {
    assert_eq!(waitpid(pid, Some(WaitPidFlag::__WALL)).map(|_| ()), Ok(()));
    let mut registers = ptrace::getregs(pid).expect("stopped");
    // It stands behind the instruction of the call that the stop has interrupted.
    registers.rip -= 2;
    registers.rax = number.cast_unsigned();
    registers.orig_rax = u64::MAX;
    [registers.rdi, registers.rsi, registers.rdx] = arguments;
    (registers.r10, registers.r8, registers.r9) = (0x22, u64::MAX, 0);
    ptrace::setregs(pid, registers).expect("stopped");
    ptrace::cont(pid, None).expect("stopped");
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some(signal),
            Ok(WaitStatus::Stopped(_, Signal::SIGSYS)) => {
                ptrace::cont(pid, Signal::SIGSYS).expect("stopped")
            }
            Ok(WaitStatus::Stopped(..)) => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            // Reaped by its parent already, which only its end allows.
            Err(_) => return None,
        }
    }
}

fn dies_of_each_call(verb: &str, options: &[&str]) {
    let Some(host) = Host::find() else { return };
    for (what, number, arguments) in CALLS {
        let husk = host.sh("echo up; exec sleep 600").options(options).start();
        husk.running.wait_for("up\n");
        let pid = child(husk.running.pid(), verb);
        assert_eq!(seccomp_mode(pid), "2", "husk {verb} has a filter");
        if ptrace::attach(pid).is_err() {
            skipped("another process cannot be traced here");
            husk.running.signal(Signal::SIGKILL);
            husk.end();
            return;
        }
        assert_eq!(
            inject(pid, number, arguments),
            Some(Signal::SIGSYS),
            "{what}"
        );
        husk.running.signal(Signal::SIGTERM);
        husk.running.signal(Signal::SIGTERM);
        husk.end();
    }
}

#[test]
fn a_network_that_was_taken_over_dies_of_what_it_must_not_do() {
    // With a port there is one from the start.
    let publish = format!("{}:80", free_port());
    dies_of_each_call("net", &["-p", &publish]);
}

#[test]
fn a_share_that_was_taken_over_dies_of_what_it_must_not_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let mount = format!("{}:/host", folder.path().display());
    dies_of_each_call("share", &["-v", &mount]);
}
