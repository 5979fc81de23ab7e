// SPDX-License-Identifier: Apache-2.0
//! A second start, where the first met a template that is whole and yet no good: a processor
//! that is another one now, a register this KVM does not know. Main thread.

use super::RunRequest;
use crate::cli::image::PullWhen;
use crate::cli::output::{Printer, visible};
use crate::instance::template::{self, Which};

/// Gives the template up, and says so; the same run, to be booted.
pub fn instead(request: &RunRequest, template: &Which, why: &str, printer: &Printer) -> RunRequest {
    // One that stays is met again, and costs another run the same.
    let _ = template::give_up(template);
    if !request.quiet {
        let why = visible(why);
        printer.talk(&format!(
            "husk: the guest is booted, its template is discarded: {why}\n"
        ));
    }
    RunRequest {
        cold: true,
        // It is here, by whatever order it came.
        pull: PullWhen::Missing,
        ..request.clone()
    }
}
