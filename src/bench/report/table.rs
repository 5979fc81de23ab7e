// SPDX-License-Identifier: Apache-2.0
//! Results on a terminal: a table a metric, the doubts below each, then what can be said.

use crate::bench::analysis::{Analysis, Curve, FEWEST, Group, Row, doubts};
use crate::bench::figure::{figure, line, times, visible};
use crate::bench::model::{Better, Results};
use crate::bench::sentences::{Verdict, sentences, unsaid};
use crate::bench::stats::Tail;
use std::fmt::Write as _;

/// How words are set off; all empty where there is no colour.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub strong: &'static str,
    pub dim: &'static str,
    pub good: &'static str,
    pub warn: &'static str,
    pub off: &'static str,
}

impl Look {
    pub const PLAIN: Self = Self {
        strong: "",
        dim: "",
        good: "",
        warn: "",
        off: "",
    };
}

const GAP: &str = "  ";

#[must_use]
pub fn render(results: &Results, look: &Look) -> String {
    let analysis = Analysis::of(results);
    let mut text = String::new();
    for study in &analysis.studies {
        for group in &study.groups {
            text.push_str(&self::group(group, analysis.reference, look));
        }
        for curve in &study.curves {
            text.push_str(&self::curve(curve, look));
        }
    }
    text.push_str(&said(&analysis, look));
    text.push_str(&cautions(results, look));
    text.push_str(&absent(results, look));
    text
}

/// One metric of all contestants; for the live table as well, which shows what there is so far.
#[must_use]
pub fn group(group: &Group<'_>, reference: Option<&str>, look: &Look) -> String {
    let against = reference.map(|name| format!("× {}", name.to_uppercase()));
    let mut heads = vec![
        "CONTESTANT",
        "MEDIAN",
        "95 % INTERVAL",
        "P5",
        "P95",
        "P99",
        "N",
    ];
    heads.extend(against.as_deref());
    let rows: Vec<Vec<String>> = group.rows.iter().map(|row| cells(row, group)).collect();
    let mut text = title(
        group.study,
        group.metric,
        &group.circumstances(),
        group.better,
        look,
    );
    text.push_str(&columns(&heads, &rows, look));
    let unsound = |tail: Tail| !tail.sound;
    let summaries = || {
        let all = group.rows.iter().filter_map(Row::summary);
        all.filter(|summary| summary.count >= FEWEST)
    };
    if summaries().any(|s| unsound(s.p95) || unsound(s.p99)) {
        let _ = writeln!(
            text,
            "{}~ of too few samples to bound it: p5 and p95 need 59, p99 needs 299{}",
            look.dim, look.off
        );
    }
    text.push_str(&notes(group.rows.iter(), look));
    text.push('\n');
    text
}

fn title(study: &str, metric: &str, rest: &str, better: Better, look: &Look) -> String {
    let better = match better {
        Better::Lower => "lower is better",
        Better::Higher => "higher is better",
    };
    let rest = if rest.is_empty() {
        String::new()
    } else {
        format!(", {rest}")
    };
    format!(
        "{}{}{}  {}{better}{}\n",
        look.strong,
        line(&format!("{study}: {metric}{rest}")),
        look.off,
        look.dim,
        look.off
    )
}

fn cells(row: &Row<'_>, group: &Group<'_>) -> Vec<String> {
    let mut cells = vec![line(row.contestant)];
    let Some(summary) = row.summary() else {
        cells.push(line(&row.instead().unwrap_or_default()));
        return cells;
    };
    let figure = |value| figure(value, group.unit);
    let tail = |tail: Tail| match tail.sound {
        true => figure(tail.value),
        false if summary.count < FEWEST => "–".into(),
        false => format!("~{}", figure(tail.value)),
    };
    let scale = crate::bench::figure::Scale::of(summary.median, group.unit);
    let interval = summary.interval.map(|interval| scale.interval(&interval));
    cells.extend([
        figure(summary.median),
        interval.unwrap_or_else(|| "–".into()),
        tail(summary.p5),
        tail(summary.p95),
        tail(summary.p99),
        summary.count.to_string(),
    ]);
    cells.extend(row.against.map(|ratio| times(&ratio)));
    cells
}

fn curve(curve: &Curve<'_>, look: &Look) -> String {
    let Some((_, first)) = curve.points.first() else {
        return String::new();
    };
    let ats: Vec<String> = curve.points.iter().map(|(at, _)| at.to_string()).collect();
    let axis = curve.axis.to_uppercase();
    let mut heads: Vec<&str> = vec![&axis];
    heads.extend(ats.iter().map(String::as_str));
    let mut names: Vec<&str> = Vec::new();
    for row in curve.points.iter().flat_map(|(_, group)| &group.rows) {
        if !names.contains(&row.contestant) {
            names.push(row.contestant);
        }
    }
    let cell = |name: &str, group: &Group<'_>| match group.row(name).map(Row::summary) {
        Some(Some(summary)) => figure(summary.median, group.unit),
        _ => "–".into(),
    };
    let rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| {
            let instead = curve
                .points
                .iter()
                .find_map(|(_, group)| group.row(name)?.instead());
            let measured = |(_, group): &(f64, Group<'_>)| {
                group.row(name).is_some_and(|row| row.summary().is_some())
            };
            let mut cells = vec![line(name)];
            match instead {
                Some(instead) if !curve.points.iter().any(measured) => cells.push(line(&instead)),
                _ => cells.extend(curve.points.iter().map(|(_, group)| cell(name, group))),
            }
            cells
        })
        .collect();
    let circumstances = first.circumstances();
    let mut text = title(
        first.study,
        first.metric,
        &circumstances,
        first.better,
        look,
    );
    text.push_str(&columns(&heads, &rows, look));
    text.push('\n');
    text
}

/// Columns as wide as they must be. What stands in place of figures is last in its row and
/// widens nothing.
fn columns(heads: &[&str], rows: &[Vec<String>], look: &Look) -> String {
    let is_full = |row: &&Vec<String>| row.len() > 2 || heads.len() <= 2;
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column == 0 || is_full(row));
        let widths = cells
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        let head = heads.get(column).map_or(0, |head| head.chars().count());
        widths.max().unwrap_or(0).max(head)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let row = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            // Names to the left, figures to the right.
            let _ = match column {
                0 => write!(text, "{cell:<width$}{GAP}"),
                _ => write!(text, "{cell:>width$}{GAP}"),
            };
        }
        text.trim_end().to_owned()
    };
    let mut text = format!(
        "{}{}{}\n",
        look.dim,
        row(&mut heads.iter().copied()),
        look.off
    );
    for cells in rows {
        let _ = match &cells[..] {
            [name, instead] if heads.len() > 2 => {
                let width = widths.first().copied().unwrap_or(0);
                writeln!(text, "{name:<width$}{GAP}{}{instead}{}", look.dim, look.off)
            }
            _ => writeln!(text, "{}", row(&mut cells.iter().map(String::as_str))),
        };
    }
    text
}

fn notes<'a>(rows: impl Iterator<Item = &'a Row<'a>>, look: &Look) -> String {
    let mut text = String::new();
    for (who, what) in doubts(rows) {
        let (who, what) = (line(&who), line(&what));
        let _ = writeln!(text, "{}! {who}: {what}{}", look.warn, look.off);
    }
    text
}

fn said(analysis: &Analysis<'_>, look: &Look) -> String {
    let told = sentences(analysis);
    if told.is_empty() {
        return String::new();
    }
    let mut text = format!("{}What can be said{}\n", look.strong, look.off);
    for sentence in told.iter().filter(|sentence| sentence.headline) {
        let (mark, colour) = match (sentence.verdict, sentence.sure) {
            (Verdict::Better, true) => ("+", look.good),
            (Verdict::Worse, true) => ("−", look.warn),
            (Verdict::Even, _) => ("=", ""),
            _ => ("?", look.dim),
        };
        let off = if colour.is_empty() { "" } else { look.off };
        let _ = writeln!(text, "{colour}{mark}{off} {}", line(&sentence.text()));
    }
    if let Some(told) = unsaid(&told) {
        let _ = writeln!(text, "{}?{} {}", look.dim, look.off, visible(&told));
    }
    text.push('\n');
    text
}

fn cautions(results: &Results, look: &Look) -> String {
    let mut text = String::new();
    for caution in &results.cautions {
        let (what, hint) = (line(&caution.what), line(&caution.hint));
        let _ = writeln!(text, "{}caution:{} {what}", look.warn, look.off);
        let _ = writeln!(text, "  {hint}");
    }
    text
}

fn absent(results: &Results, look: &Look) -> String {
    let mut text = String::new();
    for one in &results.contestants {
        if let Some(why) = &one.absent {
            let (name, why) = (line(&one.name), line(why));
            let _ = writeln!(text, "{}not here: {name}: {why}{}", look.dim, look.off);
        }
    }
    text
}
