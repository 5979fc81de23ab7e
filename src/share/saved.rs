// SPDX-License-Identifier: Apache-2.0
//! What a guest holds, as bytes: written when its machine is saved, read by the server of the
//! restored one. The share's one thread.
//!
//! Places go by the names they were last seen under, and are found again when they are asked
//! for, as those are that have no descriptor: what is found is the same file, by device,
//! number and birth, or the place is stale. What is read may be of anybody's making. A place
//! of it leads nowhere a guest's own look-up would not: one component at a time, below the
//! root, following no link.

use super::operation::Server;
use super::table::{Born, Handle, Key, Node, ROOT, Table, born};
use rustix::fs::{FileType, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::Arc;

/// Changes with what is written.
const FORMAT: u32 = 1;
/// Longest name of a file (NAME_MAX).
const MAX_NAME: usize = 255;
/// Numbers below it are left for what comes: at one a nanosecond they last for centuries.
const MOST_NUMBERS: u64 = 1 << 62;

/// The bytes are no table.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    /// The first number never given.
    next: u64,
}

#[derive(Serialize, Deserialize)]
enum Record {
    Place(Place),
    Open(Open),
}

#[derive(Serialize, Deserialize)]
struct Place {
    number: u64,
    parent: u64,
    name: Vec<u8>,
    /// The bits of `st_mode` that say what it is.
    kind: u32,
    key: Key,
    born: Option<Born>,
    lookups: u64,
}

#[derive(Serialize, Deserialize)]
struct Open {
    number: u64,
    node: u64,
    access: u32,
}

impl Table {
    /// At most `most` bytes. Open files come first, with all places on the way to them, then
    /// the others from the oldest on: a guest looks a place up anew that has no room here.
    pub fn export(&self, most: usize) -> Vec<u8> {
        let head = Head {
            format: FORMAT,
            next: self.next,
        };
        let mut out = postcard::to_stdvec(&head).unwrap_or_default();
        let handles: BTreeMap<u64, &Handle> = self.handles.iter().map(|(n, h)| (*n, h)).collect();
        let mut said = HashSet::from([ROOT]);
        for (&number, handle) in &handles {
            let open = Open {
                number,
                node: handle.node,
                access: handle.access.bits(),
            };
            if !append(&mut out, &Record::Open(open), most) {
                return out;
            }
            let mut at = handle.node;
            // The way up ends: at the root, at what was said, or at a place without a name.
            while said.insert(at) {
                let Some((parent, place)) = self.place_of(at) else {
                    break;
                };
                if !append(&mut out, &Record::Place(place), most) {
                    return out;
                }
                at = parent;
            }
        }
        let mut numbers: Vec<u64> = self.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers.into_iter().filter(|number| !said.contains(number)) {
            if let Some((_, place)) = self.place_of(number)
                && !append(&mut out, &Record::Place(place), most)
            {
                return out;
            }
        }
        out
    }

    /// None of one without a name: nobody finds it again.
    fn place_of(&self, number: u64) -> Option<(u64, Place)> {
        let node = self.nodes.get(&number)?;
        let (parent, name) = node.name.as_ref()?;
        let place = Place {
            number,
            parent: *parent,
            name: name.as_bytes().to_vec(),
            kind: node.kind.as_raw_mode(),
            key: node.key,
            born: node.fd.as_ref().map_or(node.born, born),
            lookups: node.lookups,
        };
        Some((*parent, place))
    }

    fn add(&mut self, place: Place) -> Result<(), Malformed> {
        let number = place.number;
        let name = OsStr::from_bytes(&place.name);
        let known = self.nodes.contains_key(&number) || self.handles.contains_key(&number);
        let full = self.nodes.len() >= self.most_nodes;
        if known || full || number >= self.next || !is_component(name) || place.lookups == 0 {
            return Err(Malformed);
        }
        let node = Node {
            fd: None,
            kind: FileType::from_raw_mode(place.kind),
            key: place.key,
            born: place.born,
            name: Some((place.parent, OsString::from_vec(place.name))),
            lookups: place.lookups,
        };
        self.nodes.insert(number, node);
        // Two places with one file's number: the second is found by name alone.
        self.by_key.entry(place.key).or_insert(number);
        Ok(())
    }
}

impl Server {
    /// What the guest holds, in at most `most` bytes.
    pub fn export(&self, most: usize) -> Vec<u8> {
        self.table.export(most)
    }

    /// The guest holds what one held before it was saved. Of bytes that are no table it holds
    /// nothing: each place is stale.
    pub fn import(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.table.clear();
        let outcome = self.take_in(bytes);
        if outcome.is_err() {
            self.table.clear();
        }
        outcome
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let (head, mut rest) = postcard::take_from_bytes::<Head>(bytes).map_err(|_| Malformed)?;
        if head.format != FORMAT || !(self.table.next..MOST_NUMBERS).contains(&head.next) {
            return Err(Malformed);
        }
        self.table.next = head.next;
        let mut opened = Vec::new();
        while !rest.is_empty() {
            let (record, after) = postcard::take_from_bytes(rest).map_err(|_| Malformed)?;
            rest = after;
            match record {
                Record::Place(place) => self.table.add(place)?,
                Record::Open(open) if opened.len() < self.table.most_handles => opened.push(open),
                Record::Open(_) => return Err(Malformed),
            }
        }
        for open in opened {
            self.open_again(&open)?;
        }
        Ok(())
    }

    /// As a guest opens a file, but that nothing of it is cut off.
    fn open_again(&mut self, open: &Open) -> Result<(), Malformed> {
        let number = open.number;
        let table = &self.table;
        let known = table.nodes.contains_key(&number) || table.handles.contains_key(&number);
        if known || number >= table.next {
            return Err(Malformed);
        }
        let flags = OFlags::from_bits_retain(open.access);
        let access = self.access((flags & OFlags::ACCMODE).bits());
        let directory = flags & OFlags::DIRECTORY;
        let file = access.and_then(|access| self.reopen(open.node, access | directory));
        let handle = Handle {
            file: file.ok().map(Arc::new),
            node: open.node,
            access: flags & (OFlags::ACCMODE | OFlags::DIRECTORY),
        };
        self.table.handles.insert(number, handle);
        Ok(())
    }
}

/// Leaves `out` as it was, and is false, if there is no room.
fn append(out: &mut Vec<u8>, record: &Record, most: usize) -> bool {
    let bytes = postcard::to_stdvec(record).unwrap_or_default();
    let fits = !bytes.is_empty() && out.len() + bytes.len() <= most;
    if fits {
        out.extend_from_slice(&bytes);
    }
    fits
}

fn is_component(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let dots = matches!(bytes, b"" | b"." | b"..");
    !dots && bytes.len() <= MAX_NAME && !bytes.iter().any(|byte| matches!(byte, b'/' | 0))
}
