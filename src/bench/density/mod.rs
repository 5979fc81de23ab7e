// SPDX-License-Identifier: Apache-2.0
//! `husk bench density`: what memory 1, 2, 4, … instances of a service take, when they have
//! answered once (idle) and when they have answered much (serving). The thread that measures.
//!
//! Memory is what processes map, by `smaps_rollup`: unique to one process, or its proportional
//! share of what several map; the page cache of the files that a contestant reads, whoever maps
//! them; and, since kernels keep memory of their own for each instance, by how much less the
//! host has available. The host is never taken below a fifth of its memory.

pub mod memory;

use super::ask;
use super::contestant::{Contestant, Feature, Ground};
use super::evict;
use super::field::{Event, Field, Listener};
use super::model::{Better, Outcome, Sample, Series, Unit};
use super::rounds::order;
use super::session::{Running, Session};
use super::surroundings::Host;
use memory::Memory;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is left to everybody else, of all memory.
pub const FLOOR: f64 = 0.2;
/// Memory is read until it stands still, to within `STILL`, or so long.
const SETTLING: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(100);
const STILL: f64 = 0.01;

/// Looks at a host's memory before the first instance, `STEP` apart, in which it may move so much
/// by itself: more than a container takes.
const STEADY_LOOKS: u32 = 3;
const STEADY: u64 = 2 << 20;
const UNSTEADY: &str = "the host's memory moves by itself: by more than 2 MiB within 0.3 s before \
    the first instance; stop what else runs";
/// What is no more than may have moved by itself is no figure, and what is below zero is not one
/// either: to keep only what is above would be to choose.
const DROWNED: &str = "the host's memory moves by itself, by up to 2 MiB, and no more was missing \
    with all instances; more of them tell";

pub const UNIQUE: &str = "unique memory per instance";
pub const SHARED: &str = "share of shared memory per instance";
pub const FILES: &str = "page cache of the files it reads, once for all";
pub const HOST: &str = "memory the host has less, per instance";
pub const PROCESSES: &str = "processes per instance";
pub const COUNT: &str = "instances that ran at once";

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The largest number of instances; the last step is this one, whatever the doubling says.
    pub most: u16,
    /// Requests each instance answers before it is looked at as one that serves.
    pub requests: u32,
    pub rounds: u32,
}

impl Plan {
    pub const QUICK: Self = Self {
        most: 4,
        requests: 20,
        rounds: 1,
    };
    pub const FULL: Self = Self {
        most: 16,
        requests: 200,
        // As many as an interval needs.
        rounds: 6,
    };

    /// 1, 2, 4, … and the most.
    fn steps(self) -> Vec<u16> {
        let powers = (0..16).map(|power| 1u16 << power);
        let mut steps: Vec<u16> = powers.take_while(|n| *n < self.most).collect();
        steps.push(self.most.max(1));
        steps
    }
}

/// One look at so many instances.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Look {
    memory: Memory,
    files: u64,
    /// What the host has less than before the first; or why that is not known.
    less: Less,
}

type Less = Result<f64, &'static str>;

/// Of a host that had so much before the first instance, and stood still then or did not.
fn less(before: u64, after: u64, steady: bool) -> Less {
    match before.checked_sub(after) {
        _ if !steady => Err(UNSTEADY),
        Some(less) if less > STEADY => Ok(less as f64),
        _ => Err(DROWNED),
    }
}

/// By instances and load; each look in a round.
type Looks = BTreeMap<(u16, &'static str), Vec<(u32, Look)>>;

/// As series call it.
pub const STUDY: &str = "density";

const LOADS: [&str; 2] = ["idle", "serving"];

/// Measures each contestant in turn, as often as `plan` says.
pub fn measure(
    session: &Session<'_>,
    field: &Field,
    plan: Plan,
    hear: &mut Listener<'_>,
) -> Vec<Series> {
    let mut all: Vec<Found> = field.players.iter().map(|_| Found::default()).collect();
    for round in 0..plan.rounds {
        if session.supervisor.interrupted() {
            break;
        }
        let (study, number, most) = (STUDY, round + 1, plan.rounds);
        hear(Event::Round {
            study,
            round: number,
            most,
        });
        for which in order(round, field.players.len()) {
            let (contestant, found) = (&*field.players[which], &mut all[which]);
            if lacks(session, contestant).is_some() {
                continue;
            }
            for load in LOADS {
                if session.supervisor.interrupted() {
                    break;
                }
                let climb = Climb {
                    session,
                    contestant,
                    plan,
                    load,
                    round,
                };
                climb.go(found, hear);
            }
        }
    }
    let pairs = field.players.iter().zip(&all);
    pairs
        .flat_map(|(contestant, found)| found.series(&**contestant, lacks(session, &**contestant)))
        .collect()
}

/// Why there is nothing of a contestant that goes on; `None` if there is.
fn lacks(session: &Session<'_>, contestant: &dyn Contestant) -> Option<String> {
    match session.work.service {
        None => {
            Some("what was asked for is a command that ends (--port says it serves)".to_owned())
        }
        Some(_) => contestant.offers(Feature::Service).err(),
    }
}

/// Of one contestant.
#[derive(Debug, Default)]
struct Found {
    looks: Looks,
    failures: BTreeMap<&'static str, Vec<String>>,
    most: BTreeMap<&'static str, Vec<(u32, u16)>>,
}

/// One contestant under one load, in one round.
struct Climb<'a> {
    session: &'a Session<'a>,
    contestant: &'a dyn Contestant,
    plan: Plan,
    load: &'static str,
    round: u32,
}

impl Climb<'_> {
    fn go(&self, found: &mut Found, hear: &mut Listener<'_>) {
        let supervisor = self.session.supervisor;
        let known: BTreeSet<i32> = supervisor.descendants().into_keys().collect();
        let files = files(self.contestant, self.session.ground);
        evict::evict(files.iter().map(PathBuf::as_path));
        let host = Host::default();
        let steady = is_steady(&host);
        let before = host.memory("MemAvailable").unwrap_or(0);
        let mut instances = Vec::new();
        let mut failed = Vec::new();
        for count in self.plan.steps() {
            let reached = self.reach(count, &mut instances, &host, before);
            // An end that the operator wants, or the clock of a quick run, is nobody's failure.
            if supervisor.interrupted() {
                break;
            }
            if let Err(why) = reached {
                failed.push(why);
                break;
            }
            match self.look(&instances, (&known, &files), &host, (before, steady)) {
                Ok(look) => {
                    let each = look.memory.unique as f64 / f64::from(count);
                    hear(Event::Sample(self.contestant.name(), UNIQUE, each));
                    let at = found.looks.entry((count, self.load)).or_default();
                    at.push((self.round, look));
                }
                Err(why) => failed.push(why),
            }
        }
        let reached = u16::try_from(instances.len()).unwrap_or(u16::MAX);
        let most = found.most.entry(self.load).or_default();
        most.push((self.round, reached));
        // The last first: what is then left behind is nobody's who still runs.
        while let Some(instance) = instances.pop() {
            let ended = self.session.finish(instance);
            failed.extend(ended.err().map(|why| why.to_string()));
        }
        for why in &failed {
            hear(Event::Failed(self.contestant.name(), why));
        }
        found.failures.entry(self.load).or_default().extend(failed);
    }

    /// Starts instances until there are so many.
    fn reach(
        &self,
        count: u16,
        instances: &mut Vec<Running>,
        host: &Host,
        before: u64,
    ) -> Result<(), String> {
        let total = host.memory("MemTotal").unwrap_or(0);
        while instances.len() < usize::from(count) {
            if self.session.supervisor.interrupted() {
                return Err("interrupted".to_owned());
            }
            let number = u16::try_from(instances.len()).unwrap_or(u16::MAX);
            let now = host.memory("MemAvailable").unwrap_or(0);
            if !affordable(before, now, number, total) {
                return Err(format!(
                    "not tried: {count} instances would leave less than a fifth of the memory"
                ));
            }
            let one = self.one();
            instances.push(one.map_err(|why| format!("instance {}: {why}", number + 1))?);
        }
        Ok(())
    }

    fn one(&self) -> Result<Running, String> {
        let detached = self.contestant.offers(Feature::Detached).is_ok();
        let task = self.session.service(detached);
        let task = task.ok_or("there is no service to start")?;
        let running = self.session.serve(self.contestant, &task);
        running.map_err(|why| why.to_string())
    }

    fn look(
        &self,
        instances: &[Running],
        (known, files): (&BTreeSet<i32>, &[PathBuf]),
        host: &Host,
        (before, steady): (u64, bool),
    ) -> Result<Look, String> {
        if self.load == "serving" {
            for (at, instance) in instances.iter().enumerate() {
                let service = instance.launch.service;
                let service = service.ok_or("it has no service that the host reaches")?;
                for _ in 0..self.plan.requests {
                    ask::once(service, self.session.path())
                        .map_err(|error| format!("instance {}: {error}", at + 1))?;
                }
            }
        }
        let memory = self.settled(instances, known, host)?;
        let after = host.memory("MemAvailable").unwrap_or(before);
        Ok(Look {
            memory,
            files: memory::page_cache(files),
            less: less(before, after, steady),
        })
    }

    /// What processes have once that stands still: what is started goes on for a moment after it
    /// answers.
    fn settled(
        &self,
        instances: &[Running],
        known: &BTreeSet<i32>,
        host: &Host,
    ) -> Result<Memory, String> {
        let until = Instant::now() + SETTLING;
        let mut last: Option<Memory> = None;
        loop {
            let (now, unread) = self.read(instances, known, host);
            if let Some(pid) = unread.first() {
                return Err(format!("the memory of process {pid} cannot be read"));
            }
            let of = |memory: &Memory| (memory.unique + memory.shared) as f64;
            let still = last.is_some_and(|last| (of(&last) - of(&now)).abs() <= of(&now) * STILL);
            if still || Instant::now() > until {
                return Ok(now);
            }
            last = Some(now);
            std::thread::sleep(STEP);
        }
    }

    fn read(
        &self,
        instances: &[Running],
        known: &BTreeSet<i32>,
        host: &Host,
    ) -> (Memory, Vec<i32>) {
        let descendants = self.session.supervisor.descendants();
        let ours = descendants.into_keys().filter(|pid| !known.contains(pid));
        let mut all: BTreeSet<i32> = ours.collect();
        let ground = self.session.ground;
        let elsewhere: Vec<i32> = instances
            .iter()
            .flat_map(|instance| self.contestant.elsewhere(ground, &instance.id))
            .collect();
        all.extend(memory::trees(host, &elsewhere));
        memory::of(host, &all)
    }
}

/// Whether nobody else takes or gives back much memory just now.
fn is_steady(host: &Host) -> bool {
    let read = || host.memory("MemAvailable").unwrap_or(0);
    let first = read();
    (0..STEADY_LOOKS).all(|_| {
        std::thread::sleep(STEP);
        read().abs_diff(first) <= STEADY
    })
}

/// Whether one more instance leaves the host what it needs, if it is as large as those there are.
fn affordable(before: u64, now: u64, running: u16, total: u64) -> bool {
    let used = before.saturating_sub(now);
    let each = used.checked_div(u64::from(running)).unwrap_or(0);
    now.saturating_sub(each) as f64 > total as f64 * FLOOR
}

/// What a contestant reads: its own files, and those of the tree where it has that for a root.
fn files(contestant: &dyn Contestant, ground: &Ground) -> Vec<PathBuf> {
    let files = contestant.files(ground).into_iter();
    let mut all: Vec<PathBuf> = files.map(|file| memory::behind(&file)).collect();
    if !contestant.kind().contains("machine") {
        all.push(ground.tree.clone());
    }
    all
}

impl Found {
    fn series(&self, contestant: &dyn Contestant, lacks: Option<String>) -> Vec<Series> {
        LOADS
            .iter()
            .flat_map(|load| match &lacks {
                Some(why) => vec![series(
                    contestant,
                    HOST,
                    Unit::Bytes,
                    &[("load", load)],
                    Outcome::NotOffered(why.clone()),
                )],
                None => self.of(contestant, load),
            })
            .collect()
    }

    fn of(&self, contestant: &dyn Contestant, load: &'static str) -> Vec<Series> {
        let mut all = Vec::new();
        let failures = self.failures.get(load).cloned().unwrap_or_default();
        let looks = self.looks.iter().filter(|((_, of), _)| *of == load);
        for ((count, _), looks) in looks {
            let conditions = [("instances", &*count.to_string()), ("load", load)];
            for (metric, unit, value) in METRICS {
                let outcome = told(looks, *value, f64::from(*count));
                all.push(series(contestant, metric, *unit, &conditions, outcome));
            }
        }
        // What went wrong is told once, with how far it went.
        let most = self.most.get(load).into_iter().flatten();
        let reached = most.map(|(round, count)| Sample {
            round: *round,
            value: f64::from(*count),
        });
        let outcome = Outcome::Measured {
            samples: reached.collect(),
            failures,
        };
        let mut count = series(contestant, COUNT, Unit::Count, &[("load", load)], outcome);
        count.better = Better::Higher;
        all.push(count);
        all
    }
}

type Value = fn(&Look, f64) -> Result<f64, &'static str>;

/// A metric of all looks at as many instances. One that drowned once is none in other rounds
/// either: those in which it did not are those in which others took memory meanwhile.
fn told(looks: &[(u32, Look)], value: Value, count: f64) -> Outcome {
    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    for (round, look) in looks {
        match value(look, count) {
            Ok(value) => samples.push(Sample {
                round: *round,
                value,
            }),
            Err(why) => failures.push(why.to_owned()),
        }
    }
    if failures.iter().any(|why| why == DROWNED) {
        samples.clear();
    }
    Outcome::Measured { samples, failures }
}

const METRICS: &[(&str, Unit, Value)] = &[
    (UNIQUE, Unit::Bytes, |look, n| {
        Ok(look.memory.unique as f64 / n)
    }),
    (SHARED, Unit::Bytes, |look, n| {
        Ok(look.memory.shared as f64 / n)
    }),
    (FILES, Unit::Bytes, |look, _| Ok(look.files as f64)),
    (HOST, Unit::Bytes, |look, n| Ok(look.less? / n)),
    (PROCESSES, Unit::Count, |look, n| {
        Ok(look.memory.processes as f64 / n)
    }),
];

fn series(
    contestant: &dyn Contestant,
    metric: &str,
    unit: Unit,
    conditions: &[(&str, &str)],
    outcome: Outcome,
) -> Series {
    let pairs = conditions.iter();
    Series {
        study: STUDY.to_owned(),
        contestant: contestant.name().to_owned(),
        metric: metric.to_owned(),
        unit,
        better: Better::Lower,
        conditions: pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_double_and_end_at_the_most() {
        let steps = |most| Plan { most, ..Plan::FULL }.steps();
        assert_eq!(steps(1), [1]);
        assert_eq!(steps(8), [1, 2, 4, 8]);
        assert_eq!(steps(11), [1, 2, 4, 8, 11]);
        assert_eq!(steps(0), [1]);
        assert_eq!(steps(u16::MAX).last(), Some(&u16::MAX));
    }

    #[test]
    fn what_moves_by_itself_is_no_figure() {
        const MIB: u64 = 1 << 20;
        assert_eq!(less(10 * MIB, 4 * MIB, true), Ok(6.0 * MIB as f64));
        assert_eq!(less(10 * MIB, 4 * MIB, false), Err(UNSTEADY));
        // Neither what the host might do by itself nor what it gave back is zero.
        assert_eq!(less(10 * MIB, 8 * MIB, true), Err(DROWNED));
        assert_eq!(less(10 * MIB, 12 * MIB, true), Err(DROWNED));
    }

    #[test]
    fn rounds_in_which_there_was_a_figure_are_not_chosen() {
        let look = |less| Look {
            memory: Memory::default(),
            files: 0,
            less,
        };
        let of = |lesses: &[Less]| {
            let looks: Vec<(u32, Look)> =
                (0..).zip(lesses.iter().map(|less| look(*less))).collect();
            let Outcome::Measured { samples, failures } =
                told(&looks, |it, n| Ok(it.less? / n), 2.0)
            else {
                panic!("it is measured");
            };
            let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
            (values, failures.len())
        };
        assert_eq!(of(&[Ok(4.0), Ok(6.0)]), (vec![2.0, 3.0], 0));
        // What is not known for a reason that has nothing to do with the figure is left out.
        assert_eq!(of(&[Ok(4.0), Err(UNSTEADY)]), (vec![2.0], 1));
        assert_eq!(of(&[Ok(4.0), Err(DROWNED)]), (vec![], 1));
    }

    #[test]
    fn the_host_keeps_a_fifth() {
        const GIB: u64 = 1 << 30;
        assert!(affordable(10 * GIB, 10 * GIB, 0, 16 * GIB));
        // Each took one, and the next would leave three of sixteen.
        assert!(!affordable(10 * GIB, 4 * GIB, 6, 16 * GIB));
        assert!(affordable(10 * GIB, 5 * GIB, 5, 16 * GIB));
        assert!(!affordable(3 * GIB, 3 * GIB, 0, 16 * GIB));
        // Others freed some meanwhile.
        assert!(affordable(4 * GIB, 5 * GIB, 3, 16 * GIB));
        assert!(!affordable(0, 0, 0, 16 * GIB));
    }
}
