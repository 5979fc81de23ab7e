// SPDX-License-Identifier: Apache-2.0
//! Devices nobody waits for: a machine that goes on from a template finds them when it has
//! run for a moment, as a command that ends before has no use for them.

use crate::sys;
use alloc::string::String;
use alloc::vec::Vec;
use libc::c_int;

/// Nanoseconds from the start to the search.
const MOMENT: u64 = 1_000_000_000;

/// What is still to be found.
pub struct Later {
    names: Vec<String>,
    due: u64,
}

impl Later {
    /// None: nothing is.
    pub fn of(names: &[String]) -> Option<Self> {
        (!names.is_empty()).then(|| Self {
            names: names.into(),
            due: sys::uptime().saturating_add(MOMENT),
        })
    }

    /// Milliseconds until then, rounded up.
    pub fn patience(&self) -> c_int {
        let left = self.due.saturating_sub(sys::uptime());
        c_int::try_from(left.div_ceil(1_000_000)).unwrap_or(c_int::MAX)
    }

    /// Looks for them if it is time. False: not yet.
    pub fn find(&self) -> bool {
        if sys::uptime() < self.due {
            return false;
        }
        for name in &self.names {
            if let Err(errno) = find(name) {
                sys::log(format_args!("no device {name} (errno {})", errno.0));
            }
        }
        true
    }
}

/// Written to this file, a name has the driver look at the device once more, and the write
/// ends when that is done (Documentation/driver-api/driver-model/binding.rst).
pub fn find(name: &str) -> sys::Result<()> {
    sys::write_file(
        c"/sys/bus/platform/drivers/virtio-mmio/bind",
        name.as_bytes(),
    )
}
