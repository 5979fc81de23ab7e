// SPDX-License-Identifier: Apache-2.0
//! Starts of one contestant, and their ends: what was started is ended, cleared up after, and
//! looked for, however it went. On the thread that measures, or several at once for churn.

use super::contestant::{Contestant, Ground, Invocation, Launch, Task};
use super::supervise::{Child, Found, GRACE, Supervisor};
use super::timing::{self, Failed, Goal, Marks};
use crate::sys::clock;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long something may take to end once it was told to: an engine finishes what it is at.
const TERM: Duration = Duration::from_secs(5);

/// What is run in every contestant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Says something and ends; with what it says, where that is known.
    pub once: Option<(Vec<String>, Option<&'static str>)>,
    pub service: Option<Service>,
    pub env: Vec<String>,
    pub cwd: String,
}

/// A program that answers requests of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub argv: Vec<String>,
    /// Where it listens; of none it is told, as its last word.
    pub port: Option<u16>,
    /// What it is asked for.
    pub path: String,
}

/// One benchmark's means.
#[derive(Debug)]
pub struct Session<'a> {
    pub supervisor: &'a Supervisor,
    pub ground: &'a Ground,
    pub work: &'a Work,
    /// For one start to reach its goal.
    pub limit: Duration,
    number: AtomicU64,
}

/// Something that runs.
#[derive(Debug)]
pub struct Running {
    pub id: String,
    pub marks: Marks,
    pub launch: Launch,
    child: Child,
    known: BTreeSet<i32>,
}

impl<'a> Session<'a> {
    pub fn new(
        supervisor: &'a Supervisor,
        ground: &'a Ground,
        work: &'a Work,
        limit: Duration,
    ) -> Self {
        Self {
            supervisor,
            ground,
            work,
            limit,
            number: AtomicU64::new(0),
        }
    }

    /// The beginning of the name of everything that this benchmark starts.
    pub fn prefix() -> String {
        format!("hb-{}-", std::process::id())
    }

    /// A command of the operator's choice; for `port`, see [`Task`].
    pub fn task(&self, argv: Vec<String>, port: Option<u16>, detached: bool) -> Task {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        Task {
            id: format!("{}{number}", Self::prefix()),
            argv,
            env: self.work.env.clone(),
            cwd: self.work.cwd.clone(),
            port,
            host_port: port.map_or(0, |_| free_port()),
            detached,
            disk: false,
        }
    }

    /// The service as a task, at a port nobody has.
    pub fn service(&self, detached: bool) -> Option<Task> {
        let service = self.work.service.as_ref()?;
        let mut argv = service.argv.clone();
        let port = service.port.unwrap_or_else(free_port);
        if service.port.is_none() {
            argv.push(port.to_string());
        }
        let mut task = self.task(argv, Some(port), detached);
        if service.port.is_none() {
            task.host_port = port;
        }
        Some(task)
    }

    /// What the service is asked for.
    pub fn path(&self) -> &str {
        self.work.service.as_ref().map_or("/", |it| &it.path)
    }

    /// Runs a command to its end, in the foreground, and clears up after it.
    pub fn once(
        &self,
        contestant: &dyn Contestant,
        task: &Task,
        says: Option<&'static str>,
    ) -> Result<Marks, Failed> {
        let known: BTreeSet<i32> = self.supervisor.descendants().into_keys().collect();
        let goal = Goal::Exit(says);
        let (running, failed) = self.start(contestant, task, &goal, known);
        self.settle(running, failed)
    }

    /// Starts a service and waits for its answer. What did not answer is ended.
    pub fn serve(&self, contestant: &dyn Contestant, task: &Task) -> Result<Running, Failed> {
        let known: BTreeSet<i32> = self.supervisor.descendants().into_keys().collect();
        let goal = Goal::Answer {
            detached: task.detached,
            path: self.path().to_owned(),
        };
        match self.start(contestant, task, &goal, known) {
            (Some(running), None) => Ok(running),
            (running, failed) => match self.settle(running, failed) {
                Err(failed) => Err(failed),
                Ok(_) => Err(Failed::Left("it was not started".into())),
            },
        }
    }

    /// As `serve` and then `finish`, where others are started at the same time: nobody is
    /// looked for who might be theirs. Returns the marks, and how long the end took.
    pub fn churn(
        &self,
        contestant: &dyn Contestant,
        task: &Task,
        goal: &Goal,
    ) -> Result<(Marks, u64), Failed> {
        let (running, failed) = self.start(contestant, task, goal, BTreeSet::new());
        let Some(mut running) = running else {
            return Err(failed.unwrap_or(Failed::Left("it was not started".into())));
        };
        let began = clock::monotonic_ns();
        let ended = self.end(&mut running);
        let took = clock::monotonic_ns().saturating_sub(began);
        running.child.forget();
        match (failed, ended) {
            (Some(failed), _) => Err(failed),
            (None, Err(why)) => Err(Failed::Left(why)),
            (None, Ok(())) => Ok((running.marks, took)),
        }
    }

    /// Ends what runs, and sees that nothing of it is left.
    pub fn finish(&self, running: Running) -> Result<(), Failed> {
        self.settle(Some(running), None).map(drop)
    }

    /// The processes of something that runs, by their numbers.
    pub fn processes(
        &self,
        contestant: &dyn Contestant,
        running: &Running,
    ) -> BTreeMap<i32, String> {
        let mut all = self.supervisor.descendants();
        all.retain(|pid, _| !running.known.contains(pid));
        for pid in contestant.elsewhere(self.ground, &running.id) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            all.insert(pid, name.trim().to_owned());
        }
        all
    }

    fn start(
        &self,
        contestant: &dyn Contestant,
        task: &Task,
        goal: &Goal,
        known: BTreeSet<i32>,
    ) -> (Option<Running>, Option<Failed>) {
        let launch = match contestant.launch(self.ground, task) {
            Ok(launch) => launch,
            Err(error) => return (None, Some(Failed::Spawn(format!("{error:#}")))),
        };
        if let Some(address) = launch
            .service
            .filter(|_| matches!(goal, Goal::Answer { .. }))
            && is_taken(address)
        {
            let _ = clear(&launch);
            let what = format!("{address} is somebody else's, who would answer in its place");
            return (None, Some(Failed::Spawn(what)));
        }
        let (child, marks) = timing::observe(self.supervisor, &launch, goal, self.limit);
        let (marks, failed) = match marks {
            Ok(marks) => (marks, None),
            Err(failed) => (Marks::default(), Some(failed)),
        };
        let running = child.map(|child| Running {
            id: task.id.clone(),
            marks,
            launch,
            child,
            known,
        });
        (running, failed)
    }

    /// Ends it, and looks for what is left. The first thing that went wrong is told.
    fn settle(&self, running: Option<Running>, failed: Option<Failed>) -> Result<Marks, Failed> {
        let Some(mut running) = running else {
            return Err(failed.unwrap_or(Failed::Left("it was not started".into())));
        };
        let ended = self.end(&mut running);
        let left = self.supervisor.settle(&running.known, GRACE);
        if let Some(failed) = failed {
            return Err(failed);
        }
        running.child.forget();
        ended.map_err(Failed::Left)?;
        match left.is_empty() {
            true => Ok(running.marks),
            false => Err(Failed::Left(left_behind(&left))),
        }
    }

    /// Tells it to end, makes it end, clears up.
    fn end(&self, running: &mut Running) -> Result<(), String> {
        let child = &mut running.child;
        // In the foreground what has ended needs no stop.
        let over = running.marks.exited.is_some();
        let mut result = Ok(());
        if !over {
            for stop in &running.launch.stop {
                result = result.and(self.tidy(stop));
            }
            let ended = |child: &mut Child| !matches!(self.supervisor.ended(child), Ok(None));
            if !ended(child) {
                let leader = nix::unistd::Pid::from_raw(child.pid);
                let term = nix::sys::signal::SIGTERM;
                let _ = match running.launch.remove.is_empty() {
                    true => nix::sys::signal::killpg(leader, term),
                    // It alone: an engine whose helpers were ended with it could not take back
                    // what they had begun, such as a network namespace.
                    false => nix::sys::signal::kill(leader, term),
                };
                let until = Instant::now() + TERM;
                while !ended(child) && Instant::now() < until {
                    let _ = super::supervise::wait(&mut [child.exit_fd()], TERM);
                }
            }
        }
        self.supervisor.kill_group(child);
        for remove in running.launch.remove.iter().filter(|_| !over) {
            result = result.and(self.tidy(remove));
        }
        result.and(clear(&running.launch))
    }

    fn tidy(&self, invocation: &Invocation) -> Result<(), String> {
        let words: Vec<_> = invocation
            .argv
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        match self.supervisor.run(invocation, self.limit) {
            Ok((ended, _)) if ended.code == 0 => Ok(()),
            Ok((ended, _)) => Err(format!(
                "`{}` ended with {}: {}",
                words.join(" "),
                ended.code,
                ended.complaint
            )),
            Err(error) => Err(format!("`{}`: {error}", words.join(" "))),
        }
    }
}

/// Removes what a start has for itself.
fn clear(launch: &Launch) -> Result<(), String> {
    let mut result = Ok(());
    for folder in &launch.folders {
        let removed = std::fs::remove_dir_all(folder);
        let told = |error| format!("{} cannot be removed: {error}", folder.display());
        result = result.and(removed.map_err(told));
    }
    result
}

/// Whether somebody listens there before the service does: whoever is asked then is not it.
fn is_taken(address: SocketAddr) -> bool {
    let in_use = |error: std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    TcpListener::bind(address).is_err_and(in_use)
}

/// Those who should have gone.
pub fn left_behind(left: &[Found]) -> String {
    let names: BTreeSet<&str> = left.iter().map(|found| &*found.name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let count = left.len();
    let plural = if count == 1 { "process" } else { "processes" };
    format!(
        "it left {count} {plural} behind, which were killed: {}",
        names.join(", ")
    )
}

/// A port of the host's that nobody had a moment ago, and that the kernel gives to nobody who
/// asks for any: one of those could be had meanwhile, by who asks for the service itself even,
/// and a socket that is connected to itself answers.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let given = text.unwrap_or_default();
    let given = given.split_whitespace().next();
    let end: u32 = given
        .and_then(|word| word.parse().ok())
        .unwrap_or(LAST_PORT);
    let count = end.min(LAST_PORT).saturating_sub(FIRST_PORT);
    let bound = |port: u16| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(listener.local_addr().ok()?.port())
    };
    // Two benchmarks begin at different places.
    let seed = std::process::id().wrapping_mul(PACE);
    let found = (0..count.min(MOST_TRIED)).find_map(|_| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(seed);
        bound(u16::try_from(FIRST_PORT + number % count).ok()?)
    });
    found.or_else(|| bound(0)).unwrap_or(0)
}

/// Ports that are neither well known nor, mostly, given to who asks for any.
const FIRST_PORT: u32 = 12_000;
const LAST_PORT: u32 = 32_768;
/// How far apart benchmarks that follow each other begin.
const PACE: u32 = 251;
/// How many ports may be somebody's before any will do.
const MOST_TRIED: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_none_that_a_connection_comes_from() {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let low: u32 = text.split_whitespace().next().unwrap().parse().unwrap();
        let ports: BTreeSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        if low > FIRST_PORT + 50 {
            assert!(ports.iter().all(|&port| u32::from(port) < low), "{ports:?}");
        }
    }

    #[test]
    fn an_address_that_somebody_listens_at_is_taken() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(is_taken(address));
        drop(listener);
        assert!(!is_taken(address));
    }
}
