// SPDX-License-Identifier: Apache-2.0
//! Starts the process that serves a directory to a machine: this program again, as
//! `husk share`, in namespaces of its own, with one descriptor. Main thread.

use super::spawn::program;
use crate::sys::namespaces::{self, Birth};
use std::ffi::CString;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the server may take to enter its jail; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest word of a server that cannot serve.
const MAX_WORD: u32 = 4096;

#[derive(Debug, thiserror::Error)]
#[error("the directory {} cannot be served", path.display())]
pub struct ShareError {
    path: PathBuf,
    source: io::Error,
}

/// Starts a server for `directory`, an absolute path without links, and waits until it
/// serves. It ends with the stream that is returned, wherever that is.
pub fn serve(directory: &Path, read_only: bool) -> Result<UnixStream, ShareError> {
    start(directory, read_only).map_err(|source| ShareError {
        path: directory.to_owned(),
        source,
    })
}

fn start(directory: &Path, read_only: bool) -> io::Result<UnixStream> {
    let program = program()?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut arguments = vec![
        b"husk".to_vec(),
        b"share".to_vec(),
        b"--stream".to_vec(),
        theirs.as_raw_fd().to_string().into_bytes(),
    ];
    if read_only {
        arguments.push(b"--read-only".to_vec());
    }
    let all_ids = nix::unistd::geteuid().is_root();
    if all_ids {
        arguments.push(b"--all-ids".to_vec());
    }
    arguments.push(directory.as_os_str().as_bytes().to_vec());
    let arguments = arguments.into_iter().map(CString::new);
    let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
    namespaces::spawn(&Birth {
        program: &program,
        arguments: &arguments,
        keep: &[theirs.as_raw_fd()],
        namespaces: true,
        all_ids,
        host_network: false,
    })?;
    drop(theirs);
    hear(&ours)?;
    Ok(ours)
}

fn hear(mut stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let length = u32::from_le_bytes(prefix);
    if length > 0 {
        let mut word = String::new();
        let length = u64::from(length.min(MAX_WORD));
        stream.take(length).read_to_string(&mut word)?;
        return Err(io::Error::other(word));
    }
    stream.set_read_timeout(None)
}
