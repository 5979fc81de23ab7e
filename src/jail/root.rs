// SPDX-License-Identifier: Apache-2.0
//! An empty root: the mount namespace's only file system has no files.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Directories every Linux has; the empty file system is mounted over the first one there.
const PLACES: [&str; 4] = ["/proc", "/dev", "/tmp", "/usr"];

/// Afterwards no path leads anywhere; descriptors opened before still work.
pub fn make_empty() -> Result<(), Errno> {
    const NONE: Option<&str> = None;
    // Nothing that happens here is to be seen outside (mount_namespaces(7)).
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let place = PLACES
        .iter()
        .find(|place| std::path::Path::new(place).is_dir())
        .ok_or(Errno::ENOENT)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("husk"),
        *place,
        Some("tmpfs"),
        flags,
        Some("size=4k,nr_inodes=1,mode=0"),
    )?;
    enter(std::path::Path::new(place))
}

/// Makes a folder the root: of all paths, those below it lead somewhere.
pub fn make(folder: &std::path::Path) -> Result<(), Errno> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(Some(folder), folder, NONE, MsFlags::MS_BIND, NONE)?;
    enter(folder)
}

fn enter(place: &std::path::Path) -> Result<(), Errno> {
    nix::unistd::chdir(place)?;
    // pivot_root(2), NOTES: with both arguments "." the old root ends up on top of the new
    // one, where it is unmounted.
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}
