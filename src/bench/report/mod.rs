// SPDX-License-Identifier: Apache-2.0
//! The same results for people, for programs and for a browser. Pure: the same results are the
//! same bytes, on any machine and at any time; nothing here reads a clock or the environment.

pub mod csv;
pub mod html;
pub mod json;
pub mod markdown;
pub mod table;

use super::model::Results;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Table,
    /// What can be read again: all raw samples.
    Json,
    /// One row a sample.
    Csv,
    Markdown,
    /// One page that needs nothing else.
    Html,
}

impl Format {
    /// By the ending of a file's name.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        Some(match path.extension()?.to_str()? {
            "txt" => Self::Table,
            "json" => Self::Json,
            "csv" => Self::Csv,
            "md" => Self::Markdown,
            "html" | "htm" => Self::Html,
            _ => return None,
        })
    }
}

#[must_use]
pub fn render(results: &Results, format: Format) -> String {
    match format {
        Format::Table => table::render(results, &table::Look::PLAIN),
        Format::Json => json::render(results),
        Format::Csv => csv::render(results),
        Format::Markdown => markdown::render(results),
        Format::Html => html::render(results),
    }
}

#[cfg(test)]
mod tests;
