// SPDX-License-Identifier: Apache-2.0
//! A program that runs, watched by threads of its own: what it has written so far, whether
//! it has ended, and a deadline after which it is killed and everything seen is told.

use super::code;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::io::{Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// For one program, from start to end. A boot that takes seconds on an idle host with an
/// interpreted kernel takes a minute on a busy one.
const DEADLINE: Duration = Duration::from_secs(240);
/// How much of a stream a failed test shows.
const SHOWN: usize = 4096;

/// What a program reads on its standard input.
#[derive(Default)]
pub enum Input {
    /// Nothing: /dev/null.
    #[default]
    Nothing,
    /// These bytes and then the end of file.
    Bytes(Vec<u8>),
    /// What the test writes, until it closes it.
    Open,
}

/// How a program ended.
pub struct Ended {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The program ended with `code` and wrote exactly this.
    #[track_caller]
    pub fn is(&self, code: i32, stdout: &str, stderr: &str) {
        assert_eq!(
            (self.code, self.text().as_str(), self.stderr.as_str()),
            (code, stdout, stderr)
        );
    }
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |bytes: &[u8]| {
            let from = bytes.len().saturating_sub(SHOWN);
            let text = String::from_utf8_lossy(&bytes[from..]);
            format!("{} bytes, the last of them:\n{text}", bytes.len())
        };
        write!(
            f,
            "code {}\n--- stdout: {}\n--- stderr: {}\n",
            self.code,
            shown(&self.stdout),
            shown(self.stderr.as_bytes())
        )
    }
}

#[derive(Default)]
struct Seen {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Streams that may bring more.
    open: usize,
    /// It can be reaped.
    ended: bool,
}

#[derive(Default)]
struct Watch {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// A running program; dropped, it is killed.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    watch: Arc<Watch>,
    started: Instant,
}

impl Running {
    pub fn start(command: &mut Command, input: Input) -> Self {
        command.stdin(match input {
            Input::Nothing => Stdio::null(),
            Input::Bytes(_) | Input::Open => Stdio::piped(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut stdin = child.stdin.take();
        let running = |stdin| Self::watching(child, stdin);
        let running = match input {
            Input::Bytes(bytes) => {
                let mut stdin = stdin.take().expect("a pipe");
                // A reader that goes away first is for the test to notice elsewhere.
                thread::spawn(move || stdin.write_all(&bytes));
                running(None)
            }
            _ => running(stdin),
        };
        running.collect(stdout.expect("a pipe"), |seen| &mut seen.stdout);
        running.collect(stderr.expect("a pipe"), |seen| &mut seen.stderr);
        running
    }

    /// Starts a program whose streams are the test's business. `output` brings what it
    /// writes and need not end with it: look for all of it before the program ends.
    pub fn start_on(command: &mut Command, output: impl Read + Send + 'static) -> Self {
        let child = command.spawn().expect("the program starts");
        let running = Self::watching(child, None);
        running.collect(output, |seen| &mut seen.stdout);
        running.watch.change(|seen| seen.open -= 1);
        running
    }

    fn watching(child: Child, stdin: Option<ChildStdin>) -> Self {
        let watch = Arc::new(Watch::default());
        let (pid, ends) = (child.id(), Arc::clone(&watch));
        let pid = Pid::from_raw(pid.try_into().expect("a process id"));
        thread::spawn(move || {
            // Left unreaped, so that its number stays its own until `finish`.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(pid), flags) == Err(nix::errno::Errno::EINTR) {}
            ends.change(|seen| seen.ended = true);
        });
        Self {
            child,
            stdin,
            watch,
            started: Instant::now(),
        }
    }

    fn collect(&self, mut from: impl Read + Send + 'static, stream: fn(&mut Seen) -> &mut Vec<u8>) {
        let watch = Arc::clone(&self.watch);
        watch.change(|seen| seen.open += 1);
        thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from.read(&mut chunk) {
                watch.change(|seen| stream(seen).extend_from_slice(&chunk[..count]));
            }
            watch.change(|seen| seen.open = seen.open.saturating_sub(1));
        });
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process id"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is ours, and not reaped");
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(bytes).expect("somebody reads");
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until standard output holds `text`, and fails if the program ends without.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let found = |seen: &Seen| {
            let mut windows = seen.stdout.windows(text.len());
            windows.any(|window| window == text.as_bytes())
        };
        let seen = self.wait(|seen| found(seen) || (seen.ended && seen.open == 0));
        let found = found(&seen);
        drop(seen);
        assert!(found, "it ended before {text:?}\n{}", self.so_far());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Ended {
        self.stdin = None;
        drop(self.wait(|seen| seen.ended && seen.open == 0));
        let status = self.child.wait().expect("it is ours");
        let mut seen = self.watch.lock();
        Ended {
            code: code(status),
            stdout: std::mem::take(&mut seen.stdout),
            stderr: String::from_utf8_lossy(&seen.stderr).into_owned(),
        }
    }

    #[track_caller]
    fn wait(&self, reached: impl Fn(&Seen) -> bool) -> MutexGuard<'_, Seen> {
        let mut seen = self.watch.lock();
        loop {
            if reached(&seen) {
                return seen;
            }
            let left = DEADLINE.saturating_sub(self.started.elapsed());
            if left.is_zero() {
                drop(seen);
                // Whatever it still has to say as it dies is not waited for.
                let _ = kill(self.pid(), Signal::SIGKILL);
                panic!("not done within {DEADLINE:?}\n{}", self.so_far());
            }
            let waited = self.watch.changed.wait_timeout(seen, left);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn so_far(&self) -> String {
        let seen = self.watch.lock();
        let so_far = Ended {
            code: -1,
            stdout: seen.stdout.clone(),
            stderr: String::from_utf8_lossy(&seen.stderr).into_owned(),
        };
        format!("{so_far:?}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not reaped yet, so the number is still its own; after `finish` these do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
