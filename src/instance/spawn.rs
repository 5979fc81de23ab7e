// SPDX-License-Identifier: Apache-2.0
//! Starts the process that runs a guest: this program again, as `husk vmm`, in namespaces
//! of its own, with the descriptors its configuration names and no others.

use crate::config::VmConfig;
use crate::control::{MAX_MESSAGE, Report, Request};
use crate::sys::descriptors::another;
use crate::sys::namespaces::{self, Birth, Child};
use crate::sys::seqpacket::{MAX_DESCRIPTORS, SeqPacket};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::thread::{self, JoinHandle};

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("this program cannot be opened to be started again")]
    Program(#[source] io::Error),
    #[error("the machine's process cannot be started in namespaces of its own")]
    Namespaces(#[source] io::Error),
    #[error("the machine's process cannot be started")]
    Process(#[source] io::Error),
    #[error("the machine's process does not take its configuration")]
    Configuration(#[source] io::Error),
}

/// The process of a machine. Dropping it leaves the machine to the end of its control
/// socket, which ends it.
#[derive(Debug)]
pub struct Spawned {
    pub control: Control,
    pub pidfd: OwnedFd,
    pub pid: i32,
}

/// This side of a machine's control socket.
#[derive(Debug)]
pub struct Control(SeqPacket);

impl Control {
    pub fn send(&self, request: &Request) -> io::Result<()> {
        self.0.send(&serde_json::to_vec(request)?)
    }

    /// The same, with open files.
    pub fn send_with(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.send_with(&serde_json::to_vec(request)?, fds)
    }

    /// Waits for the next report; `None` when the machine's process is gone.
    pub fn recv(&self) -> io::Result<Option<Report>> {
        let message = self.0.recv(MAX_MESSAGE)?;
        Ok(message
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose()?)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Spawned {
    /// Ends the process whatever it does; one that is gone stays so.
    pub fn kill(&self) {
        let signal = rustix::process::Signal::KILL;
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Lets go of a machine that is at its end, and waits until nothing of it is left.
    pub fn gone(self) {
        let Self { control, pidfd, .. } = self;
        // While somebody could still hear it, it waits to be heard.
        drop(control);
        let _ = reap(&pidfd);
    }

    /// Waits for the process to be gone and reaps it; returns its exit code, or 128 plus the
    /// signal that killed it.
    pub fn wait(&self) -> io::Result<i32> {
        reap(&self.pidfd)
    }
}

/// Waits for a child to be gone and reaps it; its exit code, or 128 plus the signal that
/// killed it.
pub(super) fn reap(pidfd: &OwnedFd) -> io::Result<i32> {
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Starts the machine `config` describes. Every descriptor it names must be open in this
/// process, under that number, until this returns.
pub fn spawn(config: &VmConfig) -> Result<Spawned, SpawnError> {
    let (ours, child) = vmm(config.jail, config.descriptors()).start()?;
    send_config(ours, child, config, &[])
}

fn vmm(jail: bool, keep: Vec<RawFd>) -> Part {
    Part {
        verb: "vmm",
        keep,
        namespaces: jail,
        host_network: false,
        all_ids: false,
    }
}

fn send_config(
    ours: SeqPacket,
    child: Child,
    config: &VmConfig,
    fds: &[BorrowedFd<'_>],
) -> Result<Spawned, SpawnError> {
    let text = serde_json::to_vec(config).map_err(|error| SpawnError::Process(error.into()))?;
    let sent = match fds {
        [] => ours.send(&text),
        fds => ours.send_with(&text, fds),
    };
    sent.map_err(SpawnError::Configuration)?;
    Ok(Spawned {
        control: Control(ours),
        pidfd: child.pidfd,
        pid: child.pid,
    })
}

/// A machine's process that is started while it is still being found out what machine it is to
/// be: namespaces and execve take milliseconds. Dropped, it ends.
#[derive(Debug)]
pub struct Ahead {
    thread: JoinHandle<Result<(SeqPacket, Child), SpawnError>>,
    jail: bool,
}

impl Ahead {
    /// None: the host has no thread for it. Then `spawn` says what is wrong with it.
    pub fn start(jail: bool) -> Option<Self> {
        let thread = without_signals(|| {
            let thread = thread::Builder::new().name("ahead".to_owned());
            thread.spawn(move || vmm(jail, Vec::new()).start())
        });
        let thread = thread.ok()?;
        Some(Self { thread, jail })
    }

    /// As `spawn`.
    pub fn spawn(self, config: &VmConfig) -> Result<Spawned, SpawnError> {
        let numbers = config.descriptors();
        let copies: io::Result<Vec<OwnedFd>> = numbers.into_iter().map(another).collect();
        let copies = copies.map_err(SpawnError::Process)?;
        if self.jail != config.jail || copies.len() > MAX_DESCRIPTORS {
            return spawn(config);
        }
        let lost = |_| SpawnError::Process(io::ErrorKind::Other.into());
        let (ours, child) = self.thread.join().map_err(lost)??;
        let fds: Vec<BorrowedFd<'_>> = copies.iter().map(AsFd::as_fd).collect();
        send_config(ours, child, config, &fds)
    }
}

/// A thread is born with its parent's mask, and signals are for the main thread.
pub(super) fn without_signals<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let result = act();
    mask.thread_set_mask()?;
    result
}

/// A part of a machine that is a process of its own: this program again, as a hidden verb.
pub(super) struct Part {
    pub verb: &'static str,
    /// What it inherits besides its control socket.
    pub keep: Vec<RawFd>,
    /// As in `Birth`.
    pub namespaces: bool,
    pub host_network: bool,
    pub all_ids: bool,
}

impl Part {
    /// Starts it; returns this end of its control socket.
    pub fn start(self) -> Result<(SeqPacket, Child), SpawnError> {
        let program = program().map_err(SpawnError::Program)?;
        let (ours, theirs) = SeqPacket::pair().map_err(SpawnError::Process)?;
        let number = theirs.as_fd().as_raw_fd();
        let arguments: Vec<CString> = ["husk", self.verb, "--control", &number.to_string()]
            .into_iter()
            .filter_map(|argument| CString::new(argument).ok())
            .collect();
        let mut keep = self.keep;
        keep.push(number);
        let child = namespaces::spawn(&Birth {
            program: &program,
            arguments: &arguments,
            keep: &keep,
            namespaces: self.namespaces,
            all_ids: self.all_ids,
            host_network: self.host_network,
        })
        .map_err(|error| match self.namespaces {
            true => SpawnError::Namespaces(error),
            false => SpawnError::Process(error),
        })?;
        Ok((ours, child))
    }
}

/// A process that is to own a machine when this one is gone: this program again, with these
/// descriptors and no others.
pub fn spawn_owner(arguments: &[CString], keep: &[RawFd]) -> Result<OwnedFd, SpawnError> {
    let program = program().map_err(SpawnError::Program)?;
    let birth = Birth {
        program: &program,
        arguments,
        keep,
        namespaces: false,
        all_ids: false,
        host_network: false,
    };
    let child = namespaces::spawn(&birth).map_err(SpawnError::Process)?;
    Ok(child.pidfd)
}

/// This program, to be started again.
fn program() -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(open("/proc/self/exe", flags, Mode::empty())?)
}
