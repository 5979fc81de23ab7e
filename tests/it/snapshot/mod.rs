// SPDX-License-Identifier: Apache-2.0
//! The verbs for snapshots that need no running machine, on the frozen one.

mod killed;
mod verbs;

use crate::support::{Outcome, finish, husk};
use ::husk::snapshot::FORMAT;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The frozen stream of this name: `base`, or `child`, which builds on it.
fn frozen(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("tests/golden/snapshot-v{FORMAT}/{name}.husk"))
}

/// A data folder of a test's own.
struct Data(TempDir);

impl Data {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    /// With the frozen snapshots in it.
    fn filled() -> Self {
        let data = Self::new();
        for name in ["base", "child"] {
            let path = frozen(name);
            let said = data.good(&["snapshot", "import", path.to_str().expect("text")]);
            assert_eq!(said, format!("{name}\n"));
        }
        data
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("snapshots")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut husk = husk();
        husk.args(words).env("NO_COLOR", "1");
        husk.env("HUSK_DATA_DIR", self.0.path());
        husk
    }

    fn line(&self, words: &[&str]) -> Outcome {
        finish(&mut self.command(words))
    }

    #[track_caller]
    fn good(&self, words: &[&str]) -> String {
        let outcome = self.line(words);
        assert_eq!(
            (outcome.code, outcome.stderr.as_str()),
            (0, ""),
            "{words:?}"
        );
        outcome.stdout
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.good(words)).expect("JSON")
    }

    /// The one line of a refusal, and what it hints.
    #[track_caller]
    fn refused(&self, words: &[&str]) -> String {
        let outcome = self.line(words);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (1, ""),
            "{words:?}"
        );
        let lines = outcome.stderr.lines();
        let told = lines.filter(|line| line.starts_with("husk: ")).count();
        assert_eq!(told, 1, "{outcome:?}");
        outcome.stderr
    }

    /// Everything in the store's folder.
    fn inside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root()).into_iter().flatten();
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names
            .map(|name| name.into_string().expect("text"))
            .collect();
        names.sort();
        names
    }
}
