// SPDX-License-Identifier: Apache-2.0
//! What a child process must be told between fork and exec.
#![expect(unsafe_code, reason = "code between fork and exec is unsafe by nature")]

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use std::process::Command;

/// Starts `command` with this signal mask; without it a child inherits its parent's.
pub fn with_signal_mask(command: &mut Command, mask: SigSet) -> &mut Command {
    use std::os::unix::process::CommandExt as _;
    let set = move || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?);
    // SAFETY: between fork and exec the closure makes one async-signal-safe call on a
    // value it owns; the error it may return is an errno, which allocates nothing.
    unsafe { command.pre_exec(set) }
}
