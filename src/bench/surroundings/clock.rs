// SPDX-License-Identifier: Apache-2.0
//! Three things of this host that can only be found by trying: what its clock costs, how long
//! a program that wants to run is kept from it, and what a new machine costs KVM. The calling
//! thread, some tens of milliseconds each.

use crate::sys::clock::monotonic_ns;
use kvm_ioctls::Kvm;
use std::time::{Duration, Instant};

/// How the clock looks from a program that reads it all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Of one reading, the median, in nanoseconds.
    pub reading: u64,
    /// The longest between two readings.
    pub longest: u64,
    /// The share of the time that went into gaps of more than `GAP`, in parts of a thousand.
    pub lost: u64,
}

/// A program that does nothing but read the clock is kept from it for so long only by somebody
/// else: an interrupt takes some microseconds.
const GAP: u64 = 50_000;
/// How many machines are made; the median of fewer is moved by one.
const MACHINES: usize = 7;

/// Reads the clock for so long.
pub fn clock(watched: Duration) -> Clock {
    let end = Instant::now() + watched;
    let start = monotonic_ns();
    let (mut last, mut longest, mut lost) = (start, 0, 0);
    let mut costs = Vec::new();
    while Instant::now() < end {
        // Of sixteen, so that the clock's own step does not show.
        let before = monotonic_ns();
        for _ in 0..16 {
            let now = monotonic_ns();
            let gap = now.saturating_sub(last);
            longest = longest.max(gap);
            if gap > GAP {
                lost += gap;
            }
            last = now;
        }
        costs.push((last - before) / 16);
    }
    costs.sort_unstable();
    Clock {
        reading: costs.get(costs.len() / 2).copied().unwrap_or(0),
        longest,
        lost: lost.saturating_mul(1000) / last.saturating_sub(start).max(1),
    }
}

/// How long `KVM_CREATE_VM` takes, the median of a few; `Err` tells why there is none.
pub fn creation() -> Result<Duration, String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {error}"))?;
    let mut times = Vec::with_capacity(MACHINES);
    for _ in 0..MACHINES {
        let start = Instant::now();
        let machine = kvm
            .create_vm()
            .map_err(|error| format!("KVM_CREATE_VM: {error}"))?;
        times.push(start.elapsed());
        drop(machine);
    }
    times.sort_unstable();
    Ok(times[MACHINES / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_read_in_less_than_it_tells() {
        let seen = clock(Duration::from_millis(5));
        assert!(seen.reading < 1_000_000, "{seen:?}");
        assert!(seen.longest >= seen.reading, "{seen:?}");
        assert!(seen.lost <= 1000, "{seen:?}");
    }
}
