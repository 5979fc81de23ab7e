// SPDX-License-Identifier: Apache-2.0
//! The study of starts: each contestant, each round, with a warm page cache and with a cold
//! one, cut at the named end points of `timing`. On the main thread.

use super::contestant::{Contestant, Feature};
use super::evict;
use super::field::{Event, Field, Listener, files};
use super::model::{Better, Outcome, Sample, Series, Unit, Waterfall};
use super::rounds::{Plan, order};
use super::session::Session;
use super::timing::{ANSWERED, EXITED, FIRST_BYTE, Failed, Marks, RETURNED};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

pub const STUDY: &str = "start";
pub const CACHE: &str = "page cache";
pub const WARM: &str = "warm";
pub const COLD: &str = "cold";

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Starts {
    pub plan: Plan,
    /// Whether with a cold page cache, too.
    pub cold: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub series: Vec<Series>,
    pub waterfalls: Vec<Waterfall>,
    /// Whether the operator ended it early.
    pub interrupted: bool,
}

/// One contestant's samples under one condition.
#[derive(Default)]
struct Column {
    samples: BTreeMap<&'static str, Vec<Sample>>,
    failures: BTreeMap<&'static str, Vec<String>>,
    starts: Vec<(u32, Marks)>,
}

type Columns = BTreeMap<(usize, &'static str), Column>;

pub fn measure(
    session: &Session<'_>,
    field: &Field,
    starts: Starts,
    hear: &mut Listener<'_>,
) -> Found {
    let mut columns = Columns::new();
    let caches: &[&'static str] = if starts.cold { &[WARM, COLD] } else { &[WARM] };
    // All of one and then all of the other: whoever starts behind somebody whose files were
    // dropped finds a cache that is not quite warm.
    let interrupted = caches.iter().any(|&cache| {
        let mut here = Columns::new();
        let interrupted = rounds(session, field, (&starts.plan, cache), &mut here, hear);
        columns.append(&mut here);
        interrupted
    });
    let mut found = gather(session, field, columns);
    found.interrupted = interrupted;
    found
}

/// Round after round of everybody with such a cache. True if the operator wants an end.
fn rounds(
    session: &Session<'_>,
    field: &Field,
    (plan, cache): (&Plan, &'static str),
    columns: &mut Columns,
    hear: &mut Listener<'_>,
) -> bool {
    let most = u32::try_from(plan.goal.most).unwrap_or(u32::MAX);
    let mut warm_up = plan.warm_up;
    let mut began = Instant::now();
    let mut round = 0;
    while warm_up > 0 || more(plan, round, began, columns) {
        let kept = warm_up == 0;
        hear(Event::Round {
            study: &format!("{STUDY}, {CACHE} {cache}"),
            round: if kept { round + 1 } else { 0 },
            most,
        });
        for player in order(round + warm_up, field.players.len()) {
            let it = &*field.players[player];
            let column = columns.entry((player, cache)).or_default();
            if both(session, it, (round, cache, kept), column, hear) {
                return true;
            }
        }
        match kept {
            true => round += 1,
            false => {
                warm_up -= 1;
                began = Instant::now();
            }
        }
    }
    false
}

/// Whether what is known so far wants another round.
fn more(plan: &Plan, round: u32, began: Instant, columns: &Columns) -> bool {
    let all: Vec<Vec<f64>> = columns
        .values()
        .flat_map(|column| column.samples.values())
        .map(|samples| samples.iter().map(|sample| sample.value).collect())
        .collect();
    let rounds = usize::try_from(round).unwrap_or(usize::MAX);
    plan.goes_on(rounds, began, all.iter().map(Vec::as_slice))
}

/// One start in the foreground and one of the service. True if the operator wants an end.
fn both(
    session: &Session<'_>,
    it: &dyn Contestant,
    (round, cache, kept): (u32, &'static str, bool),
    column: &mut Column,
    hear: &mut Listener<'_>,
) -> bool {
    let cool = || {
        if cache == COLD {
            let files = files(it, session.ground);
            evict::evict(files.iter().map(|path| -> &Path { path }));
        }
    };
    let mut results = Vec::new();
    if let Some((argv, says)) = &session.work.once
        && it.offers(Feature::Foreground).is_ok()
    {
        cool();
        let task = session.task(argv.clone(), None, false);
        results.push((EXITED, session.once(it, &task, *says)));
    }
    let detached = it.offers(Feature::Detached).is_ok();
    if it.offers(Feature::Service).is_ok()
        && let Some(task) = session.service(detached)
        && !session.supervisor.interrupted()
    {
        cool();
        let served = session.serve(it, &task).and_then(|running| {
            let marks = running.marks.clone();
            session.finish(running).map(|()| marks)
        });
        results.push((ANSWERED, served));
    }
    let mut interrupted = session.supervisor.interrupted();
    for (goal, result) in results {
        match result {
            Err(Failed::Interrupted) => interrupted = true,
            // What fails in the warm-up will fail again.
            _ if !kept => {}
            Err(failed) => {
                let why = failed.to_string();
                hear(Event::Failed(it.name(), &why));
                column.failures.entry(goal).or_default().push(why);
            }
            Ok(marks) => {
                for (metric, at) in marks.list() {
                    // Fifty-two bits of nanoseconds are two months.
                    let value = at as f64;
                    hear(Event::Sample(it.name(), metric, value));
                    let samples = column.samples.entry(metric).or_default();
                    samples.push(Sample { round, value });
                }
                column.starts.push((round, marks));
            }
        }
    }
    interrupted
}

fn gather(session: &Session<'_>, field: &Field, columns: Columns) -> Found {
    let mut found = Found::default();
    for ((player, cache), mut column) in columns {
        let it = &*field.players[player];
        let conditions = BTreeMap::from([(CACHE.to_owned(), cache.to_owned())]);
        for metric in [FIRST_BYTE, EXITED, RETURNED, ANSWERED] {
            let outcome = match not_offered(session, it, metric) {
                Some(why) => Outcome::NotOffered(why),
                None => Outcome::Measured {
                    samples: column.samples.remove(metric).unwrap_or_default(),
                    failures: column
                        .failures
                        .get(goal_of(metric))
                        .cloned()
                        .unwrap_or_default(),
                },
            };
            found.series.push(Series {
                study: STUDY.to_owned(),
                contestant: it.name().to_owned(),
                metric: metric.to_owned(),
                unit: Unit::Nanoseconds,
                better: Better::Lower,
                conditions: conditions.clone(),
                outcome,
            });
        }
        for last in [EXITED, ANSWERED] {
            if let Some(steps) = median_start(&column.starts, last) {
                found.waterfalls.push(Waterfall {
                    contestant: it.name().to_owned(),
                    conditions: conditions.clone(),
                    steps,
                });
            }
        }
    }
    found
}

/// A start in which it should have been reached fails for all its end points.
fn goal_of(metric: &str) -> &'static str {
    match metric {
        FIRST_BYTE | EXITED => EXITED,
        _ => ANSWERED,
    }
}

fn not_offered(session: &Session<'_>, it: &dyn Contestant, metric: &str) -> Option<String> {
    let (feature, there) = match metric {
        FIRST_BYTE | EXITED => (Feature::Foreground, session.work.once.is_some()),
        RETURNED => (Feature::Detached, session.work.service.is_some()),
        _ => (Feature::Service, session.work.service.is_some()),
    };
    if !there {
        return Some(match feature {
            Feature::Foreground => "the image's command is a service, which does not end".into(),
            _ => "the image's command is no service: --port says where one listens".into(),
        });
    }
    it.offers(feature).err()
}

/// The steps of the start that lies in the middle, by its last end point.
fn median_start(starts: &[(u32, Marks)], last: &str) -> Option<Vec<(String, u64)>> {
    let end = |marks: &Marks| marks.list().into_iter().find(|(name, _)| *name == last);
    let mut ends: Vec<(u64, &Marks)> = starts
        .iter()
        .filter_map(|(_, marks)| Some((end(marks)?.1, marks)))
        .collect();
    ends.sort_by_key(|(at, _)| *at);
    let (_, marks) = ends.get(ends.len().checked_sub(1)? / 2)?;
    let mut steps = marks.list();
    steps.sort_by_key(|(_, at)| *at);
    Some(
        steps
            .into_iter()
            .map(|(name, at)| (name.to_owned(), at))
            .collect(),
    )
}
