// SPDX-License-Identifier: Apache-2.0
//! From a described machine to its end, in the process that owns it: this one in the
//! foreground, a process of its own with --detach. Main thread.

use super::blueprint::Blueprint;
use crate::cli::guest;
use crate::cli::host::runtime_dir;
use crate::cli::launch::Opened;
use crate::cli::output::{ExitStatus, Failure, Problem};
use crate::cli::signals::Signals;
use crate::config::{Begin, Restore, VmConfig};
use crate::control::Report;
use crate::instance::beside::{self, Beside};
use crate::instance::desk::{Described, Desk};
use crate::instance::record::{Ended, Record, now};
use crate::instance::session::{
    self, Event, How, Limits, Opening, Outcome, Session, SessionError, Streams,
};
use crate::instance::{self, Ahead, Found, Place, PlaceError, Spawned};
use crate::snapshot::working;
use crate::sys::descriptors::another;
use anyhow::Context as _;
use husk_protocol::Exit;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// From the order to shut down to the end of patience: a guest that is asked to stop has
/// nothing to write back, and does so in milliseconds.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What is wrong with the folder of machines, or what was looked for in it.
pub fn problem(error: &PlaceError) -> Failure {
    let problem = Problem::of(error);
    let problem = match error {
        PlaceError::Taken { id, .. } => problem.hint(format!("husk rm {id} frees it")),
        PlaceError::Unknown(_) => problem.hint("husk ps -a lists them"),
        PlaceError::Ambiguous { .. } => problem.hint("write more of it"),
        PlaceError::Long => problem.hint("the image's labels and variables count, too"),
        PlaceError::Folder { .. } | PlaceError::Stranger(_) => {
            problem.hint("set XDG_RUNTIME_DIR to a folder of your own")
        }
    };
    problem.into()
}

pub fn place() -> Result<Place, Failure> {
    Place::open(&runtime_dir()).map_err(|error| problem(&error))
}

/// Every machine that is meant, in that order; all that are not there are told at once.
pub fn find(place: &Place, words: &[String]) -> Result<Vec<Found>, Failure> {
    match find_some(place, words) {
        (list, problems) if problems.is_empty() => {
            Ok(list.into_iter().map(|(found, _)| found).collect())
        }
        (_, problems) => Err(Failure::operator(problems)),
    }
}

/// Those that are there, with how they were called; and what is to be said of the others.
pub fn find_some<'a>(place: &Place, words: &'a [String]) -> (Vec<(Found, &'a str)>, Vec<Problem>) {
    let mut list = Vec::new();
    let mut problems = Vec::new();
    for word in words {
        match place.find(word) {
            Ok(found) => list.push((found, word.as_str())),
            Err(error) => problems.extend(problem(&error).problems),
        }
    }
    (list, problems)
}

pub fn find_one(place: &Place, word: &str) -> Result<Found, Failure> {
    place.find(word).map_err(|error| problem(&error))
}

/// A machine that is written down and runs.
pub struct Owned {
    pub desk: Desk,
    pub machine: Spawned,
    beside: Beside,
    /// It holds disks that others may be waiting for.
    has_disks: bool,
    /// Where the first machine of a template or a snapshot is to leave what it showed.
    learned: Option<(PathBuf, File)>,
    /// What its guest has not written yet would be missed.
    writes_back: bool,
}

impl Owned {
    /// Writes down how it ended. Whoever reads that finds its ports and its volumes free.
    pub fn conclude(self, ended: &Ended) {
        drop(self.beside);
        if self.has_disks {
            // Taking a machine apart costs the kernel tens of milliseconds, and its locks on
            // files are held until then. Without any, nobody need wait.
            self.machine.gone();
        }
        self.desk.conclude(ended);
    }

    /// Takes a machine away whose command never started. When this returns, what it had of the
    /// host is free for another.
    pub fn forget(self) {
        self.machine.kill();
        drop(self.beside);
        self.machine.gone();
        self.desk.forget();
    }
}

/// What is to be started.
pub struct Whole {
    pub record: Record,
    pub config: VmConfig,
    pub beside: beside::Plan,
    /// Its process, if that was started already.
    pub ahead: Option<Ahead>,
    /// Holds every descriptor that the others name.
    pub opened: Opened,
    /// What the machine can be made from again, for those who save it.
    pub blueprint: Blueprint,
}

/// Writes the machine down as this process's own and starts it. Nothing is left of one that
/// does not start.
pub fn start(place: &Path, whole: Whole) -> Result<Owned, Failure> {
    let Whole {
        record,
        mut config,
        beside,
        mut opened,
        ahead,
        blueprint,
    } = whole;
    let log = record.detached;
    let writable = config.drives.iter().filter(|drive| !drive.read_only);
    let described = Described {
        blueprint: serde_json::to_vec(&blueprint).context("cannot describe the machine")?,
        disks: writable.count(),
        restored: blueprint.parent.is_some(),
    };
    let has_disks = config.drives.iter().any(|drive| !drive.read_only);
    let learned = match &config.begin {
        Begin::Restore(Restore { learn, .. }) => learn.as_ref(),
        Begin::Boot(_) => None,
    };
    let learned = learned
        .map(|to| Ok::<_, io::Error>((to.path.clone(), another(to.fd)?.into())))
        .transpose()
        .context("cannot keep what the machine shows")?;
    let writes_back = has_disks || !config.shares.is_empty();
    let mut company = beside.seated();
    let place = Place::open(place).map_err(|error| problem(&error))?;
    let claim = place.claim(record).map_err(|error| problem(&error))?;
    instance::journal::note(place.path(), "create", &claim.record, None);
    let listener = claim.vsock().with_context(|| match &claim.record.vsock {
        Some(path) => format!("cannot listen at {}", path.display()),
        None => "cannot listen for the guest's ports".to_owned(),
    });
    let started = listener.and_then(|listener| {
        if let Some(vsock) = &mut config.vsock {
            vsock.listener = Some(opened.keep(listener.into()));
        }
        let machine = match ahead {
            Some(ahead) => ahead.spawn(&config),
            None => instance::spawn(&config),
        };
        let machine = machine.context("cannot start the machine")?;
        // The guest boots meanwhile.
        if let Err(error) = company.start(&beside) {
            machine.kill();
            return Err(anyhow::Error::from(error).context("cannot start the machine"));
        }
        Ok(machine)
    });
    // Our copies would keep the agent's connection open after the machine is gone.
    drop(opened);
    let machine = match started {
        Ok(machine) => machine,
        Err(error) => {
            let _ = claim.forget();
            return Err(error.into());
        }
    };
    let mut desk =
        Desk::open(claim, log, described).context("cannot keep the machine's records")?;
    desk.machine_started(machine.pid);
    if let Err(error) = company.ready() {
        machine.kill();
        desk.forget();
        return Err(anyhow::Error::from(error).into());
    }
    Ok(Owned {
        desk,
        machine,
        beside: company,
        has_disks,
        learned,
        writes_back,
    })
}

/// Who sits at the session.
pub struct Operator<'a> {
    pub agent: UnixStream,
    pub opening: Opening,
    pub streams: Streams,
    pub signals: &'a Signals,
    pub timeout: Duration,
}

/// Sees the machine through to its end. What it came to is for `conclude` to write down.
pub fn drive(
    owned: &mut Owned,
    operator: Operator<'_>,
    on_event: &mut dyn FnMut(Event),
) -> Result<Outcome, SessionError> {
    let learned = owned.learned.take();
    let mut on_event = |event: Event| {
        if let (Event::Report(Report::Learned), Some((folder, file))) = (&event, &learned) {
            // Else the next one shows it, too.
            let _ = working::learned(folder, file);
        }
        on_event(event);
    };
    let result = session::drive(
        Session {
            agent: operator.agent,
            opening: operator.opening,
            greeted: false,
            streams: operator.streams,
            machine: Some(&owned.machine.control),
            signals: operator.signals,
            limits: Limits {
                agent: operator.timeout,
                shutdown: match owned.writes_back {
                    true => SHUTDOWN,
                    false => Duration::ZERO,
                },
            },
            window_size: &guest::window_size,
            company: Some(&mut owned.desk),
            detachable: false,
        },
        &mut on_event,
    );
    // One that was given up on may be stopped, or hang: it would never see its socket end.
    if !result.as_ref().is_ok_and(|outcome| outcome.end.is_some()) {
        owned.machine.kill();
    }
    result
}

/// How it ended, for those who ask later.
pub fn ended(result: Result<&Outcome, &SessionError>) -> Ended {
    let signal = match result {
        Ok(outcome) => match outcome.how {
            How::Exited(Exit::Signal(signal)) | How::Killed { signal } => Some(signal),
            How::Exited(Exit::Code(_)) | How::Detached => None,
        },
        Err(_) => None,
    };
    Ended {
        at: now(),
        code: match result {
            Ok(outcome) => outcome.code(),
            Err(error) => error.code(),
        },
        signal,
        error: result.err().map(ToString::to_string),
    }
}

/// Whether a session failed for what its machine is, and not for what it was asked to run.
pub fn is_the_machines(error: &SessionError) -> bool {
    match error {
        SessionError::NoAgent { .. }
        | SessionError::Ended { .. }
        | SessionError::Panicked { .. }
        | SessionError::AgentLost { .. }
        | SessionError::MachineLost
        | SessionError::Version(_)
        | SessionError::Unacknowledged { .. }
        | SessionError::Otherwise(_)
        | SessionError::Protocol(_) => true,
        SessionError::Command(_)
        | SessionError::EndedUnder
        | SessionError::Identity { .. }
        | SessionError::TooLong
        | SessionError::Wait(_) => false,
    }
}

/// A session that failed, as the verb that ran it tells it.
pub fn failure(error: &SessionError) -> Failure {
    Failure {
        status: ExitStatus::Code(error.code()),
        problems: vec![Problem::of(error)],
    }
}
