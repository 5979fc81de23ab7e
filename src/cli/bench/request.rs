// SPDX-License-Identifier: Apache-2.0
//! What `husk bench` was asked, checked: every problem with it is found at once, and before
//! anything is measured. Looks at the files that are named, and changes nothing.

use super::{CrowdArgs, Format, ManyArgs, SharedArgs};
use crate::bench::field;
use crate::bench::ground::Wanted;
use crate::cli::host::Memory;
use crate::cli::output::{Failure, Problem};
use crate::cli::shape::Shape;
use crate::units;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most rounds, starts at once and instances that can be asked for. Stops a number that was
/// misspelt from taking the host with it.
const MOST_ROUNDS: u32 = 100_000;
const MOST_AT_ONCE: u32 = 256;
const MOST_INSTANCES: u32 = 4096;
/// Beside contestants, what `--with` may name.
const PARTS: [&str; 1] = [crate::bench::contestant::CLOUD_KERNEL];

/// A benchmark that can be attempted.
#[derive(Debug)]
pub struct Request {
    pub wanted: Wanted,
    pub against: Option<Vec<String>>,
    pub rounds: Option<u32>,
    pub quick: bool,
    limit: Duration,
    /// Most starts at once.
    pub concurrency: u32,
    pub instances: Option<u32>,
    pub format: Format,
    pub report: Option<PathBuf>,
    pub out: Option<PathBuf>,
    pub quiet: bool,
}

impl Request {
    pub fn check(
        args: &SharedArgs,
        crowd: Option<&CrowdArgs>,
        many: Option<&ManyArgs>,
    ) -> Result<Self, Failure> {
        let memory = Memory::read().context("cannot read the host's memory")?;
        let mut problems = Vec::new();
        let shape = Shape::check(&args.shape, memory, &mut problems);
        let mut number = |option: &str, text: Option<&String>, most: u32| {
            let parsed = text.map(|text| count(option, text, most)).transpose();
            parsed
                .map_err(|problem| problems.push(problem))
                .ok()
                .flatten()
        };
        let rounds = number("--rounds", args.rounds.as_ref(), MOST_ROUNDS);
        let concurrency = crowd.and_then(|crowd| crowd.concurrency.as_ref());
        let concurrency = number("--concurrency", concurrency, MOST_AT_ONCE);
        let instances = many.and_then(|many| many.instances.as_ref());
        let instances = number("--instances", instances, MOST_INSTANCES);
        let port = number("--port", args.port.as_ref(), u16::MAX.into());
        let with = with(&args.with, &mut problems);
        problems.extend(
            args.against
                .iter()
                .flatten()
                .filter_map(|name| known(name).err()),
        );
        let limit = limit(&args.timeout)
            .map_err(|problem| problems.push(problem))
            .ok();
        problems.extend(image(args));
        problems.extend(args.path.as_ref().and_then(|path| unasked(path, args)));
        let files = [("--report", &args.report), ("--out", &args.out)];
        for (option, path) in files {
            problems.extend(path.as_deref().and_then(|path| unwritable(option, path)));
        }
        match (shape, limit) {
            (Some(shape), Some(limit)) if problems.is_empty() => Ok(Self {
                wanted: Wanted {
                    image: args.image.clone(),
                    command: args.command.clone(),
                    port: port.and_then(|port| u16::try_from(port).ok()),
                    path: args.path.clone(),
                    with,
                    memory: shape.memory.bytes(),
                    cpus: shape.cpus,
                },
                against: args.against.clone(),
                rounds,
                quick: args.quick,
                limit,
                concurrency: concurrency.unwrap_or_else(|| 2 * processors()),
                instances,
                format: args.format,
                report: args.report.clone(),
                out: args.out.clone(),
                quiet: args.quiet,
            }),
            _ => Err(Failure::operator(problems)),
        }
    }
}

impl Request {
    /// For one start to reach its goal. Who hangs must not take a quick run's minute.
    pub fn limit(&self) -> Duration {
        match self.quick {
            true => self.limit.min(Duration::from_secs(5)),
            false => self.limit,
        }
    }
}

fn processors() -> u32 {
    let found = std::thread::available_parallelism();
    found.map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}

fn count(option: &str, text: &str, most: u32) -> Result<u32, Problem> {
    match text.parse::<u32>() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(Problem::new(format!(
            "{option} {text}: not a number from 1 to {most}"
        ))),
    }
}

/// One contestant.
fn known(name: &str) -> Result<(), Problem> {
    let names = field::names();
    match names.contains(&name) {
        true => Ok(()),
        false => Err(
            Problem::new(format!("--against {name}: nobody husk knows how to ask"))
                .hint(format!("it knows {}", names.join(", "))),
        ),
    }
}

/// `NAME=PROGRAM` each.
fn with(words: &[String], problems: &mut Vec<Problem>) -> BTreeMap<String, PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut with = BTreeMap::new();
    for word in words {
        let Some((name, path)) = word.split_once('=') else {
            problems.push(
                Problem::new(format!("--with {word}: it names no program"))
                    .hint("it looks like --with runc=/opt/runc/bin/runc"),
            );
            continue;
        };
        if !field::names().contains(&name) && !PARTS.contains(&name) {
            problems.push(
                Problem::new(format!("--with {word}: '{name}' is no contestant"))
                    .hint(format!("they are {}", field::names().join(", "))),
            );
            continue;
        }
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let found = std::fs::metadata(&absolute);
        match found {
            Err(error) => {
                problems.push(Problem::new(format!("--with {word}: {path}")).because(&error));
            }
            Ok(meta) if PARTS.contains(&name) && meta.is_file() => {
                with.insert(name.to_owned(), absolute);
            }
            Ok(meta) if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 => {
                problems.push(Problem::new(format!("--with {word}: {path} is no program")));
            }
            Ok(_) => drop(with.insert(name.to_owned(), absolute)),
        }
    }
    with
}

fn limit(text: &str) -> Result<Duration, Problem> {
    match units::parse_span(text) {
        Ok(Duration::ZERO) => Err(Problem::new(format!(
            "--timeout {text}: nothing starts in no time"
        ))),
        Ok(span) => Ok(span),
        Err(error) => Err(Problem::new(format!("--timeout {text}: {error}"))
            .hint("times look like 30s, 2m or 1500ms; a bare number is seconds")),
    }
}

fn image(args: &SharedArgs) -> Option<Problem> {
    let own = "the image that husk makes has a command and a service of its own";
    match &args.image {
        Some(image) if image.is_empty() => Some(Problem::new("--image: its name is empty")),
        None if args.port.is_some() => Some(Problem::new(format!("--port without --image: {own}"))),
        None if !args.command.is_empty() => {
            Some(Problem::new(format!("a command without --image: {own}")))
        }
        _ => None,
    }
}

/// Why nobody can be asked for a path.
fn unasked(path: &str, args: &SharedArgs) -> Option<Problem> {
    /// A request goes out in one piece.
    const MOST: usize = 1024;
    let fit = path.starts_with('/') && path.len() <= MOST;
    match () {
        () if args.port.is_none() => Some(
            Problem::new("--path without --port: nobody is asked")
                .hint("--port says where the image's command answers requests"),
        ),
        () if !fit || !path.bytes().all(|byte| byte.is_ascii_graphic()) => Some(
            Problem::new(format!("--path {path}: it is no path of a request"))
                .hint("it looks like --path /index.html; others than letters of ASCII are %XX"),
        ),
        () => None,
    }
}

/// Why a file could not be written when all is measured, as far as that can be known now.
fn unwritable(option: &str, path: &Path) -> Option<Problem> {
    let about = |what: &str| Problem::new(format!("{option} {}: {what}", path.display()));
    if path.as_os_str().is_empty() || path.is_dir() {
        return Some(about("it is no file"));
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let folder = parent.unwrap_or_else(|| Path::new("."));
    let access = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK);
    access.err().map(|errno| {
        let error = std::io::Error::from(errno);
        Problem::new(format!("{option} {}: cannot be written", path.display())).because(&error)
    })
}
