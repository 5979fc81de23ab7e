// SPDX-License-Identifier: Apache-2.0
//! Samples that stand apart. They are told, and kept: a start that took ten times as long did
//! take ten times as long.

use super::quantile::{deviation, median};

/// Iglewicz and Hoaglin (1993): a sample stands apart if its distance from the median is more
/// than this many median absolute deviations, scaled as a normal distribution's.
const LIMIT: f64 = 3.5;
/// A normal distribution's standard deviation by its median and by its mean absolute deviation.
const BY_MEDIAN: f64 = 1.4826;
const BY_MEAN: f64 = 1.2533;
/// Of fewer samples nobody can say what stands apart.
const FEWEST: usize = 6;

/// Their places.
#[must_use]
pub fn outliers(values: &[f64]) -> Vec<usize> {
    let Some(middle) = median(values).filter(|_| values.len() >= FEWEST) else {
        return Vec::new();
    };
    let apart = |value: f64| (value - middle).abs();
    // Half of the samples may be one number: counts, or a coarse clock.
    let scale = match deviation(values, middle) {
        0.0 => BY_MEAN * values.iter().copied().map(apart).sum::<f64>() / values.len() as f64,
        deviation => BY_MEDIAN * deviation,
    };
    let places = values.iter().enumerate();
    places
        .filter(|(_, value)| scale > 0.0 && apart(**value) > LIMIT * scale)
        .map(|(place, _)| place)
        .collect()
}
