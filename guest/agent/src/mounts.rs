// SPDX-License-Identifier: Apache-2.0
//! Volumes, shared directories and file systems in memory, mounted in the image's root.
//! Runs in PID 1 only. Paths are the guest's own: whatever a link in the image makes of
//! one, it stays in the guest.

use crate::command::failure;
use crate::sys::{self, c_string};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use husk_protocol::{Failure, Mount, MountKind, Stage};
use libc::{MS_BIND, MS_NODEV, MS_NOSUID, MS_RDONLY};

/// Mounts one, on a directory that is made if the image has none there.
pub fn attach(mount: &Mount) -> Result<(), Failure> {
    let shown = || String::from_utf8_lossy(&mount.target).into_owned();
    let target = c_string(&mount.target);
    make_directories(&mount.target);
    let below = sys::stat(&target).ok();
    let read_only = if mount.read_only { MS_RDONLY } else { 0 };
    let source = c_string(mount.source.as_bytes());
    let size = c_string(format!("mode=1777,size={}", mount.size).as_bytes());
    let (source, kind, flags, data): (&CStr, _, _, &CStr) = match mount.kind {
        // Without its journal's replay, which writes, a disk that was not unmounted in order
        // could not be looked at.
        MountKind::Volume if mount.read_only => (&source, c"ext4", MS_NODEV, c"noload"),
        MountKind::Volume => (&source, c"ext4", MS_NODEV, c"discard"),
        MountKind::Share => (&source, c"virtiofs", MS_NODEV | MS_NOSUID, c""),
        MountKind::Tmpfs if mount.size > 0 => (c"tmpfs", c"tmpfs", MS_NODEV | MS_NOSUID, &*size),
        MountKind::Tmpfs => (c"tmpfs", c"tmpfs", MS_NODEV | MS_NOSUID, c"mode=1777"),
        // A mount of its own: making the root's read-only leaves this one as it is.
        MountKind::Own => (&target, c"", MS_BIND, c""),
    };
    sys::mount(source, &target, kind, flags | read_only, data)
        .map_err(|errno| failure(Stage::Root, errno, format!("mounting {}", shown())))?;
    if let (MountKind::Volume, false, Some(below)) = (mount.kind, mount.read_only, below) {
        // Only a file system nobody has used has this folder, and nothing in it. Programs
        // take a folder that is not empty for one that was set up.
        let mut lost = mount.target.clone();
        lost.extend_from_slice(b"/lost+found");
        if sys::remove_directory(&c_string(&lost)).is_ok() {
            let _ = sys::change_owner(&target, below.uid, below.gid);
            let _ = sys::change_mode(&target, below.mode & 0o7777);
        }
    }
    Ok(())
}

/// Unmounts what was written on disks, so that they are in order when they are next used.
/// What is still busy is left to its journal. Called once everything is synced.
pub fn detach(mounts: &[u8]) {
    for line in mounts.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b' ');
        let on_disk = fields.next().is_some_and(|from| from.starts_with(b"/dev/"));
        match fields.next() {
            Some(target) if on_disk && target != b"/" => {
                let _ = sys::unmount(&c_string(target));
            }
            _ => {}
        }
    }
}

fn make_directories(path: &[u8]) {
    let ends = path.iter().enumerate().skip(1);
    let mut ends: Vec<usize> = ends
        .filter(|(_, b)| **b == b'/')
        .map(|(at, _)| at)
        .collect();
    ends.push(path.len());
    for end in ends {
        // One that exists is as good; if it cannot be made, mount(2) says why.
        let _ = sys::make_directory(&c_string(path.get(..end).unwrap_or(path)), 0o755);
    }
}
