// SPDX-License-Identifier: Apache-2.0
//! Where the files of `husk bench work` were, so that only what is on the same medium is
//! compared: what contestants were given of the host's disk, and where they write to unless told
//! otherwise. Pure, but for one look at the host's file system. On the thread that measures.

use super::rows::{On, Told, file_system};
use crate::bench::contestant::{Ground, Medium};
use crate::bench::model::Caution;
use std::collections::{BTreeMap, BTreeSet};

/// The condition under which rows of files are told, and its values.
const IN: &str = "in";
const DISK: &str = "a directory or volume on the host's disk";
/// Its own kernel's page cache is passed by, and the host's, which holds the file behind its disk,
/// is not.
const CACHED: &str = "a machine's disk, which the host's page cache holds";
const OWN_DISK: &str = "its default place, the host's disk";
const OWN_MEMORY: &str = "its default place, a machine's memory";

/// File systems that keep nothing on the disk that a contestant was given, unless that is one.
const ELSEWHERE: [&str; 3] = ["tmpfs", "ramfs", "overlayfs"];

/// Rows that differ in this are of different things.
pub fn conditions(on: On, own: Medium) -> BTreeMap<String, String> {
    let place = match (on, own) {
        (On::Nothing, _) => return BTreeMap::new(),
        (On::Disk, _) | (On::Direct, Medium::Disk) => DISK,
        (On::Direct, Medium::Memory) => CACHED,
        (On::Own, Medium::Disk) => OWN_DISK,
        (On::Own, Medium::Memory) => OWN_MEMORY,
    };
    BTreeMap::from([(IN.to_owned(), place.to_owned())])
}

/// By the kind of file system, those whose files were on it.
type Kinds = BTreeMap<String, BTreeSet<&'static str>>;

/// What was found.
#[derive(Debug)]
pub struct Places {
    /// The kind of file system that everybody is given a part of.
    host: String,
    /// By the condition's value.
    found: BTreeMap<&'static str, Kinds>,
}

impl Places {
    pub fn of(ground: &Ground) -> Self {
        let kind = rustix::fs::statfs(&ground.written).map(|it| format!("{:x}", it.f_type));
        Self::on(file_system(&kind.unwrap_or_default()))
    }

    fn on(host: String) -> Self {
        Self {
            host,
            found: BTreeMap::new(),
        }
    }

    /// Where one contestant's files were; an error is that they were not on the disk that it was
    /// given, and the rows of that disk are none.
    pub fn note(&mut self, name: &'static str, own: Medium, told: &Told) -> Result<(), String> {
        let own = match own {
            Medium::Disk => OWN_DISK,
            Medium::Memory => OWN_MEMORY,
        };
        for (place, kind) in [(own, &told.place), (DISK, &told.disk)] {
            if let Some(kind) = kind {
                let kinds = self.found.entry(place).or_default();
                kinds.entry(kind.clone()).or_default().insert(name);
            }
        }
        match &told.disk {
            Some(kind) if *kind != self.host && ELSEWHERE.contains(&kind.as_str()) => Err(format!(
                "its files were on {kind}, and not on the disk that it was given"
            )),
            _ => Ok(()),
        }
    }

    /// Which file systems were found, whatever they are.
    pub fn facts(&self) -> Vec<(String, String)> {
        let fact = |(place, kinds)| (format!("files in {place}"), shown(kinds));
        self.found.iter().map(fact).collect()
    }

    pub fn cautions(&self) -> Vec<Caution> {
        let mut cautions = Vec::new();
        if ["tmpfs", "ramfs"].contains(&self.host.as_str()) {
            cautions.push(Caution {
                what: format!(
                    "the rows of files on the host's disk are of its memory: husk's cache is on {}",
                    self.host
                ),
                hint: "HUSK_CACHE_DIR=DIR names a directory of a disk".to_owned(),
            });
        }
        // Layers of the same disk: a difference between two is theirs as much as anybody's.
        let default = self.found.get(OWN_DISK).filter(|kinds| kinds.len() > 1);
        cautions.extend(default.map(|kinds| Caution {
            what: format!(
                "the rows of files in the default place compare file systems, too: {}",
                shown(kinds)
            ),
            hint: format!("the rows of files in {DISK} are of one disk for all"),
        }));
        cautions
    }
}

/// `ext4 of runc, process; overlayfs of podman`.
fn shown(kinds: &Kinds) -> String {
    let each = kinds.iter().map(|(kind, names)| {
        let names: Vec<&str> = names.iter().copied().collect();
        format!("{kind} of {}", names.join(", "))
    });
    each.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(place: &str, disk: &str) -> Told {
        Told {
            place: Some(place.to_owned()),
            disk: Some(disk.to_owned()),
            ..Told::default()
        }
    }

    #[test]
    fn what_is_not_on_the_disk_is_no_figure_of_it() {
        let mut places = Places::on("ext4".into());
        let mut note = |kind| places.note("runc", Medium::Disk, &told("ext4", kind));
        assert_eq!(note("ext4"), Ok(()));
        // A kernel of its own may call it something else.
        assert_eq!(note("9p"), Ok(()));
        for kind in ELSEWHERE {
            assert!(note(kind).unwrap_err().contains(kind));
        }
        // A disk that is an overlay for everybody is the same for all.
        let mut places = Places::on("overlayfs".into());
        let noted = places.note("runc", Medium::Disk, &told("overlayfs", "overlayfs"));
        assert_eq!((noted, places.cautions()), (Ok(()), vec![]));
    }

    #[test]
    fn file_systems_are_said_and_differences_of_them() {
        let mut places = Places::on("ext4".into());
        for name in ["runc", "process"] {
            places
                .note(name, Medium::Disk, &told("ext4", "ext4"))
                .unwrap();
        }
        let memory = told("overlayfs", "ext4");
        places.note("husk", Medium::Memory, &memory).unwrap();
        // Memory and a disk are told apart, and not compared.
        assert_eq!(places.cautions(), []);
        places.note("podman", Medium::Disk, &memory).unwrap();
        let caution = &places.cautions()[0].what;
        assert!(
            caution.ends_with("ext4 of process, runc; overlayfs of podman"),
            "{caution}"
        );
        let facts = places.facts();
        assert!(facts.contains(&(
            format!("files in {DISK}"),
            "ext4 of husk, podman, process, runc".into()
        )));
        assert!(facts.contains(&(format!("files in {OWN_MEMORY}"), "overlayfs of husk".into())));
    }

    #[test]
    fn a_disk_in_memory_is_said() {
        let mut places = Places::on("tmpfs".into());
        places
            .note("runc", Medium::Disk, &told("tmpfs", "tmpfs"))
            .unwrap();
        assert!(places.cautions()[0].what.contains("of its memory"));
    }

    #[test]
    fn memory_and_disk_are_two_things() {
        let of = |on, own| conditions(on, own);
        assert_ne!(of(On::Own, Medium::Disk), of(On::Own, Medium::Memory));
        assert_eq!(of(On::Disk, Medium::Disk), of(On::Disk, Medium::Memory));
        assert_ne!(of(On::Disk, Medium::Disk), of(On::Own, Medium::Disk));
        assert!(of(On::Nothing, Medium::Disk).is_empty());
        // Past the page cache is a disk here, and a cache there.
        assert_ne!(of(On::Direct, Medium::Disk), of(On::Direct, Medium::Memory));
    }
}
