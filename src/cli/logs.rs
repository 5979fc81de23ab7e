// SPDX-License-Identifier: Apache-2.0
//! `husk logs`: what a detached machine's command wrote.

use super::follow::{Watched, moment};
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::{find_one, place};
use crate::instance::logs::{Line, Reader};
use crate::instance::record::time_of;
use anyhow::Context as _;
use std::io::{self, Write};
use std::time::SystemTime;

/// Print what the command of a detached machine wrote
///
/// Its standard output comes on standard output, its standard error on standard error. The
/// last 4 to 8 MiB are kept, until the machine is removed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk logs web
  husk logs -f --tail 20 web
  husk logs --since 10m -t web")]
pub struct LogsArgs {
    /// Go on until the machine ends
    #[arg(short, long)]
    follow: bool,
    /// Only what was written since: 10m ago, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only the last lines of what is there
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<usize>,
    /// Say when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// A name, an id or the beginning of one
    #[arg(value_name = "MACHINE")]
    machine: String,
}

pub fn execute(args: &LogsArgs, _printer: &Printer) -> Result<ExitStatus, Failure> {
    let since = args.since.as_deref().map(moment).transpose();
    let since = since.map_err(|why| Problem::new(format!("--since {why}")))?;
    let found = find_one(&place()?, &args.machine)?;
    if !found.record.detached {
        let title = found.record.title();
        return Err(
            Problem::new(format!("machine '{title}' runs in the foreground"))
                .hint("its output goes where it was started; none is kept")
                .into(),
        );
    }
    let watched = Watched::new(&found.dir)?;
    let owner = found.owner().context("cannot watch the machine's owner")?;
    let mut owners: Vec<_> = owner.into_iter().collect();
    let mut reader = Reader::open(&found.dir);
    let mut writer = Writer {
        since: since.map(time_of),
        timestamps: args.timestamps,
        fresh: true,
    };
    let text = reader.read().context("cannot read the log")?;
    let text = match args.tail {
        Some(count) => last(&text, count),
        None => &text,
    };
    if writer.write(text).is_err() {
        return Ok(ExitStatus::Success);
    }
    while args.follow && !owners.is_empty() {
        if watched.wait(&owners)? {
            owners.clear();
        }
        let text = reader.read().context("cannot read the log")?;
        if writer.write(&text).is_err() {
            break;
        }
    }
    Ok(ExitStatus::Success)
}

/// The end of `text` that holds so many lines of the output.
fn last(text: &[u8], count: usize) -> &[u8] {
    let mut left = count;
    let mut start = text.len();
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    // What ends without a newline is a line of its own.
    let mut open = true;
    while let Some(line) = lines.pop() {
        let whole = Line::parse(line).is_some_and(|line| line.whole);
        if whole || open {
            if left == 0 {
                break;
            }
            left -= 1;
        }
        open = false;
        start -= line.len();
    }
    text.get(start..).unwrap_or_default()
}

struct Writer {
    since: Option<SystemTime>,
    timestamps: bool,
    /// At the beginning of a line of the output.
    fresh: bool,
}

impl Writer {
    /// A reader that went away (`husk logs … | head`) wants no more.
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
        for line in text.split(|byte| *byte == b'\n').filter_map(Line::parse) {
            if let Some(since) = self.since
                && line.at().is_none_or(|at| at < since)
            {
                continue;
            }
            let to: &mut dyn Write = match line.stderr {
                true => &mut err,
                false => &mut out,
            };
            if self.timestamps && self.fresh {
                write!(to, "{} ", line.time)?;
            }
            to.write_all(line.content)?;
            if line.whole {
                to.write_all(b"\n")?;
            }
            self.fresh = line.whole;
        }
        out.flush()?;
        err.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_as_the_command_wrote_them() {
        let text = b"t stdout F a\nt stdout P b\nt stdout F b\nt stdout P c\n";
        assert_eq!(last(text, 0), b"");
        assert_eq!(last(text, 1), b"t stdout P c\n");
        assert_eq!(last(text, 2), b"t stdout P b\nt stdout F b\nt stdout P c\n");
        assert_eq!(last(text, 9), text);
        assert_eq!(last(b"", 3), b"");
    }
}
