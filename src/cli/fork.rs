// SPDX-License-Identifier: Apache-2.0
//! `husk fork`: running copies of a running machine. Main thread.

use super::host::cache_dir;
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::progress::Waiting;
use super::run::{How, Saved, detached, elsewhere, find_one, place, restored, save};
use super::snapshot::problem;
use super::table;
use super::trace::{Mark, Waterfall};
use crate::instance::record::is_name;
use crate::snapshot::{Draft, Layer, MEMORY, STATE, Store, disk};
use crate::sys::seqpacket::SeqPacket;
use anyhow::Context as _;
use serde::Serialize;
use std::fs::File;
use std::io;

/// Copies at once: each is a machine of its own, with processes and memory of its own.
const MOST: u32 = 1000;

/// Make running copies of a running machine
///
/// The machine stands still for some milliseconds and goes on. Each copy goes on from the same
/// instant, in the background, as a machine of its own: with its own name, address, random
/// numbers and machine-id, with copies of its disks, and with ports of the host of its own for
/// those that are published. Memory is shared until it is written to. Their ids are printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk fork web
  husk fork -n 10 --name copy web     # copy-1 to copy-10
  husk fork --format json web

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.")]
pub struct ForkArgs {
    /// How many copies, at most 1000
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "1")]
    #[arg(allow_negative_numbers = true)]
    count: String,
    /// Call the copy so; several get a number behind it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Keep nothing of a copy once it ended
    #[arg(long)]
    rm: bool,
    /// One id a line, or one JSON document that also says for how long the machine stood still
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: table::Format,
    /// Say nothing but errors
    #[arg(long)]
    quiet: bool,
    /// A name, an id or the beginning of one
    #[arg(value_name = "MACHINE")]
    machine: String,
}

#[derive(Serialize)]
struct Told {
    /// For how many nanoseconds the machine stood still.
    paused: u64,
    copies: Vec<String>,
}

pub fn execute(args: &ForkArgs, exec: Mark, printer: &Printer) -> Result<ExitStatus, Failure> {
    let count = count(&args.count)?;
    let names = names(args.name.as_deref(), count)?;
    let found = find_one(&place()?, &args.machine)?;
    // What is there for the copies to begin with goes when they have begun.
    let store = Store::open(&cache_dir()?.join("forks"));
    let draft = store.draft("fork").map_err(|error| problem(&error))?;
    let waiting = Waiting::for_the("copying the machine", printer.talk, args.quiet);
    let kept = save(&found, draft.path(), How::default())?;
    let paused = kept.paused;
    let saved = open(&draft, kept.blueprint).context("cannot read what was saved")?;
    let mut waterfall = Waterfall::starting(exec);
    let (mut sockets, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        match start(&saved, name, args.rm, &mut waterfall) {
            Ok(socket) => sockets.push(socket),
            // Those that were started before are there, and are told.
            Err(failure) => {
                failures.push(failure);
                break;
            }
        }
    }
    let mut copies = Vec::new();
    for socket in &sockets {
        match detached::hear(socket, printer) {
            Ok(id) => copies.push(id),
            Err(failure) => failures.push(failure),
        }
    }
    drop((waiting, draft));
    match args.format {
        table::Format::Table => {
            let lines: String = copies.iter().map(|id| format!("{id}\n")).collect();
            printer.data(lines.as_bytes())?;
        }
        table::Format::Json => {
            let paused = u64::try_from(paused.as_nanos()).unwrap_or(u64::MAX);
            table::json(&Told { paused, copies }, printer)?;
        }
    }
    match failures.into_iter().next() {
        Some(failure) => Err(failure),
        None => Ok(ExitStatus::Success),
    }
}

/// Begins one copy; where its word will come from.
fn start(
    saved: &Saved,
    name: Option<String>,
    remove: bool,
    waterfall: &mut Waterfall,
) -> Result<SeqPacket, Failure> {
    let saved = saved.again().context("cannot open what was saved")?;
    let mut request = saved.blueprint.request.clone();
    request.hostname = name.clone().or(Some(hostname(&request)?));
    request.name = name;
    request.detach = true;
    request.remove = remove;
    request.trace = None;
    request.vsock = None;
    elsewhere(&mut request)?;
    let parts = restored(saved, &request, waterfall)?;
    Ok(detached::hand_over(&request, parts)?)
}

fn count(text: &str) -> Result<u32, Problem> {
    let wrong = || {
        Problem::new(format!("--count {text}: not a number of copies"))
            .hint(format!("it is a number from 1 to {MOST}"))
    };
    let count = text.parse().map_err(|_| wrong())?;
    match (1..=MOST).contains(&count) {
        true => Ok(count),
        false => Err(wrong()),
    }
}

fn names(name: Option<&str>, count: u32) -> Result<Vec<Option<String>>, Problem> {
    let Some(name) = name else {
        return Ok(vec![None; count as usize]);
    };
    let names: Vec<String> = match count {
        1 => vec![name.to_owned()],
        _ => (1..=count)
            .map(|number| format!("{name}-{number}"))
            .collect(),
    };
    match names.iter().find(|name| !is_name(name)) {
        Some(name) => Err(
            Problem::new(format!("--name {name}: not a name of a machine")).hint(
                "a name has letters, digits, '_', '.' and '-', begins with one of the first two, \
                 and is at most 63 characters long",
            ),
        ),
        None => Ok(names.into_iter().map(Some).collect()),
    }
}

/// One of the copy's own, by which it is told apart from the others.
fn hostname(request: &super::run::RunRequest) -> anyhow::Result<String> {
    const MOST: usize = 58;
    let mut bytes = [0; 2];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)
        .context("cannot read random numbers")?;
    let old = request.hostname.as_ref().or(request.name.as_ref());
    let old = old.map_or("husk", String::as_str);
    let old = old.get(..old.len().min(MOST)).unwrap_or("husk");
    Ok(format!("{old}-{:04x}", u16::from_ne_bytes(bytes)))
}

fn open(draft: &Draft, blueprint: super::run::Blueprint) -> io::Result<Saved> {
    let open = |name: &str| File::open(draft.path().join(name));
    let mut disks = Vec::new();
    loop {
        match open(&disk(disks.len())) {
            Ok(file) => disks.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Saved {
        path: draft.path().to_owned(),
        state: open(STATE)?,
        memory: vec![Layer {
            file: open(MEMORY)?,
            runs: None,
        }],
        disks,
        blueprint,
        parent: None,
        hot: None,
        learns: false,
    })
}
