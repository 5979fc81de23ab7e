// SPDX-License-Identifier: Apache-2.0
//! Writes guest memory as it is now while the guest goes on changing it: from a copy of this
//! process. While no vCPU runs; on the thread that holds them.
#![expect(unsafe_code, reason = "code in a copy of this process")]

use super::GuestRam;
use super::saved::{self, Run};
use crate::sys::twin::Twin;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

/// Begins to write the runs to the file; whole once the twin ended well.
pub fn write(ram: &GuestRam, file: &File, runs: &[Run]) -> io::Result<Twin> {
    let work = || match saved::write(ram, file, runs) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    };
    // SAFETY: `saved::write` reads what is mapped and calls the kernel, and says of itself that
    // it neither allocates nor locks; of an error only the number is looked at.
    unsafe { Twin::start(file.as_fd(), work) }
}
