// SPDX-License-Identifier: Apache-2.0
//! Stops every process of the image at once, and lets them go on: by the freezer of control
//! groups (cgroup-v2.rst, "cgroup.freeze"). Asks and looks; who waits is the loop.
//!
//! All that the agent starts begins in one group below the root's, and so does what comes of
//! it. Programs of the image may make more groups: whichever lie below the root when it is
//! time are stopped. A process that was moved into the root itself cannot be, and is named.

use crate::sys::{self, Errno, Fd, c_string};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use libc::{O_DIRECTORY, O_RDONLY, O_WRONLY};

const FOLDER: &CStr = c"/sys/fs/cgroup";
const HOME: &CStr = c"husk";
/// Groups of the image below the root's; more are an attempt to keep us busy.
const MAX_GROUPS: usize = 1024;

pub enum Freezer {
    Groups {
        root: Fd,
        home: Fd,
    },
    /// In an ordinary process, which leaves the machine alone: signals to the one group that
    /// its process leads.
    Signals,
    None,
}

/// Groups that were told to stand still.
#[derive(Default)]
pub struct Stop {
    groups: Vec<Group>,
    /// Stopped by a signal.
    leader: i32,
    complete: bool,
}

struct Group {
    name: Vec<u8>,
    folder: Fd,
    events: Fd,
    /// Not by the image itself, which may have groups that are to stay as they are.
    ours: bool,
}

impl Freezer {
    /// After the groups' file system was mounted, if there is one.
    pub fn prepare() -> Self {
        let made = || -> sys::Result<Self> {
            let root = sys::open(FOLDER, O_RDONLY | O_DIRECTORY, 0)?;
            // It is there already if another host was greeted before.
            let _ = sys::make_directory_at(&root, HOME);
            let home = sys::open_at(&root, HOME, O_RDONLY | O_DIRECTORY)?;
            // Of version 2, and of 5.2 or later.
            sys::open_at(&home, c"cgroup.freeze", O_RDONLY)?;
            Ok(Self::Groups { root, home })
        };
        made().unwrap_or(Self::None)
    }

    /// Where a new process of the image begins.
    pub fn home(&self) -> Option<&Fd> {
        match self {
            Self::Groups { home, .. } => Some(home),
            Self::Signals | Self::None => None,
        }
    }

    /// A new group, for programs that must run while the others are still; `number` tells it
    /// from those before, which may still have processes.
    pub fn aside(&self, number: u64) -> Option<Fd> {
        let Self::Groups { root, .. } = self else {
            return None;
        };
        let path = c_string(format!("husk-reborn-{number}").as_bytes());
        let _ = sys::make_directory_at(root, &path);
        sys::open_at(root, &path, O_RDONLY | O_DIRECTORY).ok()
    }

    /// Tells all to stand still. `leader` is the machine's own process.
    pub fn stop(&self, leader: u32) -> Result<Stop, String> {
        let mut stop = Stop::default();
        match self {
            Self::None => {
                return Err("the guest's kernel has no control groups that freeze".into());
            }
            Self::Signals => {
                stop.leader = i32::try_from(leader).unwrap_or(0);
                if stop.leader > 0 {
                    let _ = sys::kill(-stop.leader, STOP);
                }
            }
            Self::Groups { root, .. } => {
                if let Err(why) = stop.tell(root) {
                    stop.release();
                    return Err(why);
                }
            }
        }
        Ok(stop)
    }
}

const STOP: u8 = 19;
const CONTINUE: u8 = 18;

fn lost(what: &str) -> impl FnOnce(Errno) -> String {
    move |errno| format!("{what} (errno {})", errno.0)
}

impl Stop {
    /// Whether all stand still. An error is a process that cannot be stopped.
    pub fn look(&mut self, freezer: &Freezer) -> Result<bool, String> {
        let Freezer::Groups { root, .. } = freezer else {
            return Ok(true);
        };
        if self.complete {
            return Ok(true);
        }
        for group in &self.groups {
            if !is_frozen(&group.events) && exists(root, &group.name) {
                return Ok(false);
            }
        }
        // Groups that were made meanwhile, by a process that was not still yet.
        if self.tell(root)? {
            return Ok(false);
        }
        match stray(root)? {
            Some(pid) => Err(format!(
                "process {pid} was moved into the root control group, where none can be stopped"
            )),
            None => {
                self.complete = true;
                Ok(true)
            }
        }
    }

    /// What says that a group came to stand still: an exceptional condition of these files.
    pub fn events(&self) -> impl Iterator<Item = &Fd> {
        let waiting = !self.complete;
        let groups = self.groups.iter().filter(move |_| waiting);
        groups.map(|group| &group.events)
    }

    /// Tells the groups that were not told. Whether there were any.
    fn tell(&mut self, root: &Fd) -> Result<bool, String> {
        let mut more = false;
        let list =
            sys::open_at(root, c".", O_RDONLY | O_DIRECTORY).and_then(|all| sys::names(&all));
        for name in list.map_err(lost("listing the control groups"))? {
            let known = |group: &Group| group.name == name;
            if self.groups.iter().any(known) {
                continue;
            }
            let path = c_string(&name);
            let Ok(folder) = sys::open_at(root, &path, O_RDONLY | O_DIRECTORY) else {
                continue;
            };
            if self.groups.len() >= MAX_GROUPS {
                return Err("the guest has too many control groups".into());
            }
            self.groups.push(freeze(name, folder)?);
            more = true;
        }
        Ok(more)
    }

    /// Lets them go on, but for those that stood still before.
    pub fn release(self) {
        if self.leader > 0 {
            let _ = sys::kill(-self.leader, CONTINUE);
        }
        for group in self.groups.iter().filter(|group| group.ours) {
            if let Ok(file) = sys::open_at(&group.folder, c"cgroup.freeze", O_WRONLY) {
                let _ = sys::write(&file, b"0");
            }
        }
    }
}

fn freeze(name: Vec<u8>, folder: Fd) -> Result<Group, String> {
    let path = c"cgroup.freeze";
    let events = sys::open_at(&folder, c"cgroup.events", O_RDONLY);
    let events = events.map_err(lost("looking at a control group"))?;
    let file = sys::open_at(&folder, path, libc::O_RDWR);
    let file = file.map_err(lost("freezing a control group"))?;
    let ours = !sys::read_small(&file).is_ok_and(|text| text.starts_with(b"1"));
    if ours {
        sys::write(&file, b"1").map_err(lost("freezing a control group"))?;
    }
    Ok(Group {
        name,
        folder,
        events,
        ours,
    })
}

fn exists(root: &Fd, name: &[u8]) -> bool {
    sys::open_at(root, &c_string(name), O_RDONLY | O_DIRECTORY).is_ok()
}

fn is_frozen(events: &Fd) -> bool {
    // One that is gone says nothing.
    sys::read_small(events).is_ok_and(|text| says_frozen(&text))
}

fn says_frozen(text: &[u8]) -> bool {
    text.split(|&b| b == b'\n').any(|line| line == b"frozen 1")
}

/// A process of the image in the root group, where the agent and the kernel's own are. Those
/// are in no process group of theirs, and every process we start is.
fn stray(root: &Fd) -> Result<Option<i32>, String> {
    let file = sys::open_at(root, c"cgroup.procs", O_RDONLY);
    let file = file.map_err(lost("looking at the root control group"))?;
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    // A guest cannot have more processes than 2^22 (pid_max).
    while let Ok(n @ 1..) = sys::read(&file, &mut chunk) {
        text.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
    let own = sys::own_pid();
    let pids = text.split(|&b| b == b'\n').filter_map(|line| {
        let pid: i32 = core::str::from_utf8(line).ok()?.parse().ok()?;
        (usize::try_from(pid) != Ok(own)).then_some(pid)
    });
    let mut strays = pids.filter(|pid| sys::group_of(*pid).is_ok_and(|group| group != 0));
    Ok(strays.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_file_is_read_as_the_kernel_writes_it() {
        assert!(says_frozen(b"populated 1\nfrozen 1\n"));
        assert!(!says_frozen(b"populated 1\nfrozen 0\n"));
        assert!(!says_frozen(b"populated 1\n"));
        assert!(!says_frozen(b""));
    }
}
