// SPDX-License-Identifier: Apache-2.0
//! Known distributions in, known answers out. What is drawn is drawn from a fixed seed.

use super::modes::dip_of;
use super::*;

const SEED: u64 = 1;

type Draw = fn(&mut Random) -> f64;

/// Box and Muller.
fn normal(random: &mut Random) -> f64 {
    let (a, b) = (1.0 - random.share(), random.share());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

fn many(count: usize, seed: u64, mut draw: impl FnMut(&mut Random) -> f64) -> Vec<f64> {
    let mut random = Random::seeded(seed);
    (0..count).map(|_| draw(&mut random)).collect()
}

fn in_rounds(values: &[f64]) -> Vec<Sample> {
    let rounds = values.iter().zip(0u32..);
    rounds
        .map(|(value, round)| Sample {
            round,
            value: *value,
        })
        .collect()
}

fn near(found: f64, known: f64, within: f64) {
    assert!((found - known).abs() <= within, "{found}, not {known}");
}

#[test]
fn quantiles_are_those_of_definition_7() {
    let ten: Vec<f64> = (1..=10).map(f64::from).collect();
    for (which, known) in [
        (P5, 1.45),
        (P25, 3.25),
        (MEDIAN, 5.5),
        (P75, 7.75),
        (P95, 9.55),
        (P99, 9.91),
    ] {
        near(quantile(&ten, which).unwrap(), known, 1e-12);
    }
    assert_eq!(quantile(&[], MEDIAN), None);
    assert_eq!(quantile(&[7.0], P99), Some(7.0));
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
}

#[test]
fn a_tail_says_how_many_samples_it_takes() {
    assert_eq!([P5.needs(), P95.needs(), P99.needs()], [59, 59, 299]);
    let of = |count| Summary::of_values(&many(count, SEED, Random::share)).unwrap();
    assert!(!of(58).p95.sound && of(59).p95.sound && !of(298).p99.sound && of(299).p99.sound);
}

/// Conover, "Practical Nonparametric Statistics", table A3: for n = 20 the 6th and 15th hold
/// 95.86 %, for n = 10 the 2nd and 9th 97.85 %.
#[test]
fn the_interval_of_a_median_is_the_tables() {
    for (count, low, high, holds) in [
        (6, 1.0, 6.0, 0.96875),
        (10, 2.0, 9.0, 0.978_515_625),
        (20, 6.0, 15.0, 0.958_610_5),
        (100, 40.0, 61.0, 0.964_8),
    ] {
        let values: Vec<f64> = (1..=count).map(f64::from).collect();
        let interval = median_interval(&values, CONFIDENCE).unwrap();
        assert_eq!((interval.low, interval.high), (low, high), "{count}");
        near(interval.confidence, holds, 1e-4);
    }
    assert_eq!(
        median_interval(&[1.0, 2.0, 3.0, 4.0, 5.0], CONFIDENCE),
        None
    );
    assert_eq!(median_interval(&[], CONFIDENCE), None);
}

/// Whatever the distribution, the interval holds its true median as often as it says.
#[test]
fn intervals_of_medians_hold_as_often_as_they_say() {
    let shapes: [(Draw, f64); 3] = [
        (normal, 0.0),
        (|random| -(1.0 - random.share()).ln(), 2f64.ln()),
        (|random| normal(random).exp(), 1.0),
    ];
    for (draw, known) in shapes {
        for count in [7, 30, 101] {
            let trials = 2000u64;
            let held = (0..trials).filter(|seed| {
                let values = sorted(&many(count, *seed, draw));
                median_interval(&values, CONFIDENCE).unwrap().holds(known)
            });
            let share = held.count() as f64 / trials as f64;
            assert!((0.94..0.99).contains(&share), "{count}: {share}");
        }
    }
}

#[test]
fn ratios_of_two_runs_hold_as_often_as_they_say() {
    let trials = 300u64;
    let held = (0..trials).filter(|seed| {
        let a = many(40, *seed, |random| 30.0 * (0.2 * normal(random)).exp());
        let b = many(40, seed + 7777, |random| {
            20.0 * (0.2 * normal(random)).exp()
        });
        let ratio = unpaired(&a, &b, CONFIDENCE).unwrap();
        ratio.interval.unwrap().holds(1.5)
    });
    let share = held.count() as f64 / trials as f64;
    assert!((0.92..0.99).contains(&share), "{share}");
}

/// What slows a round slows both: pairs see through it, and two runs could not.
#[test]
fn pairs_see_through_what_slows_a_round() {
    let weather = many(50, 3, |random| (0.5 * normal(random)).exp());
    let noise = many(50, 4, |random| 1.0 + 0.01 * normal(random));
    let slow: Vec<f64> = weather.iter().map(|w| 14.0 * w).collect();
    let fast: Vec<f64> = weather
        .iter()
        .zip(&noise)
        .map(|(w, n)| 10.0 * w * n)
        .collect();
    let pair = paired(&in_rounds(&slow), &in_rounds(&fast), CONFIDENCE).unwrap();
    near(pair.value, 1.4, 0.01);
    assert_eq!((pair.count, pair.way), (50, Way::Paired));
    let interval = pair.interval.unwrap();
    assert!(
        interval.holds(1.4) && interval.high - interval.low < 0.02,
        "{interval:?}"
    );
    let apart = unpaired(&slow, &fast, CONFIDENCE)
        .unwrap()
        .interval
        .unwrap();
    assert!(apart.high - apart.low > 0.2, "{apart:?}");
}

#[test]
fn a_round_that_one_of_them_lost_is_no_pair() {
    let sample = |round, value| Sample { round, value };
    let a = [
        sample(0, 2.0),
        sample(1, 4.0),
        sample(3, 9.0),
        sample(3, 11.0),
    ];
    let b = [
        sample(1, 2.0),
        sample(2, 5.0),
        sample(3, 5.0),
        sample(4, 0.0),
    ];
    assert_eq!(pairs(&a, &b), [2.0, 2.0]);
    assert_eq!(paired(&a, &b, CONFIDENCE).unwrap().interval, None);
    assert_eq!(paired(&a, &[], CONFIDENCE), None);
    assert_eq!(unpaired(&[1.0], &[0.0], CONFIDENCE), None);
}

#[test]
fn the_same_samples_give_the_same_interval() {
    let a = many(30, 1, normal)
        .iter()
        .map(|v| v + 9.0)
        .collect::<Vec<_>>();
    let b = many(31, 2, normal)
        .iter()
        .map(|v| v + 5.0)
        .collect::<Vec<_>>();
    let once = unpaired(&a, &b, CONFIDENCE).unwrap();
    assert_eq!(Some(once), unpaired(&a, &b, CONFIDENCE));
    let turned = unpaired(&b, &a, CONFIDENCE).unwrap().inverse();
    near(turned.value, once.value, 1e-12);
    near(once.value, 9.0 / 5.0, 0.2);
}

#[test]
fn outliers_are_found_and_kept() {
    let mut values = many(40, 5, |random| 100.0 + normal(random));
    assert_eq!(outliers(&values), Vec::<usize>::new());
    values[7] = 130.0;
    values[31] = 70.0;
    let summary = Summary::of_values(&values).unwrap();
    assert_eq!(summary.outliers, [7, 31]);
    assert_eq!(
        (summary.count, summary.maximum, summary.minimum),
        (40, 130.0, 70.0)
    );
    // Most are one number, and the deviation is none.
    let mut same = vec![5.0; 20];
    assert_eq!(outliers(&same), Vec::<usize>::new());
    same[3] = 6.0;
    assert_eq!(outliers(&same), [3]);
    assert_eq!(outliers(&[1.0, 1.0, 900.0]), Vec::<usize>::new());
}

#[test]
fn a_drift_is_seen_and_chance_is_not() {
    let still = |seed| many(60, seed, |random| 100.0 + 5.0 * normal(random));
    let alarms = (0..300).filter(|seed| drift(&still(*seed)).is_some());
    assert!(alarms.count() <= 8);
    let warmer: Vec<f64> = still(9)
        .iter()
        .zip(0u32..)
        .map(|(v, i)| v + 0.5 * f64::from(i))
        .collect();
    let found = drift(&warmer).expect("a drift");
    near(found.change, 0.26, 0.05);
    assert!(found.chance < 1e-6);
    near(found.first, 105.0, 3.0);
    near(found.last, 125.0, 3.0);
    let cooler: Vec<f64> = warmer.iter().rev().copied().collect();
    near(drift(&cooler).expect("a drift").change, -found.change, 1e-9);
    // One late outlier is none, nor is one of a thousandth.
    let mut late = still(9);
    late[59] = 1e9;
    assert_eq!(drift(&late), None);
    let tiny: Vec<f64> = (0..60).map(|i| 1000.0 + 0.01 * f64::from(i)).collect();
    assert_eq!(drift(&tiny), None);
    assert!(drift(&vec![3.0; 5000]).is_none());
}

#[test]
fn the_dip_of_known_samples() {
    // Evenly spaced samples fit a straight line: half a step. Two atoms are as far as can be
    // from one peak: a quarter.
    let even: Vec<f64> = (0..10).map(f64::from).collect();
    near(dip_of(&even), 0.05, 1e-6);
    let atoms: Vec<f64> = [vec![0.0; 50], vec![1.0; 50]].concat();
    near(dip_of(&atoms), 0.25, 1e-6);
    near(dip_of(&[4.0; 30]), 0.0, 1e-6);
}

#[test]
fn two_peaks_are_told_from_one() {
    let both = many(80, 6, |random| {
        let peak = if random.share() < 0.3 { 15.0 } else { 10.0 };
        peak + 0.4 * normal(random)
    });
    let found = modes(&sorted(&both)).expect("two peaks");
    near(found.low, 10.0, 0.3);
    near(found.high, 15.0, 0.3);
    near(found.share, 0.7, 0.12);
    let shapes: [Draw; 4] = [
        |random| 10.0 + random.share(),
        |random| 10.0 + normal(random),
        |random| 10.0 - 3.0 * (1.0 - random.share()).ln(),
        |random| (0.5 * normal(random)).exp(),
    ];
    for draw in shapes {
        for count in [15, 50, 200] {
            let alarms =
                (0..300).filter(|seed| modes(&sorted(&many(count, *seed, draw))).is_some());
            let alarms = alarms.count();
            assert!(alarms <= 7, "{alarms} of {count}");
        }
    }
    // Most are one number, and the rest lie around it.
    let peaked = many(100, 8, |random| match random.share() < 0.5 {
        true => 10.0,
        false => 10.0 + normal(random),
    });
    assert_eq!(modes(&sorted(&peaked)), None);
}

#[test]
fn rounds_end_when_medians_are_known_and_not_before() {
    let goal = Goal {
        within: 0.05,
        least: 10,
        most: 100,
    };
    let close = many(40, 1, |random| 100.0 + normal(random));
    let wide = many(40, 2, |random| 100.0 * normal(random).exp());
    assert_eq!(goal.judge(9, [&close[..9]]), Verdict::More);
    assert_eq!(goal.judge(10, [&close[..10]]), Verdict::Enough);
    assert_eq!(goal.judge(10, [&close[..10], &wide[..10]]), Verdict::More);
    assert_eq!(goal.judge(100, [&wide[..]]), Verdict::OutOfRounds);
    // A contestant all of whose starts failed holds nobody up.
    assert_eq!(goal.judge(10, [&close[..10], &[]]), Verdict::Enough);
    // Later it is looked at more seldom.
    assert_eq!(goal.judge(37, [&close[..37]]), Verdict::More);
}

#[test]
fn nothing_that_is_a_number_or_none_makes_a_panic() {
    let odd = [
        0.0,
        -0.0,
        -1.0,
        1.0,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        f64::NAN,
        f64::INFINITY,
    ];
    for seed in 0..500 {
        let mut random = Random::seeded(seed);
        let count = random.below(40);
        let values: Vec<f64> = (0..count).map(|_| odd[random.below(odd.len())]).collect();
        let others: Vec<f64> = (0..count).map(|_| odd[random.below(odd.len())]).collect();
        let _ = Summary::of_values(&values);
        let _ = unpaired(&values, &others, CONFIDENCE);
        let _ = paired(&in_rounds(&values), &in_rounds(&others), CONFIDENCE);
        let goal = Goal {
            within: 0.1,
            least: 1,
            most: 5,
        };
        let _ = goal.judge(3, [&values[..]]);
    }
    assert_eq!(Summary::of_values(&[f64::NAN]), None);
}
