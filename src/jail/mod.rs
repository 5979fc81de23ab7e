// SPDX-License-Identifier: Apache-2.0
//! The jail of the process that runs a guest.
//!
//! The process is born into user, mount, PID, network, IPC and UTS namespaces of its own
//! (`sys::namespaces`) with every descriptor it will need. `Plan` is what it then does to
//! itself, in order, before it looks at the guest's kernel: a list that can be printed and
//! tested, and that runs on the `vmm` thread while that is the only thread.

mod landlock;
mod root;
mod seccomp;

pub use landlock::deny_all_but_tree;
pub use root::make as make_root;
pub use seccomp::{Calls, confine};

use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid};

/// Descriptors a machine may hold: devices, vCPUs, connections.
const MAX_DESCRIPTORS: u64 = 4096;

/// One step, in the order it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An empty read-only file system becomes the root; the host's is unmounted.
    EmptyRoot,
    /// Limits on descriptors and core files.
    Limits,
    /// A user and group of the namespace that are nobody's outside.
    LeaveRoot,
    /// No capability in any set, none to be had again.
    DropCapabilities,
    /// No execve grants anything (prctl(2), PR_SET_NO_NEW_PRIVS).
    NoNewPrivileges,
    /// No file, TCP port, abstract socket or outside signal is within reach (Landlock).
    Landlock,
    /// The same, but for TCP connections to elsewhere: a network is what the process is for.
    LandlockButConnect,
    /// That, and the files below its working directory can be read.
    LandlockButFolder,
    /// No system call but those a network needs (seccomp).
    SystemCalls,
}

#[derive(Debug, thiserror::Error)]
#[error("the jail cannot be entered at step {step:?}")]
pub struct JailError {
    step: Step,
    source: std::io::Error,
}

/// The steps this process takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan(Vec<Step>);

impl Plan {
    /// For a process in namespaces of its own, or one whose operator refused them.
    pub fn new(namespaces: bool) -> Self {
        let mut steps = Vec::new();
        if namespaces {
            steps.extend([Step::EmptyRoot]);
        }
        steps.push(Step::Limits);
        if namespaces {
            steps.extend([Step::LeaveRoot, Step::DropCapabilities]);
        }
        steps.extend([Step::NoNewPrivileges, Step::Landlock]);
        Self(steps)
    }

    /// For a process that carries a guest's traffic in the host's own network namespace.
    /// With a root, that was made before and stays.
    pub fn for_network(namespaces: bool, has_root: bool) -> Self {
        let Self(mut steps) = Self::new(namespaces);
        steps.retain(|step| *step != Step::Landlock && !(has_root && *step == Step::EmptyRoot));
        steps.push(match has_root {
            true => Step::LandlockButFolder,
            false => Step::LandlockButConnect,
        });
        if namespaces {
            steps.push(Step::SystemCalls);
        }
        Self(steps)
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Takes every step. After a failure the process must end: it is jailed in part.
    pub fn enter(&self) -> Result<(), JailError> {
        for &step in &self.0 {
            step.take().map_err(|source| JailError { step, source })?;
        }
        Ok(())
    }
}

impl Step {
    fn take(self) -> std::io::Result<()> {
        match self {
            Self::EmptyRoot => root::make_empty().map_err(Into::into),
            Self::Limits => limits().map_err(Into::into),
            Self::LeaveRoot => leave_root().map_err(Into::into),
            Self::DropCapabilities => drop_capabilities(),
            Self::NoNewPrivileges => prctl::set_no_new_privs().map_err(Into::into),
            Self::Landlock => landlock::deny_all(),
            Self::LandlockButConnect => landlock::deny_all_but_connect(None),
            Self::LandlockButFolder => landlock::deny_all_but_connect(Some(".")),
            Self::SystemCalls => confine(Calls::Net),
        }
    }
}

fn limits() -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = hard.min(MAX_DESCRIPTORS);
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)
}

/// Id 1 of the namespace is mapped only when root started husk (`sys::namespaces`); an
/// ordinary user's id 0 is that user outside, and stays.
fn leave_root() -> Result<(), Errno> {
    match nix::unistd::setresgid(Gid::from_raw(1), Gid::from_raw(1), Gid::from_raw(1)) {
        Ok(()) => {}
        Err(Errno::EINVAL) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    // The capabilities go in their own step, which must still be able to clear the bounding set.
    prctl::set_keepcaps(true)?;
    nix::unistd::setresuid(Uid::from_raw(1), Uid::from_raw(1), Uid::from_raw(1))?;
    let wanted = CapsHashSet::from([caps::Capability::CAP_SETPCAP]);
    caps::set(None, CapSet::Effective, &wanted).map_err(|_| Errno::EPERM)
}

fn drop_capabilities() -> std::io::Result<()> {
    let none = CapsHashSet::new();
    let fail = |error: caps::errors::CapsError| std::io::Error::other(error.to_string());
    caps::clear(None, CapSet::Bounding).map_err(fail)?;
    caps::clear(None, CapSet::Ambient).map_err(fail)?;
    caps::set(None, CapSet::Inheritable, &none).map_err(fail)?;
    caps::set(None, CapSet::Effective, &none).map_err(fail)?;
    caps::set(None, CapSet::Permitted, &none).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_go_only_after_what_needs_them() {
        let plan = Plan::new(true);
        let at = |step| {
            plan.steps()
                .iter()
                .position(|taken| *taken == step)
                .expect("every step is taken")
        };
        assert!(at(Step::EmptyRoot) < at(Step::LeaveRoot));
        assert!(at(Step::LeaveRoot) < at(Step::DropCapabilities));
        assert!(at(Step::DropCapabilities) < at(Step::NoNewPrivileges));
        assert!(at(Step::NoNewPrivileges) < at(Step::Landlock));
        assert_eq!(
            Plan::new(false).steps(),
            [Step::Limits, Step::NoNewPrivileges, Step::Landlock]
        );
        // The other steps need more calls than are left then.
        for has_root in [false, true] {
            let plan = Plan::for_network(true, has_root);
            assert_eq!(plan.steps().last(), Some(&Step::SystemCalls));
        }
    }
}
