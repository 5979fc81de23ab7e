// SPDX-License-Identifier: Apache-2.0
//! Devices nobody waits for: a machine that goes on from a template finds them when it has
//! run for a moment, as a command that ends before has no use for them.

use crate::sys;
use alloc::string::String;
use alloc::vec::Vec;
use libc::c_int;

/// Nanoseconds from the start to the search, at least.
const MOMENT: u64 = 1_000_000_000;
/// A machine that took long for its start takes long for its command: so many times as long is
/// a moment for it. Where a kernel is interpreted, a search takes most of a second.
const TIMES: u64 = 4;

/// What is still to be found.
pub struct Later {
    names: Vec<String>,
    due: u64,
}

impl Later {
    /// None: nothing is. The start began when `sys::uptime` was `began`, and is over now.
    pub fn of(names: &[String], began: u64) -> Option<Self> {
        (!names.is_empty()).then(|| {
            let now = sys::uptime();
            Self {
                names: names.into(),
                due: now.saturating_add(moment(now.saturating_sub(began))),
            }
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

/// How long to wait after a start that took `took` nanoseconds.
fn moment(took: u64) -> u64 {
    took.saturating_mul(TIMES).max(MOMENT)
}

/// Written to this file, a name has the driver look at the device once more, and the write
/// ends when that is done (Documentation/driver-api/driver-model/binding.rst).
pub fn find(name: &str) -> sys::Result<()> {
    sys::write_file(
        c"/sys/bus/platform/drivers/virtio-mmio/bind",
        name.as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_is_a_longer_moment() {
        assert_eq!(moment(0), MOMENT);
        assert_eq!(moment(20_000_000), MOMENT);
        assert_eq!(moment(800_000_000), 3_200_000_000);
        assert_eq!(moment(u64::MAX), u64::MAX);
    }
}
