// SPDX-License-Identifier: Apache-2.0
//! The confidence interval of a median, from order statistics: whatever the distribution, the
//! number of samples below its median is binomial with p = ½. Nothing is estimated or drawn.

/// What is asked for where nothing else is said.
pub const CONFIDENCE: f64 = 0.95;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
    /// What it holds at the least; more than was asked for, since samples are counted.
    pub confidence: f64,
}

impl Interval {
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// How far its further end is from `middle`, as a share of it.
    #[must_use]
    pub fn relative(&self, middle: f64) -> f64 {
        let far = (self.high - middle).max(middle - self.low);
        match middle == 0.0 {
            true if far == 0.0 => 0.0,
            true => f64::INFINITY,
            false => (far / middle).abs(),
        }
    }
}

/// Of samples that are sorted: from the k-th smallest to the k-th largest, for the greatest k
/// that leaves at least `confidence`. None where even the smallest and the largest do not: six
/// samples are the fewest for 95 %, eight for 99 %.
#[must_use]
pub fn median_interval(sorted: &[f64], confidence: f64) -> Option<Interval> {
    let count = sorted.len();
    let outside = (1.0 - confidence) / 2.0;
    // The logarithm of the chance that exactly `below` samples are below the median.
    let mut chance = count as f64 * 0.5f64.ln();
    let (mut tail, mut found) = (0.0, None);
    for below in 0..count / 2 {
        tail += chance.exp();
        if tail > outside {
            break;
        }
        found = Some((below, 1.0 - 2.0 * tail));
        chance += ((count - below) as f64 / (below + 1) as f64).ln();
    }
    let (place, confidence) = found?;
    Some(Interval {
        low: *sorted.get(place)?,
        high: *sorted.get(count - 1 - place)?,
        confidence,
    })
}
