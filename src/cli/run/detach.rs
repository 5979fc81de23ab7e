// SPDX-License-Identifier: Apache-2.0
//! `husk run --detach`: hands the machine to a process of its own, husk again as the hidden
//! verb `keep`, and waits for word that the command runs. Main thread of either.

use super::RunRequest;
use super::blueprint::Blueprint;
use super::cold::{self, Suspect};
use super::owner::{self, Operator, Whole};
use super::parts::{self, Parts};
use super::session::last_lines;
use crate::cli::host::runtime_dir;
use crate::cli::launch::Opened;
use crate::cli::output::{ExitStatus, Failure, Printer, Problem};
use crate::cli::progress::Waiting;
use crate::cli::signals::Signals;
use crate::cli::trace::Waterfall;
use crate::config::VmConfig;
use crate::instance;
use crate::instance::beside;
use crate::instance::record::Record;
use crate::instance::session::{Event, Opening, Streams};
use crate::sys::descriptors::Inherited;
use crate::sys::heap;
use crate::sys::seqpacket::SeqPacket;
use anyhow::Context as _;
use husk_protocol::{Decoder, Message};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

/// Longest report of how the start went: an error with the console's last lines.
const MAX_REPORT: usize = 64 * 1024;

/// Owns a machine; how husk starts itself, not for people.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct KeepArgs {
    /// The descriptor of what it is to do.
    #[arg(long)]
    parcel: RawFd,
}

/// What the owner is handed; descriptors by their numbers.
#[derive(Serialize, Deserialize)]
struct Parcel {
    place: PathBuf,
    record: Record,
    blueprint: Blueprint,
    config: VmConfig,
    beside: beside::Plan,
    agent: RawFd,
    /// The frame of what the agent is told first, too long for JSON's liking.
    opening: RawFd,
    report: RawFd,
    timeout: Duration,
}

#[derive(Serialize, Deserialize)]
enum Report {
    Runs {
        id: String,
    },
    Failed {
        /// The machine's fault: another may do better.
        machines: bool,
        code: u8,
        problems: Vec<Told>,
        console: String,
    },
}

/// A `Problem` between two processes.
#[derive(Serialize, Deserialize)]
struct Told {
    what: String,
    causes: Vec<String>,
    hint: Option<String>,
}

/// Hands the machine over, and prints its id once its command runs.
pub fn leave(request: &RunRequest, parts: Parts, printer: &Printer) -> Result<ExitStatus, Failure> {
    let waiting = Waiting::for_the("booting the guest", printer.talk, request.quiet);
    let id = start(request, parts, printer)?;
    drop(waiting);
    printer.data(format!("{id}\n").as_bytes())?;
    Ok(ExitStatus::Success)
}

/// Hands the machine over; its id, once its command runs. One whose template was no good is
/// booted in its place, once.
pub fn start(request: &RunRequest, parts: Parts, printer: &Printer) -> Result<String, Failure> {
    let template = parts.template.clone();
    let report = word(&hand_over(request, parts)?)?;
    let (
        Report::Failed {
            machines: true,
            problems,
            ..
        },
        Some(template),
    ) = (&report, &template)
    else {
        return understand(report, printer);
    };
    let suspect = Suspect {
        template: template.clone(),
        why: problems
            .first()
            .map_or_else(String::new, |told| told.what.clone()),
    };
    let cold = cold::instead(request);
    let parts = parts::gather(&cold, printer, &mut Waterfall::default())?;
    let id = hear(&hand_over(&cold, parts)?, printer)?;
    suspect.blame(request, printer);
    Ok(id)
}

/// Waits for the owner's word; the id of the machine, which runs.
pub fn hear(socket: &SeqPacket, printer: &Printer) -> Result<String, Failure> {
    understand(word(socket)?, printer)
}

fn word(socket: &SeqPacket) -> Result<Report, Failure> {
    let report = socket
        .recv(MAX_REPORT)
        .context("cannot hear from the machine's owner")?;
    let report = report.and_then(|text| serde_json::from_slice(&text).ok());
    report.ok_or_else(|| anyhow::anyhow!("the machine's owner is gone without a word").into())
}

fn understand(report: Report, printer: &Printer) -> Result<String, Failure> {
    match report {
        Report::Runs { id } => Ok(id),
        Report::Failed {
            code,
            problems,
            console,
            ..
        } => {
            last_lines(&console, printer);
            let problem = |told: Told| Problem {
                what: told.what,
                causes: told.causes,
                hint: told.hint,
            };
            Err(Failure {
                status: ExitStatus::Code(code),
                problems: problems.into_iter().map(problem).collect(),
            })
        }
    }
}

/// Starts the owner; returns where its word will come from.
pub fn hand_over(request: &RunRequest, parts: Parts) -> anyhow::Result<SeqPacket> {
    let (ours, theirs) = SeqPacket::pair().context("cannot make a socket pair")?;
    let mut frame = Vec::new();
    parts
        .opening
        .message()
        .encode(&mut frame)
        .map_err(|_| anyhow::anyhow!("the command and its environment are too long"))?;
    let opening = memory_file(&frame)?;
    let parcel = Parcel {
        place: runtime_dir(),
        record: parts.record,
        blueprint: parts.blueprint,
        agent: parts.agent.as_raw_fd(),
        opening: opening.as_raw_fd(),
        report: theirs.as_fd().as_raw_fd(),
        timeout: request.timeout,
        config: parts.config,
        beside: parts.beside,
    };
    let text = memory_file(&serde_json::to_vec(&parcel)?)?;
    let number = text.as_raw_fd();
    let arguments = ["husk", "keep", "--parcel", &number.to_string()]
        .into_iter()
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()?;
    let mut keep = vec![number, parcel.agent, parcel.opening, parcel.report];
    keep.extend(parcel.config.descriptors());
    keep.extend(parcel.beside.descriptors());
    instance::spawn_owner(&arguments, &keep).context("cannot start the machine's owner")?;
    // The owner gives it back.
    if let Some(seat) = parts.seat {
        seat.hand_over();
    }
    drop(parts.opened);
    Ok(ours)
}

pub fn memory_file(bytes: &[u8]) -> anyhow::Result<File> {
    let fd = memfd_create(c"husk-parcel", MFdFlags::MFD_CLOEXEC)
        .context("cannot make an anonymous file")?;
    let mut file = File::from(fd);
    file.write_all(bytes).context("cannot write a parcel")?;
    file.rewind()?;
    Ok(file)
}

/// The life of an owner.
pub fn keep(args: &KeepArgs) -> ExitStatus {
    heap::keep_little();
    match take_over(args.parcel) {
        Ok(code) => ExitStatus::Code(code),
        Err(error) => {
            // Where this comes from there is nobody left to tell: its streams are /dev/null,
            // unless a person typed the verb.
            eprintln!("husk: keep: it is started by husk run, not by hand: {error:#}");
            ExitStatus::Unexpected
        }
    }
}

fn take_over(parcel: RawFd) -> anyhow::Result<u8> {
    let mut inherited = Inherited::default();
    let mut text = Vec::new();
    File::from(inherited.take(parcel)?).read_to_end(&mut text)?;
    let parcel: Parcel = serde_json::from_slice(&text)?;
    let report = SeqPacket::from_fd(inherited.take(parcel.report)?);
    let agent: OwnedFd = inherited.take(parcel.agent)?;
    let opening = opening_of(inherited.take(parcel.opening)?)?;
    let mut opened = Opened::default();
    let machine = parcel.config.descriptors();
    for fd in machine.into_iter().chain(parcel.beside.descriptors()) {
        opened.keep(inherited.take(fd)?);
    }
    // The folder the operator typed in must not be held.
    std::env::set_current_dir("/")?;
    let signals = Signals::catch()?;
    let whole = Whole {
        record: parcel.record,
        config: parcel.config,
        beside: parcel.beside,
        opened,
        ahead: None,
        blueprint: parcel.blueprint,
    };
    let owned = owner::start(&parcel.place, whole);
    let mut owned = match owned {
        Ok(owned) => owned,
        Err(failure) => {
            let told = failed(&failure, String::new());
            tell(&report, &told);
            return Ok(code(&failure));
        }
    };
    let id = owned.desk.claim().record.id.clone();
    let mut report = Some(report);
    let operator = Operator {
        agent: agent.into(),
        opening,
        streams: Streams {
            stdin: None,
            stdout: None,
            stderr: None,
        },
        signals: &signals,
        timeout: parcel.timeout,
    };
    let result = owner::drive(&mut owned, operator, &mut |event| {
        if let Event::Started { .. } = event
            && let Some(report) = report.take()
        {
            tell(&report, &Report::Runs { id: id.clone() });
        }
    });
    if let (Some(report), Err(error)) = (&report, &result) {
        // First: who hears of it may start another in its place.
        owned.forget();
        let console = error.console().unwrap_or_default().to_owned();
        let failure = owner::failure(error);
        let mut told = failed(&failure, console);
        if let Report::Failed { machines, .. } = &mut told {
            *machines = owner::is_the_machines(error);
        }
        tell(report, &told);
        return Ok(code(&failure));
    }
    let ended = owner::ended(result.as_ref());
    owned.conclude(&ended);
    Ok(ended.code)
}

fn opening_of(fd: OwnedFd) -> anyhow::Result<Opening> {
    let mut decoder = Decoder::new();
    let mut file = File::from(fd);
    loop {
        match decoder.take()? {
            Some(Message::Start(start)) => return Ok(Opening::Start(start)),
            Some(Message::Reborn(rebirth)) => return Ok(Opening::Reborn(Box::new(rebirth))),
            _ => {}
        }
        let n = file.read(decoder.space())?;
        anyhow::ensure!(n > 0, "half a parcel");
        decoder.filled(n);
    }
}

fn code(failure: &Failure) -> u8 {
    match failure.status {
        ExitStatus::Code(code) => code,
        ExitStatus::Success | ExitStatus::UserError | ExitStatus::Unexpected => 125,
    }
}

fn failed(failure: &Failure, console: String) -> Report {
    let told = |problem: &Problem| Told {
        what: problem.what.clone(),
        causes: problem.causes.clone(),
        hint: problem.hint.clone(),
    };
    Report::Failed {
        machines: false,
        code: code(failure),
        problems: failure.problems.iter().map(told).collect(),
        console,
    }
}

/// An operator who left does not want to know.
fn tell(report: &SeqPacket, what: &Report) {
    if let Ok(text) = serde_json::to_vec(what) {
        let _ = report.send(&text);
    }
}
