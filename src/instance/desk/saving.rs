// SPDX-License-Identifier: Apache-2.0
//! The files a machine is saved into, in a folder that whoever asked has made. On the
//! session's thread, for as long as it takes to make some empty files.

use crate::instance::session::SaveOrder;
use crate::snapshot::{MEMORY, PAGES, STATE, disk};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// What the machine can be put together from again; whoever asked takes it away.
pub const BLUEPRINT: &str = "blueprint.json";

/// What every snapshot of the machine has, beside what the machine itself writes.
#[derive(Debug, Default)]
pub struct Described {
    pub blueprint: Vec<u8>,
    /// How many of its disks can be written.
    pub disks: usize,
    /// It was restored itself: a snapshot may hold only what changed since.
    pub restored: bool,
}

impl Described {
    /// Makes the files.
    pub fn order(&self, folder: &Path, hold: bool, changes: bool) -> io::Result<SaveOrder> {
        let create = |name: &str| {
            let mut options = File::options();
            options.read(true).write(true).create_new(true).mode(0o600);
            options.open(folder.join(name))
        };
        create(BLUEPRINT)?.write_all(&self.blueprint)?;
        let names = [STATE, MEMORY].map(str::to_owned).into_iter();
        let names = names.chain(changes.then(|| PAGES.to_owned()));
        let names = names.chain((0..self.disks).map(disk));
        let files: io::Result<Vec<OwnedFd>> =
            names.map(|name| create(&name).map(Into::into)).collect();
        Ok(SaveOrder {
            files: files?,
            hold,
            changes,
        })
    }
}
