// SPDX-License-Identifier: Apache-2.0
//! The guest's file systems: what the kernel offers is mounted while the machine boots,
//! the image's root when it is known. Runs in PID 1 only.

use crate::command::failure;
use crate::mounts;
use crate::network;
use crate::sys::{self, Errno, c_string};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use husk_protocol::{Failure, Network, Root, Stage};
use libc::{MS_BIND, MS_MOVE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT};

struct Mount {
    kind: &'static CStr,
    target: &'static CStr,
    flags: u64,
    data: &'static CStr,
    /// A kernel without it still runs most programs.
    optional: bool,
}

const fn mount(
    kind: &'static CStr,
    target: &'static CStr,
    flags: u64,
    data: &'static CStr,
) -> Mount {
    Mount {
        kind,
        target,
        flags,
        data,
        optional: false,
    }
}

const fn optional(mut mount: Mount) -> Mount {
    mount.optional = true;
    mount
}

const DENY: u64 = MS_NOSUID | MS_NODEV | MS_NOEXEC;
/// Where writes to the root go.
const SCRATCH: &CStr = c"/scratch";
const IMAGE: &CStr = c"/image";
const ROOT: &CStr = c"/root";

/// What containers expect, with the options they expect. In order: a mount point may lie
/// in a file system mounted before it.
const MOUNTS: &[Mount] = &[
    mount(c"devtmpfs", c"/dev", MS_NOSUID | MS_NOEXEC, c"mode=0755"),
    mount(c"proc", c"/proc", DENY, c""),
    mount(c"sysfs", c"/sys", DENY, c""),
    optional(mount(
        c"devpts",
        c"/dev/pts",
        MS_NOSUID | MS_NOEXEC,
        c"gid=5,mode=0620,ptmxmode=0666",
    )),
    optional(mount(c"tmpfs", c"/dev/shm", DENY, c"mode=1777")),
    optional(mount(c"mqueue", c"/dev/mqueue", DENY, c"")),
    optional(mount(c"cgroup2", c"/sys/fs/cgroup", DENY, c"")),
    mount(c"tmpfs", SCRATCH, 0, c"mode=0755"),
];

const LINKS: &[(&CStr, &CStr)] = &[
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

fn failed(what: &str) -> impl FnOnce(Errno) -> Failure {
    move |errno| failure(Stage::Root, errno, String::from(what))
}

/// Mounts everything that does not depend on the image, so that little is left to do when
/// a start comes.
pub fn prepare() -> Result<(), Failure> {
    for m in MOUNTS {
        // The kernel makes no directories in devtmpfs; those of the initramfs exist.
        let _ = sys::make_directory(m.target, 0o755);
        match sys::mount(m.kind, m.target, m.kind, m.flags, m.data) {
            Err(errno) if !m.optional => {
                let what = format!("mounting {}", m.target.to_string_lossy());
                return Err(failure(Stage::Root, errno, what));
            }
            _ => {}
        }
    }
    for (target, path) in LINKS {
        let _ = sys::link_symbolic(target, path);
    }
    Ok(())
}

/// Makes the image the root of everything: its file system below, memory above.
///
/// Also with a root that is not to be written: mount points that the image lacks are made
/// in memory, then the whole is made read-only.
pub fn enter(
    root: &Root,
    hostname: &str,
    mounts: &[husk_protocol::Mount],
    network: Option<&Network>,
) -> Result<(), Failure> {
    let device = c_string(root.device.as_bytes());
    let kind = c_string(root.filesystem.name().as_bytes());
    sys::mount(&device, IMAGE, &kind, MS_RDONLY, c"").map_err(|errno| {
        let what = format!("mounting {} as {}", root.device, root.filesystem.name());
        failure(Stage::Root, errno, what)
    })?;
    if !root.upper.is_empty() {
        // Over the one in memory; it ends with the machine, so nothing need be durable.
        let disk = c_string(root.upper.as_bytes());
        sys::mount(&disk, SCRATCH, c"ext4", 0, c"discard").map_err(|errno| {
            let what = format!("mounting {} for what is written", root.upper);
            failure(Stage::Root, errno, what)
        })?;
    }
    overlay().map_err(failed("laying the overlay over the image"))?;
    for (from, to) in [
        (c"/dev", c"/root/dev"),
        (c"/proc", c"/root/proc"),
        (c"/sys", c"/root/sys"),
    ] {
        let _ = sys::make_directory(to, 0o755);
        sys::mount(from, to, c"", MS_MOVE, c"").map_err(|errno| {
            let what = format!("mounting {} in the image", from.to_string_lossy());
            failure(Stage::Root, errno, what)
        })?;
    }
    switch().map_err(failed("switching to the image's root"))?;
    if !hostname.is_empty() {
        name_host(hostname, network);
    }
    if let Some(network) = network {
        network::name_servers(network);
    }
    mounts.iter().try_for_each(mounts::attach)?;
    if !root.writable {
        let flags = MS_REMOUNT | MS_BIND | MS_RDONLY;
        sys::mount(c"", c"/", c"", flags, c"").map_err(failed("making the root read-only"))?;
    }
    Ok(())
}

fn overlay() -> sys::Result<()> {
    let (upper, work) = (c"/scratch/upper", c"/scratch/work");
    sys::make_directory(upper, 0o755)?;
    sys::make_directory(work, 0o755)?;
    // The merged root takes its owner and mode from the upper directory.
    let image = sys::stat(IMAGE)?;
    if image.mode & 0o7777 != 0o755 {
        sys::change_mode(upper, image.mode & 0o7777)?;
    }
    if (image.uid, image.gid) != (0, 0) {
        sys::change_owner(upper, image.uid, image.gid)?;
    }
    let data = c"lowerdir=/image,upperdir=/scratch/upper,workdir=/scratch/work";
    sys::mount(c"overlay", ROOT, c"overlay", 0, data)
}

fn switch() -> sys::Result<()> {
    sys::change_directory(ROOT)?;
    sys::mount(c".", c"/", c"", MS_MOVE, c"")?;
    sys::change_root(c".")?;
    sys::change_directory(c"/")
}

/// So that the machine's own name resolves. An image without /etc looks nothing up.
fn name_host(hostname: &str, network: Option<&Network>) {
    let _ = sys::write_file(c"/etc/hostname", format!("{hostname}\n").as_bytes());
    let _ = sys::write_file(c"/etc/hosts", &hosts(hostname, network));
}

/// Our lines of /etc/hosts.
pub fn hosts(hostname: &str, network: Option<&Network>) -> Vec<u8> {
    let mut hosts = format!(
        "127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost {hostname} ip6-localhost ip6-loopback\n"
    )
    .into_bytes();
    if let Some(network) = network {
        hosts.extend_from_slice(&network.hosts);
    }
    hosts
}

/// Brings what was written to its disks, and unmounts them.
pub fn put_away() {
    /// A guest with more mounts than this text lists is written back without looking.
    const MAX_MOUNTS: usize = 64 * 1024;
    match sys::read_file(c"/proc/self/mounts", MAX_MOUNTS) {
        Ok(mounts) if mounts.len() < MAX_MOUNTS => {
            if writable_disk(&mounts) {
                sys::sync();
                mounts::detach(&mounts);
            }
        }
        _ => sys::sync(),
    }
}

/// Whether a file system on a disk may hold writes that are not on the disk yet.
fn writable_disk(mounts: &[u8]) -> bool {
    mounts.split(|&b| b == b'\n').any(|line| {
        let mut fields = line.split(|&b| b == b' ');
        let on_disk = fields
            .next()
            .is_some_and(|source| source.starts_with(b"/dev/"));
        let options = fields.nth(2).unwrap_or_default();
        on_disk && options.split(|&b| b == b',').any(|option| option == b"rw")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_that_are_written_need_writing_back() {
        let quiet = b"overlay / overlay rw,lowerdir=/image 0 0\n\
            none /dev devtmpfs rw,nosuid 0 0\n/dev/vda /image erofs ro,relatime 0 0\n";
        assert!(!writable_disk(quiet));
        assert!(writable_disk(b"/dev/vdb /data ext4 rw,relatime 0 0\n"));
        assert!(!writable_disk(b"/dev/vdb /rw ext4 ro,relatime,x=rw 0 0\n"));
        assert!(!writable_disk(b"\n /dev/x rw\n/dev/x\n"));
    }
}
