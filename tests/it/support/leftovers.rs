// SPDX-License-Identifier: Apache-2.0
//! What a husk must not leave behind: processes, and files outside its cache.

use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For what ends by itself once its parent is gone.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// A process as /proc/PID/stat has it (proc_pid_stat(5)).
struct Process {
    pid: i32,
    parent: i32,
    zombie: bool,
}

fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // The name, in parentheses, may hold anything.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            Some(Process {
                pid,
                zombie: fields.next()? == "Z",
                parent: fields.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// The processes `parent` has started and not outlived.
pub fn children(parent: Pid) -> Vec<Pid> {
    let all = processes().into_iter();
    all.filter(|process| process.parent == parent.as_raw() && !process.zombie)
        .map(|process| Pid::from_raw(process.pid))
        .collect()
}

/// Waits until `reached`, and says whether it was.
pub fn eventually(mut reached: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !reached() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// From now on, processes that lose their parent are this process's own children, where
/// `check_orphans` finds them.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).expect("Linux 3.4");
}

/// No process that runs a guest has lost the husk that started it.
#[track_caller]
pub fn check_orphans() {
    let mut found = Vec::new();
    let gone = eventually(|| {
        found = children(nix::unistd::getpid());
        found.retain(|pid| is_machine(*pid));
        found.is_empty()
    });
    assert!(gone, "machines without a husk: {found:?}");
}

fn is_machine(pid: Pid) -> bool {
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let verb = cmdline.split(|byte| *byte == 0).nth(1);
    [b"vmm".as_slice(), b"net", b"share"]
        .map(Some)
        .contains(&verb)
}

/// Everything below `folder`, but for what husks that follow each other share there.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let shared = [
        "husk",
        "husk/lock",
        "husk/net",
        "husk/lane",
        "husk/events",
        "husk/events.1",
    ];
    let shared = shared.map(|name| folder.join(name));
    let mut list = everything(folder);
    list.retain(|path| !shared.contains(path));
    list
}

fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut list = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list.extend(everything(&path));
        }
        list.push(path);
    }
    list.sort();
    list
}
