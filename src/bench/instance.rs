// SPDX-License-Identifier: Apache-2.0
//! One start of a contestant that goes on until it is told to end: a service that answers, or a
//! command whose whole output is wanted. On the thread that measures. However it goes, what was
//! started is ended and cleared up before this says how it went.

use super::contestant::{Contestant, Feature, Ground, Launch, Task};
use super::load;
use super::supervise::{Child, GRACE, Supervisor};
use super::timing::{self, Failed, Goal};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// A command that ends or clears up may take so long; engines are slow.
const LIMIT: Duration = Duration::from_secs(20);
/// The first port at which instances listen inside. One each, since those of a contestant that
/// does not isolate share the host's.
const FIRST_PORT: u16 = 18_100;

/// All of them are on the same ground, under the same supervision.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    pub ground: &'a Ground,
    pub supervisor: &'a Supervisor,
}

/// Lives; `end` ends it. Whoever drops one leaves it to the supervisor.
#[derive(Debug)]
pub struct Instance {
    launch: Launch,
    child: Option<Child>,
    id: String,
    pub service: SocketAddr,
}

/// Why a contestant can have no service that goes on; `None` if it can.
pub fn lacks_service(contestant: &dyn Contestant) -> Option<String> {
    contestant.offers(Feature::Service).err()
}

impl<'a> Site<'a> {
    /// Starts the service of a contestant and waits for its first answer. `number` tells it from
    /// those that run beside it.
    pub fn serve(
        &self,
        contestant: &dyn Contestant,
        id: &str,
        number: u16,
        limit: Duration,
    ) -> Result<Instance, String> {
        let detached = contestant.offers(Feature::Detached).is_ok();
        let port = FIRST_PORT.saturating_add(number);
        let task = Task {
            id: id.to_owned(),
            argv: words(&[load::PATH, "web", &port.to_string()]),
            env: Vec::new(),
            cwd: "/".to_owned(),
            port: Some(port),
            detached,
        };
        let launch = contestant.launch(self.ground, &task);
        let launch = launch.map_err(|error| format!("{error:#}"))?;
        let Some(service) = launch.service else {
            self.clear(&launch);
            return Err("it has no service that the host reaches".to_owned());
        };
        let goal = Goal::Answer { detached };
        let (child, marks) = timing::observe(self.supervisor, &launch, &goal, limit);
        let instance = Instance {
            launch,
            child,
            id: task.id,
            service,
        };
        match marks {
            Ok(_) => Ok(instance),
            Err(why) => {
                let known = BTreeSet::new();
                let _ = instance.end(self, Some(&known));
                Err(why.to_string())
            }
        }
    }

    /// Runs a command inside to its end: what it said.
    pub fn output(
        &self,
        contestant: &dyn Contestant,
        id: &str,
        argv: &[&str],
        limit: Duration,
    ) -> Result<String, String> {
        let task = Task {
            id: id.to_owned(),
            argv: words(argv),
            env: Vec::new(),
            cwd: "/".to_owned(),
            port: None,
            detached: false,
        };
        let launch = contestant.launch(self.ground, &task);
        let launch = launch.map_err(|error| format!("{error:#}"))?;
        let told = self.supervisor.run(&launch.start, limit);
        if told.is_err() {
            self.each(&launch.stop);
        }
        self.clear(&launch);
        match told {
            Ok((ended, said)) if ended.code == 0 => Ok(said),
            Ok((ended, _)) => Err(Failed::Ended {
                code: ended.code,
                when: "",
                complaint: match ended.complaint.is_empty() {
                    true => String::new(),
                    false => format!(": {}", ended.complaint),
                },
            }
            .to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn each(&self, commands: &[super::contestant::Invocation]) -> Vec<String> {
        let run = |command| match self.supervisor.run(command, LIMIT) {
            Ok((ended, _)) if ended.code == 0 => None,
            Ok((ended, _)) => Some(ended.complaint),
            Err(error) => Some(error.to_string()),
        };
        commands.iter().filter_map(run).collect()
    }

    fn clear(&self, launch: &Launch) {
        // That there is nothing to be cleared is no failure.
        let _ = self.each(&launch.remove);
    }
}

impl Instance {
    /// The roots of its processes that are no descendants of ours.
    pub fn elsewhere(&self, contestant: &dyn Contestant, ground: &Ground) -> Vec<i32> {
        contestant.elsewhere(ground, &self.id)
    }

    /// Ends it and clears up after it. With `known`, who else lives below the benchmark, whoever
    /// is left besides is killed and told.
    pub fn end(mut self, site: &Site<'_>, known: Option<&BTreeSet<i32>>) -> Vec<String> {
        let mut told = site.each(&self.launch.stop);
        if let Some(child) = &mut self.child {
            if self.launch.stop.is_empty() {
                let term = rustix::process::Signal::TERM;
                if matches!(site.supervisor.ended(child), Ok(None)) {
                    site.supervisor.signal(child, term);
                }
            }
            let mut fds = [child.exit_fd()];
            let _ = super::supervise::wait(&mut fds, GRACE);
            if matches!(site.supervisor.ended(child), Ok(None)) {
                told.push("it did not end when it was told to, and was killed".to_owned());
                site.supervisor.kill_group(child);
            }
            child.forget();
        }
        site.clear(&self.launch);
        if let Some(known) = known {
            let left = site.supervisor.settle(known, GRACE);
            let left = left.iter().map(|found| format!("it left {} behind", found.name));
            told.extend(left);
        }
        told
    }
}

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}
