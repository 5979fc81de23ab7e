// SPDX-License-Identifier: Apache-2.0
//! What the server does to itself before it serves: the directory becomes its root, and all
//! else of the host's file systems is unmounted. So there is nothing that a link, a `..` or
//! a mistake of ours could lead to. Then Landlock leaves it the files below that root, and
//! seccomp the system calls that serving them takes.
//!
//! The process was born into namespaces of its own (`sys::namespaces`), in which it may
//! mount; outside of them it has no privilege. It runs on the only thread.

use crate::jail::{Calls, confine, deny_all_but_tree};
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::statvfs::{FsFlags, statvfs};
use rustix::fs::OFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// What is still open afterwards.
pub struct Doors {
    pub root: OwnedFd,
    /// `/proc/self/fd`: the way from a place in the tree to an open file. It has entries for
    /// our own descriptors and nothing else, and is never walked by a name of the guest's.
    pub own_descriptors: OwnedFd,
    /// How many descriptors this process may have.
    pub descriptors: u64,
}

/// What the owner of a file, or root of a machine that was started by root, may do to it.
/// All of these reach only files whose owner is known in the server's user namespace. Not
/// CAP_FSETID: a program of the host's that a guest writes to loses its set-user-ID bit.
const KEPT: [Capability; 3] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
];

pub fn enter(directory: &Path, read_only: bool) -> io::Result<Doors> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own_descriptors = rustix::fs::open("/proc/self/fd", flags, rustix::fs::Mode::empty())?;
    pivot(directory, read_only)?;
    let root = rustix::fs::open("/", flags, rustix::fs::Mode::empty())?;
    // The guest's kernel has applied the umask of whoever asks.
    umask(Mode::empty());
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    drop_capabilities()?;
    prctl::set_no_new_privs()?;
    // Behind the root, which alone would do: a second wall, of another make.
    deny_all_but_tree("/", read_only)?;
    confine(Calls::Share)?;
    Ok(Doors {
        root,
        own_descriptors,
        descriptors,
    })
}

fn pivot(directory: &Path, read_only: bool) -> Result<(), Errno> {
    const NONE: Option<&str> = None;
    // Nothing that happens here is to be seen outside (mount_namespaces(7)).
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(directory), directory, NONE, bind, NONE)?;
    nix::unistd::chdir(directory)?;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | kept(directory)?;
    flags |= MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(NONE, ".", NONE, flags, NONE)?;
    // pivot_root(2), NOTES: with both arguments "." the old root ends up on top of the new
    // one, where it is unmounted.
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

/// Flags of the mount below: a user namespace may add to them, not take any away.
fn kept(directory: &Path) -> Result<MsFlags, Errno> {
    let now = statvfs(directory)?.flags();
    let pairs = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let set = pairs.into_iter().filter(|(here, _)| now.contains(*here));
    Ok(set.fold(MsFlags::empty(), |all, (_, flag)| all | flag))
}

fn drop_capabilities() -> io::Result<()> {
    let fail = |error: caps::errors::CapsError| io::Error::other(error.to_string());
    let kept = CapsHashSet::from(KEPT);
    for one in caps::all() {
        // A capability this kernel does not know cannot be dropped, nor had.
        if !kept.contains(&one) && caps::has_cap(None, CapSet::Bounding, one).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, one).map_err(fail)?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(fail)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(fail)?;
    caps::set(None, CapSet::Effective, &kept).map_err(fail)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(fail)
}
