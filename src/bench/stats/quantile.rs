// SPDX-License-Identifier: Apache-2.0
//! Quantiles by Hyndman and Fan's definition 7 (1996, "Sample Quantiles in Statistical
//! Packages"), which R, NumPy and spreadsheets take when nothing is said.

/// Thousandths: a share that is exact, and that no float has to be cut for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantile(usize);

pub const P5: Quantile = Quantile(50);
pub const P25: Quantile = Quantile(250);
pub const MEDIAN: Quantile = Quantile(500);
pub const P75: Quantile = Quantile(750);
pub const P95: Quantile = Quantile(950);
pub const P99: Quantile = Quantile(990);

const WHOLE: usize = 1000;
/// How sure one must be that at least one sample lies beyond a quantile.
const BEYOND: f64 = 0.95;

impl Quantile {
    /// How many samples it takes to speak of it: the fewest n with 1 − pⁿ ≥ 95 %, p the share on
    /// its longer side. With fewer, the largest sample may well lie short of the quantile, and
    /// no upper bound of it can be given (Wilks 1941): 59 for p5 and p95, 299 for p99.
    #[must_use]
    pub fn needs(self) -> usize {
        let longer = self.0.max(WHOLE.saturating_sub(self.0));
        let share = longer as f64 / WHOLE as f64;
        let mut missed = 1.0;
        let mut count = 0;
        while 1.0 - missed < BEYOND {
            missed *= share;
            count += 1;
        }
        count
    }
}

/// Of samples that are sorted; none of none.
#[must_use]
pub fn quantile(sorted: &[f64], which: Quantile) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = last.saturating_mul(which.0);
    let (below, rest) = (place / WHOLE, place % WHOLE);
    let low = *sorted.get(below)?;
    let high = sorted.get(below + 1).copied().unwrap_or(low);
    Some(low + (high - low) * (rest as f64 / WHOLE as f64))
}

/// Of samples in any order.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(&super::sorted(values), MEDIAN)
}

/// The median absolute deviation from `median`, as it is: not scaled to a normal distribution's
/// standard deviation.
#[must_use]
pub fn deviation(values: &[f64], middle: f64) -> f64 {
    let apart: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    median(&apart).unwrap_or(0.0)
}
