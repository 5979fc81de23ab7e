// SPDX-License-Identifier: Apache-2.0
//! `husk wait`: until machines are at their end.

use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{find, place, problem};
use crate::instance::call;
use crate::instance::desk::{Answer, Ask};
use crate::instance::journal;
use crate::instance::record::State;
use crate::instance::{Found, Place};
use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// Wait until machines end, and print their exit codes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  code=$(husk wait web)")]
pub struct WaitArgs {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "MACHINE", required = true)]
    machines: Vec<String>,
}

pub fn execute(args: &WaitArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let place = place()?;
    for found in find(&place, &args.machines)? {
        let code = code_of(&place, &found)?;
        printer.data(format!("{code}\n").as_bytes())?;
    }
    Ok(ExitStatus::Success)
}

fn code_of(place: &Place, found: &Found) -> Result<u8, Failure> {
    if let State::Exited(ended) = &found.state {
        return Ok(ended.code);
    }
    if let Ok(Answer::Ended(ended)) = call::ask(found, &Ask::Wait) {
        return Ok(ended.code);
    }
    // No word of the owner: the kernel tells when it ends, and its folder what it came to.
    gone(found, None)?;
    match found.look_again(place).map_err(|error| problem(&error))? {
        Some(Found {
            state: State::Exited(ended),
            ..
        }) => Ok(ended.code),
        // Between our look and our question it ended, and went as it was to.
        _ => journal::end_of(place.path(), &found.record.id).ok_or_else(|| {
            let title = found.record.title();
            let what = format!("machine '{title}' is gone, and nothing says how it ended");
            Problem::new(what).into()
        }),
    }
}

/// Waits for the owner to be gone, at most so long. False: it still is there.
pub fn gone(found: &Found, limit: Option<Duration>) -> Result<bool, Failure> {
    let Some(owner) = found.owner().context("cannot watch the machine's owner")? else {
        return Ok(true);
    };
    let timeout = match limit {
        None => PollTimeout::NONE,
        Some(limit) => PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX),
    };
    let mut list = [PollFd::new(owner.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut list, timeout) {
            Ok(n) => return Ok(n > 0),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(anyhow::Error::new(errno).into()),
        }
    }
}
