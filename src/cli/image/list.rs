// SPDX-License-Identifier: Apache-2.0
//! `husk images`: what is in the store.

use super::{Format, bytes, json, problem};
use crate::cli::host::cache_dir;
use crate::cli::output::{ExitStatus, Failure, Printer};
use crate::image::{self, Digest, Name};
use serde::Serialize;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// List the images in husk's store
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ImagesArgs {
    /// A table for people, or one JSON document
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
    /// Print names only, one a line
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  husk images
  husk images --format json
  husk rmi $(husk images -q)

SIZE is that of the layers as they are stored; layers that images share are stored once.

Exit codes: 0, 2 for anything unexpected.";

#[derive(Serialize)]
struct Row {
    name: String,
    digest: Digest,
    /// Of the layers as they are stored; none for an image that is damaged.
    size: Option<u64>,
    /// Seconds since 1970.
    added: u64,
    created: Option<String>,
}

pub fn execute(args: &ImagesArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let images = image::list(&cache_dir()?).map_err(|error| problem(&error))?;
    let rows: Vec<Row> = images
        .into_iter()
        .map(|(kept, summary)| Row {
            name: kept.name,
            digest: kept.manifest.digest,
            size: summary.as_ref().map(|summary| summary.stored),
            added: kept.added,
            created: summary.and_then(|summary| summary.config.created),
        })
        .collect();
    let text = match (args.quiet, args.format) {
        (true, _) => rows
            .iter()
            .map(|row| format!("{}\n", familiar(&row.name)))
            .collect(),
        (_, Format::Json) => json(&rows)?,
        (_, Format::Table) => table(&rows, SystemTime::now()),
    };
    printer.data(text.as_bytes())?;
    Ok(ExitStatus::Success)
}

fn familiar(name: &str) -> String {
    Name::parse(name).map_or_else(|| name.to_owned(), |name| name.familiar())
}

fn table(rows: &[Row], now: SystemTime) -> String {
    let names: Vec<String> = rows.iter().map(|row| familiar(&row.name)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$}  {:<12}  {:<14}  SIZE\n",
        "NAME", "DIGEST", "ADDED"
    );
    for (row, name) in rows.iter().zip(&names) {
        let size = row.size.map_or_else(|| "damaged".to_owned(), bytes);
        let _ = writeln!(
            text,
            "{name:<width$}  {:<12}  {:<14}  {size}",
            row.digest.short(),
            ago(row.added, now)
        );
    }
    text
}

/// How long ago, in the largest unit that is not zero.
fn ago(added: u64, now: SystemTime) -> String {
    let now = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let seconds = now.saturating_sub(added);
    let (count, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_told_as_people_do() {
        let at = |seconds: u64| ago(1000, UNIX_EPOCH + Duration::from_secs(1000 + seconds));
        assert_eq!(at(5), "just now");
        assert_eq!(at(60), "1 minute ago");
        assert_eq!(at(7300), "2 hours ago");
        assert_eq!(at(86_400 * 400), "400 days ago");
        assert_eq!(ago(u64::MAX, UNIX_EPOCH), "just now");
    }
}
