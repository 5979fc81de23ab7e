// SPDX-License-Identifier: Apache-2.0
//! What is seen while something is measured: on a terminal how far it is, and below a table of
//! the present study, with a line for each contestant and its medians so far; elsewhere a line a
//! step. Main thread, and between measurements only: nothing is drawn while a start is timed.

use crate::bench::field::Event;
use crate::bench::figure;
use crate::bench::model::Unit;
use crate::bench::stats::{MEDIAN, quantile, sorted};
use crate::bench::work::ROWS;
use crate::bench::{churn, density, timing, work};
use crate::cli::output::{Printer, visible};
use crate::sys::tty;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// Room of a contestant's name, and of a figure.
const NAME: usize = 18;
const COLUMN: usize = 14;
/// How often what takes minutes is drawn.
const TICK: Duration = Duration::from_secs(1);
/// Of a terminal that does not say how wide it is.
const USUAL: usize = 80;

/// What is measured, as short as a column is wide, from left to right.
const COLUMNS: [(&str, &str, Unit); 9] = [
    (timing::FIRST_BYTE, "first byte", Unit::Nanoseconds),
    (timing::EXITED, "exit", Unit::Nanoseconds),
    (timing::RETURNED, "returned", Unit::Nanoseconds),
    (timing::ANSWERED, "HTTP 200", Unit::Nanoseconds),
    (churn::RATE, "starts", Unit::PerSecond),
    (density::UNIQUE, "unique each", Unit::Bytes),
    (work::REQUEST, "request", Unit::Nanoseconds),
    (work::REQUESTS, "4 clients", Unit::PerSecond),
    (work::STREAM, "stream", Unit::BytesPerSecond),
];

pub struct Live {
    printer: Printer,
    multi: MultiProgress,
    head: ProgressBar,
    live: bool,
    quiet: bool,
    table: Table,
    lines: BTreeMap<String, ProgressBar>,
    title: Option<ProgressBar>,
    study: String,
    told: Vec<(String, String)>,
}

/// Samples of one study, by contestant and metric.
#[derive(Debug, Default)]
struct Table {
    samples: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

impl Live {
    pub fn new(printer: &Printer, quiet: bool) -> Self {
        let live = !quiet && io::stderr().is_terminal();
        let target = match live {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let multi = MultiProgress::with_draw_target(target);
        let head = multi.add(ProgressBar::no_length().with_style(plain()));
        Self {
            printer: *printer,
            multi,
            head,
            live,
            quiet,
            table: Table::default(),
            lines: BTreeMap::new(),
            title: None,
            study: String::new(),
            told: Vec::new(),
        }
    }

    pub fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Preparing(name) => self.step(&format!("making {name} ready")),
            Event::Absent(name, why) => self.say(&format!("{name} takes no part: {why}")),
            Event::Round { study, round, most } => {
                self.turn_to(study);
                self.step(&match round {
                    0 => format!("warming up: {study}"),
                    _ => format!("round {round} of at most {most}: {study}"),
                });
            }
            Event::Sample(name, metric, value) => self.sample(name, metric, value),
            Event::Failed(name, why) => {
                // Once: what fails each time is counted in the results.
                let told = (name.to_owned(), why.to_owned());
                if !self.told.contains(&told) {
                    self.say(&format!("{name} failed: {why}"));
                    self.told.push(told);
                }
            }
        }
    }

    /// A study has a table of its own.
    fn turn_to(&mut self, study: &str) {
        if self.study == study {
            return;
        }
        study.clone_into(&mut self.study);
        self.table = Table::default();
        let lines = std::mem::take(&mut self.lines);
        for bar in lines.into_values().chain(self.title.take()) {
            bar.finish_and_clear();
            self.multi.remove(&bar);
        }
    }

    /// What is being done.
    pub fn step(&mut self, what: &str) {
        let what = one_line(what);
        match (self.live, self.quiet) {
            (true, _) => {
                self.head.set_message(what);
                self.head.tick();
            }
            (false, false) => self.printer.talk(&format!("husk: {what}\n")),
            (false, true) => {}
        }
    }

    /// What takes minutes, on another clock than this host's: how long it has taken is drawn.
    pub fn wait(&mut self, what: &str) {
        self.step(what);
        if self.live {
            let style = ProgressStyle::with_template("{msg}, {elapsed}");
            self.head.set_style(style.unwrap_or_else(|_| plain()));
            self.head.reset_elapsed();
            self.head.enable_steady_tick(TICK);
        }
    }

    /// That is over.
    pub fn waited(&mut self) {
        self.head.disable_steady_tick();
        self.head.set_style(plain());
    }

    /// What stays to be read.
    fn say(&self, what: &str) {
        let what = one_line(what);
        match (self.live, self.quiet) {
            (true, _) => drop(self.multi.println(format!("husk: {what}"))),
            (false, false) => self.printer.talk(&format!("husk: {what}\n")),
            (false, true) => {}
        }
    }

    fn sample(&mut self, name: &str, metric: &str, value: f64) {
        if !self.live {
            return;
        }
        self.table.add(name, metric, value);
        let columns = self.table.columns(width());
        let add = || self.multi.add(ProgressBar::no_length().with_style(plain()));
        let title = self.title.get_or_insert_with(add);
        title.set_message(Table::title(&columns));
        title.tick();
        self.lines.entry(name.to_owned()).or_insert_with(add);
        // Another column may be one more for all of them.
        for (name, bar) in &self.lines {
            bar.set_message(self.table.line(name, &columns));
            bar.tick();
        }
    }

    /// Takes it all away: the results come.
    pub fn end(self) {
        let _ = self.multi.clear();
    }
}

fn plain() -> ProgressStyle {
    ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Words of contestants may be anything.
fn one_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

fn width() -> usize {
    let size = tty::window_size(io::stderr().as_fd());
    size.map_or(USUAL, |(_, columns)| columns.into())
}

/// What a column is called, and its unit; the rows of work are called as its program does.
fn column(metric: &str) -> (&str, Unit) {
    let known = COLUMNS.iter().find(|(name, ..)| *name == metric);
    let row = || ROWS.iter().find(|row| row.metric == metric);
    match known {
        Some((_, short, unit)) => (short, *unit),
        None => row().map_or((metric, Unit::Count), |row| (row.name, row.unit())),
    }
}

/// Where a column stands.
fn place(metric: &str) -> usize {
    let rows = ROWS.iter().map(|row| row.metric);
    let all = COLUMNS.iter().map(|(name, ..)| *name);
    all.chain(rows)
        .position(|name| name == metric)
        .unwrap_or(usize::MAX)
}

impl Table {
    fn add(&mut self, name: &str, metric: &str, value: f64) {
        let all = self.samples.entry(name.to_owned()).or_default();
        all.entry(metric.to_owned()).or_default().push(value);
    }

    /// Those that fit: of more than that, the last.
    fn columns(&self, width: usize) -> Vec<String> {
        let metrics = self.samples.values().flat_map(BTreeMap::keys);
        let all: BTreeSet<(usize, &str)> =
            metrics.map(|metric| (place(metric), &**metric)).collect();
        let fit = (width.saturating_sub(NAME) / COLUMN).max(1);
        let skipped = all.len().saturating_sub(fit);
        let shown = all.iter().skip(skipped);
        shown.map(|(_, metric)| (*metric).to_owned()).collect()
    }

    fn title(columns: &[String]) -> String {
        let names = columns.iter().map(|metric| {
            let name: String = column(metric).0.chars().take(COLUMN - 1).collect();
            format!("{name:>COLUMN$}")
        });
        std::iter::once(" ".repeat(NAME)).chain(names).collect()
    }

    fn line(&self, name: &str, columns: &[String]) -> String {
        let empty = BTreeMap::new();
        let samples = self.samples.get(name).unwrap_or(&empty);
        let figures = columns.iter().map(|metric| {
            let median = samples.get(metric);
            let median = median.and_then(|values| quantile(&sorted(values), MEDIAN));
            let figure = median.map(|median| figure::figure(median, column(metric).1));
            format!("{:>COLUMN$}", figure.unwrap_or_default())
        });
        let name = format!("  {:<1$}", name, NAME - 2);
        std::iter::once(name).chain(figures).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_medians_as_far_as_the_terminal_is_wide() {
        let mut table = Table::default();
        for value in [1e6, 9e6, 2e6] {
            table.add("husk", timing::FIRST_BYTE, value);
        }
        table.add("husk", timing::ANSWERED, 3e6);
        table.add("runc", timing::EXITED, 4e9);
        let columns = table.columns(80);
        assert_eq!(
            Table::title(&columns),
            "                      first byte          exit      HTTP 200"
        );
        assert_eq!(
            table.line("husk", &columns),
            "  husk                   2.00 ms                     3.00 ms"
        );
        assert_eq!(
            table.line("runc", &columns).trim_end(),
            "  runc                                  4.00 s"
        );
        for width in [0, 20, 40, 59] {
            let columns = table.columns(width);
            assert!(Table::title(&columns).len() <= width.max(NAME + COLUMN));
            assert_eq!(columns.last().unwrap(), timing::ANSWERED);
        }
    }

    #[test]
    fn figures_are_in_the_units_of_what_was_measured() {
        let mut table = Table::default();
        let row = &ROWS[1];
        table.add("husk", density::UNIQUE, 3.0 * 1_048_576.0);
        table.add("husk", churn::RATE, 12.5);
        table.add("husk", row.metric, 2.0 * 1_073_741_824.0);
        let line = table.line("husk", &table.columns(200));
        for part in ["3.00 MiB", "12.5 /s", "2.00 GiB/s"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(Table::title(&table.columns(200)).contains(row.name));
    }
}
