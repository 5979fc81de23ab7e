// SPDX-License-Identifier: Apache-2.0
//! Counters and rate-limited lines for what guests do wrong and hosts withhold.
//!
//! Any thread. Nothing here may block for long, fail, or let a guest that misbehaves a
//! million times a second write a million lines.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// At most one line per subject in this time: a hostile guest must not fill the host's log.
const INTERVAL: Duration = Duration::from_secs(10);

/// The complaints about one subject: counts every one, prints a few.
#[derive(Debug)]
pub struct Faults {
    subject: &'static str,
    count: AtomicU64,
    printed: Mutex<Option<(Instant, u64)>>,
}

impl Faults {
    #[must_use]
    pub const fn new(subject: &'static str) -> Self {
        Self {
            subject,
            count: AtomicU64::new(0),
            printed: Mutex::new(None),
        }
    }

    /// Counts the complaint, and prints it unless another was printed moments ago.
    pub fn report(&self, what: &dyn Display) {
        if let Some(text) = self.line(what, Instant::now()) {
            line(&text);
        }
    }

    /// All complaints so far, printed or not.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn line(&self, what: &dyn Display, now: Instant) -> Option<String> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut printed = self.printed.try_lock().ok()?;
        let before = match *printed {
            Some((at, _)) if now.saturating_duration_since(at) < INTERVAL => return None,
            Some((_, before)) => before,
            None => 0,
        };
        *printed = Some((now, count));
        let hidden = count.saturating_sub(before + 1);
        Some(match hidden {
            0 => format!("{}: {what}", self.subject),
            _ => format!(
                "{}: {what} ({hidden} more since the last such line)",
                self.subject
            ),
        })
    }
}

/// Where lines go once the process has a better place for them than standard error.
type Listener = Box<dyn Fn(&str) + Send + Sync>;

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Hands every later line to `listener`, on the thread that has something to say. Once in a
/// process; a second listener is not heard.
pub fn listen(listener: Listener) {
    let _ = LISTENER.set(listener);
}

/// Says one line, in one write where it is standard error, so that lines of several threads
/// do not mix.
pub fn line(text: &str) {
    match LISTENER.get() {
        Some(listener) => listener(text),
        // Nobody to tell when standard error is closed.
        None => drop(std::io::stderr().write_all(format!("husk: {text}\n").as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_complaint_is_counted_and_one_per_interval_is_printed() {
        let faults = Faults::new("disk");
        let start = Instant::now();

        assert_eq!(faults.line(&"odd", start).as_deref(), Some("disk: odd"));
        assert_eq!(faults.line(&"odd", start), None);
        assert_eq!(faults.line(&"odd", start + INTERVAL / 2), None);
        let later = faults.line(&"even", start + INTERVAL);
        assert_eq!(
            later.as_deref(),
            Some("disk: even (2 more since the last such line)")
        );
        assert_eq!(faults.count(), 4);
    }
}
