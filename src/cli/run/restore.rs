// SPDX-License-Identifier: Apache-2.0
//! Puts a machine together that goes on from where another one was saved: with disks of its
//! own, a network of its own, and another identity. Main thread.

use super::RunRequest;
use super::begin::{self, Recipe};
use super::blueprint::Blueprint;
use super::declared;
use super::detach::memory_file;
use super::identity;
use super::network;
use super::parts::{Parts, drives};
use super::sound;
use super::storage::{self, Disks};
use crate::cli::host::cache_dir;
use crate::cli::image::problem as image_problem;
use crate::cli::launch::Opened;
use crate::cli::output::{Failure, Problem};
use crate::cli::trace::Waterfall;
use crate::config::{self, Begin, HostFile, Restore, VmConfig};
use crate::image;
use crate::instance::beside;
use crate::instance::record::{Port, Record};
use crate::instance::session::Opening;
use crate::snapshot::{Layer, Parent, Snapshot, encode, working};
use anyhow::Context as _;
use serde::Deserialize as _;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A machine as it was saved, open.
pub struct Saved {
    /// For messages.
    pub path: PathBuf,
    pub state: File,
    /// The oldest first.
    pub memory: Vec<Layer>,
    /// Those that could be written, in their order.
    pub disks: Vec<File>,
    pub blueprint: Blueprint,
    /// What it is called, if that stays.
    pub parent: Option<Parent>,
    /// What a machine that went on from it wrote to first.
    pub hot: Option<File>,
    /// The first to go on from it shows that.
    pub learns: bool,
}

impl Saved {
    /// `stays`: others may hold only what changed since.
    pub fn of(snapshot: Snapshot, stays: bool) -> Result<Self, Problem> {
        let described = &snapshot.manifest.blueprint;
        let blueprint = Blueprint::deserialize(described).map_err(|error| {
            Problem::new(format!(
                "snapshot '{}' does not say what its machine is",
                snapshot.name
            ))
            .because(&error)
        })?;
        sound::check(&blueprint, &snapshot.manifest.machine).map_err(|what| {
            Problem::new(format!(
                "snapshot '{}' says of its machine what none has: {what}",
                snapshot.name
            ))
        })?;
        Ok(Self {
            parent: stays.then(|| snapshot.as_parent()),
            hot: working::open(&snapshot.path),
            learns: true,
            path: snapshot.path,
            state: snapshot.state,
            memory: snapshot.memory,
            disks: snapshot.disks,
            blueprint,
        })
    }

    /// Another handle of the same, for one more machine.
    pub fn again(&self) -> std::io::Result<Self> {
        let copy = |file: &File| file.try_clone();
        let layer = |layer: &Layer| {
            Ok(Layer {
                file: copy(&layer.file)?,
                runs: layer.runs.clone(),
            })
        };
        Ok(Self {
            path: self.path.clone(),
            state: copy(&self.state)?,
            memory: self
                .memory
                .iter()
                .map(layer)
                .collect::<std::io::Result<_>>()?,
            disks: self
                .disks
                .iter()
                .map(copy)
                .collect::<std::io::Result<_>>()?,
            blueprint: self.blueprint.clone(),
            parent: self.parent.clone(),
            hot: self.hot.as_ref().map(copy).transpose()?,
            learns: self.learns,
        })
    }
}

/// Everything, open. `request` is the blueprint's, with what is to be different.
pub fn gather(
    saved: Saved,
    request: &RunRequest,
    waterfall: &mut Waterfall,
) -> Result<Parts, Failure> {
    let mut opened = Opened::default();
    let cache = cache_dir()?;
    let Saved {
        path,
        state,
        memory,
        disks,
        blueprint,
        parent: saved_as,
        hot,
        learns,
    } = saved;
    let learn = match hot {
        None if learns => working::learning(&path).ok(),
        _ => None,
    };
    let mut file = |file: File| HostFile {
        path: path.clone(),
        fd: opened.keep(file.into()),
    };
    let layer = |layer: Layer| {
        let pages = layer.runs.map(|runs| memory_file(&encode(&runs)));
        Ok(config::Layer {
            file: file(layer.file),
            pages: pages.transpose()?.map(&mut file),
        })
    };
    let memory: anyhow::Result<_> = memory.into_iter().map(layer).collect();
    let memory = memory?;
    let state = file(state);
    let (hot, learn) = (hot.map(&mut file), learn.map(&mut file));
    let root = blueprint.root.open(&cache, || {
        image::open_with(&request.image, &cache, request.pull.into(), &mut |_| {})
            .map_err(|error| image_problem(&error))
    })?;
    let recipe = Recipe {
        kernel: Path::new(&blueprint.record.kernel),
        variant: None,
        shape: request.shape,
        jail: request.jail,
        network: request.network.is_common(),
        timeout: request.timeout,
    };
    let begin = Begin::Restore(Restore {
        state,
        memory,
        hot,
        learn,
    });
    let (bare, agent) = begin::bare(&recipe, &request.image, begin, &mut opened)?;
    let equipment = storage::open(
        &request.storage,
        1,
        Disks::Saved(disks.into_iter()),
        &mut opened,
    )?;
    let network = network::gather(request, &mut opened)?;
    let config = VmConfig {
        drives: drives(root, equipment.drives, &request.storage, &mut opened),
        shares: equipment.shares,
        net: network.card,
        trace: request.trace.is_some(),
        ..bare
    };
    let record = record(request, &blueprint.record);
    let rebirth = identity::of(&record.hostname, network.guest)
        .context("cannot make a machine's identity")?;
    waterfall.reached("files open");
    waterfall.restored();
    Ok(Parts {
        config,
        agent,
        opening: Opening::Reborn(Box::new(rebirth)),
        opened,
        record: record.clone(),
        beside: beside::Plan {
            network: network.user,
            shares: equipment.served,
        },
        seat: network.seat,
        ahead: None,
        blueprint: Blueprint {
            request: request.clone(),
            record,
            root: blueprint.root,
            parent: saved_as,
        },
        template: None,
    })
}

/// That of the machine which was saved, as far as this one is the same.
fn record(request: &RunRequest, saved: &Record) -> Record {
    let ports = request.network.publish.iter().map(Port::from).collect();
    Record {
        name: request.name.clone(),
        labels: request.labels.clone(),
        detached: request.detach,
        remove: request.remove,
        jail: request.jail,
        hostname: request
            .hostname
            .clone()
            .unwrap_or_else(|| saved.hostname.clone()),
        vsock: None,
        ports,
        ..saved.clone()
    }
}

/// Ports of the host that are free, each for a port of the guest that was published: the old
/// ones are the other machine's.
pub fn elsewhere(request: &mut RunRequest) -> Result<(), Problem> {
    let guest = request.network.publish.iter();
    let guest = guest.map(|port| (port.protocol, port.guest));
    let mut guest: Vec<_> = guest.collect();
    guest.dedup();
    request.network.publish = declared::free_ports(&guest)?;
    Ok(())
}
