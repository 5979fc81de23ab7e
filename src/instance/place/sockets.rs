// SPDX-License-Identifier: Apache-2.0
//! The sockets in a machine's folder, and the operator's own way to one of them. Any thread.

use super::VSOCK;
use crate::instance::record::Record;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A path to a socket may be no longer than 107 bytes (unix(7)), which a folder's may be:
/// through its descriptor it is always short.
fn short(dir: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    let folder = File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    Ok((folder, path.into()))
}

/// A second name of a socket, as a link: what a machine left that is gone is replaced.
pub fn link(socket: &Path, path: &Path) -> io::Result<()> {
    let linked = std::os::unix::fs::symlink(socket, path);
    if linked.as_ref().err().map(io::Error::kind) != Some(io::ErrorKind::AlreadyExists) {
        return linked;
    }
    let dead = UnixStream::connect(path).err().map(|error| error.kind());
    let dead = matches!(
        dead,
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    );
    let kind = fs::symlink_metadata(path)?.file_type();
    if !dead || !(kind.is_symlink() || kind.is_socket()) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    fs::remove_file(path)?;
    std::os::unix::fs::symlink(socket, path)
}

/// The operator's own way to a machine goes when that goes.
pub fn unlink_vsock(record: &Record, dir: &Path) {
    let Some(path) = &record.vsock else {
        return;
    };
    if fs::read_link(path).is_ok_and(|target| target == dir.join(VSOCK)) {
        let _ = fs::remove_file(path);
    }
}

pub fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let (_folder, path) = short(dir, name)?;
    UnixListener::bind(path)
}

pub fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let (_folder, path) = short(dir, name)?;
    UnixStream::connect(path)
}
