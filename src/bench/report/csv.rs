// SPDX-License-Identifier: Apache-2.0
//! One row for each sample, each failure and each thing not offered (RFC 4180), for spreadsheets
//! and statistics programs. The value is in the unit's base: nanoseconds, bytes.

use crate::bench::figure::line;
use crate::bench::model::{Better, Outcome, Results, Series, Unit};

const HEAD: &str = "study,contestant,metric,conditions,unit,better,outcome,round,value,words";

#[must_use]
pub fn render(results: &Results) -> String {
    let mut text = format!("{HEAD}\r\n");
    for series in &results.series {
        let front = front(series);
        let mut row = |outcome: &str, round: &str, value: &str, words: &str| {
            let words = field(words);
            text.push_str(&format!("{front},{outcome},{round},{value},{words}\r\n"));
        };
        match &series.outcome {
            Outcome::NotOffered(why) => row("not-offered", "", "", why),
            Outcome::Measured { samples, failures } => {
                for sample in samples {
                    let (round, value) = (sample.round.to_string(), sample.value.to_string());
                    row("measured", &round, &value, "");
                }
                for failure in failures {
                    row("failed", "", "", failure);
                }
            }
        }
    }
    text
}

fn front(series: &Series) -> String {
    let pairs = series.conditions.iter();
    let conditions: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
    let unit = match series.unit {
        Unit::Nanoseconds => "nanoseconds",
        Unit::Bytes => "bytes",
        Unit::PerSecond => "per-second",
        Unit::BytesPerSecond => "bytes-per-second",
        Unit::Count => "count",
    };
    let better = match series.better {
        Better::Lower => "lower",
        Better::Higher => "higher",
    };
    let words = [
        &series.study,
        &series.contestant,
        &series.metric,
        &conditions.join("; "),
    ];
    let words = words.map(|word| field(word)).join(",");
    format!("{words},{unit},{better}")
}

/// Quoted where it must be. A spreadsheet takes what begins with one of these for a formula, and
/// the words may be anybody's.
fn field(text: &str) -> String {
    let mut text = line(text);
    if text.starts_with(['=', '+', '-', '@']) {
        text.insert(0, '\'');
    }
    match text.contains([',', '"', '\'']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}
