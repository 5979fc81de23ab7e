// SPDX-License-Identifier: Apache-2.0
//! What a benchmark found: raw samples in the order in which they were taken, and all that is
//! needed to read them. Plain data, the same in memory, in a file and in every report; figures
//! are computed from it, never stored in it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of the file. Another one is refused, not guessed at.
pub const FORMAT: u32 = 1;

/// One run of `husk bench`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    /// The version of husk.
    pub husk: String,
    /// Nanoseconds since 1970.
    pub began: u64,
    pub ended: u64,
    /// The command that repeats it, by words.
    pub command: Vec<String>,
    /// What was run: an image's reference, and the words of its command.
    pub image: String,
    pub machine: Machine,
    /// What makes the figures less than they look, and what to do about it.
    pub cautions: Vec<Caution>,
    pub contestants: Vec<Contestant>,
    pub series: Vec<Series>,
    /// How one start of a contestant was spent, where it says: the median start.
    pub waterfalls: Vec<Waterfall>,
}

/// Where it was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    pub kernel: String,
    /// `hardware`, `pvm`, or why there is none.
    pub kvm: String,
    /// Everything else, in the order in which it is shown: clock source, governor, cgroup, file
    /// systems, load.
    pub facts: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caution {
    /// One line: what was seen.
    pub what: String,
    /// One line: what to do about it.
    pub hint: String,
}

/// Somebody the same thing is asked of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contestant {
    /// As it is called on the command line: `husk`, `runc`.
    pub name: String,
    /// What its version command says.
    pub version: Option<String>,
    /// How it isolates, in a few words: `process`, `container`, `machine`.
    pub kind: String,
    /// Why it takes no part, if it does not.
    pub absent: Option<String>,
}

/// Samples of one contestant, of one thing, under the same conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// `start`, `density`, `churn`, `work`.
    pub study: String,
    pub contestant: String,
    /// What was measured, between which named points: `process exit`, `first byte of output`.
    pub metric: String,
    pub unit: Unit,
    pub better: Better,
    /// Beyond the contestant: `page cache` → `cold`, `concurrency` → `4`, `instances` → `8`.
    pub conditions: BTreeMap<String, String>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// In the order of the rounds; a round that failed is none here and one in `failures`.
    Measured {
        samples: Vec<Sample>,
        failures: Vec<String>,
    },
    /// The contestant has no such thing; why. Never zero.
    NotOffered(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Which round: samples of two contestants in one round are a pair.
    pub round: u32,
    pub value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    Nanoseconds,
    Bytes,
    /// Times a second.
    PerSecond,
    BytesPerSecond,
    Count,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    Lower,
    Higher,
}

/// One start, step by step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waterfall {
    pub contestant: String,
    pub conditions: BTreeMap<String, String>,
    /// In order; nanoseconds from the start of the first process to the end of the step.
    pub steps: Vec<(String, u64)>,
}
