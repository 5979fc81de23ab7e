// SPDX-License-Identifier: Apache-2.0
//! Programs of the image for a machine's rebirth: those with generators or names of their own
//! that no kernel can renew for them. Each runs while everything else of the image stands
//! still, one after the other in the order of their names, with a limit. Starts and looks; who
//! waits is the loop.

use crate::command::failure;
use crate::session::Exit;
use crate::sys::{self, Errno, Fd, Plan, c_string};
use alloc::collections::VecDeque;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::{CStr, c_int};
use husk_protocol::{Failure, HOOK_SECONDS, HOOKS_SECONDS, Stage};
use libc::{O_DIRECTORY, O_RDONLY, O_RDWR};

const FOLDER: &CStr = c"/etc/husk/reborn.d";
/// Files in it; more are an attempt to keep the machine from its end.
const MAX_HOOKS: usize = 64;
/// Bytes of a program's complaint that are told.
const MAX_WORDS: usize = 200;
const SECOND: u64 = 1_000_000_000;

/// What is left to be run.
pub struct Hooks {
    left: VecDeque<CString>,
    env: Vec<CString>,
    group: Option<Fd>,
    running: Option<Running>,
    until: u64,
}

struct Running {
    pid: u32,
    path: CString,
    complaint: Fd,
    until: u64,
}

impl Hooks {
    /// Where there is no machine of ours.
    pub fn none() -> Self {
        Self {
            left: VecDeque::new(),
            env: Vec::new(),
            group: None,
            running: None,
            until: 0,
        }
    }

    /// All that are there. `group`: where they may run while others are still.
    pub fn gather(generation: &str, hostname: &str, group: Option<Fd>) -> Result<Self, Failure> {
        let folder = sys::open(FOLDER, O_RDONLY | O_DIRECTORY, 0);
        let mut names = match folder.and_then(|folder| sys::names(&folder)) {
            Ok(names) => names,
            Err(errno) if errno.is(libc::ENOENT) || errno.is(libc::ENOTDIR) => Vec::new(),
            Err(errno) => return Err(wrong(errno, "cannot be listed".into())),
        };
        if names.len() > MAX_HOOKS {
            return Err(wrong(Errno(0), format!("holds more than {MAX_HOOKS}")));
        }
        let mut left = VecDeque::new();
        // One after the other: a sort would make the agent a tenth larger.
        while let Some(first) = names.iter().enumerate().min_by_key(|(_, name)| *name) {
            let name = names.swap_remove(first.0);
            let path = c_string(&[FOLDER.to_bytes(), b"/", &name].concat());
            if is_program(&path) {
                left.push_back(path);
            }
        }
        let env = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            "HOME=/root".into(),
            format!("HOSTNAME={hostname}"),
            format!("HUSK_GENERATION={generation}"),
        ];
        Ok(Self {
            left,
            env: env.iter().map(|var| c_string(var.as_bytes())).collect(),
            group,
            running: None,
            until: sys::uptime().saturating_add(HOOKS_SECONDS * SECOND),
        })
    }

    /// Goes on as far as nothing has to be waited for. True: all were run.
    pub fn go_on(&mut self) -> Result<bool, Failure> {
        if let Some(running) = &self.running {
            if sys::uptime() < running.until {
                return Ok(false);
            }
            if let Ok(pid) = i32::try_from(running.pid) {
                let _ = sys::kill(-pid, 9);
            }
            let name = name(&running.path);
            return Err(wrong(Errno(0), format!("{name} did not end in time")));
        }
        let Some(path) = self.left.pop_front() else {
            return Ok(true);
        };
        self.running = Some(self.start(path)?);
        Ok(false)
    }

    fn start(&self, path: CString) -> Result<Running, Failure> {
        let start = || -> sys::Result<(u32, Fd)> {
            let null = sys::open(c"/dev/null", O_RDWR, 0)?;
            let (complaint, writer) = sys::pipe()?;
            sys::set_nonblocking(&complaint)?;
            let plan = Plan {
                argv: core::slice::from_ref(&path),
                env: &self.env,
                programs: core::slice::from_ref(&path),
                cwd: c"/",
                stdio: [&null, &null, &writer],
                terminal: false,
                identity: None,
                cgroup: self.group.as_ref(),
            };
            let pid = sys::spawn(&plan).map_err(|(_, errno)| errno)?;
            Ok((pid, complaint))
        };
        let (pid, complaint) =
            start().map_err(|errno| wrong(errno, format!("{} cannot run", name(&path))))?;
        let limit = sys::uptime().saturating_add(HOOK_SECONDS * SECOND);
        Ok(Running {
            pid,
            path,
            complaint,
            until: limit.min(self.until),
        })
    }

    /// Takes the end of a child. None: it is none of these.
    pub fn ended(&mut self, pid: u32, exit: Exit) -> Option<Result<(), Failure>> {
        let running = self.running.take_if(|running| running.pid == pid)?;
        let how = match exit {
            Exit::Code(0) => return Some(Ok(())),
            Exit::Code(code) => format!("ended with code {code}"),
            Exit::Signal(signal) => format!("was ended by signal {signal}"),
        };
        let mut words = [0; MAX_WORDS];
        let n = sys::read(&running.complaint, &mut words).unwrap_or(0);
        let words = String::from_utf8_lossy(words.get(..n).unwrap_or_default());
        let line = words.lines().next().unwrap_or_default();
        let name = name(&running.path);
        let told = match line {
            "" => format!("{name} {how}"),
            line => format!("{name} {how}: {line}"),
        };
        Some(Err(wrong(Errno(0), told)))
    }

    /// Milliseconds poll may wait for its sake, or -1.
    pub fn patience(&self) -> c_int {
        self.running.as_ref().map_or(-1, |running| {
            let left = running.until.saturating_sub(sys::uptime());
            c_int::try_from(left / 1_000_000 + 1).unwrap_or(c_int::MAX)
        })
    }
}

fn is_program(path: &CStr) -> bool {
    const KIND: u32 = 0o170_000;
    const FILE: u32 = 0o100_000;
    sys::facts_behind(path).is_ok_and(|facts| facts.mode & KIND == FILE && facts.mode & 0o111 != 0)
}

fn name(path: &CStr) -> String {
    let name = path.to_bytes().rsplit(|&b| b == b'/').next();
    String::from_utf8_lossy(name.unwrap_or_default()).into()
}

fn wrong(errno: Errno, what: String) -> Failure {
    let folder = FOLDER.to_string_lossy();
    failure(Stage::Identity, errno, format!("{folder}: {what}"))
}
