// SPDX-License-Identifier: Apache-2.0
//! Opens everything of the host a machine will use: the process that runs the guest opens
//! nothing itself. Main thread, before the machine's process is started.

use super::output::Problem;
use crate::config::HostFile;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

/// Keeps what it opened until it is dropped, which must be after `instance::spawn`.
#[derive(Debug, Default)]
pub struct Opened(Vec<OwnedFd>);

impl Opened {
    /// Opens a file the operator named; `what` says what it is to be.
    pub fn file(&mut self, what: &str, path: &Path, write: bool) -> Result<HostFile, Problem> {
        let file = File::options()
            .read(true)
            .write(write)
            .open(path)
            .map_err(|error| {
                Problem::new(format!("cannot open the {what}, {}", path.display())).because(&error)
            })?;
        Ok(HostFile {
            path: path.to_owned(),
            fd: self.keep(file.into()),
        })
    }

    pub fn kvm(&mut self) -> Result<RawFd, Problem> {
        const PATH: &str = "/dev/kvm";
        let file = File::options().read(true).write(true).open(PATH);
        let file = file.map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "add yourself to the group that may use it; `husk doctor` says how"
                }
                _ => "`husk doctor` says what this host lacks",
            };
            Problem::new(format!("cannot open {PATH}"))
                .because(&error)
                .hint(hint)
        })?;
        Ok(self.keep(file.into()))
    }

    /// For who starts the machine elsewhere.
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        self.0
    }

    /// Another descriptor for the machine, by the number it has there and here.
    pub fn keep(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.0.push(fd);
        number
    }
}
