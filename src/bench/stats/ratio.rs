// SPDX-License-Identifier: Apache-2.0
//! How many times one thing is another, with an interval. Two ways: by pairs, for contestants
//! that took turns in the same rounds, so that what slowed a round slows both; by resampling,
//! for two runs that know nothing of each other.

use super::interval::{Interval, median_interval};
use super::quantile::{MEDIAN, median, quantile};
use super::random::Random;
use super::sorted;
use crate::bench::model::Sample;
use std::collections::BTreeMap;

/// Resamples, and the seed of the first one: the same samples give the same interval.
const RESAMPLES: usize = 2000;
const SEED: u64 = 0x6875_736b;
/// The percentile bootstrap of fewer samples is too narrow to be believed.
const FEWEST_RESAMPLED: usize = 8;
/// Samples of a side that are resampled; what is above is thinned out evenly. The interval of
/// as many is far narrower than any threshold.
const MOST_RESAMPLED: usize = 2000;

/// A ÷ B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub value: f64,
    /// None of too few samples.
    pub interval: Option<Interval>,
    /// The least and the most of the pairs; none where there are no pairs.
    pub range: Option<(f64, f64)>,
    /// Pairs, or the samples of the smaller side.
    pub count: usize,
    pub way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The median of the ratios of each round; its interval from order statistics.
    Paired,
    /// The ratio of the medians; its interval by the percentile bootstrap with a fixed seed.
    /// (BCa wants a statistic that is smooth; its acceleration is not defined for medians.)
    Resampled,
}

impl Ratio {
    /// B ÷ A.
    #[must_use]
    pub fn inverse(self) -> Self {
        Self {
            value: 1.0 / self.value,
            interval: self.interval.map(|of| Interval {
                low: 1.0 / of.high,
                high: 1.0 / of.low,
                confidence: of.confidence,
            }),
            range: self.range.map(|(least, most)| (1.0 / most, 1.0 / least)),
            ..self
        }
    }
}

/// The ratio of each round that both have, in the order of the rounds; of a round that has
/// several samples, of their medians.
#[must_use]
pub fn pairs(a: &[Sample], b: &[Sample]) -> Vec<f64> {
    let (a, b) = (by_round(a), by_round(b));
    a.iter()
        .filter_map(|(round, a)| Some((median(a)?, median(b.get(round)?)?)))
        .filter(|(a, b)| *a > 0.0 && *b > 0.0)
        .map(|(a, b)| a / b)
        .collect()
}

fn by_round(samples: &[Sample]) -> BTreeMap<u32, Vec<f64>> {
    let mut rounds: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for sample in samples {
        rounds.entry(sample.round).or_default().push(sample.value);
    }
    rounds
}

/// None where no round has both.
#[must_use]
pub fn paired(a: &[Sample], b: &[Sample], confidence: f64) -> Option<Ratio> {
    let ratios = sorted(&pairs(a, b));
    Some(Ratio {
        value: quantile(&ratios, MEDIAN)?,
        interval: median_interval(&ratios, confidence),
        range: Some((*ratios.first()?, *ratios.last()?)),
        count: ratios.len(),
        way: Way::Paired,
    })
}

/// None where a side has no samples, or a median that is not above 0.
#[must_use]
pub fn unpaired(a: &[f64], b: &[f64], confidence: f64) -> Option<Ratio> {
    let (a, b) = (sorted(a), sorted(b));
    let above = |sorted: &[f64]| quantile(sorted, MEDIAN).filter(|median| *median > 0.0);
    let value = above(&a)? / above(&b)?;
    let count = a.len().min(b.len());
    let interval = (count >= FEWEST_RESAMPLED)
        .then(|| resampled(&thinned(&a), &thinned(&b), confidence))
        .flatten();
    Some(Ratio {
        value,
        interval,
        range: None,
        count,
        way: Way::Resampled,
    })
}

fn thinned(sorted: &[f64]) -> Vec<f64> {
    let step = sorted.len().div_ceil(MOST_RESAMPLED).max(1);
    sorted
        .iter()
        .skip(step / 2)
        .step_by(step)
        .copied()
        .collect()
}

fn resampled(a: &[f64], b: &[f64], confidence: f64) -> Option<Interval> {
    let mut random = Random::seeded(SEED);
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .map(|_| resampled_median(a, &mut random) / resampled_median(b, &mut random))
        .filter(|ratio| ratio.is_finite())
        .collect();
    ratios.sort_by(f64::total_cmp);
    // Places of both ends, counted: outside of each lies half of what the interval may miss.
    let outside = (1.0 - confidence) / 2.0;
    let cut = (0..ratios.len())
        .take_while(|place| ((place + 1) as f64) <= outside * ratios.len() as f64)
        .count();
    Some(Interval {
        low: *ratios.get(cut)?,
        high: *ratios.get(ratios.len().checked_sub(cut + 1)?)?,
        confidence,
    })
}

/// `sorted` is not empty. Places are drawn and put in order by counting: what was drawn of
/// samples that are sorted is sorted by its places.
fn resampled_median(sorted: &[f64], random: &mut Random) -> f64 {
    let count = sorted.len();
    let mut drawn = vec![0usize; count];
    for _ in 0..count {
        drawn[random.below(count)] += 1;
    }
    let (mut low, mut seen) = (None, 0);
    for (value, times) in sorted.iter().zip(drawn) {
        seen += times;
        if low.is_none() && 2 * seen >= count {
            low = Some(*value);
        }
        if let (Some(low), true) = (low, seen > count / 2) {
            // Of an odd count both are the one in the middle.
            return (low + value) / 2.0;
        }
    }
    low.unwrap_or(f64::NAN)
}
