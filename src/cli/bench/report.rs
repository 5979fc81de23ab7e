// SPDX-License-Identifier: Apache-2.0
//! `husk bench report`: results of an earlier run, told again in another form. Main thread.

use super::compare::problem;
use crate::bench::file::{load, save};
use crate::bench::report::{self, Format as Shape, table};
use crate::cli::output::{ExitStatus, Failure, Printer, Problem};
use std::path::PathBuf;

/// Tell the results of an earlier run again: as a page, a table, or data
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk bench report results.json                    A table
  husk bench report results.json -o report.html     A page for a browser
  husk bench report results.json --format markdown  To be pasted into a page

The same results are the same bytes, whenever and wherever they are told. A page needs no
network, and has all samples in it.

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.")]
pub struct ReportArgs {
    /// What `husk bench … --out FILE` wrote
    #[arg(value_name = "RESULTS")]
    results: PathBuf,
    /// In which form. Without it, that of the ending of --output, or a table
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<Format>,
    /// Into a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// All samples
    Json,
    /// A row a sample
    Csv,
    /// Tables for a document
    Markdown,
    /// A page for a browser
    Html,
}

impl From<Format> for Shape {
    fn from(format: Format) -> Self {
        match format {
            Format::Table => Self::Table,
            Format::Json => Self::Json,
            Format::Csv => Self::Csv,
            Format::Markdown => Self::Markdown,
            Format::Html => Self::Html,
        }
    }
}

pub fn execute(args: &ReportArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let shape = shape(args)?;
    let results = load(&args.results).map_err(|error| problem(&error))?;
    match &args.output {
        Some(path) => {
            let text = report::render(&results, shape);
            save(path, text.as_bytes()).map_err(|error| problem(&error))?;
        }
        None if shape == Shape::Table => {
            let text = table::render(&results, &super::write::look(printer));
            printer.data(text.as_bytes())?;
        }
        None => printer.data(report::render(&results, shape).as_bytes())?,
    }
    Ok(ExitStatus::Success)
}

fn shape(args: &ReportArgs) -> Result<Shape, Problem> {
    match (args.format, &args.output) {
        (Some(format), _) => Ok(format.into()),
        (None, None) => Ok(Shape::Table),
        (None, Some(path)) => Shape::of(path).ok_or_else(|| {
            Problem::new(format!(
                "{} has no ending that says its form",
                path.display()
            ))
            .hint("name it .html, .md, .csv, .json or .txt, or say --format")
        }),
    }
}
