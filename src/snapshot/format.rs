// SPDX-License-Identifier: Apache-2.0
//! The manifest of a snapshot: what it is of, what it needs of a host, and the digests of all
//! its files. Any thread of the tool; pure.
//!
//! What is read may come from another host, or from somebody who means harm: every length has
//! a bound, and what is not understood is refused, never skipped.

use super::pages::PAGE;
use crate::image::Digest;
use crate::machine::MachineState;
use crate::units::Variant;
use serde::{Deserialize, Serialize};

/// The format this husk writes, and the only one it reads (docs/snapshot-format.md).
pub const FORMAT: u32 = 1;
/// Longest manifest. Stops a file that claims to be one from being read into memory; the
/// blueprint, with environments of 128 KiB and more, is the most of it.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Longest text of a manifest but for the blueprint's: all are paths, names and references.
/// Stops one from filling a terminal or a log.
const MAX_TEXT: usize = 4096;
/// Most entries of CPUID, KVM's own limit (KVM_MAX_CPUID_ENTRIES).
const MAX_LEAVES: usize = 256;
/// Most machine-specific registers; KVM saves some 200. Stops a list from being compared for
/// ever.
const MAX_REGISTERS: usize = 4096;
/// Most devices: as many as there are places on the bus, and then some.
const MAX_DEVICES: usize = 64;
/// Most writable disks. Stops an archive from filling a folder with files.
pub const MAX_DISKS: usize = 32;
/// Most processors, as many as husk gives to a machine.
const MAX_CPUS: u32 = 254;
/// Most memory of a machine that is restored: KVM's physical addresses end before that.
/// Stops an archive from declaring a sparse file nothing can hold.
pub const MAX_MEMORY: u64 = 16 << 40;
/// Largest disk, as volumes have it.
pub const MAX_DISK: u64 = 16 << 40;
/// Longest state, as `machine::state` has it.
pub const MAX_STATE: u64 = 32 << 20;
/// Longest list of runs (`pages`): of 16 bytes each, as many as there may be mappings in a
/// process of Linux (vm.max_map_count). Stops a list no machine could be made of.
pub const MAX_PAGES: u64 = 1 << 20;

pub const STATE: &str = "state";
pub const MEMORY: &str = "memory";
pub const PAGES: &str = "pages";
const DISK: &str = "disk-";

/// What a snapshot is, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    /// The version of the husk that made it.
    pub husk: String,
    /// Nanoseconds since 1970.
    pub created: u64,
    pub about: About,
    pub machine: Shape,
    pub needs: Needs,
    /// What its memory was written over, for one that holds only what changed since.
    pub parent: Option<Parent>,
    pub files: Vec<Entry>,
    /// What the machine was started with, for who starts it again.
    pub blueprint: serde_json::Value,
}

/// Where it comes from, in words: by who makes the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The machine's name, or its id.
    pub machine: String,
    /// The image it runs, as it was asked for.
    pub image: Option<String>,
    /// The guest's kernel.
    pub kernel: String,
}

/// The machine, from its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Which guest kernel.
    pub variant: Variant,
    /// Numbers of virtio 1.2, section 5, in the order of their places.
    pub devices: Vec<u32>,
}

/// What a host must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// As CPUID 0 says it.
    pub vendor: String,
    /// The processor's name, for people.
    pub model: String,
    /// What the first processor was shown.
    pub cpuid: Vec<Leaf>,
    /// Bytes of extended state of one processor.
    pub xsave: u32,
    /// Numbers of the machine-specific registers that were saved.
    pub registers: Vec<u32>,
    /// Where it is bound to one host.
    pub bound: Option<Bound>,
}

/// One entry of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    pub function: u32,
    pub index: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// A guest kernel in ring 3 sees the host's own processor, and its time stamp counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    pub processor: String,
    /// The host's boot id.
    pub boot: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    pub name: String,
    /// Of its manifest, and so of all that is in it.
    pub digest: Digest,
}

/// One file of the snapshot's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    /// Bytes, holes included.
    pub length: u64,
    /// Of a sparse file by pages (`verify::sparse`), of another plainly.
    pub digest: Digest,
}

/// Why bytes are no manifest of ours.
#[derive(Debug, thiserror::Error)]
pub enum FormatFault {
    #[error("made by a newer husk: format {0}, this one reads {FORMAT}")]
    Newer(u32),
    #[error("made by an older husk: format {0}, this one reads {FORMAT}")]
    Older(u32),
    #[error("its manifest is longer than {} MiB", MAX_MANIFEST >> 20)]
    Long,
    #[error("its manifest does not make sense: {0}")]
    Malformed(serde_json::Error),
    #[error("its manifest does not make sense: {0}")]
    Bounds(&'static str),
}

/// All that every format has.
#[derive(Deserialize)]
struct Any {
    format: u32,
}

impl Manifest {
    /// Its digest is the snapshot's: of these very bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, FormatFault> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(FormatFault::Long);
        }
        let any: Any = serde_json::from_slice(bytes).map_err(FormatFault::Malformed)?;
        match any.format {
            FORMAT => {}
            newer if newer > FORMAT => return Err(FormatFault::Newer(newer)),
            older => return Err(FormatFault::Older(older)),
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(FormatFault::Malformed)?;
        manifest.check().map_err(FormatFault::Bounds)?;
        Ok(manifest)
    }

    pub fn write(&self) -> Result<Vec<u8>, FormatFault> {
        self.check().map_err(FormatFault::Bounds)?;
        let mut bytes = serde_json::to_vec_pretty(self).map_err(FormatFault::Malformed)?;
        bytes.push(b'\n');
        match bytes.len() as u64 > MAX_MANIFEST {
            true => Err(FormatFault::Long),
            false => Ok(bytes),
        }
    }

    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.name == name)
    }

    /// The names of its disks' files, in the order of their numbers.
    pub fn disks(&self) -> impl Iterator<Item = &Entry> {
        self.files
            .iter()
            .filter(|entry| entry.name.starts_with(DISK))
    }

    fn check(&self) -> Result<(), &'static str> {
        let texts = [
            Some(&self.husk),
            Some(&self.about.machine),
            Some(&self.about.kernel),
            self.about.image.as_ref(),
            Some(&self.needs.vendor),
            Some(&self.needs.model),
            self.needs.bound.as_ref().map(|bound| &bound.processor),
            self.needs.bound.as_ref().map(|bound| &bound.boot),
        ];
        let good = |held, what| if held { Ok(()) } else { Err(what) };
        let short = |text: Option<&String>| text.is_none_or(|text| text.len() <= MAX_TEXT);
        good(texts.into_iter().all(short), "a text is too long")?;
        let shape = &self.machine;
        good((1..=MAX_CPUS).contains(&shape.cpus), "number of CPUs")?;
        let whole = shape.memory.is_multiple_of(PAGE);
        let memory = shape.memory > 0 && shape.memory <= MAX_MEMORY && whole;
        good(memory, "size of memory")?;
        good(shape.devices.len() <= MAX_DEVICES, "number of devices")?;
        good(self.needs.cpuid.len() <= MAX_LEAVES, "entries of CPUID")?;
        let registers = self.needs.registers.len() <= MAX_REGISTERS;
        good(registers, "number of registers")?;
        if let Some(parent) = &self.parent {
            good(is_name(&parent.name), "the parent's name")?;
        }
        self.check_files()
    }

    /// Exactly the files a snapshot has, in the one order they are written in.
    fn check_files(&self) -> Result<(), &'static str> {
        let mut expected = vec![STATE.to_owned(), MEMORY.to_owned()];
        expected.extend(self.parent.is_some().then(|| PAGES.to_owned()));
        let disks = self.files.len().saturating_sub(expected.len());
        if disks > MAX_DISKS {
            return Err("number of disks");
        }
        expected.extend((0..disks).map(disk));
        if !self.files.iter().map(|entry| &entry.name).eq(&expected) {
            return Err("list of files");
        }
        for entry in &self.files {
            let fits = match entry.name.as_str() {
                STATE => entry.length <= MAX_STATE,
                MEMORY => entry.length == self.machine.memory,
                PAGES => entry.length <= MAX_PAGES,
                _ => entry.length <= MAX_DISK,
            };
            if !fits {
                return Err("length of a file");
            }
        }
        Ok(())
    }
}

impl Shape {
    /// None: a state no machine has.
    #[must_use]
    pub fn of(state: &MachineState) -> Option<Self> {
        Some(Self {
            cpus: u32::try_from(state.cpus.len()).ok()?,
            memory: state.memory,
            variant: state.variant,
            devices: state.devices.iter().map(|device| device.device).collect(),
        })
    }
}

/// The file of a disk, by its number.
#[must_use]
pub fn disk(number: usize) -> String {
    format!("{DISK}{number}")
}

/// Whether this is the name of a file that may be in a snapshot.
#[must_use]
pub fn is_file(name: &str) -> bool {
    [STATE, MEMORY, PAGES].contains(&name) || (0..MAX_DISKS).any(|number| name == disk(number))
}

/// Whether a file has holes worth keeping, and its digest is by pages.
#[must_use]
pub fn is_sparse(name: &str) -> bool {
    name == MEMORY || name.starts_with(DISK)
}

/// Longest name, as machines have it: it stands in tables and paths.
pub const MAX_NAME: usize = 63;
/// The words of `husk snapshot`: a snapshot of such a name could not be made there.
pub const WORDS: [&str; 7] = ["ls", "rm", "inspect", "export", "import", "flatten", "help"];

/// Whether people may call a snapshot so, as they may a machine.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    first && text.len() <= MAX_NAME && bytes.all(rest) && !WORDS.contains(&text)
}
