// SPDX-License-Identifier: Apache-2.0
//! The study of churn: starts and stops, so many at once and as fast as they go, each
//! contestant by itself. One thread for each start under way, which does all that a start
//! needs; the main thread waits for them.

use super::contestant::{Contestant, Feature};
use super::field::{Event, Field, Listener};
use super::model::{Better, Outcome, Sample, Series, Unit};
use super::rounds::order;
use super::session::{Session, left_behind};
use super::supervise::GRACE;
use super::timing::{Failed, Goal, Marks};
use crate::sys::clock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub const STUDY: &str = "churn";
pub const CONCURRENCY: &str = "concurrency";
pub const RATE: &str = "starts and stops";
pub const START: &str = "start, to its end point";
pub const STOP: &str = "stop, until nothing is left";
pub const WHOLE: &str = "start and stop";

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Churn {
    /// At once, in this order.
    pub concurrency: Vec<u32>,
    /// Rounds of each.
    pub rounds: u32,
    /// How long one contestant goes on at one concurrency in one round.
    pub span: Duration,
}

impl Churn {
    /// 1, 2, 4 … up to `most`, which is there in any case.
    #[must_use]
    pub fn up_to(most: u32, rounds: u32, span: Duration) -> Self {
        let mut concurrency: Vec<u32> = (0..32)
            .map(|bit| 1 << bit)
            .take_while(|&n| n < most)
            .collect();
        concurrency.push(most.max(1));
        Self {
            concurrency,
            rounds,
            span,
        }
    }
}

/// One contestant's figures at one concurrency.
#[derive(Default)]
struct Column {
    rates: Vec<Sample>,
    starts: Vec<Sample>,
    stops: Vec<Sample>,
    wholes: Vec<Sample>,
    failures: Vec<String>,
}

/// What all threads of a batch add to.
#[derive(Default)]
struct Batch {
    done: Vec<(u64, u64)>,
    failures: Vec<String>,
}

/// The series, and whether the operator ended it early.
pub fn measure(
    session: &Session<'_>,
    field: &Field,
    churn: &Churn,
    hear: &mut Listener<'_>,
) -> (Vec<Series>, bool) {
    let mut columns: BTreeMap<(usize, u32), Column> = BTreeMap::new();
    let mut interrupted = false;
    'rounds: for round in 0..churn.rounds {
        hear(Event::Round {
            study: STUDY,
            round: round + 1,
            most: churn.rounds,
        });
        for &count in &churn.concurrency {
            for player in order(round, field.players.len()) {
                let it = &*field.players[player];
                let column = columns.entry((player, count)).or_default();
                let rate = batch(session, it, (round, count), churn.span, column);
                interrupted = session.supervisor.interrupted();
                if interrupted {
                    break 'rounds;
                }
                match rate {
                    Ok(rate) => hear(Event::Sample(it.name(), RATE, rate)),
                    Err(why) => {
                        hear(Event::Failed(it.name(), &why));
                        column.failures.push(why);
                    }
                }
            }
        }
    }
    let series = columns.into_iter().flat_map(|((player, count), column)| {
        into_series(field.players[player].name(), count, column)
    });
    (series.collect(), interrupted)
}

/// How a start of this contestant is told to have been one: by its service, where it has one.
fn goal(session: &Session<'_>, it: &dyn Contestant) -> Goal {
    let serves = session.work.service.is_some() && it.offers(Feature::Service).is_ok();
    match (serves, &session.work.once) {
        (true, _) => Goal::Answer {
            detached: it.offers(Feature::Detached).is_ok(),
            path: session.path().to_owned(),
        },
        (false, Some((_, says))) => Goal::Exit(*says),
        (false, None) => Goal::Exit(None),
    }
}

/// As many as go in `span`, `count` at once. Their rate, in starts a second.
fn batch(
    session: &Session<'_>,
    it: &dyn Contestant,
    (round, count): (u32, u32),
    span: Duration,
    column: &mut Column,
) -> Result<f64, String> {
    let known: BTreeSet<i32> = session.supervisor.descendants().into_keys().collect();
    let goal = goal(session, it);
    let over = AtomicBool::new(false);
    let batch = Mutex::new(Batch::default());
    let began = clock::monotonic_ns();
    let until = began + u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| worker(session, it, &goal, until, (&over, &batch)));
        }
    });
    let took = clock::monotonic_ns().saturating_sub(began);
    let batch = batch
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let left = session.supervisor.settle(&known, GRACE);
    let samples = |values: &mut dyn Iterator<Item = u64>| -> Vec<Sample> {
        values
            .map(|value| Sample {
                round,
                value: value as f64,
            })
            .collect()
    };
    column
        .starts
        .extend(samples(&mut batch.done.iter().map(|(start, _)| *start)));
    column
        .stops
        .extend(samples(&mut batch.done.iter().map(|(_, stop)| *stop)));
    column
        .wholes
        .extend(samples(&mut batch.done.iter().map(|(a, b)| a + b)));
    if !left.is_empty() {
        column.failures.push(left_behind(&left));
    }
    let first = batch.failures.first().cloned();
    column.failures.extend(batch.failures);
    if batch.done.is_empty() {
        return Err(first.unwrap_or_else(|| "not one start came to its end".into()));
    }
    let rate = batch.done.len() as f64 * 1e9 / took.max(1) as f64;
    column.rates.push(Sample { round, value: rate });
    Ok(rate)
}

/// Failures in a row after which nothing more is tried.
const MOST_FAILURES: usize = 3;

fn worker(
    session: &Session<'_>,
    it: &dyn Contestant,
    goal: &Goal,
    until: u64,
    (over, batch): (&AtomicBool, &Mutex<Batch>),
) {
    let mut failed = 0;
    while clock::monotonic_ns() < until && !over.load(Ordering::Relaxed) {
        let task = match goal {
            Goal::Answer { detached, .. } => session.service(*detached),
            Goal::Exit(_) => {
                let once = session.work.once.clone();
                once.map(|(argv, _)| session.task(argv, None, false))
            }
        };
        let Some(task) = task else { return };
        let result = session.churn(it, &task, goal);
        let mut batch = batch
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match result {
            Ok((marks, stop)) => {
                batch.done.push((end_of(&marks), stop));
                failed = 0;
            }
            Err(Failed::Interrupted) => over.store(true, Ordering::Relaxed),
            Err(why) => {
                batch.failures.push(why.to_string());
                failed += 1;
                if failed == MOST_FAILURES {
                    over.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The last moment of a start.
fn end_of(marks: &Marks) -> u64 {
    marks
        .list()
        .into_iter()
        .map(|(_, at)| at)
        .max()
        .unwrap_or(0)
}

fn into_series(name: &str, count: u32, column: Column) -> Vec<Series> {
    let conditions = BTreeMap::from([(CONCURRENCY.to_owned(), count.to_string())]);
    let series = |metric: &str, unit, better, samples, failures| Series {
        study: STUDY.to_owned(),
        contestant: name.to_owned(),
        metric: metric.to_owned(),
        unit,
        better,
        conditions: conditions.clone(),
        outcome: Outcome::Measured { samples, failures },
    };
    let time = |metric, samples| {
        series(
            metric,
            Unit::Nanoseconds,
            Better::Lower,
            samples,
            Vec::new(),
        )
    };
    vec![
        time(START, column.starts),
        time(STOP, column.stops),
        time(WHOLE, column.wholes),
        series(
            RATE,
            Unit::PerSecond,
            Better::Higher,
            column.rates,
            column.failures,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrency_doubles_up_to_what_was_asked() {
        let up_to = |most| Churn::up_to(most, 1, Duration::ZERO).concurrency;
        assert_eq!(up_to(0), [1]);
        assert_eq!(up_to(1), [1]);
        assert_eq!(up_to(6), [1, 2, 4, 6]);
        assert_eq!(up_to(8), [1, 2, 4, 8]);
    }
}
