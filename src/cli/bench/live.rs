// SPDX-License-Identifier: Apache-2.0
//! What is seen while something is measured: on a terminal a line for each contestant, with the
//! median so far, below one of how far it is; elsewhere a line a step. Main thread, and between
//! measurements only: nothing is drawn while a start is timed.

use crate::bench::field::Event;
use crate::bench::stats::{MEDIAN, quantile, sorted};
use crate::cli::output::{Printer, visible};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};

pub struct Live {
    printer: Printer,
    multi: MultiProgress,
    head: ProgressBar,
    live: bool,
    quiet: bool,
    lines: BTreeMap<String, (ProgressBar, BTreeMap<String, Vec<f64>>)>,
    told: Vec<(String, String)>,
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
            lines: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    pub fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Preparing(name) => self.step(&format!("making {name} ready")),
            Event::Absent(name, why) => self.say(&format!("{name} takes no part: {why}")),
            Event::Round {
                study, round: 0, ..
            } => self.step(&format!("{study}: warming up")),
            Event::Round { study, round, most } => {
                self.step(&format!("{study}: round {round}, of at most {most}"));
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
        let (bar, all) = self.lines.entry(name.to_owned()).or_insert_with(|| {
            let bar = self.multi.add(ProgressBar::no_length().with_style(plain()));
            (bar, BTreeMap::new())
        });
        all.entry(metric.to_owned()).or_default().push(value);
        let figures = all.iter().filter_map(|(metric, values)| {
            let median = quantile(&sorted(values), MEDIAN)?;
            Some(format!("{metric} {}", figure(metric, median)))
        });
        let figures: Vec<String> = figures.collect();
        bar.set_message(format!("  {name:<16} {}", figures.join(", ")));
        bar.tick();
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

fn figure(metric: &str, value: f64) -> String {
    match metric {
        crate::bench::churn::RATE => format!("{value:.1}/s"),
        _ => format!("{:.1} ms", value / 1e6),
    }
}
