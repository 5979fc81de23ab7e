// SPDX-License-Identifier: Apache-2.0
//! `husk bench work`: what the same work costs inside a contestant. The thread that measures.
//!
//! Inside, one static program (`load`) does each row and times it by the clock it finds there.
//! From outside, the host asks a service that runs inside, over the contestant's own way in.

pub mod rows;

mod places;

pub use rows::{ROWS, Row, Told};

use super::ask;
use super::contestant::{Contestant, Feature, Ground, Invocation};
use super::field::{Event, Field, Listener};
use super::load;
use super::model::{Better, Caution, Outcome, Sample, Series, Unit};
use super::rounds::order;
use super::session::{self, Session};
use super::supervise::{self, GRACE};
use places::Places;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Beyond the time asked for: a kernel that is interpreted needs a thousand times as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the program inside is told in place of a disk.
const NO_DISK: &str = "-";
/// How often an operator's wish for an end is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// Clients of the row of many.
const CLIENTS: u32 = 4;

/// Answered one after the other, a connection each.
pub const REQUEST: &str = "HTTP request on its own connection, from the host";
pub const REQUESTS: &str = "HTTP requests of 4 clients, from the host";
pub const STREAM: &str = "TCP stream to the host";
const OUTSIDE: &[(&str, Unit, Better)] = &[
    (REQUEST, Unit::Nanoseconds, Better::Lower),
    (REQUESTS, Unit::PerSecond, Better::Higher),
    (STREAM, Unit::BytesPerSecond, Better::Higher),
];

/// How long to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub rounds: u32,
    /// For each row in each round.
    pub each: Duration,
}

impl Plan {
    /// As many rounds as an interval needs.
    pub const QUICK: Self = Self {
        rounds: 6,
        each: Duration::from_millis(5),
    };
    pub const FULL: Self = Self {
        rounds: 15,
        each: Duration::from_millis(100),
    };
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    pub series: Vec<Series>,
    pub cautions: Vec<Caution>,
    /// Of the machine: which file systems there were.
    pub facts: Vec<(String, String)>,
}

/// By the names of rows, and the metrics of those from outside; of one contestant.
type Found = BTreeMap<&'static str, (Vec<Sample>, Vec<String>)>;

/// As series call it.
pub const STUDY: &str = "work";

/// Measures each contestant in turn, as often as `plan` says.
pub fn measure(
    session: &Session<'_>,
    field: &Field,
    plan: Plan,
    hear: &mut Listener<'_>,
) -> Findings {
    let program = load::PATH.trim_start_matches('/');
    if !session.ground.tree.join(program).is_file() {
        let why = "this image lacks the program that does the work: leave --image out";
        let players = field.players.iter();
        return Findings {
            series: players
                .flat_map(|it| absent(&**it, session.ground, why))
                .collect(),
            ..Findings::default()
        };
    }
    let mut found: Vec<Found> = field.players.iter().map(|_| Found::new()).collect();
    let mut places = Places::of(session.ground);
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
            if session.supervisor.interrupted() {
                break;
            }
            let contestant = &*field.players[which];
            let mut one = One {
                session,
                contestant,
                plan,
                round,
                found: &mut found[which],
                hear: &mut *hear,
            };
            one.inside(&mut places);
            one.outside();
        }
    }
    let pairs = field.players.iter().zip(found);
    let series = pairs.flat_map(|(it, found)| list(&**it, session.ground, found));
    Findings {
        series: series.collect(),
        cautions: places.cautions(),
        facts: places.facts(),
    }
}

/// One contestant in one round.
struct One<'a, 'b> {
    session: &'a Session<'a>,
    contestant: &'a dyn Contestant,
    plan: Plan,
    round: u32,
    found: &'a mut Found,
    hear: &'a mut Listener<'b>,
}

impl One<'_, '_> {
    /// A figure of a row, or of a metric from outside, by its name.
    fn take(&mut self, name: &'static str, figure: Result<f64, String>) {
        // An end that the operator wants, or the clock of a quick run, is nobody's failure.
        if figure.is_err() && self.session.supervisor.interrupted() {
            return;
        }
        let (samples, failures) = self.found.entry(name).or_default();
        match figure {
            Ok(value) => {
                let metric = Row::named(name).map_or(name, |row| row.metric);
                (self.hear)(Event::Sample(self.contestant.name(), metric, value));
                let round = self.round;
                samples.push(Sample { round, value });
            }
            Err(why) => {
                (self.hear)(Event::Failed(self.contestant.name(), &why));
                failures.push(format!("round {}: {why}", self.round + 1));
            }
        }
    }

    /// What the program inside says.
    fn inside(&mut self, places: &mut Places) {
        let (contestant, ground) = (self.contestant, self.session.ground);
        if contestant.offers(Feature::Foreground).is_err() {
            return;
        }
        let milliseconds = self.plan.each.as_millis().to_string();
        let (own, medium) = contestant.own(ground);
        let disk = contestant.disk(ground);
        let given = disk.as_deref().unwrap_or(NO_DISK);
        let argv = [load::PATH, "work", &milliseconds, &own, given];
        let rows = u32::try_from(ROWS.len()).unwrap_or(u32::MAX);
        // Making ready and finding the size of a batch take as long again, and more.
        let limit = self.plan.each * rows * 4 + PATIENCE;
        let said = self.output(&argv, disk.is_ok(), limit);
        let mut told = match said.and_then(|said| rows::read(&said)) {
            Ok(told) => told,
            Err(why) => {
                return self.take(ROWS[0].name, Err(why));
            }
        };
        let elsewhere = places.note(contestant.name(), medium, &told).err();
        for row in ROWS {
            if row.on.is_given() && disk.is_err() {
                continue;
            }
            let missing = || Err("the program inside did not tell of it".to_owned());
            let figure = told.figures.remove(row.name).unwrap_or_else(missing);
            self.take(
                row.name,
                match (&elsewhere, row.on.is_given()) {
                    (Some(why), true) => Err(why.clone()),
                    _ => figure,
                },
            );
        }
    }

    /// Runs a command inside to its end: what it said.
    fn output(&self, argv: &[&str], disk: bool, limit: Duration) -> Result<String, String> {
        let (session, contestant) = (self.session, self.contestant);
        let supervisor = session.supervisor;
        let known: BTreeSet<i32> = supervisor.descendants().into_keys().collect();
        let mut task = session.task(words(argv), None, false);
        task.disk = disk;
        let launch = contestant.launch(session.ground, &task);
        let launch = launch.map_err(|error| format!("{error:#}"))?;
        let told = self.listen(&launch.start, limit);
        if told.is_err() {
            for command in launch.stop.iter().chain(&launch.remove) {
                // That there is nothing to be ended or cleared is no failure.
                let _ = supervisor.run(command, session.limit);
            }
        }
        let left = supervisor.settle(&known, GRACE);
        for folder in &launch.folders {
            let _ = std::fs::remove_dir_all(folder);
        }
        match told {
            Ok(_) if !left.is_empty() => Err(session::left_behind(&left)),
            told => told,
        }
    }

    /// All that a command says until its end, which must be a good one.
    fn listen(&self, invocation: &Invocation, limit: Duration) -> Result<String, String> {
        let told = |error: std::io::Error| error.to_string();
        let supervisor = self.session.supervisor;
        let mut child = supervisor.spawn(invocation, true).map_err(told)?;
        let until = Instant::now() + limit;
        let mut said = Vec::new();
        let result = loop {
            // The end before the output: what it said is all there then.
            let ended = supervisor.ended(&mut child).map_err(told)?;
            child.listen(&mut said).map_err(told)?;
            if said.len() > rows::MOST_OUTPUT {
                break Err("it said more than the work has to say".to_owned());
            }
            if let Some(code) = ended {
                break match code {
                    0 => Ok(String::from_utf8_lossy(&said).into_owned()),
                    code => Err(format!("it ended with {code}: {}", child.complaint())),
                };
            }
            if supervisor.interrupted() {
                break Err("interrupted".to_owned());
            }
            if Instant::now() >= until {
                break Err(format!("no end within {} s", limit.as_secs()));
            }
            let mut fds = vec![child.exit_fd()];
            fds.extend(child.out_fd());
            supervise::wait(&mut fds, LOOK).map_err(told)?;
        };
        supervisor.kill_group(&mut child);
        child.forget();
        result
    }

    /// What the host sees of a service inside.
    fn outside(&mut self) {
        if self.contestant.offers(Feature::Service).is_err() {
            return;
        }
        let detached = self.contestant.offers(Feature::Detached).is_ok();
        let port = session::free_port();
        let argv = words(&[load::PATH, "web", &port.to_string()]);
        let mut task = self.session.task(argv, Some(port), detached);
        // One that isolates nothing has the host's ports.
        task.host_port = port;
        let running = match self.session.serve(self.contestant, &task) {
            Ok(running) => running,
            Err(why) => return self.take(REQUEST, Err(why.to_string())),
        };
        match running.launch.service {
            Some(address) => self.ask(address),
            None => self.take(REQUEST, Err("the host does not reach it".to_owned())),
        }
        if let Err(why) = self.session.finish(running) {
            self.take(REQUEST, Err(why.to_string()));
        }
    }

    fn ask(&mut self, address: SocketAddr) {
        let each = self.plan.each;
        let told = |error: std::io::Error| error.to_string();
        let median = ask::in_turn(address, each).map(|mut all| {
            all.sort_unstable();
            all[all.len() / 2] as f64
        });
        self.take(REQUEST, median.map_err(told));
        let rate = ask::at_once(address, CLIENTS, each);
        self.take(REQUESTS, rate.map_err(told));
        self.take(STREAM, stream(address, each).map_err(told));
    }
}

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}

/// Bytes a second of a stream that is asked for again and again for so long, at least once.
fn stream(address: SocketAddr, lasting: Duration) -> std::io::Result<f64> {
    let start = Instant::now();
    let mut bytes = 0;
    while bytes == 0 || start.elapsed() < lasting {
        bytes += ask::once(address, load::STREAM)?;
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

fn absent(contestant: &dyn Contestant, ground: &Ground, why: &str) -> Vec<Series> {
    let mut all = list(contestant, ground, Found::new());
    for series in &mut all {
        series.outcome = Outcome::NotOffered(why.to_owned());
    }
    all
}

fn list(contestant: &dyn Contestant, ground: &Ground, mut found: Found) -> Vec<Series> {
    let no_inside = contestant.offers(Feature::Foreground).err();
    let no_outside = contestant.offers(Feature::Service).err();
    let no_disk = contestant.disk(ground).err();
    let mut one = |name, (metric, unit, better), conditions, lacks: Option<&String>| {
        let (samples, failures) = found.remove(name).unwrap_or_default();
        Series {
            study: STUDY.to_owned(),
            contestant: contestant.name().to_owned(),
            metric: str::to_owned(metric),
            unit,
            better,
            conditions,
            outcome: match lacks {
                Some(why) => Outcome::NotOffered(why.clone()),
                None => Outcome::Measured { samples, failures },
            },
        }
    };
    let mut all = Vec::new();
    for row in ROWS {
        let lacks = match row.on.is_given() {
            true => no_inside.as_ref().or(no_disk.as_ref()),
            false => no_inside.as_ref(),
        };
        let conditions = places::conditions(row.on, contestant.own(ground).1);
        let about = (row.metric, row.unit(), row.better());
        all.push(one(row.name, about, conditions, lacks));
    }
    for &(metric, unit, better) in OUTSIDE {
        let about = (metric, unit, better);
        all.push(one(metric, about, BTreeMap::new(), no_outside.as_ref()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::contestant::Medium;

    #[test]
    fn every_row_has_a_name_and_no_two_are_told_as_one() {
        let rows = || ROWS.iter();
        let names: BTreeSet<&str> = rows().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for medium in [Medium::Disk, Medium::Memory] {
            let told = rows().map(|row| (row.metric, places::conditions(row.on, medium)));
            let outside = OUTSIDE.iter().map(|row| (row.0, BTreeMap::new()));
            let all: BTreeSet<_> = told.chain(outside).collect();
            assert_eq!(all.len(), ROWS.len() + OUTSIDE.len());
        }
    }
}
