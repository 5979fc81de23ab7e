// SPDX-License-Identifier: Apache-2.0
//! Snapshots that hold only what changed since another: how one is opened with all it builds
//! on, who builds on whom, and how one is made to stand alone. Any thread of the tool.

use super::error::{Fault, SnapshotError, failed};
use super::format::{MAX_MANIFEST, MEMORY, Manifest, Parent, STATE};
use super::pages::{Layer, PAGE, Run};
use super::store::{
    IMPORTED, MANIFEST, Snapshot, Store, Trust, is_of_memory, layer, state_of, take_state,
};
use super::verify::{all_of, each_page};
use crate::image::Digest;
use serde::Deserialize;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

/// Most snapshots one may build on. Each is a file of every machine that goes on from there,
/// and pieces of its address space.
pub const MAX_DEPTH: usize = 16;
/// Bytes copied at a time.
const PIECE: usize = 256 << 10;

/// Opens one and all it builds on. Under the store's lock.
pub(super) fn open(store: &Store, name: &str, trust: Trust) -> Result<Snapshot, SnapshotError> {
    let fail = |fault| SnapshotError::fault(name, fault);
    let (manifest, digest, _) = store.manifest(name).map_err(fail)?;
    let files = store.open_files(name, &manifest, trust, |_| true);
    let mut files = files.map_err(fail)?;
    let state = take_state(&mut files).map_err(fail)?;
    state_of(&state, &manifest).map_err(fail)?;
    let mut memory = vec![layer(&mut files, &manifest).map_err(fail)?];
    let disks = manifest.disks().filter_map(|disk| files.remove(&disk.name));
    let disks = disks.collect();
    let mut next = manifest.parent.clone();
    while let Some(parent) = next {
        room(memory.len() - 1).map_err(fail)?;
        let below = ancestor(store, &parent, manifest.machine.memory, trust);
        let (layer, above) = below.map_err(fail)?;
        memory.push(layer);
        next = above;
    }
    memory.reverse();
    let path = store.folder(name)?;
    Ok(Snapshot {
        name: name.to_owned(),
        imported: path.join(IMPORTED).exists(),
        path,
        digest,
        manifest,
        state,
        memory,
        disks,
    })
}

/// The memory of one that is built on, and what it builds on itself.
fn ancestor(
    store: &Store,
    parent: &Parent,
    memory: u64,
    trust: Trust,
) -> Result<(Layer, Option<Parent>), Fault> {
    let within = |fault| Fault::Parent {
        parent: parent.name.clone(),
        fault: Box::new(fault),
    };
    let manifest = manifest_of(store, parent)?;
    if manifest.machine.memory != memory {
        return Err(within(Fault::Other));
    }
    let files = store.open_files(&parent.name, &manifest, trust, is_of_memory);
    let layer = files.and_then(|mut files| layer(&mut files, &manifest));
    Ok((layer.map_err(within)?, manifest.parent))
}

fn manifest_of(store: &Store, parent: &Parent) -> Result<Manifest, Fault> {
    if !store.has(&parent.name) {
        return Err(Fault::NoParent(parent.name.clone()));
    }
    let found = store.manifest(&parent.name);
    let (manifest, digest, _) = found.map_err(|fault| Fault::Parent {
        parent: parent.name.clone(),
        fault: Box::new(fault),
    })?;
    match digest == parent.digest {
        true => Ok(manifest),
        false => Err(Fault::OtherParent(parent.name.clone())),
    }
}

/// How many snapshots this one builds on.
pub(super) fn depth(store: &Store, parent: &Parent) -> Result<usize, Fault> {
    let mut depth = 0;
    let mut next = Some(parent.clone());
    while let Some(parent) = next {
        next = manifest_of(store, &parent)?.parent;
        depth += 1;
        room(depth - 1)?;
    }
    Ok(depth - 1)
}

/// Whether one more fits below `depth` others.
pub(super) fn room(depth: usize) -> Result<(), Fault> {
    match depth < MAX_DEPTH {
        true => Ok(()),
        false => Err(Fault::Deep(MAX_DEPTH)),
    }
}

/// What every format says of its parent.
#[derive(Deserialize)]
struct Kin {
    parent: Option<Parent>,
}

/// Those that build on this one, damaged or of another format as they may be.
pub(super) fn children(store: &Store, name: &str) -> Result<Vec<String>, SnapshotError> {
    let digest = store.manifest(name).ok().map(|(_, digest, _)| digest);
    let mut children = Vec::new();
    for child in store.names()? {
        let path = store.folder(&child)?.join(MANIFEST);
        let bytes = File::open(path).and_then(|file| all_of(&file, MAX_MANIFEST));
        let bytes = bytes.ok().flatten().unwrap_or_default();
        let kin: Option<Kin> = serde_json::from_slice(&bytes).ok();
        let parent = kin.and_then(|kin| kin.parent);
        let is_this = |parent: Parent| {
            let same = |digest: Digest| digest == parent.digest;
            parent.name == name && digest.is_none_or(same)
        };
        if parent.is_some_and(is_this) {
            children.push(child);
        }
    }
    Ok(children)
}

impl Store {
    /// Gives a snapshot a memory of its own, whole, in place of what it shares with those it
    /// builds on. False: it builds on none.
    pub fn flatten(&self, name: &str) -> Result<bool, SnapshotError> {
        let old = self.get(name)?;
        if old.manifest.parent.is_none() {
            return Ok(false);
        }
        self.childless(name, "flattened")?;
        let draft = self.draft(name)?.only_over(old.digest);
        if old.imported {
            draft.came_from_elsewhere()?;
        }
        let target = draft.create(MEMORY)?;
        merge(&old, &target).map_err(failed("write", &draft.path().join(MEMORY)))?;
        let disks = old.manifest.disks().map(|disk| disk.name.as_str());
        for file in [STATE].into_iter().chain(disks) {
            // Nothing in a snapshot is ever written to: it may have two names.
            let (from, to) = (old.path.join(file), draft.path().join(file));
            fs::hard_link(&from, &to).map_err(failed("link", &from))?;
        }
        let (files, seal) = draft.seal(false)?;
        for entry in &files {
            let before = old.manifest.entry(&entry.name);
            if entry.name != MEMORY && before != Some(entry) {
                let fault = Fault::Digest(entry.name.clone());
                return Err(SnapshotError::fault(name, fault));
            }
        }
        let manifest = Manifest {
            parent: None,
            files,
            ..old.manifest
        };
        draft.publish(&manifest, &seal)?;
        Ok(true)
    }
}

/// All layers in one file, what is zero as holes.
fn merge(snapshot: &Snapshot, target: &File) -> std::io::Result<()> {
    let length = snapshot.manifest.machine.memory;
    target.set_len(length)?;
    let whole = [Run {
        start: 0,
        count: length / PAGE,
    }];
    let mut piece = vec![0; PIECE];
    let mut covered: Vec<Run> = Vec::new();
    // The newest first, each where none above it has anything to say.
    for layer in snapshot.memory.iter().rev() {
        let runs = layer.runs.as_deref().unwrap_or(&whole);
        for run in without(runs, &covered) {
            let (start, end) = (run.start * PAGE, (run.start + run.count) * PAGE);
            each_page(&layer.file, start, end, &mut piece, |at, bytes| {
                target.write_all_at(bytes, at)
            })?;
        }
        covered = with(runs, &covered);
    }
    Ok(())
}

/// The parts of `runs` that are not in `others`; both are in order.
fn without(runs: &[Run], others: &[Run]) -> Vec<Run> {
    let mut rest = Vec::new();
    let mut others = others.iter().copied().peekable();
    for run in runs {
        let (mut at, end) = (run.start, run.start + run.count);
        while at < end {
            while others.next_if(|o| o.start + o.count <= at).is_some() {}
            let next = others.peek().map_or(end, |other| other.start.min(end));
            if next > at {
                let count = next - at;
                rest.push(Run { start: at, count });
            }
            at = others.peek().map_or(end, |other| match other.start < end {
                true => other.start + other.count,
                false => end,
            });
        }
    }
    rest
}

/// Both, in order, as few as can be.
fn with(runs: &[Run], others: &[Run]) -> Vec<Run> {
    let mut all: Vec<Run> = runs.iter().chain(others).copied().collect();
    all.sort_unstable_by_key(|run| run.start);
    let mut merged: Vec<Run> = Vec::with_capacity(all.len());
    for run in all {
        match merged.last_mut() {
            Some(last) if run.start <= last.start + last.count => {
                let end = (run.start + run.count).max(last.start + last.count);
                last.count = end - last.start;
            }
            _ => merged.push(run),
        }
    }
    merged
}
