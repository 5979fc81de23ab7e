// SPDX-License-Identifier: Apache-2.0
//! Progress of long work on standard error: one line that changes on a terminal, one line
//! a step elsewhere. Main thread only; never writes to standard output.

use super::output::{Style, visible};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a changing line is redrawn at most: more is flicker, and each is a write.
const REDRAW: Duration = Duration::from_millis(100);

/// A line of progress. Dropping it clears the line, so that the next message is alone.
#[derive(Debug)]
pub struct Progress {
    style: Style,
    live: bool,
    quiet: bool,
    started: Instant,
    drawn: Option<Instant>,
    step: String,
}

impl Progress {
    #[must_use]
    pub fn new(style: Style, quiet: bool) -> Self {
        Self {
            style,
            live: io::stderr().is_terminal(),
            quiet,
            started: Instant::now(),
            drawn: None,
            step: String::new(),
        }
    }

    /// A new step begins.
    pub fn step(&mut self, step: &str) {
        // It may hold the name of a file, which a stranger chose.
        self.step = visible(step).replace(['\n', '\t'], " ");
        if self.quiet {
            return;
        }
        if self.live {
            self.drawn = None;
            self.detail("");
        } else {
            let _ = writeln!(io::stderr(), "husk: {}", self.step);
        }
    }

    /// What the step is at just now; shown on a terminal only, and not each time.
    pub fn detail(&mut self, detail: &str) {
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW);
        if self.quiet || !self.live || !due {
            return;
        }
        self.drawn = Some(Instant::now());
        let width = super::terminal::window_size().map_or(80, |(_, columns)| columns);
        let line = line(&self.step, self.started.elapsed(), detail, width.into());
        let Style { dim, off, .. } = self.style;
        let _ = write!(io::stderr(), "\r\x1b[K{dim}{line}{off}");
        let _ = io::stderr().flush();
    }

    /// Takes the line away: something else is drawn for a while.
    pub fn clear(&mut self) {
        if self.live && self.drawn.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How long something may take before it is worth a word.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says on a terminal what is waited for, once that has taken a second, until it is dropped.
/// For the main thread while it waits in a loop of its own; the words are a thread's.
#[derive(Debug)]
pub struct Waiting(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Waiting {
    /// Not before the last fork of this process. A thread that cannot be had is no reason not
    /// to wait in silence.
    #[must_use]
    pub fn for_the(what: &'static str, style: Style, quiet: bool) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self(None);
        }
        let (over, told) = mpsc::channel();
        let started = Instant::now();
        let speak = move || {
            let mut pause = PATIENCE;
            let mut progress = Progress::new(style, quiet);
            progress.started = started;
            what.clone_into(&mut progress.step);
            while told.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                progress.detail("");
                pause = REDRAW * 5;
            }
        };
        let thread = thread::Builder::new().name("waiting".into()).spawn(speak);
        Self(thread.ok().map(|thread| (over, thread)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((over, thread)) = self.0.take() {
            drop(over);
            // Its last act is to clear the line, which must come before anybody else writes.
            let _ = thread.join();
        }
    }
}

/// One line, never as wide as the terminal: a wrapped line could not be drawn over.
fn line(step: &str, elapsed: Duration, detail: &str, width: usize) -> String {
    let seconds = elapsed.as_secs();
    format!("{step} {}:{:02} {detail}", seconds / 60, seconds % 60)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(width.saturating_sub(1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_and_holds_no_escape_sequences() {
        let mut progress = Progress::new(Style::PLAIN, true);
        progress.step("\x1b]0;a\nhusk: forged is not in the image");
        assert_eq!(
            progress.step,
            "\u{fffd}]0;a husk: forged is not in the image"
        );
    }

    #[test]
    fn a_line_fits_the_terminal_and_holds_no_control_characters() {
        let time = Duration::from_secs(75);
        assert_eq!(
            line("building", time, "CC fs/x.o", 80),
            "building 1:15 CC fs/x.o"
        );
        assert_eq!(
            line("building", time, "a\tb\r\x1b[2J", 80),
            "building 1:15 a b  [2J"
        );
        assert_eq!(line("building", time, &"x".repeat(200), 40).len(), 39);
        assert_eq!(line("building", time, "", 0), "");
    }
}
