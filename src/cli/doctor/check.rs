// SPDX-License-Identifier: Apache-2.0
//! A finding, and the report made of them, for people and as JSON.

use crate::cli::output::Style;
use serde::Serialize;
use std::fmt::Write as _;

/// Version of the JSON form, raised when a field changes its meaning.
const SCHEMA: &str = "husk-doctor/1";

/// How things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Works, and costs something.
    Warn,
    /// `husk run` cannot work like this.
    Fail,
    /// A feature that no start needs is not there.
    Absent,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was seen: the evidence.
    pub found: String,
    /// What follows for the user of husk; empty where all is well.
    pub means: String,
    /// The command that mends it; empty where nothing needs mending or nothing can.
    pub fix: String,
}

impl Check {
    pub fn new(name: &'static str, state: State, found: impl Into<String>) -> Self {
        Self {
            name,
            state,
            found: found.into(),
            means: String::new(),
            fix: String::new(),
        }
    }

    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, State::Ok, found)
    }

    #[must_use]
    pub fn means(mut self, means: impl Into<String>) -> Self {
        self.means = means.into();
        self
    }

    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

/// All findings.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    /// Could `husk run` work here?
    pub usable: bool,
    fast_lane: FastLane,
    checks: Vec<Check>,
}

/// Whether a guest's kernel may live in ring 3 here, and what its round trips cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum FastLane {
    Open {
        system_call_ns: u64,
        ring0_call_ns: u64,
        page_fault_ns: u64,
        probe_ns: u64,
    },
    Closed,
    /// Ring 0 is native.
    NotNeeded,
    /// There is no KVM to ask.
    #[default]
    Unknown,
}

impl Report {
    pub fn new(fast_lane: FastLane, checks: Vec<Check>) -> Self {
        Self {
            schema: SCHEMA,
            usable: checks.iter().all(|check| check.state != State::Fail),
            fast_lane,
            checks,
        }
    }

    pub fn text(&self, style: Style) -> String {
        let width = self.checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for check in &self.checks {
            let (color, state) = match check.state {
                State::Ok => (style.good, "ok"),
                State::Warn => (style.warn, "warn"),
                State::Fail => (style.bad, "FAIL"),
                State::Absent => (style.dim, "absent"),
            };
            let _ = writeln!(
                text,
                "{color}{state:<6}{} {:width$}  {}",
                style.off, check.name, check.found
            );
            let indent = width + 9;
            if !check.means.is_empty() {
                let _ = writeln!(text, "{:indent$}{}", "", check.means);
            }
            if !check.fix.is_empty() {
                let _ = writeln!(
                    text,
                    "{:indent$}{}fix:{} {}",
                    "", style.strong, style.off, check.fix
                );
            }
        }
        let verdict = match self.usable {
            true => "`husk run` can work on this host.",
            false => "`husk run` cannot work on this host until what failed is mended.",
        };
        let _ = writeln!(text, "\n{verdict}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: State) -> Report {
        let checks = vec![
            Check::ok("one", "fine"),
            Check::new("second", state, "gone")
                .means("no luck")
                .fix("bring it"),
        ];
        Report::new(FastLane::NotNeeded, checks)
    }

    #[test]
    fn only_a_failure_makes_a_host_unusable() {
        assert!(report(State::Warn).usable);
        assert!(report(State::Absent).usable);
        assert!(!report(State::Fail).usable);
    }

    #[test]
    fn text_and_json_say_the_same() {
        assert_eq!(
            report(State::Fail).text(Style::PLAIN),
            "ok     one     fine\n\
             FAIL   second  gone\n               \
                            no luck\n               \
                            fix: bring it\n\n\
             `husk run` cannot work on this host until what failed is mended.\n"
        );
        let json = serde_json::to_value(report(State::Absent)).expect("JSON");
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["usable"], true);
        assert_eq!(json["fast_lane"]["state"], "not-needed");
        assert_eq!(json["checks"][1]["state"], "absent");
        assert_eq!(json["checks"][1]["fix"], "bring it");
    }
}
