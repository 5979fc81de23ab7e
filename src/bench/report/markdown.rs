// SPDX-License-Identifier: Apache-2.0
//! Results as Markdown tables, to be pasted into a page.

use crate::bench::analysis::{Analysis, Curve, FEWEST, Group, Row, doubts};
use crate::bench::figure::{Scale, command, figure, line, moment, times, visible};
use crate::bench::model::{Results, Unit};
use crate::bench::sentences::{sentences, unsaid};
use crate::bench::stats::Tail;
use std::fmt::Write as _;

#[must_use]
pub fn render(results: &Results) -> String {
    let analysis = Analysis::of(results);
    let mut text = head(results);
    let told = sentences(&analysis);
    if !told.is_empty() {
        text.push_str("## What can be said\n\n");
        for sentence in told.iter().filter(|sentence| sentence.headline) {
            let _ = writeln!(text, "- {}", words(&sentence.text()));
        }
        if let Some(line) = unsaid(&told) {
            let _ = writeln!(text, "- {}", escaped(&visible(&line)));
        }
        text.push('\n');
    }
    for study in &analysis.studies {
        let _ = writeln!(text, "## {}\n", words(study.name));
        for group in &study.groups {
            text.push_str(&self::group(group, analysis.reference));
        }
        for curve in &study.curves {
            text.push_str(&self::curve(curve));
        }
    }
    text.push_str(&tail(results));
    text
}

fn head(results: &Results) -> String {
    let machine = &results.machine;
    let memory = figure(machine.memory as f64, Unit::Bytes);
    let mut text = String::from("# husk bench\n\n");
    let _ = writeln!(
        text,
        "`{}`\n",
        visible(&command(&results.command)).replace('`', "'")
    );
    let _ = writeln!(
        text,
        "{}, {} CPUs, {memory} of memory, Linux {}, KVM: {}; husk {}; {}; {}.\n",
        words(&machine.processor),
        machine.cpus,
        words(&machine.kernel),
        words(&machine.kvm),
        words(&results.husk),
        words(&results.image),
        moment(results.began),
    );
    text
}

fn group(group: &Group<'_>, reference: Option<&str>) -> String {
    let mut text = title(group.metric, &group.circumstances());
    text.push_str("| Contestant | Median | 95 % interval | p5 | p95 | p99 | Samples |");
    if let Some(reference) = reference {
        let _ = write!(text, " × {reference} |");
    }
    text.push_str("\n|---|--:|--:|--:|--:|--:|--:|");
    text.push_str(if reference.is_some() { "--:|\n" } else { "\n" });
    for row in &group.rows {
        let _ = writeln!(
            text,
            "| {} |",
            cells(row, group, reference.is_some()).join(" | ")
        );
    }
    text.push('\n');
    let doubts = doubts(group.rows.iter());
    for (who, what) in &doubts {
        let _ = writeln!(text, "- {}: {}", words(who), words(what));
    }
    if !doubts.is_empty() {
        text.push('\n');
    }
    text
}

fn title(metric: &str, rest: &str) -> String {
    match rest {
        "" => format!("### {}\n\n", words(metric)),
        _ => format!("### {}, {}\n\n", words(metric), words(rest)),
    }
}

fn cells(row: &Row<'_>, group: &Group<'_>, against: bool) -> Vec<String> {
    let mut cells = vec![words(row.contestant)];
    let Some(summary) = row.summary() else {
        cells.push(words(&row.instead().unwrap_or_default()));
        cells.resize(7 + usize::from(against), String::new());
        return cells;
    };
    let tail = |tail: Tail| {
        if summary.count < FEWEST {
            return "–".to_owned();
        }
        let sign = if tail.sound { "" } else { "~" };
        format!("{sign}{}", figure(tail.value, group.unit))
    };
    let scale = Scale::of(summary.median, group.unit);
    let interval = summary.interval.map(|interval| scale.interval(&interval));
    cells.extend([
        scale.figure(summary.median),
        interval.unwrap_or_else(|| "–".into()),
        tail(summary.p5),
        tail(summary.p95),
        tail(summary.p99),
        summary.count.to_string(),
    ]);
    if against {
        cells.push(row.against.map(|ratio| times(&ratio)).unwrap_or_default());
    }
    cells
}

fn curve(curve: &Curve<'_>) -> String {
    let Some((_, first)) = curve.points.first() else {
        return String::new();
    };
    let mut names: Vec<&str> = Vec::new();
    for row in curve.points.iter().flat_map(|(_, group)| &group.rows) {
        if !names.contains(&row.contestant) {
            names.push(row.contestant);
        }
    }
    let mut text = title(first.metric, &first.circumstances());
    let _ = write!(text, "| {} |", words(&curve.axis));
    for name in &names {
        let _ = write!(text, " {} |", words(name));
    }
    let _ = writeln!(text, "\n|--:|{}", "--:|".repeat(names.len()));
    for (at, group) in &curve.points {
        let _ = write!(text, "| {at} |");
        for name in &names {
            let row = group.row(name);
            let cell = match row.map(Row::summary) {
                Some(Some(summary)) => figure(summary.median, group.unit),
                _ => words(&row.and_then(Row::instead).unwrap_or_else(|| "–".into())),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

fn tail(results: &Results) -> String {
    let mut text = String::new();
    if !results.machine.facts.is_empty() {
        text.push_str("## This host\n\n");
        for (what, value) in &results.machine.facts {
            let _ = writeln!(text, "- {}: {}", words(what), words(value));
        }
        text.push('\n');
    }
    if !results.cautions.is_empty() {
        text.push_str("## Cautions\n\n");
        for caution in &results.cautions {
            let _ = writeln!(text, "- {}: {}", words(&caution.what), words(&caution.hint));
        }
        text.push('\n');
    }
    text.push_str("## Contestants\n\n");
    for one in &results.contestants {
        let version = one.version.as_deref().unwrap_or("no version");
        let told = match &one.absent {
            Some(why) => format!("takes no part: {why}"),
            None => version.to_owned(),
        };
        let (name, kind) = (words(&one.name), words(&one.kind));
        let _ = writeln!(text, "- {name} ({kind}): {}", words(&told));
    }
    text
}

/// Words that nothing is taken for: neither HTML, nor a link, nor the end of a cell.
#[must_use]
pub fn words(text: &str) -> String {
    escaped(&line(text))
}

fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for letter in text.chars() {
        match letter {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => {
                safe.push('\\');
                safe.push(letter);
            }
            _ => safe.push(letter),
        }
    }
    safe
}
