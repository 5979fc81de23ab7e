// SPDX-License-Identifier: Apache-2.0
//! How many rounds are enough: until each median is known closely enough, and no longer.

use super::interval::{CONFIDENCE, median_interval};
use super::quantile::{MEDIAN, quantile};
use super::sorted;

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// How far the further end of the median's interval may be from the median, as a share.
    pub within: f64,
    /// Rounds before which nothing is judged. Whoever looks after each round and stops at the
    /// first interval that pleases finds intervals that please; a floor, and rounds that are
    /// judged ever less often, keep that small.
    pub least: usize,
    pub most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    More,
    /// Every median is known as closely as was asked.
    Enough,
    /// There were as many rounds as there may be, and some median is known less closely.
    OutOfRounds,
}

impl Goal {
    /// `series` are the samples of all that is measured, of each contestant; of none at all
    /// there is enough after `least` rounds.
    #[must_use]
    pub fn judge<'a>(&self, rounds: usize, series: impl IntoIterator<Item = &'a [f64]>) -> Verdict {
        if rounds < self.least || (rounds < self.most && !is_looked_at(rounds, self.least)) {
            return Verdict::More;
        }
        let close = series.into_iter().all(|values| self.is_close(values));
        match (close, rounds >= self.most) {
            (true, _) => Verdict::Enough,
            (false, true) => Verdict::OutOfRounds,
            (false, false) => Verdict::More,
        }
    }

    /// Whether the median of these is known closely enough. One of no samples never will be, so
    /// it holds nobody up.
    #[must_use]
    pub fn is_close(&self, values: &[f64]) -> bool {
        let sorted = sorted(values);
        let Some(median) = quantile(&sorted, MEDIAN) else {
            return true;
        };
        median_interval(&sorted, CONFIDENCE)
            .is_some_and(|interval| interval.relative(median) <= self.within)
    }
}

/// At `least` rounds, and then each time there is a tenth more.
fn is_looked_at(rounds: usize, least: usize) -> bool {
    let mut next = least;
    while next < rounds {
        next += (next / 10).max(1);
    }
    next == rounds
}
