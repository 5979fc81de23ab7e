// SPDX-License-Identifier: Apache-2.0
//! What is seen while an image comes: a bar for each layer on a terminal, a line a step
//! elsewhere. Main thread; writes to standard error alone.

use super::bytes;
use crate::cli::output::{Printer, Problem};
use crate::cli::progress::Progress;
use crate::image::{self, Digest, ImageError};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal as _};

/// Most bars at once: more than fit on a screen are worth none.
const MOST: usize = 20;

pub struct Bars {
    progress: Progress,
    multi: MultiProgress,
    bars: Vec<ProgressBar>,
    quiet: bool,
    /// The kind of step that was last named.
    step: &'static str,
    layers: Vec<(u64, u64)>,
}

impl Bars {
    pub fn new(printer: &Printer, quiet: bool) -> Self {
        let live = !quiet && io::stderr().is_terminal();
        let target = match live {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Self {
            progress: Progress::new(printer.talk, quiet),
            multi: MultiProgress::with_draw_target(target),
            bars: Vec::new(),
            quiet,
            step: "",
            layers: Vec::new(),
        }
    }

    pub fn hear(&mut self, step: image::Progress<'_>) {
        match step {
            image::Progress::Waiting => self.step("waiting for another husk"),
            image::Progress::Asking { host } => {
                self.step = "asking";
                self.progress.step(&format!("asking {host}"));
            }
            image::Progress::Fetching {
                layer,
                digest,
                done,
                total,
            } => self.fetching(layer, digest, done, total),
            image::Progress::Storing { done, total } => {
                self.step("copying the image");
                self.detail(done, Some(total));
            }
            image::Progress::Unpacking { done } => {
                self.step("unpacking the image");
                self.detail(done, None);
            }
            image::Progress::Writing { done, total } => {
                self.step("making the image");
                self.detail(done, Some(total));
            }
            image::Progress::Skipped { path, why } => {
                self.progress
                    .step(&format!("{} is not in the image: {why}", path.display()));
            }
        }
    }

    /// On a terminal each step is named; elsewhere only those that take long are.
    fn step(&mut self, step: &'static str) {
        if self.step == step {
            return;
        }
        self.step = step;
        self.end_bars();
        if io::stderr().is_terminal() {
            self.progress.step(step);
        }
    }

    fn detail(&mut self, done: u64, total: Option<u64>) {
        let total = total.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
        self.progress.detail(&format!("{}{total}", bytes(done)));
    }

    fn fetching(&mut self, layer: usize, digest: &Digest, done: u64, total: u64) {
        if layer >= self.layers.len() {
            self.layers.resize(layer + 1, (0, 0));
        }
        self.layers[layer] = (done, total);
        if self.multi.is_hidden() {
            return;
        }
        if layer == 0 && self.bars.is_empty() {
            self.progress.clear();
        }
        if layer >= self.bars.len() && layer < MOST {
            let bar = self.multi.add(ProgressBar::new(total));
            let style = ProgressStyle::with_template(
                "{prefix} [{bar:30}] {bytes:>10} of {total_bytes:10} {msg}",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(digest.short());
            self.bars.push(bar);
        }
        if let Some(bar) = self.bars.get(layer) {
            bar.set_position(done);
            if done == total && !bar.is_finished() {
                bar.finish_with_message("here");
            }
        }
    }

    fn end_bars(&mut self) {
        if !self.bars.is_empty() {
            self.bars.clear();
            // Best effort: a terminal that is gone shows nothing.
            let _ = self.multi.clear();
        }
        let layers = std::mem::take(&mut self.layers);
        if !layers.is_empty() && !self.quiet && !io::stderr().is_terminal() {
            let total = layers.iter().map(|(_, total)| total).sum();
            let count = layers.len();
            self.progress
                .step(&format!("{count} layers of {} are here", bytes(total)));
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.end_bars();
    }
}

/// What went wrong with an image, and what to do about it.
pub fn problem(error: &ImageError) -> Problem {
    let problem = Problem::of(error);
    match error.hint() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
