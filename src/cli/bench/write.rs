// SPDX-License-Identifier: Apache-2.0
//! The results where they are wanted: on standard output, in a file, as a page. Main thread.

use super::Format;
use super::request::Request;
use crate::bench::file::{self, FileError};
use crate::bench::model::Results;
use crate::bench::report::table::{self, Look};
use crate::bench::report::{self, Format as Shape};
use crate::cli::output::{Failure, Printer, Problem};
use std::path::Path;

/// Files first: what cannot be printed is saved all the same. All problems are told.
pub fn write(results: &Results, request: &Request, printer: &Printer) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let files = [(&request.out, Shape::Json), (&request.report, Shape::Html)];
    for (path, shape) in files {
        if let Some(path) = path {
            let problem = save(path, &report::render(results, shape)).err();
            problems.extend(problem.map(|error| Problem::of(&error)));
        }
    }
    let text = match request.format {
        Format::Table => table::render(results, &look(printer)),
        Format::Json => report::render(results, Shape::Json),
        Format::Csv => report::render(results, Shape::Csv),
        Format::Markdown => report::render(results, Shape::Markdown),
    };
    printer.data(text.as_bytes())?;
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Failure::operator(problems)),
    }
}

fn save(path: &Path, text: &str) -> Result<(), FileError> {
    file::save(path, text.as_bytes())
}

/// Colours of standard output.
pub fn look(printer: &Printer) -> Look {
    let style = printer.data;
    Look {
        strong: style.strong,
        dim: style.dim,
        good: style.good,
        warn: style.warn,
        off: style.off,
    }
}
