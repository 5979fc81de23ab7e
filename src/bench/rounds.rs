// SPDX-License-Identifier: Apache-2.0
//! Who is when asked: all contestants in each round, in an order that is another one each time,
//! until enough is known or the time is over. Pure.

use super::stats::{Goal, Verdict};
use std::time::{Duration, Instant};

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Rounds that are not kept: caches fill, templates are made.
    pub warm_up: u32,
    pub goal: Goal,
    /// No round begins later than this.
    pub time: Duration,
}

impl Plan {
    /// As many rounds as asked, or as the medians need to be known within 5 %.
    #[must_use]
    pub fn of(rounds: Option<u32>, quick: bool) -> Self {
        let within = 0.05;
        let goal = match (rounds, quick) {
            (Some(rounds), _) => {
                let rounds = usize::try_from(rounds).unwrap_or(usize::MAX);
                Goal {
                    within,
                    least: rounds,
                    most: rounds,
                }
            }
            (None, true) => Goal {
                within,
                least: 6,
                most: 15,
            },
            (None, false) => Goal {
                within,
                least: 20,
                most: 200,
            },
        };
        Self {
            warm_up: if quick { 1 } else { 2 },
            goal,
            time: match (rounds, quick) {
                (Some(_), _) => Duration::MAX,
                (None, true) => Duration::from_secs(10),
                (None, false) => Duration::from_secs(600),
            },
        }
    }

    /// Whether there is to be another round after this many.
    pub fn goes_on<'a>(
        &self,
        rounds: usize,
        began: Instant,
        series: impl IntoIterator<Item = &'a [f64]>,
    ) -> bool {
        let in_time = began.elapsed() < self.time;
        in_time && self.goal.judge(rounds, series) == Verdict::More
    }
}

/// The order of `count` contestants in a round: it begins one further each time, and every
/// other time it goes the other way round, so that nobody always follows the same other.
pub fn order(round: u32, count: usize) -> Vec<usize> {
    let Some(start) = usize::try_from(round)
        .ok()
        .and_then(|it| it.checked_rem(count))
    else {
        return Vec::new();
    };
    let forward = (0..count).map(|place| (start + place) % count);
    match (usize::try_from(round).unwrap_or(0) / count).is_multiple_of(2) {
        true => forward.collect(),
        false => forward.rev().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_round_has_everybody_once_and_everybody_is_first_as_often() {
        for count in 1..6 {
            let mut first = vec![0; count];
            let rounds = u32::try_from(count * 4).unwrap();
            for round in 0..rounds {
                let order = order(round, count);
                assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), count);
                first[order[0]] += 1;
            }
            assert_eq!(first, vec![4; count]);
        }
        assert!(order(7, 0).is_empty());
    }

    #[test]
    fn nobody_follows_the_same_other_in_each_round() {
        let follows: BTreeSet<usize> = (0..8)
            .filter_map(|round| {
                let order = order(round, 4);
                let place = order.iter().position(|&who| who == 2)?;
                order.get(place.checked_sub(1)?).copied()
            })
            .collect();
        assert!(follows.len() > 1);
    }

    #[test]
    fn a_number_of_rounds_is_kept_to() {
        let plan = Plan::of(Some(3), false);
        let began = Instant::now();
        let series = [[1.0, 5.0, 9.0]];
        let go = |rounds| plan.goes_on(rounds, began, series.iter().map(|it| &it[..]));
        assert!(go(0) && go(2) && !go(3));
    }
}
