// SPDX-License-Identifier: Apache-2.0
//! `husk bench compare`: what became worse or better between two runs. Main thread.

use crate::bench::compare::{Change, Comparison, Verdict};
use crate::bench::figure::line;
use crate::bench::file::{FileError, load};
use crate::bench::model::Results;
use crate::cli::output::{ExitStatus, Failure, Printer, Problem};
use crate::cli::table;
use std::path::{Path, PathBuf};

const HEADS: [&str; 7] = [
    "VERDICT",
    "CONTESTANT",
    "WHAT",
    "BEFORE",
    "AFTER",
    "CHANGE (99 % INTERVAL)",
    "",
];

/// Compare two runs, and find what became worse
///
/// A series is a regression where the whole 99 % interval of the ratio of its medians is beyond
/// the threshold, or where what worked fails. One whose interval reaches over the threshold is
/// unsure: more rounds will tell.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk bench start --out before.json
  husk bench start --out after.json
  husk bench compare before.json after.json
  husk bench compare before.json after.json --threshold 2% --all

An interval knows how well one run knows its median. It knows nothing of another boot, another
layout of memory or another day: that is what the threshold is for. Take both runs on the same
machine, and lower it only if two runs of the same husk agree more closely.

Exit codes: 0 no regression, 1 a regression, or something you can mend; 2 anything unexpected.")]
pub struct CompareArgs {
    /// What `husk bench … --out FILE` wrote
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// Another of it
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    /// How much worse is no regression: a percentage
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = threshold)]
    threshold: f64,
    /// What did not change, as well, and what is unsure
    #[arg(long)]
    all: bool,
    /// A table for people, one JSON document, or Markdown
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One document for programs
    Json,
    /// To be pasted into a page
    Markdown,
}

/// `5%` and `5` are a twentieth.
fn threshold(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("a percentage from 0 to 1000 was expected, such as 5%".into()),
    }
}

pub fn execute(args: &CompareArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let (before, after) = both(&args.before, &args.after)?;
    let comparison = Comparison::of(&before, &after, args.threshold);
    match args.format {
        Format::Json => table::json(&comparison, printer)?,
        Format::Markdown => printer.data(comparison.markdown(args.all).as_bytes())?,
        Format::Table => tell(&comparison, args.all, printer)?,
    }
    // Nothing became worse only where something was compared.
    if comparison.count(Verdict::Alone) == comparison.changes.len() {
        let problem = Problem::new("there is no figure that both runs have");
        return Err(Failure::from(problem.hint(
            "compare runs of the same study, with the same contestants: --against names them",
        )));
    }
    Ok(match comparison.count(Verdict::Regression) {
        0 => ExitStatus::Success,
        _ => ExitStatus::UserError,
    })
}

/// What is wrong with either is told at once.
fn both(before: &Path, after: &Path) -> Result<(Results, Results), Failure> {
    match (load(before), load(after)) {
        (Ok(before), Ok(after)) => Ok((before, after)),
        (before, after) => {
            let errors = [before.err(), after.err()];
            Err(Failure::operator(errors.iter().flatten().map(problem)))
        }
    }
}

/// With what to do about it.
pub fn problem(error: &FileError) -> Problem {
    let problem = Problem::of(error);
    match error {
        FileError::Format { .. } => {
            problem.hint("repeat that run with this husk, or compare with the husk that made it")
        }
        FileError::Other { .. } | FileError::TooMuch { .. } => {
            problem.hint("husk bench … --out FILE, or the button of a report, makes such a file")
        }
        FileError::Read { .. } | FileError::Write { .. } | FileError::Sample { .. } => problem,
    }
}

fn tell(comparison: &Comparison, all: bool, printer: &Printer) -> Result<(), Failure> {
    for warning in &comparison.warnings {
        let style = printer.talk;
        printer.talk(&format!("{}caution:{} {warning}\n", style.warn, style.off));
    }
    let shown = comparison
        .changes
        .iter()
        .filter(|change| all || change.is_news());
    let rows: Vec<Vec<String>> = shown.map(cells).collect();
    let mut text = match rows.is_empty() {
        true => String::new(),
        false => table::render(&HEADS, &rows, printer) + "\n",
    };
    let hint = match all || comparison.count(Verdict::Unsure) == 0 {
        true => "",
        false => " (--all shows what is unsure)",
    };
    text.push_str(&format!("{}{hint}\n", comparison.summary()));
    printer.data(text.as_bytes())
}

fn cells(change: &Change) -> Vec<String> {
    let (before, after) = change.figures();
    vec![
        change.verdict.name().to_owned(),
        line(&change.contestant),
        line(&change.what()),
        before,
        after,
        change.share(),
        change.why.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_percentage() {
        assert_eq!(threshold("5%"), Ok(0.05));
        assert_eq!(threshold("2.5"), Ok(0.025));
        assert_eq!(threshold("0"), Ok(0.0));
        for wrong in ["", "%", "-1%", "nan", "inf", "five", "1001"] {
            assert!(threshold(wrong).is_err(), "{wrong}");
        }
    }
}
