// SPDX-License-Identifier: Apache-2.0
//! Tables for people, documents for programs, and how long ago something was.

use super::output::{Failure, Printer, visible};
use anyhow::Context as _;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// How a list is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One document for programs
    Json,
}

/// Columns are as wide as they must be; the last one is never padded.
pub fn render(heads: &[&str], rows: &[Vec<String>], printer: &Printer) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| one_line(cell)).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(heads.get(column).map_or(0, |head| head.len()))
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(text, "{cell:<width$}  ", width = *width);
        }
        text.trim_end().to_owned()
    };
    let style = printer.data;
    let head = line(&mut heads.iter().copied());
    let mut text = format!("{}{head}{}\n", style.strong, style.off);
    for row in &rows {
        let _ = writeln!(text, "{}", line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Names and commands may hold anything; a row is a line all the same.
fn one_line(cell: &str) -> String {
    visible(cell).replace(['\n', '\t'], " ")
}

/// Cut to `most` characters, with a sign that it was.
pub fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => {
            let kept: String = text.chars().take(most.saturating_sub(1)).collect();
            format!("{kept}…")
        }
    }
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    crate::units::ByteSize::from_bytes(bytes).rounded()
}

/// One document and a newline.
pub fn json<T: Serialize + ?Sized>(value: &T, printer: &Printer) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    text.push('\n');
    printer.data(text.as_bytes())
}

/// In the largest unit of which there is one: people compare, they do not calculate.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (count, unit) = match seconds {
        0..=59 => (seconds, "s"),
        60..=3_599 => (seconds / 60, "m"),
        3_600..=86_399 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{count}{unit}")
}

/// From a moment in nanoseconds since 1970 until now.
pub fn since(moment: u64) -> Duration {
    Duration::from_nanos(crate::instance::record::now().saturating_sub(moment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::ColorWhen;

    #[test]
    fn columns_line_up_and_hold_no_escape_sequences() {
        let printer = Printer::new(ColorWhen::Never);
        let rows = vec![
            vec!["a".into(), "long one".into(), "x".into()],
            vec!["bbbb".into(), "é\x1b[2J\n".into(), String::new()],
        ];
        assert_eq!(
            render(&["ID", "NAME", "END"], &rows, &printer),
            "ID    NAME      END\na     long one  x\nbbbb  é\u{fffd}[2J\n"
        );
    }

    #[test]
    fn what_is_too_long_is_cut() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("äbcdefg", 6), "äbcde…");
    }

    #[test]
    fn spans_have_one_unit() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7200, "2h"),
            (200_000, "2d"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
