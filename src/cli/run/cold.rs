// SPDX-License-Identifier: Apache-2.0
//! A second start, where the first met a template that is whole and yet no good: a processor
//! that is another one now, a register this KVM does not know. The template is to blame only
//! if a boot does better: a host may fail either. Main thread.

use super::RunRequest;
use crate::cli::image::PullWhen;
use crate::cli::output::{Printer, visible};
use crate::instance::template::{self, Which};

/// A template whose machine never came to its command.
pub struct Suspect {
    pub template: Which,
    pub why: String,
}

impl Suspect {
    /// A boot came to the command: gives the template up, and says so.
    pub fn blame(self, request: &RunRequest, printer: &Printer) {
        // One that stays is met again, and costs another run the same.
        let _ = template::give_up(&self.template);
        if !request.quiet {
            // A terminal may be raw by now.
            printer.talk(&format!(
                "husk: the guest is booted, its template is discarded: {}\r\n",
                visible(&self.why)
            ));
        }
    }
}

/// The same run, to be booted.
pub fn instead(request: &RunRequest) -> RunRequest {
    RunRequest {
        cold: true,
        // It is here, by whatever order it came.
        pull: PullWhen::Missing,
        ..request.clone()
    }
}
