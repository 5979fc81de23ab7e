// SPDX-License-Identifier: Apache-2.0
//! Machines that run detached, in a folder of records of their own, and the verbs that deal
//! with them. However a test ends, none of them outlives it.

use super::husk::{Host, kernel};
use super::process::{Input, Running};
use super::{Outcome, finish, husk, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::Command;

/// The records of the machines of one test.
pub struct Daily {
    pub host: Host,
    folder: tempfile::TempDir,
}

impl Daily {
    /// `None`, said aloud, where no guest can run.
    pub fn find() -> Option<Self> {
        let host = Host::find()?;
        leftovers::adopt_orphans();
        let folder = tempfile::tempdir().expect("a folder");
        Some(Self { host, folder })
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = husk();
        command.args(words);
        command.env("HUSK_CACHE_DIR", self.host.root.cache());
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command.env("NO_COLOR", "1");
        command
    }

    /// A verb with its arguments, run to its end.
    pub fn husk(&self, words: &[&str]) -> Outcome {
        finish(&mut self.command(words))
    }

    /// The same, which must do what it is asked; what it says.
    #[track_caller]
    pub fn does(&self, words: &[&str]) -> String {
        let outcome = self.husk(words);
        assert_eq!(
            (outcome.code, outcome.stderr.as_str()),
            (0, ""),
            "{outcome:?}"
        );
        outcome.stdout
    }

    /// A verb that goes on.
    pub fn start(&self, words: &[&str], input: Input) -> Running {
        Running::start(&mut self.command(words), input)
    }

    /// The words of a run of a shell script.
    pub fn words(&self, options: &[&str], script: &str) -> Vec<String> {
        let image = self.host.root.dir().into_string().expect("a path");
        let kernel = kernel().display().to_string();
        let mut words = vec!["run".to_owned(), "--timeout".into(), "200s".into()];
        words.extend(["--kernel".to_owned(), kernel]);
        words.extend(options.iter().map(|word| (*word).to_owned()));
        words.extend([image, "sh".into(), "-c".into(), script.into()]);
        words
    }

    /// `husk run -d` of a shell script; returns the id.
    #[track_caller]
    pub fn detach(&self, options: &[&str], script: &str) -> String {
        let words = self.words(&[&["-d"], options].concat(), script);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let id = self.does(&words).trim_end().to_owned();
        assert_eq!(id.len(), 12, "{id}");
        id
    }

    /// One machine's document.
    #[track_caller]
    pub fn inspect(&self, machine: &str) -> serde_json::Value {
        let text = self.does(&["inspect", machine]);
        let mut list: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        list.remove(0)
    }

    /// A process of a machine, by its name in the document's state.
    #[track_caller]
    pub fn pid(&self, machine: &str, which: &str) -> Pid {
        let document = self.inspect(machine);
        let pid = document["state"][which].as_i64().expect("a pid");
        Pid::from_raw(i32::try_from(pid).expect("a pid"))
    }

    /// Waits for the log to hold this.
    #[track_caller]
    pub fn wait_for(&self, machine: &str, text: &str) {
        let mut log = String::new();
        let there = leftovers::eventually(|| {
            log = self.husk(&["logs", machine]).stdout;
            log.contains(text)
        });
        assert!(there, "no {text:?} in {log:?}");
    }

    /// What lies in the place beyond what all machines share.
    pub fn left(&self) -> Vec<PathBuf> {
        leftovers::files(self.folder.path())
    }
}

impl Drop for Daily {
    fn drop(&mut self) {
        let ids = self.husk(&["ps", "-aq"]).stdout;
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            self.husk(&[&["rm", "-f"], &ids[..]].concat());
        }
    }
}

/// Ends a process without its leave, and waits for the kernel to have taken it apart.
#[track_caller]
pub fn slay(pid: Pid) {
    kill(pid, Signal::SIGKILL).expect("it was there");
    assert!(
        leftovers::eventually(|| !lives(pid)),
        "{pid} is still there"
    );
}

/// Whether there is such a process, and it did not end.
pub fn lives(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}
