// SPDX-License-Identifier: Apache-2.0
//! Processes of contestants: started, watched, ended, and none of them left behind.
//!
//! Any thread of a benchmark. The benchmark is the reaper of all its descendants, so whatever a
//! contestant starts and forgets comes back to it. Nothing but descendants of this process is
//! ever signalled, each by a descriptor of its own: a number could be somebody else's by now.

use super::contestant::Invocation;
use crate::sys::clock;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// By which an operator ends a benchmark.
const ENDS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// How long processes that were told to end, or whose start is over, may take until they count
/// as left behind: engines clear up after a container in the background.
pub const GRACE: Duration = Duration::from_secs(5);
/// Most that is kept of what a command says on standard error.
const MOST_COMPLAINT: u64 = 4096;

/// Whoever measures has one, made before its first thread.
#[derive(Debug)]
pub struct Supervisor {
    signals: Mutex<SignalFd>,
    interrupted: AtomicBool,
    until: Mutex<Option<Instant>>,
    before: SigSet,
    /// Where what commands say goes.
    said: PathBuf,
    commands: AtomicU64,
    null: File,
    /// Children that somebody waits for: nobody else may reap them.
    waited: Mutex<BTreeSet<i32>>,
}

/// A command that runs.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pidfd: OwnedFd,
    /// What it says, if it is listened to.
    pub out: Option<File>,
    complaint: PathBuf,
    /// When it was about to be started.
    pub began: u64,
    ended: Option<i32>,
}

/// How a command ended: its exit code, or 128 and the signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub complaint: String,
}

/// A process of somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub pid: i32,
    pub name: String,
}

impl Supervisor {
    /// Takes on whatever descendants leave behind, and the signals that end a benchmark.
    /// `said` is a folder.
    pub fn begin(said: PathBuf) -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        let mask: SigSet = ENDS.into_iter().collect();
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), Some(&mut before))?;
        Ok(Self {
            signals: Mutex::new(fd),
            interrupted: AtomicBool::new(false),
            until: Mutex::new(None),
            before,
            said,
            commands: AtomicU64::new(0),
            null: OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")?,
            waited: Mutex::new(BTreeSet::new()),
        })
    }

    /// Whether what goes on is to end: the operator wants it, or its time is over.
    pub fn interrupted(&self) -> bool {
        let over = lock(&self.until).is_some_and(|until| Instant::now() >= until);
        over || self.is_told_to_end()
    }

    /// Gives what comes next so much time; none is as long as it takes.
    pub fn allow(&self, span: Option<Duration>) {
        *lock(&self.until) = span.and_then(|span| Instant::now().checked_add(span));
    }

    /// Whether the operator wants an end.
    pub fn is_told_to_end(&self) -> bool {
        if let Ok(signals) = self.signals.lock()
            && let Ok(Some(_)) = signals.read_signal()
        {
            self.interrupted.store(true, Ordering::Relaxed);
        }
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Starts a command in a process group of its own. With `listen` its output is a pipe of
    /// ours, else a file: what it leaves running may then go on writing.
    pub fn spawn(&self, invocation: &Invocation, listen: bool) -> io::Result<Child> {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let complaint = self.said.join(format!("{number}.err"));
        let append = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let err = append(&complaint)?;
        let (out, theirs) = match listen {
            true => {
                let (ours, theirs) = io::pipe()?;
                rustix::io::ioctl_fionbio(&ours, true)?;
                (Some(File::from(OwnedFd::from(ours))), OwnedFd::from(theirs))
            }
            false => (
                None,
                append(&self.said.join(format!("{number}.out")))?.into(),
            ),
        };
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(self.null.as_raw_fd(), 0)?;
        actions.add_dup2(theirs.as_raw_fd(), 1)?;
        actions.add_dup2(err.as_raw_fd(), 2)?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        attributes.set_pgroup(nix::unistd::Pid::from_raw(0))?;
        attributes.set_sigmask(&SigSet::empty())?;
        // Rust ignores SIGPIPE, and a child would inherit that.
        attributes.set_sigdefault(&SigSet::from_iter([Signal::SIGPIPE]))?;
        let (program, argv, env) = words(invocation)?;
        let mut waited = lock(&self.waited);
        let began = clock::monotonic_ns();
        let pid = posix_spawn(&*program, &actions, &attributes, &argv, &env)?;
        let pid = pid.as_raw();
        waited.insert(pid);
        drop(waited);
        let process = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        // Our child, not yet waited for: the number is still its own.
        let pidfd = rustix::process::pidfd_open(process, PidfdFlags::NONBLOCK)?;
        Ok(Child {
            pid,
            pidfd,
            out,
            complaint,
            began,
            ended: None,
        })
    }

    /// Runs a command that is not timed, to its end; what it says is its answer.
    pub fn run(&self, invocation: &Invocation, limit: Duration) -> io::Result<(Ended, String)> {
        let mut child = self.spawn(invocation, true)?;
        let until = Instant::now() + limit;
        let mut said = Vec::new();
        loop {
            let ended = self.ended(&mut child)?;
            child.listen(&mut said)?;
            if let Some(code) = ended {
                let complaint = child.complaint();
                let said = String::from_utf8_lossy(&said).into_owned();
                return Ok((Ended { code, complaint }, said));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.kill_group(&mut child);
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("it took longer than {} s", limit.as_secs()),
                ));
            }
            self.reap();
            let mut fds = vec![child.exit_fd()];
            fds.extend(child.out_fd());
            wait(&mut fds, left.min(STEP))?;
        }
    }

    /// Its exit code, if it has ended.
    pub fn ended(&self, child: &mut Child) -> io::Result<Option<i32>> {
        if child.ended.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let status = match rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), options)
            {
                // With a descriptor of O_NONBLOCK, one that runs is an error.
                Err(rustix::io::Errno::AGAIN) => None,
                other => other?,
            };
            child.ended = status.map(|status| {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                status.exit_status().or(signal).unwrap_or(-1)
            });
            if child.ended.is_some() {
                lock(&self.waited).remove(&child.pid);
            }
        }
        Ok(child.ended)
    }

    /// Ends a command and whatever is in its process group, at once.
    pub fn kill_group(&self, child: &mut Child) {
        if child.ended.is_none() {
            let group = nix::unistd::Pid::from_raw(child.pid);
            let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
            let until = Instant::now() + GRACE;
            while matches!(self.ended(child), Ok(None)) && Instant::now() < until {
                let _ = wait(&mut [child.exit_fd()], GRACE);
            }
        }
    }

    /// The signal that a command is told to end with.
    pub fn signal(&self, child: &Child, signal: rustix::process::Signal) {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, signal);
    }

    /// Everybody below this process who lives, whoever its parent was first.
    pub fn descendants(&self) -> BTreeMap<i32, String> {
        self.reap();
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let all = processes();
        let mut ours: BTreeSet<i32> = BTreeSet::from([me]);
        // Parents may have higher numbers than their children.
        loop {
            let more = all
                .iter()
                .filter(|process| ours.contains(&process.parent) && !ours.contains(&process.pid));
            let more: Vec<i32> = more.map(|process| process.pid).collect();
            if more.is_empty() {
                break;
            }
            ours.extend(more);
        }
        ours.remove(&me);
        let alive = all
            .into_iter()
            .filter(|it| ours.contains(&it.pid) && it.state != b'Z');
        alive.map(|it| (it.pid, it.name)).collect()
    }

    /// Waits until nobody is below this process but `known`; whoever is still there after
    /// `grace` is killed, and returned.
    pub fn settle(&self, known: &BTreeSet<i32>, grace: Duration) -> Vec<Found> {
        let until = Instant::now() + grace;
        let mut left: BTreeMap<i32, String> = BTreeMap::new();
        loop {
            let now = self.descendants();
            let strangers = now.into_iter().filter(|(pid, _)| !known.contains(pid));
            let strangers: Vec<Found> = strangers.map(|(pid, name)| Found { pid, name }).collect();
            if strangers.is_empty() {
                return left
                    .into_iter()
                    .map(|(pid, name)| Found { pid, name })
                    .collect();
            }
            let remaining = until.saturating_duration_since(Instant::now());
            let opened: Vec<OwnedFd> = strangers.iter().filter_map(|it| handle(it.pid)).collect();
            if remaining.is_zero() {
                // A process that is killed may have children, which are seen next time.
                for (found, fd) in strangers.into_iter().zip(&opened) {
                    let _ = rustix::process::pidfd_send_signal(fd, rustix::process::Signal::KILL);
                    left.insert(found.pid, found.name);
                }
                // What cannot be killed, in the middle of a call of the kernel's, stays.
                if until.elapsed() > GRACE {
                    return left
                        .into_iter()
                        .map(|(pid, name)| Found { pid, name })
                        .collect();
                }
            }
            // Until one of them ends, or is replaced by a child of its own.
            let mut fds: Vec<PollFd<'_>> = opened.iter().map(|fd| readable(fd.as_fd())).collect();
            let _ = wait(&mut fds, remaining.clamp(STEP, STEP * 5));
        }
    }

    /// Reaps those who came back and that nobody waits for, as the first process of a host
    /// does at once: who asks whether somebody is gone takes a zombie for somebody.
    pub fn reap(&self) {
        let waited = lock(&self.waited);
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let orphan = |pid: i32| {
            let pid = Pid::from_raw(pid).filter(|_| !waited.contains(&pid));
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            pid.is_some_and(|pid| rustix::process::waitid(WaitId::Pid(pid), options).is_ok())
        };
        // Mostly there is nobody, and this is all.
        while let Ok(Some(pid)) = waitid(Id::All, peek).map(|status| status.pid()) {
            if orphan(pid.as_raw()) {
                continue;
            }
            // The first one is somebody's: others may stand behind it.
            let me = i32::try_from(std::process::id()).unwrap_or(0);
            for it in processes() {
                if it.parent == me && it.state == b'Z' {
                    orphan(it.pid);
                }
            }
            return;
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // A signal that came too late has been answered by the end.
        while self
            .signals
            .lock()
            .is_ok_and(|fd| matches!(fd.read_signal(), Ok(Some(_))))
        {}
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
        let _ = prctl::set_child_subreaper(false);
    }
}

/// How long nobody is looked for at most, and at least.
const STEP: Duration = Duration::from_millis(10);

impl Child {
    /// Readable once it ended.
    pub fn exit_fd(&self) -> PollFd<'_> {
        readable(self.pidfd.as_fd())
    }

    pub fn out_fd(&self) -> Option<PollFd<'_>> {
        self.out.as_ref().map(|out| readable(out.as_fd()))
    }

    /// Adds what it has said since; at its end it is no longer listened to.
    pub fn listen(&mut self, said: &mut Vec<u8>) -> io::Result<()> {
        let mut chunk = [0; 64 * 1024];
        while let Some(out) = &mut self.out {
            match out.read(&mut chunk) {
                Ok(0) => self.out = None,
                Ok(n) => said.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if said.len() > MOST_OUTPUT {
                break;
            }
        }
        Ok(())
    }

    /// The end of what it said on standard error, on one line.
    pub fn complaint(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            use std::os::unix::fs::FileExt as _;
            let file = File::open(&self.complaint)?;
            let len = file.metadata()?.len();
            let from = len.saturating_sub(MOST_COMPLAINT);
            let mut end = vec![0; usize::try_from(len - from).unwrap_or(0)];
            let n = file.read_at(&mut end, from)?;
            end.truncate(n);
            Ok(end)
        };
        let text = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let shown = text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
        let lines = shown.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("; ")
    }

    /// Forgets what it said.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(&self.complaint);
        let _ = std::fs::remove_file(self.complaint.with_extension("out"));
    }
}

/// Most that a command may say. Stops one that never stops from filling our memory.
pub const MOST_OUTPUT: usize = 1 << 20;

/// Waits until one of them is ready, at most so long; a signal in between is no matter.
pub fn wait(fds: &mut [PollFd<'_>], at_most: Duration) -> io::Result<()> {
    match ppoll(fds, Some(TimeSpec::from_duration(at_most)), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

pub fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

/// Readable once the process has ended.
pub fn handle(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A program, its words and its environment, as execve takes them.
type Words = (CString, Vec<CString>, Vec<CString>);

fn words(invocation: &Invocation) -> io::Result<Words> {
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
    let argv: io::Result<Vec<CString>> = invocation
        .argv
        .iter()
        .map(|w| c_string(w.as_bytes()))
        .collect();
    let argv = argv?;
    let program = argv.first().ok_or(io::ErrorKind::InvalidInput)?.clone();
    let mut env: BTreeMap<_, _> = std::env::vars_os().collect();
    env.extend(invocation.env.iter().cloned());
    let pair = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    let env: io::Result<Vec<CString>> = env.into_iter().map(pair).collect();
    Ok((program, argv, env?))
}

struct Process {
    pid: i32,
    parent: i32,
    state: u8,
    name: String,
}

/// Everybody there is. Who ends meanwhile may be in it or not.
fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

/// `PID (NAME) STATE PARENT …` of proc(5); the name may hold anything.
fn process(pid: i32) -> Option<Process> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (head, rest) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_whitespace();
    Some(Process {
        pid,
        state: *fields.next()?.as_bytes().first()?,
        parent: fields.next()?.parse().ok()?,
        name: name.to_owned(),
    })
}
