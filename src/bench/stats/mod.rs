// SPDX-License-Identifier: Apache-2.0
//! What samples say, and how surely. Every definition is named where it is made, nothing is
//! dropped, and nothing assumes a normal distribution: times to start have tails. Pure; on the
//! thread of whoever asks. Never panics on any sample, and never answers with a number that is
//! none.

mod drift;
mod goal;
mod interval;
mod modes;
mod outliers;
mod quantile;
mod random;
mod ratio;

pub use drift::{Drift, drift};
pub use goal::{Goal, Verdict};
pub use interval::{CONFIDENCE, Interval, median_interval};
pub use modes::{Modes, modes};
pub use outliers::outliers;
pub use quantile::{MEDIAN, P5, P25, P75, P95, P99, Quantile, deviation, median, quantile};
pub use random::Random;
pub use ratio::{Ratio, Way, paired, pairs, unpaired};

use super::model::Sample;

/// All that a report tells of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub count: usize,
    pub minimum: f64,
    pub maximum: f64,
    pub mean: f64,
    pub median: f64,
    /// None of fewer samples than [`interval`](median_interval) needs.
    pub interval: Option<Interval>,
    pub p5: Tail,
    pub p25: f64,
    pub p75: f64,
    pub p95: Tail,
    pub p99: Tail,
    /// The median absolute deviation from the median.
    pub deviation: f64,
    /// The samples that stand apart, by their places in the series. They count like all others.
    pub outliers: Vec<usize>,
    pub drift: Option<Drift>,
    pub modes: Option<Modes>,
}

/// A quantile far from the middle, and whether there are samples enough to speak of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    pub value: f64,
    /// Samples of which one is beyond this quantile with a confidence of 95 %.
    pub needs: usize,
    pub sound: bool,
}

impl Summary {
    /// None of no samples. What is not finite is not a sample.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        Self::of_values(&values)
    }

    /// In the order in which they were taken.
    #[must_use]
    pub fn of_values(values: &[f64]) -> Option<Self> {
        let values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let sorted = sorted(&values);
        let (minimum, maximum) = (*sorted.first()?, *sorted.last()?);
        let count = sorted.len();
        let median = quantile(&sorted, MEDIAN)?;
        let tail = |which: Quantile| {
            Some(Tail {
                value: quantile(&sorted, which)?,
                needs: which.needs(),
                sound: count >= which.needs(),
            })
        };
        Some(Self {
            count,
            minimum,
            maximum,
            mean: mean(&sorted),
            median,
            interval: median_interval(&sorted, CONFIDENCE),
            p5: tail(P5)?,
            p25: quantile(&sorted, P25)?,
            p75: quantile(&sorted, P75)?,
            p95: tail(P95)?,
            p99: tail(P99)?,
            deviation: deviation(&sorted, median),
            outliers: outliers(&values),
            drift: drift(&values),
            modes: modes(&sorted),
        })
    }
}

/// Ascending; the functions that take sorted samples say so.
#[must_use]
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Shares first, so that no sum overflows.
fn mean(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    values.iter().map(|value| value / count).sum()
}

#[cfg(test)]
mod tests;
