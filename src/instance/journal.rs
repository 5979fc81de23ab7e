// SPDX-License-Identifier: Apache-2.0
//! What happened to machines, one JSON document a line, in the folder of all of them. Each
//! husk appends its own lines; one write each, so that lines do not mix. Bounded: a full
//! journal becomes the old one.

use super::logs::Reader;
use super::record::{Record, now};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// From this size on the journal is turned; so two of them are kept at most.
const FULL: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// create, start, die, remove, stop, kill, exec, attach.
    pub what: String,
    pub id: String,
    pub name: Option<String>,
    pub image: String,
    /// With `die`: the exit code. With `kill`: the signal.
    pub code: Option<u8>,
    pub labels: BTreeMap<String, String>,
}

/// The older file, the newer.
const NAMES: [&str; 2] = ["events.1", "events"];

/// A journal that cannot be written keeps nothing from happening.
pub fn note(place: &Path, what: &str, record: &Record, code: Option<u8>) {
    let entry = Entry {
        at: now(),
        what: what.to_owned(),
        id: record.id.clone(),
        name: record.name.clone(),
        image: record.image.clone(),
        code,
        labels: record.labels.clone(),
    };
    let Ok(mut line) = serde_json::to_vec(&entry) else {
        return;
    };
    line.push(b'\n');
    let [old, path] = NAMES.map(|name| place.join(name));
    if fs::metadata(&path).is_ok_and(|meta| meta.len() >= FULL) {
        let _ = fs::rename(&path, old);
    }
    let file = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    if let Ok(mut file) = file {
        let _ = file.write_all(&line);
    }
}

/// Reads all that is kept, oldest first, and then what comes.
pub fn reader(place: &Path) -> Reader {
    Reader::of(place, NAMES)
}

/// The exit code of a machine of which nothing else may be kept, if its end is still told of.
pub fn end_of(place: &Path, id: &str) -> Option<u8> {
    let text = reader(place).read().ok()?;
    entries(&text)
        .find(|entry| entry.id == id && entry.what == "die")?
        .code
}

/// The whole lines of `text`; what is no entry is passed over.
pub fn entries(text: &[u8]) -> impl Iterator<Item = Entry> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_found_as_long_as_it_is_told_of() {
        let place = tempfile::tempdir().expect("a folder");
        let machine = |id: &str| Record {
            id: id.to_owned(),
            ..Record::default()
        };
        for (what, id, code) in [
            ("start", "a", None),
            ("die", "b", Some(7)),
            ("kill", "a", Some(9)),
            ("die", "a", Some(3)),
            ("remove", "a", None),
        ] {
            note(place.path(), what, &machine(id), code);
        }
        assert_eq!(end_of(place.path(), "a"), Some(3));
        assert_eq!(end_of(place.path(), "c"), None);
        // In the older of the two as well.
        let [old, path] = NAMES.map(|name| place.path().join(name));
        fs::rename(path, old).expect("turned");
        assert_eq!(end_of(place.path(), "b"), Some(7));
    }
}
