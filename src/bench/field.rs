// SPDX-License-Identifier: Apache-2.0
//! The field: who was asked to take part, who does, and who cannot and why. Contestants are
//! found, made ready and tried once each before anything is measured; at the end each clears
//! up, and what it left is told. On the main thread.

use super::contestant::{self, Contestant, Feature, Ground};
use super::model;
use super::session::Session;
use super::timing::Failed;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a benchmark tells while it goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    Preparing(&'a str),
    /// It takes no part, and why.
    Absent(&'a str, &'a str),
    /// A round begins: which, of at most how many; zero is warm-up.
    Round {
        study: &'a str,
        round: u32,
        most: u32,
    },
    /// A sample: contestant, series, value.
    Sample(&'a str, &'a str, f64),
    Failed(&'a str, &'a str),
}

/// Who hears of it.
pub type Listener<'a> = dyn FnMut(Event<'_>) + 'a;

/// Everybody who takes part, and what is to be said of all.
pub struct Field {
    pub players: Vec<Box<dyn Contestant>>,
    pub roll: Vec<model::Contestant>,
}

/// Names that may stand behind `--against`.
pub fn names() -> Vec<&'static str> {
    contestant::all().iter().map(|it| it.name()).collect()
}

impl Field {
    /// Gathers those in `wanted`, or all; husk is always one of them.
    pub fn gather(
        session: &Session<'_>,
        wanted: Option<&[String]>,
        hear: &mut Listener<'_>,
    ) -> Self {
        let mut field = Self {
            players: Vec::new(),
            roll: Vec::new(),
        };
        for mut it in contestant::all() {
            let name = it.name();
            let asked = |wanted: &[String]| wanted.iter().any(|word| word == name);
            if session.supervisor.interrupted() {
                break;
            }
            if !name.starts_with("husk") && !wanted.is_none_or(asked) {
                continue;
            }
            hear(Event::Preparing(name));
            let mut entry = model::Contestant {
                name: name.to_owned(),
                version: None,
                kind: it.kind().to_owned(),
                absent: None,
            };
            match make_ready(&mut *it, session, &mut entry) {
                Ok(()) => field.players.push(it),
                Err(why) => {
                    hear(Event::Absent(name, &why));
                    entry.absent = Some(why);
                    // Why it takes no part says more than what it left.
                    let _ = swept(&mut *it, session);
                }
            }
            field.roll.push(entry);
        }
        field
    }

    /// Everybody clears up; what they did not is cleared up for them, and told.
    pub fn dismiss(self, session: &Session<'_>) -> Vec<model::Caution> {
        let mut cautions = Vec::new();
        for mut it in self.players {
            let name = it.name();
            cautions.extend(
                swept(&mut *it, session)
                    .into_iter()
                    .map(|what| model::Caution {
                        what: format!("{name}: {what}"),
                        hint: "it was cleared up; its figures may hold a part of what it left"
                            .into(),
                    }),
            );
        }
        cautions
    }
}

/// Has it clear up, and does what it did not: that is returned, a line each.
fn swept(it: &mut dyn Contestant, session: &Session<'_>) -> Vec<String> {
    let mut told = Vec::new();
    let cleaned = it.cleanup(session.ground);
    let left = session.supervisor.settle(&BTreeSet::new(), Duration::ZERO);
    if !left.is_empty() {
        told.push(super::session::left_behind(&left));
    }
    let folder = session.ground.folder(it.name());
    for point in super::ground::unmount(&folder) {
        told.push(format!("it left a mount at {}", point.display()));
    }
    let groups = groups(&Session::prefix());
    if !groups.is_empty() {
        told.push(format!(
            "it left {} control groups: {}",
            groups.len(),
            shown(&groups)
        ));
    }
    for group in groups {
        let _ = std::fs::remove_dir(group);
    }
    match cleaned {
        // What stood in the way may be gone by now.
        Err(error) if folder.exists() && std::fs::remove_dir_all(&folder).is_err() => {
            told.push(format!("clearing up failed: {error:#}"));
        }
        _ => {}
    }
    told
}

fn shown(paths: &[PathBuf]) -> String {
    const MOST: usize = 3;
    let some = paths
        .iter()
        .take(MOST)
        .map(|path| path.display().to_string());
    some.collect::<Vec<_>>().join(", ")
}

/// Finds, prepares and tries it, in one way after the other.
fn make_ready(
    it: &mut dyn Contestant,
    session: &Session<'_>,
    entry: &mut model::Contestant,
) -> Result<(), String> {
    let ground = session.ground;
    let version = it.find(ground).map_err(|absent| absent.0)?;
    entry.version = Some(version.clone());
    let prepared = it.prepare(ground);
    prepared.map_err(|error| format!("it could not be made ready: {error:#}"))?;
    let mut first: Option<String> = None;
    let mut way = String::new();
    loop {
        let failed = match trial(it, session) {
            Ok(()) => return Ok(()),
            Err(Failed::Interrupted) => return Err("interrupted".into()),
            Err(failed) => failed,
        };
        // The first way is the one that its users take; the last one is as far as it goes.
        let last = failed.to_string();
        let why = first.get_or_insert_with(|| last.clone());
        match it.another() {
            Some(next) => {
                entry.version = Some(format!("{version}, {next}"));
                way = next;
            }
            None if *why == last => return Err(format!("a first try failed: {why}")),
            None => return Err(format!("a first try failed: {why}; {way}: {last}")),
        }
    }
}

/// Everything that will be asked of it, once.
fn trial(it: &dyn Contestant, session: &Session<'_>) -> Result<(), Failed> {
    if let Some((argv, says)) = &session.work.once {
        let task = session.task(argv.clone(), None, false);
        session.once(it, &task, *says)?;
    }
    let detached = it.offers(Feature::Detached).is_ok();
    if it.offers(Feature::Service).is_ok()
        && let Some(task) = session.service(detached)
    {
        let running = session.serve(it, &task)?;
        session.finish(running)?;
    }
    Ok(())
}

/// Control groups whose name holds this.
fn groups(part: &str) -> Vec<PathBuf> {
    /// As deep as runtimes put containers.
    const DEPTH: u32 = 6;
    fn look(folder: &Path, part: &str, depth: u32, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if depth > 0 {
                look(&path, part, depth - 1, found);
            }
            if entry.file_name().to_string_lossy().contains(part) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), part, DEPTH, &mut found);
    found
}

/// The files that `it` reads when it starts, and the tree's.
pub fn files(it: &dyn Contestant, ground: &Ground) -> Vec<PathBuf> {
    let mut files = it.files(ground);
    files.push(ground.tree.clone());
    files
}
