// SPDX-License-Identifier: Apache-2.0
//! Work on many parts of one image at once: a few threads, and one that hears of them.
//!
//! Owns the threads it starts: none outlives the call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// How a part of the work speaks to the thread that waits for it.
pub struct Report<'a, M> {
    heard: mpsc::Sender<M>,
    stop: &'a AtomicBool,
}

impl<M> Report<'_, M> {
    /// False once another part has failed: this one need not go on.
    pub fn tell(&self, message: M) -> bool {
        self.heard.send(message).is_ok() && !self.stop.load(Ordering::Relaxed)
    }
}

/// Runs `work` for each number below `count` on at most `workers` threads, and hears what
/// they say meanwhile. The first failure is the one that counts.
pub fn run<T: Send, E: Send, M: Send>(
    count: usize,
    workers: usize,
    work: impl Fn(usize, &Report<M>) -> Result<T, E> + Sync,
    hear: &mut dyn FnMut(M),
) -> Result<Vec<T>, E> {
    let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (done, ended) = mpsc::channel();
    let (heard, messages) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers.min(count) {
            let report = Report {
                heard: heard.clone(),
                stop: &stop,
            };
            let (done, work, stop, next) = (done.clone(), &work, &stop, &next);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let result = work(number, &report);
                    let failed = result.is_err();
                    // Sent before the others are stopped: what those say comes later.
                    let _ = done.send((number, result));
                    stop.fetch_or(failed, Ordering::Relaxed);
                }
            });
        }
        drop(heard);
        for message in messages {
            hear(message);
        }
    });
    drop(done);
    let mut results = Vec::new();
    for (number, result) in ended {
        results.push((number, result?));
    }
    results.sort_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_the_first_failure_stops_the_rest() {
        let mut heard = 0;
        let double = |n, report: &Report<usize>| {
            report.tell(1);
            Ok::<_, ()>(n * 2)
        };
        let results = run(100, 4, double, &mut |one| heard += one).unwrap();
        assert_eq!(results, (0..100).map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(heard, 100);

        let begun = AtomicUsize::new(0);
        let fail = |n, report: &Report<()>| {
            begun.fetch_add(1, Ordering::Relaxed);
            if n == 1 {
                return Err("the first");
            }
            while report.tell(()) {}
            Err("stopped")
        };
        assert_eq!(
            run::<(), _, _>(1000, 2, fail, &mut |()| {}),
            Err("the first")
        );
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }
}
