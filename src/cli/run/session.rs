// SPDX-License-Identifier: Apache-2.0
//! From a checked request to the command's exit code. Main thread. Reads as the order of a
//! start: image, kernel, machine, session.

use super::RunRequest;
use super::cold::{self, Suspect};
use super::owner::{self, Operator, Whole};
use super::parts::{self, Parts};
use crate::cli::guest;
use crate::cli::host::runtime_dir;
use crate::cli::output::{ExitStatus, Failure, Printer, Problem, visible};
use crate::cli::progress::Waiting;
use crate::cli::signals::Signals;
use crate::cli::terminal;
use crate::cli::trace::{Mark, Source, Waterfall};
use crate::control::{Report, Request};
use crate::instance::Control;
use crate::instance::session::{self, Event, Machine, Outcome, SessionError};
use crate::sys::clock;
use anyhow::Context as _;
use husk_protocol::Exit;
use std::io;
use std::os::fd::BorrowedFd;

impl Machine for Control {
    fn send(&self, request: &Request) -> io::Result<()> {
        Self::send(self, request)
    }

    fn save(&self, request: &Request, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(request, files)
    }

    fn recv(&self) -> io::Result<Option<Report>> {
        Self::recv(self)
    }
}

impl session::Signals for Signals {
    fn next(&self) -> Option<u8> {
        let signal = Self::next(self).ok().flatten()?;
        u8::try_from(signal as i32).ok()
    }
}

/// Stays with the machine until its end. One whose template was no good is booted in its place,
/// once.
pub fn attend(
    request: &RunRequest,
    parts: Parts,
    mut waterfall: Waterfall,
    printer: &Printer,
) -> Result<ExitStatus, Failure> {
    let template = parts.template.clone();
    let mut met = attempt(request, parts, None, (&mut waterfall, printer))?;
    if let (Met::Nothing(error), Some(template)) = (&met, template) {
        let why = error.to_string();
        waterfall.no_template(why.clone());
        let cold = cold::instead(request);
        let parts = parts::gather(&cold, printer, &mut waterfall)?;
        let suspect = Suspect { template, why };
        met = attempt(&cold, parts, Some(suspect), (&mut waterfall, printer))?;
    }
    waterfall.reached("session over");
    if let Some(format) = request.trace {
        printer.talk(&waterfall.render(format, printer.talk));
    }
    match met {
        Met::End(outcome) => {
            if let Some(error) = &outcome.unwritten {
                let problem = Problem::new("the command's output could not be written");
                return Err(problem.because(error).into());
            }
            Ok(ExitStatus::Code(outcome.code()))
        }
        Met::Fault(error) | Met::Nothing(error) => refuse(&error, printer),
    }
}

/// What a machine came to.
enum Met {
    End(Outcome),
    Fault(SessionError),
    /// Its end, before its command had begun, and by no fault of the command's.
    Nothing(SessionError),
}

/// Starts the machine and stays with it. `suspect`: what an earlier one began from.
fn attempt(
    request: &RunRequest,
    parts: Parts,
    mut suspect: Option<Suspect>,
    (waterfall, printer): (&mut Waterfall, &Printer),
) -> Result<Met, Failure> {
    let Parts {
        config,
        agent,
        opening,
        opened,
        record,
        beside,
        seat,
        ahead,
        blueprint,
        template,
    } = parts;
    let streams = guest::streams(request.interactive)?;
    let signals = Signals::catch().context("cannot catch signals")?;
    let whole = Whole {
        record,
        config,
        beside,
        opened,
        ahead,
        blueprint,
    };
    // From here on it goes with what is beside the machine.
    if let Some(seat) = seat {
        seat.hand_over();
    }
    let mut owned = owner::start(&runtime_dir(), whole)?;
    waterfall.reached("machine process started");
    let raw = match request.tty {
        true => terminal::raw_stdin().context("cannot use the terminal")?,
        false => None,
    };
    let mut waiting = Some(Waiting::for_the(
        "booting the guest",
        printer.talk,
        request.quiet,
    ));
    let operator = Operator {
        agent,
        opening,
        streams,
        signals: &signals,
        timeout: request.timeout,
    };
    let mut started = false;
    let result = owner::drive(&mut owned, operator, &mut |event| {
        if let Event::Started { .. } = event {
            started = true;
            if let Some(suspect) = suspect.take() {
                suspect.blame(request, printer);
            }
        }
        if !matches!(
            event,
            Event::Report(Report::Mark { .. } | Report::Kernel(_) | Report::Counted(_))
                | Event::AgentUp(_)
        ) {
            waiting = None;
        }
        note(&event, waterfall, printer, request.quiet);
    });
    let met = match result {
        Err(error) if !started && owner::is_the_machines(&error) => Met::Nothing(error),
        Err(error) => Met::Fault(error),
        Ok(outcome) => Met::End(outcome),
    };
    match &met {
        // Another is about to be where it was.
        Met::Nothing(_) if template.is_some() => owned.forget(),
        Met::Nothing(error) | Met::Fault(error) => owned.conclude(&owner::ended(Err(error))),
        Met::End(outcome) => owned.conclude(&owner::ended(Ok(outcome))),
    }
    drop(waiting);
    drop(raw);
    Ok(met)
}

fn note(event: &Event, waterfall: &mut Waterfall, printer: &Printer, quiet: bool) {
    match event {
        Event::AgentUp(hello) => {
            waterfall.tie_guest_clock(clock::monotonic_ns(), hello.ready);
            waterfall.reached("agent up");
        }
        Event::Started { .. } => waterfall.reached("command started"),
        Event::Exited(Exit::Code(_) | Exit::Signal(_)) => waterfall.reached("command exited"),
        Event::KernelLog(records) => {
            for record in records {
                waterfall.add_guest(parts::milestone(record), record.time.saturating_mul(1000));
            }
        }
        Event::Report(Report::Mark { name, at }) => waterfall.add(Mark {
            name: name.clone(),
            at: *at,
            source: Source::Vmm,
        }),
        Event::Report(Report::Kernel(variant)) => waterfall.kernel(*variant),
        Event::Report(Report::RoundTrips(trips)) => waterfall.round_trips(*trips),
        Event::Report(Report::Note { line }) if !quiet => {
            printer.talk(&format!("husk: {}\r\n", visible(line)));
        }
        Event::Report(_) | Event::Saved(_) => {}
    }
}

/// What went wrong, with the console's last lines where they tell more.
fn refuse(error: &SessionError, printer: &Printer) -> Result<ExitStatus, Failure> {
    last_lines(error.console().unwrap_or_default(), printer);
    Err(owner::failure(error))
}

/// Shows what the guest's console said last, if it said anything.
pub fn last_lines(console: &str, printer: &Printer) {
    if console.trim().is_empty() {
        return;
    }
    printer.talk("husk: the guest's last lines:\n");
    for line in console.lines() {
        printer.talk(&format!("  | {}\n", visible(line)));
    }
}
