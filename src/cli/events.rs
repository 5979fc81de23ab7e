// SPDX-License-Identifier: Apache-2.0
//! `husk events`: what happened to machines, and what happens.

use super::follow::{Watched, moment};
use super::output::{ExitStatus, Failure, Printer, Problem, visible};
use super::run::{place, problem};
use super::table::Format;
use crate::instance::journal::{self, Entry};
use crate::instance::record::stamp;
use anyhow::Context as _;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;

/// Tell what happened to machines, and what happens
///
/// The words are create, start, attach, exec, kill, stop, die and remove. A machine whose
/// owner was killed dies when a husk notices; one that follows does at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk events --since 1h
  husk events -f --format json | jq 'select(.what == \"die\")'")]
pub struct EventsArgs {
    /// Go on with what happens, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only what happened since: 10m ago, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// json is one document a line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

pub fn execute(args: &EventsArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let since = args.since.as_deref().map(moment).transpose();
    let since = since.map_err(|why| Problem::new(format!("--since {why}")))?;
    let place = place()?;
    let watched = Watched::new(place.path())?;
    let mut reader = journal::reader(place.path());
    loop {
        // Looking is what notices machines whose owners were killed.
        let list = place.list().map_err(|error| problem(&error))?;
        let text = reader.read().context("cannot read the journal")?;
        let entries = journal::entries(&text).filter(|e| since.is_none_or(|since| e.at >= since));
        let lines: String = entries.map(|entry| line(&entry, args.format)).collect();
        printer.data(lines.as_bytes())?;
        if !args.follow {
            return Ok(ExitStatus::Success);
        }
        let owners = list.iter().filter_map(|found| found.owner().ok().flatten());
        let owners: Vec<OwnedFd> = owners.collect();
        watched.wait(&owners)?;
    }
}

fn line(entry: &Entry, format: Format) -> String {
    if format == Format::Json {
        let text = serde_json::to_string(entry).unwrap_or_default();
        return format!("{text}\n");
    }
    let mut line = format!("{} {:<7} {}", stamp(entry.at), entry.what, entry.id);
    if let Some(name) = &entry.name {
        let _ = write!(line, " {name}");
    }
    let _ = write!(line, " ({}", entry.image);
    if let Some(code) = entry.code {
        let what = if entry.what == "die" {
            "exit code"
        } else {
            "signal"
        };
        let _ = write!(line, ", {what} {code}");
    }
    format!("{})\n", visible(&line))
}
