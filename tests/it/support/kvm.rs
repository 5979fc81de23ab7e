// SPDX-License-Identifier: Apache-2.0
//! Whether this host runs guests, and how many tests may do so at once.

use super::skipped;
use std::fs::File;
use std::sync::{Condvar, Mutex, PoisonError};

/// Guests at a time: each keeps a CPU busy, and a deadline is a deadline.
const AT_ONCE: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Leave to run guests, until it is dropped.
pub struct Turn(());

/// Waits for leave to run guests; `None`, said aloud, where there is no usable KVM.
pub fn turn() -> Option<Turn> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        skipped(&format!(
            "it needs /dev/kvm, which cannot be opened: {error}"
        ));
        return None;
    }
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    while *running >= AT_ONCE {
        running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
    }
    *running += 1;
    Some(Turn(()))
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// Whether this processor runs a guest's kernel itself. Where it does not, KVM interprets
/// ring 0, and only a kernel that knows of it can run programs.
pub fn runs_any_kernel() -> bool {
    flag("vmx") || flag("svm")
}

/// Whether the host's processor has a feature, by its name in /proc/cpuinfo.
pub fn flag(name: &str) -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").expect("/proc is mounted");
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == name))
}
