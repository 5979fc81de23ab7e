// SPDX-License-Identifier: Apache-2.0
//! What a limit of this process does beyond an error. Before other threads are started.
#![expect(unsafe_code, reason = "the disposition of a signal")]

use nix::sys::signal::{SigHandler, Signal, signal};

/// A file that may not grow any further is an error of the call that wanted it, and not the
/// end of the process (setrlimit(2), RLIMIT_FSIZE).
pub fn survive_file_size() {
    // SAFETY: no handler is installed, and no other part of husk knows this signal.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}
