// SPDX-License-Identifier: Apache-2.0
//! One run of `husk bench` from its request to its results: the ground, the field, the studies
//! one after the other, the clearing up. Main thread. Whatever happens after the first
//! contestant was made ready, all of them clear up, and what was measured is told.

use super::live::Live;
use super::request::Request;
use super::write;
use crate::bench::churn::Churn;
use crate::bench::field::{Event, Field};
use crate::bench::ground::{self, Folder};
use crate::bench::lab::{self, Lab};
use crate::bench::model::{Caution, FORMAT, Results};
use crate::bench::rounds::Plan;
use crate::bench::session::Session;
use crate::bench::start::Starts;
use crate::bench::supervise::Supervisor;
use crate::bench::{churn, density, evict, start, surroundings, work};
use crate::cli::host::cache_dir;
use crate::cli::image::Bars;
use crate::cli::output::{ExitStatus, Failure, Printer, Problem};
use crate::instance::record::now;
use crate::kernel;
use crate::units::Variant;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What shells answer for a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Study {
    Start {
        cold: bool,
    },
    Churn,
    Density,
    Work,
    /// Starts by the lab's clock.
    Lab,
}

pub const ALL: [Study; 4] = [
    Study::Start { cold: true },
    Study::Churn,
    Study::Density,
    Study::Work,
];

impl Study {
    /// What it may take of the minute that a quick run has. The rest is to make everybody
    /// ready, and to clear up.
    fn quick(self) -> Duration {
        Duration::from_secs(match self {
            Self::Start { .. } => 22,
            Self::Churn => 6,
            Self::Density | Self::Work => 9,
            // An emulated machine is not quick; who asks for it has time.
            Self::Lab => 900,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Start { .. } => start::STUDY,
            Self::Churn => churn::STUDY,
            Self::Density => "density",
            Self::Work => "work",
            Self::Lab => "lab",
        }
    }
}

fn cut_short(study: Study) -> Caution {
    let span = study.quick().as_secs();
    Caution {
        what: format!(
            "{}: its {span} s of a quick run were over before it was done",
            study.name()
        ),
        hint: "without --quick it takes as long as it needs; --against names fewer".into(),
    }
}

pub fn run(request: &Request, studies: &[Study], printer: &Printer) -> Result<ExitStatus, Failure> {
    let cache = cache_dir()?;
    let folder = Folder::make(&cache.join("bench"))?;
    let said = folder.path().join("said");
    std::fs::create_dir(&said).with_context(|| format!("cannot make {}", said.display()))?;
    let supervisor = Supervisor::begin(said).context("cannot watch over processes")?;
    let mut bars = Bars::new(printer, request.quiet);
    let prepared = ground::prepare(
        &request.wanted,
        &folder,
        &cache,
        kernel_of(&cache),
        &mut |step| bars.hear(step),
    );
    drop(bars);
    let (ground, what) = prepared.map_err(unusable)?;
    let session = Session::new(&supervisor, &ground, &what, request.limit());
    let mut live = Live::new(printer, request.quiet);
    let (results, nobody) = everything(request, studies, &session, &mut live);
    live.end();
    let interrupted = supervisor.is_told_to_end();
    // Its own signals again: whoever waits for the rest to be written may end that.
    drop(supervisor);
    if nobody && !interrupted {
        return Err(nobody_left(&results));
    }
    write::write(&results, request, printer)?;
    Ok(match interrupted {
        true => ExitStatus::Code(INTERRUPTED),
        false => ExitStatus::Success,
    })
}

/// Looks, gathers the field, measures and clears up: what was found, and whether nobody took
/// part.
fn everything(
    request: &Request,
    studies: &[Study],
    session: &Session<'_>,
    live: &mut Live,
) -> (Results, bool) {
    let supervisor = session.supervisor;
    live.step("looking at this host");
    let (machine, mut cautions, watch) = surroundings::begin(&session.ground.work);
    let mut results = Results {
        format: FORMAT,
        husk: env!("CARGO_PKG_VERSION").to_owned(),
        began: now(),
        ended: 0,
        command: command(),
        image: described(request, session),
        machine,
        cautions: Vec::new(),
        contestants: Vec::new(),
        series: Vec::new(),
        waterfalls: Vec::new(),
    };
    let field = Field::gather(session, request.against.as_deref(), &mut |event| {
        live.hear(event)
    });
    results.contestants.clone_from(&field.roll);
    for &study in studies {
        if supervisor.is_told_to_end() || field.players.is_empty() {
            break;
        }
        supervisor.allow(request.quick.then(|| study.quick()));
        measure(study, request, (session, &field), &mut results, live);
        if supervisor.interrupted() && !supervisor.is_told_to_end() {
            results.cautions.push(cut_short(study));
        }
        supervisor.allow(None);
    }
    live.step("clearing up");
    let nobody = field.players.is_empty();
    cautions.extend(field.dismiss(session));
    watch.end(&mut results.machine, &mut cautions);
    let method = ("cold page cache".into(), evict::METHOD.into());
    results.machine.facts.push(method);
    results.ended = now();
    results.cautions.extend(cautions);
    (results, nobody)
}

fn measure(
    study: Study,
    request: &Request,
    (session, field): (&Session<'_>, &Field),
    results: &mut Results,
    live: &mut Live,
) {
    match study {
        Study::Start { cold } => {
            let plan = Plan::of(request.rounds, request.quick);
            let found = start::measure(session, field, Starts { plan, cold }, &mut |event| {
                live.hear(event);
            });
            results.series.extend(found.series);
            results.waterfalls.extend(found.waterfalls);
        }
        Study::Churn => {
            // As many rounds as an interval needs; a quick run may be over before.
            let rounds = request.rounds.unwrap_or(6);
            let span = Duration::from_millis(if request.quick { 60 } else { 3000 });
            let mut churn = Churn::up_to(request.concurrency, rounds, span);
            if request.quick {
                churn
                    .concurrency
                    .retain(|&n| n == 1 || n == request.concurrency);
            }
            let (series, _) = churn::measure(session, field, &churn, &mut |event| live.hear(event));
            results.series.extend(series);
        }
        Study::Density => {
            let mut plan = match request.quick {
                true => density::Plan::QUICK,
                false => density::Plan::FULL,
            };
            let asked = request
                .instances
                .and_then(|count| u16::try_from(count).ok());
            plan.most = asked.unwrap_or(plan.most);
            plan.rounds = request.rounds.unwrap_or(plan.rounds);
            let series = density::measure(session, field, plan, &mut |event| live.hear(event));
            results.series.extend(series);
        }
        Study::Work => {
            let mut plan = match request.quick {
                true => work::Plan::QUICK,
                false => work::Plan::FULL,
            };
            plan.rounds = request.rounds.unwrap_or(plan.rounds);
            let found = work::measure(session, field, plan, &mut |event| live.hear(event));
            results.series.extend(found.series);
            results.cautions.extend(found.cautions);
            results.machine.facts.extend(found.facts);
        }
        Study::Lab => {
            live.wait("start: the same in the lab, which takes minutes");
            let measured = by_lab(session, request.rounds, results);
            live.waited();
            if let Err(why) = measured {
                live.hear(Event::Absent("the lab", &why));
                results.cautions.push(Caution {
                    what: format!("there are no figures of the lab's clock: {why}"),
                    hint: "docs/lab.md says what the lab needs".into(),
                });
            }
        }
    }
}

fn by_lab(session: &Session<'_>, rounds: Option<u32>, results: &mut Results) -> Result<(), String> {
    let ground = session.ground;
    let cache = cache_dir().map_err(|problem| problem.what)?;
    let lab = Lab {
        husk: &ground.husk,
        kernel: ground.kernel.as_deref().map_err(Clone::clone)?,
        cache: &cache.join("lab"),
        work: &ground.work,
    };
    let rounds = rounds.unwrap_or(lab::ROUNDS).to_string();
    let words = ["start", "--against", "process", "--rounds", &rounds];
    let found = lab.run(session.supervisor, &[&words[..], &lab::WORDS].concat())?;
    lab::merge(results, found);
    Ok(())
}

/// The kernel of husk's for other monitors: the one that lives in ring 0, as they expect.
fn kernel_of(cache: &Path) -> Result<PathBuf, String> {
    match kernel::find(cache, Variant::Ring0) {
        Ok(Some(kernel)) => Ok(kernel.vmlinux),
        Ok(None) => {
            Err("husk's kernel for ring 0 is not built: husk kernel build --guest-ring 0".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// What was typed.
fn command() -> Vec<String> {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    std::iter::once("husk".to_owned())
        .chain(words.skip(1))
        .collect()
}

/// What is run, in a line.
fn described(request: &Request, session: &Session<'_>) -> String {
    let image = match &request.wanted.image {
        Some(image) => image.clone(),
        None => "husk's own, of one static program".to_owned(),
    };
    let work = session.work;
    let once = work.once.iter().map(|(argv, _)| argv.join(" "));
    let service = work.service.iter().map(|service| service.argv.join(" "));
    let commands: Vec<String> = once.chain(service).collect();
    format!("{image}: {}", commands.join("; "))
}

fn unusable(error: anyhow::Error) -> Failure {
    let mut causes = error.chain().map(ToString::to_string);
    let what = causes.next().unwrap_or_default();
    let mut problem = Problem::new(what);
    problem.causes = causes.collect();
    Failure::from(problem.hint("husk image inspect IMAGE says what an image holds"))
}

fn nobody_left(results: &Results) -> Failure {
    let why = |it: &crate::bench::model::Contestant| {
        let absent = it.absent.clone().unwrap_or_default();
        Problem::new(format!("{}: {absent}", it.name))
    };
    Failure::operator(results.contestants.iter().map(why))
}
