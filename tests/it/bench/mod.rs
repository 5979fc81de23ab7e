// SPDX-License-Identifier: Apache-2.0
//! `husk bench` from outside: contestants that behave, and scripts in their place that do not.
//!
//! The scripts need no KVM and no root: they stand in bubblewrap's place, and husk takes no
//! part, for want of a kernel in an empty cache. `real` asks those who are installed.

mod figures;
mod images;
mod misbehaved;
mod real;
mod told;

use crate::support::leftovers::eventually;
use crate::support::{Outcome, finish, husk};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Finds the root in bubblewrap's options, and the command behind them.
const BEGIN: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo "script 1.0"; exit 0; }
while [ "$1" != -- ]; do [ "$1" = --bind ] && root=$2; shift; done
shift
"#;
/// What bubblewrap does, without namespaces.
const OBEY: &str = r#"exec "$root$1" "$2" $3"#;

/// A husk without kernels and templates, and a script for a contestant.
struct Bench {
    folder: tempfile::TempDir,
    /// A time to sleep that nobody else sleeps: by it a process is known.
    mark: String,
}

impl Bench {
    fn new(script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bench = Self {
            folder: tempfile::tempdir().expect("a folder"),
            mark: format!("9{}{number:02}", std::process::id()),
        };
        let path = bench.script();
        let script = script
            .replace("MARK", &bench.mark)
            .replace("FOLDER", &bench.folder.path().display().to_string());
        std::fs::write(&path, format!("{BEGIN}{script}\n")).expect("a script");
        let mode = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("it is ours");
        bench
    }

    fn script(&self) -> PathBuf {
        self.folder.path().join("script")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out.json")
    }

    /// A study in which the script and a process take part.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = husk();
        command.arg("bench").args(words);
        command.args(["--against", "bwrap,process", "--format", "json"]);
        command.arg(format!("--with=bwrap={}", self.script().display()));
        command.arg("--out").arg(self.out());
        command.env("HUSK_CACHE_DIR", self.folder.path().join("cache"));
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    fn run(&self, words: &[&str]) -> (Outcome, Value) {
        let outcome = finish(&mut self.command(words));
        let results = serde_json::from_str(&outcome.stdout);
        let results = results.unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        (outcome, results)
    }

    /// Neither a process that the script began nor a file of the benchmark's is left.
    #[track_caller]
    fn check_nothing_left(&self) {
        let nobody = eventually(|| !self.sleeps());
        assert!(nobody, "sleep {} is still there", self.mark);
        let work = self.folder.path().join("cache/bench");
        let left: Vec<_> = std::fs::read_dir(&work).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Whether somebody sleeps as long as only the script does.
    fn sleeps(&self) -> bool {
        let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
        entries.flatten().any(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = line.split(|&byte| byte == 0);
            words.next().is_some_and(|name| name.ends_with(b"sleep"))
                && words.next() == Some(self.mark.as_bytes())
        })
    }
}

/// Why a contestant took no part.
fn absent<'a>(results: &'a Value, name: &str) -> &'a str {
    let all = results["contestants"].as_array().expect("a list");
    let found = all
        .iter()
        .find(|it| it["name"] == name)
        .expect("it was asked");
    found["absent"].as_str().unwrap_or("")
}

/// The samples and failures of a contestant's metric.
fn outcome<'a>(results: &'a Value, name: &str, metric: &str) -> &'a Value {
    let all = results["series"].as_array().expect("a list");
    let found = all
        .iter()
        .find(|it| it["contestant"] == name && it["metric"] == metric);
    &found.unwrap_or_else(|| panic!("{name} has no {metric}: {results:#}"))["outcome"]
}

fn samples(results: &Value, name: &str, metric: &str) -> Vec<f64> {
    let samples = &outcome(results, name, metric)["measured"]["samples"];
    let samples = samples
        .as_array()
        .unwrap_or_else(|| panic!("{name}, {metric}: {results:#}"));
    samples
        .iter()
        .map(|it| it["value"].as_f64().expect("a number"))
        .collect()
}

fn failures(results: &Value, name: &str, metric: &str) -> Vec<String> {
    let failures = &outcome(results, name, metric)["measured"]["failures"];
    let failures = failures.as_array().expect("a list");
    failures
        .iter()
        .map(|it| it.as_str().expect("a text").to_owned())
        .collect()
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("it was saved");
    serde_json::from_str(&text).expect("it is JSON")
}
