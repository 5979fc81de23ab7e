// SPDX-License-Identifier: Apache-2.0
//! SIGKILL before each system call that changes anything: the old snapshot is whole, or the
//! new one is, and the next husk sweeps what is left.

use super::{Data, frozen};
use crate::support::skipped;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Calls that change a file, a folder or a lock, or wait for the disk.
const CHANGES: [libc::c_long; 18] = [
    libc::SYS_openat,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_ftruncate,
    libc::SYS_flock,
    libc::SYS_fchmod,
];

/// A husk that stands still before its first instruction, traced. None: nobody may trace.
fn traced(husk: &Command) -> Option<Child> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]);
    shell.arg(husk.get_program()).args(husk.get_args());
    for (name, value) in husk.get_envs() {
        value.map(|value| shell.env(name, value));
    }
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = shell.spawn().expect("a shell");
    let pid = pid_of(&child);
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it stops");
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
    if ptrace::seize(pid, options).is_err() {
        child.kill().expect("mine");
        child.wait().expect("its end");
        skipped("another process cannot be traced here");
        return None;
    }
    kill(pid, Signal::SIGCONT).expect("mine");
    Some(child)
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Kills it before the `number`th call that changes anything; false: it came to its end.
fn kill_before(mut child: Child, number: usize) -> bool {
    let pid = pid_of(&child);
    let (mut count, mut entering, mut of_husk) = (0, true, false);
    loop {
        match waitpid(pid, None).expect("a child") {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return false,
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(pid).expect("stopped");
                let call = registers.orig_rax.cast_signed();
                if entering && of_husk && CHANGES.contains(&call) {
                    if count == number {
                        child.kill().expect("mine");
                        child.wait().expect("its end");
                        return true;
                    }
                    count += 1;
                }
                // From here on it is husk.
                of_husk |= !entering && call == libc::SYS_execve;
                entering = !entering;
                ptrace::syscall(pid, None).expect("stopped");
            }
            WaitStatus::Stopped(_, signal) => {
                let handed = Some(signal).filter(|s| !matches!(s, Signal::SIGTRAP));
                ptrace::syscall(pid, handed).expect("stopped");
            }
            _ => ptrace::syscall(pid, None).expect("stopped"),
        }
    }
}

/// Does it again and again, killed one step later each time, until nobody is quick enough.
/// `fill` makes what there is before; `look` says whether it is whole.
fn at_each_step(words: &[&str], fill: fn() -> Data, look: impl Fn(&Data, bool)) {
    let mut steps = 0;
    loop {
        let data = fill();
        let Some(child) = traced(&data.command(words)) else {
            return;
        };
        let killed = kill_before(child, steps);
        look(&data, !killed);
        if !killed {
            break;
        }
        // Whoever comes next sweeps, and can do the same.
        let next = data.line(words);
        let done = data.line(&["snapshot", "inspect", "--verify", "child"]);
        let there = next.stderr.contains("already") || next.stderr.contains("no other");
        assert!(next.code == 0 || there, "step {steps}: {next:?}");
        assert_eq!(done.code, 0, "step {steps}: {done:?}");
        sweep(&data);
        let hidden = data
            .inside()
            .into_iter()
            .filter(|name| name.starts_with(".draft"));
        assert_eq!(hidden.count(), 0, "step {steps}");
        steps += 1;
    }
    assert!(steps > 20, "{steps} steps are too few to be all");
}

/// A draft is begun, and refused.
fn sweep(data: &Data) {
    let path = frozen("base");
    let words = ["snapshot", "import", "--name", "sweeper", text(&path)];
    data.good(&words);
    data.good(&["snapshot", "rm", "sweeper"]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn digest(data: &Data) -> Option<String> {
    let list = data.json(&["snapshots", "--format", "json"]);
    let mut rows = list.as_array().expect("a list").iter();
    let row = rows.find(|row| row["name"] == "child")?;
    Some(
        row["digest"]
            .as_str()
            .expect("whole, by its manifest")
            .to_owned(),
    )
}

fn without_child() -> Data {
    let data = Data::filled();
    data.good(&["snapshot", "rm", "child"]);
    data
}

#[test]
fn an_import_killed_at_any_step_is_there_whole_or_not_at_all() {
    let path = frozen("child");
    at_each_step(
        &["snapshot", "import", text(&path)],
        without_child,
        |data, done| match digest(data) {
            Some(_) => drop(data.good(&["snapshot", "inspect", "--verify", "child"])),
            None => assert!(!done),
        },
    );
}

#[test]
fn a_replacement_killed_at_any_step_is_the_old_one_or_the_new() {
    // In the place of one with a memory of its own.
    let fill = || {
        let data = Data::filled();
        data.good(&["snapshot", "flatten", "child"]);
        data
    };
    let old = digest(&fill()).expect("flat");
    let new = digest(&Data::filled()).expect("a child");
    assert_ne!(old, new);
    let path = frozen("child");
    let words = ["snapshot", "import", "--replace", text(&path)];
    at_each_step(&words, fill, |data, done| {
        data.good(&["snapshot", "inspect", "--verify", "child"]);
        let found = digest(data).expect("one of them");
        assert!(found == new || found == old && !done, "{found}");
    });
}

#[test]
fn a_flattening_killed_at_any_step_leaves_a_chain_or_a_whole_memory() {
    let words = ["snapshot", "flatten", "child"];
    at_each_step(&words, Data::filled, |data, done| {
        data.good(&["snapshot", "inspect", "--verify", "child"]);
        let list = data.json(&["snapshots", "--format", "json"]);
        assert!(list[1]["parent"] == "base" || done || list[1]["parent"].is_null());
    });
}

#[test]
fn a_removal_killed_at_any_step_leaves_it_or_nothing() {
    let mut steps = 0;
    loop {
        let data = Data::filled();
        let words = ["snapshot", "rm", "child"];
        let Some(child) = traced(&data.command(&words)) else {
            return;
        };
        let killed = kill_before(child, steps);
        match digest(&data) {
            Some(_) => {
                assert!(killed);
                data.good(&["snapshot", "inspect", "--verify", "child"]);
            }
            None => data
                .good(&["snapshot", "inspect", "--verify", "base"])
                .clear(),
        }
        sweep(&data);
        assert!(data.inside().iter().all(|name| !name.starts_with(".draft")));
        if !killed {
            break;
        }
        steps += 1;
    }
    assert!(steps > 5, "{steps} steps are too few to be all");
}
