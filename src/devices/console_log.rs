// SPDX-License-Identifier: Apache-2.0
//! The last of what the guest printed, and the moment its kernel panics.
//!
//! Any thread. Grows with the output up to a fixed size; holds no lock while the hook runs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// A guest prints without end: this much of it is kept.
const KEPT: usize = 64 << 10;
/// No line is longer, or looked at further, than this.
const LINE: usize = 1024;
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// Called once, with the line in which the guest's kernel says that it panics, on the thread
/// that printed it.
pub type PanicHook = Box<dyn FnOnce(String) + Send>;

/// Shared by every console of a machine.
pub struct ConsoleLog {
    kept: Mutex<VecDeque<u8>>,
    hook: Mutex<Option<PanicHook>>,
}

impl ConsoleLog {
    #[must_use]
    pub fn new(hook: Option<PanicHook>) -> Arc<Self> {
        Arc::new(Self {
            kept: Mutex::default(),
            hook: Mutex::new(hook),
        })
    }

    /// The last `count` lines, oldest first, with what is no text replaced.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(kept.make_contiguous()).into_owned();
        drop(kept);
        let lines: Vec<_> = text.lines().collect();
        let skipped = lines.len().saturating_sub(count);
        let last = lines.into_iter().skip(skipped);
        last.map(|line| line.trim_end_matches('\r').to_owned())
            .collect()
    }

    fn keep(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = (kept.len() + bytes.len()).saturating_sub(KEPT);
        kept.drain(..surplus);
        kept.extend(bytes);
    }

    fn panicked(&self, line: &[u8]) {
        let hook = self
            .hook
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(hook) = hook {
            hook(String::from_utf8_lossy(line).trim().to_owned());
        }
    }
}

/// One console's way into the log: lines of several consoles do not tear each other apart.
pub struct Tap {
    log: Arc<ConsoleLog>,
    line: Vec<u8>,
}

impl Tap {
    #[must_use]
    pub fn new(log: Arc<ConsoleLog>) -> Self {
        Self {
            log,
            line: Vec::new(),
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.log.keep(bytes);
        for &byte in bytes {
            let ended = byte == b'\n';
            if !ended {
                self.line.push(byte);
            }
            if ended || self.line.len() == LINE {
                if self.line.windows(PANIC.len()).any(|part| part == PANIC) {
                    self.log.panicked(&self.line);
                }
                self.line.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> (Arc<ConsoleLog>, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let hook = move |line| sink.lock().expect("no panic").push(line);
        (ConsoleLog::new(Some(Box::new(hook))), seen)
    }

    #[test]
    fn the_end_of_the_output_is_kept_and_no_more() {
        let log = ConsoleLog::new(None);
        let mut tap = Tap::new(log.clone());
        assert!(log.tail(5).is_empty());
        for number in 0..20_000 {
            tap.push(format!("line {number}\r\n").as_bytes());
        }
        tap.push(b"login: \xff");
        assert_eq!(log.tail(3), ["line 19998", "line 19999", "login: \u{fffd}"]);
        assert!(log.kept.lock().expect("no panic").len() <= KEPT);
        tap.push(&vec![b'x'; KEPT + 10]);
        assert_eq!(log.tail(9).concat().len(), KEPT);
        assert!(log.kept.lock().expect("no panic").capacity() <= KEPT * 2);
    }

    #[test]
    fn a_panic_is_seen_once_however_it_is_cut() {
        let text = b"fine\n[ 1.5] Kernel panic - not syncing: VFS: no root\r\nmore\n";
        for cut in 0..text.len() {
            let (log, seen) = watched();
            let mut tap = Tap::new(log.clone());
            let mut other = Tap::new(log);
            tap.push(&text[..cut]);
            other.push(b"another console speaks\n");
            tap.push(&text[cut..]);
            tap.push(text);
            let expected = ["[ 1.5] Kernel panic - not syncing: VFS: no root"];
            assert_eq!(*seen.lock().expect("no panic"), expected);
        }
    }

    #[test]
    fn a_line_without_end_costs_a_bounded_amount() {
        let (log, seen) = watched();
        let mut tap = Tap::new(log);
        tap.push(&vec![b'.'; 100_000]);
        assert!(tap.line.len() < LINE);
        tap.push(b"\nkernel panic is only a word here\n");
        assert!(seen.lock().expect("no panic").is_empty());
    }
}
