// SPDX-License-Identifier: Apache-2.0
//! Whether samples went up or down as the run went on: Mann and Kendall's test of ranks, and how
//! far by Theil and Sen's slope. Both look at pairs only, so no outlier makes a drift.

use super::quantile::median;

/// How seldom chance alone may look like a drift.
const SURPRISE: f64 = 0.01;
/// A drift of less of the median is not worth a word.
const WORTH: f64 = 0.03;
/// With fewer samples the normal approximation of the test's statistic is poor.
const FEWEST: usize = 10;
/// All pairs are looked at: of longer series the medians of as many equal parts are.
const MOST: usize = 512;

/// A trend over the whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// From the first sample to the last, as a share of the median; below 0 it went down.
    pub change: f64,
    /// Medians of its first third and of its last.
    pub first: f64,
    pub last: f64,
    /// The chance to see as much of a trend where there is none.
    pub chance: f64,
}

/// Of samples in the order in which they were taken; none where none is to be seen.
#[must_use]
pub fn drift(values: &[f64]) -> Option<Drift> {
    let middle = median(values).filter(|middle| *middle > 0.0)?;
    let parts = parts(values);
    if parts.len() < FEWEST {
        return None;
    }
    let chance = chance(&parts);
    let last = (parts.len() - 1) as f64;
    let change = slope(&parts)? * last / middle;
    let third = parts.len() / 3;
    let found = Drift {
        change,
        first: median(&parts[..third])?,
        last: median(&parts[parts.len() - third..])?,
        chance,
    };
    (chance < SURPRISE && change.abs() > WORTH).then_some(found)
}

fn parts(values: &[f64]) -> Vec<f64> {
    let size = values.len().div_ceil(MOST).max(1);
    values.chunks(size).filter_map(median).collect()
}

/// Theil–Sen: the median of the slopes of all pairs.
fn slope(values: &[f64]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(values.len() * values.len() / 2);
    for (at, early) in values.iter().enumerate() {
        let later = values.iter().skip(at + 1).enumerate();
        slopes.extend(later.map(|(apart, late)| (late - early) / (apart + 1) as f64));
    }
    median(&slopes)
}

/// Two-sided, by the normal approximation, ties accounted for (Kendall 1975, chapter 4).
fn chance(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mut score = 0i64;
    for (at, early) in values.iter().enumerate() {
        for late in values.iter().skip(at + 1) {
            score += i64::from(late > early) - i64::from(late < early);
        }
    }
    let spread = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let ties: f64 = super::sorted(values)
        .chunk_by(|a, b| a == b)
        .map(|tied| spread(tied.len() as f64))
        .sum();
    let variance = (spread(count) - ties) / 18.0;
    if score == 0 || variance <= 0.0 {
        return 1.0;
    }
    // One less: the score is a whole number and moves by two.
    let distance = (score.unsigned_abs() - 1) as f64 / variance.sqrt();
    beyond(distance)
}

/// The chance that a standard normal number is further from 0 than `distance`: Abramowitz and
/// Stegun 7.1.26, good to 1.5e-7.
fn beyond(distance: f64) -> f64 {
    let x = distance / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let factors = [
        1.061_405_429,
        -1.453_152_027,
        1.421_413_741,
        -0.284_496_736,
        0.254_829_592,
    ];
    let series = factors.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    (series * (-x * x).exp()).clamp(0.0, 1.0)
}
