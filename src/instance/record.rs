// SPDX-License-Identifier: Apache-2.0
//! What is written down of a virtual machine: what it is, and how it ended. Plain data.

use crate::config::net::Protocol;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Hex digits of an id.
pub const ID_DIGITS: usize = 12;
/// Longest name of a machine, as host names have it.
pub const MAX_NAME: usize = 63;
/// Longest record, written or read back: a damaged one must not fill memory. Room for the
/// longest `Start` there is, an image's labels, and each byte of both as `\u0001`.
pub const MAX_RECORD: u64 = 32 << 20;

/// Written once, when the machine is claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    pub id: String,
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub image: String,
    pub command: Vec<String>,
    /// Nanoseconds since 1970.
    pub created: u64,
    /// Of the protocol its guest's agent speaks.
    pub protocol: u16,
    /// The process that owns the machine; trusted only while it holds the lock.
    pub pid: i32,
    pub detached: bool,
    /// Nothing is kept once it ended.
    pub remove: bool,
    pub tty: bool,
    pub interactive: bool,
    pub stop_signal: u8,
    pub cpus: u32,
    pub memory: u64,
    pub kernel: String,
    /// Where the guest's kernel runs: 0 or 3; none if the kernel itself decides.
    pub ring: Option<u8>,
    pub jail: bool,
    /// What a further command in it inherits, bytes that are no UTF-8 replaced.
    pub env: Vec<String>,
    pub user: String,
    pub workdir: String,
    pub hostname: String,
    /// Where the operator wants the guest's vsock ports to be reached as well.
    pub vsock: Option<PathBuf>,
    /// Ports of the host that lead into the guest.
    pub ports: Vec<Port>,
    /// Ports the image says it listens on, `80/tcp` each.
    pub exposed: Vec<String>,
    /// Directories the image says it writes to, which have no volume of the operator's.
    pub volumes: Vec<String>,
    pub mounts: Vec<Mounted>,
    /// As --network has it.
    pub network: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// None is loopback, of both families where the host has them.
    pub address: Option<IpAddr>,
    pub host: u16,
    pub guest: u16,
    pub protocol: Protocol,
}

/// What the guest finds besides its image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mounted {
    /// volume, directory or tmpfs.
    pub kind: String,
    /// The volume's name, or the path on the host.
    pub source: Option<String>,
    pub target: String,
    pub read_only: bool,
}

impl Record {
    /// What people call it: its name, or its id.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Nanoseconds since 1970; when it was noticed, of a machine that could not tell.
    pub at: u64,
    /// The command's exit code, 128 plus a signal's number, or 125 if husk failed.
    pub code: u8,
    /// The signal that ended the command.
    pub signal: Option<u8>,
    /// Why there is no word of the command itself, in one line.
    pub error: Option<String>,
}

impl Ended {
    /// What is said of a machine whose owner was killed.
    pub fn vanished(at: u64) -> Self {
        Self {
            at,
            code: 137,
            signal: None,
            error: Some("its process was killed".into()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Exited(Ended),
}

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

pub fn time_of(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

/// As RFC 3339 has it, in UTC.
pub fn stamp(nanoseconds: u64) -> String {
    humantime::format_rfc3339_nanos(time_of(nanoseconds)).to_string()
}

/// Whether people may call a machine so: it stands in tables, paths and host names.
pub fn is_name(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    first && text.len() <= MAX_NAME && text.bytes().all(rest)
}

/// Whether this can be the id of a machine, or the beginning of one.
pub fn is_id(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    !text.is_empty() && text.len() <= ID_DIGITS && text.bytes().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_tables_and_paths() {
        for name in ["web", "a.b-c_D9", "0", &"x".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "-x",
            ".",
            "..",
            "a/b",
            "a b",
            "é",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn ids_are_hex() {
        assert!(is_id("0af") && is_id("0123456789ab"));
        assert!(!is_id("") && !is_id("0AF") && !is_id("0123456789abc") && !is_id("g"));
    }

    #[test]
    fn times_are_told_as_rfc_3339_has_it() {
        assert_eq!(stamp(1_500_000_000), "1970-01-01T00:00:01.500000000Z");
    }
}
