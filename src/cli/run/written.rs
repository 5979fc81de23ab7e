// SPDX-License-Identifier: Apache-2.0
//! What is written down of a machine when it starts, for every verb that asks later. Main
//! thread.

use super::RunRequest;
use super::declared::Declared;
use super::network::{Mode, NetworkRequest};
use super::storage::{Attach, What};
use crate::config::VmConfig;
use crate::instance::record::{Mounted, Record};
use crate::units::Variant;
use husk_protocol::Start;
use std::path::{Path, PathBuf};

/// What a machine's record is made of.
pub struct Sources<'a> {
    pub request: &'a RunRequest,
    pub config: &'a VmConfig,
    pub start: &'a Start,
    pub declared: &'a Declared,
    pub stop_signal: u8,
    pub kernel: &'a Path,
    pub variant: Option<Variant>,
}

/// What is written down of the machine.
pub fn record(sources: &Sources<'_>) -> Record {
    let Sources {
        request,
        config,
        start,
        declared,
        ..
    } = sources;
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    Record {
        name: request.name.clone(),
        labels: declared.labels(request),
        image: request.image.clone(),
        command: start.argv.iter().map(text).collect(),
        detached: request.detach,
        remove: request.remove,
        tty: start.terminal.is_some(),
        interactive: start.stdin,
        stop_signal: sources.stop_signal,
        cpus: config.cpus,
        memory: config.memory,
        kernel: sources.kernel.display().to_string(),
        ring: sources.variant.map(|variant| match variant {
            Variant::Ring3 => 3,
            Variant::Ring0 => 0,
        }),
        jail: config.jail,
        env: start.env.iter().map(text).collect(),
        user: start.user.clone(),
        workdir: text(&start.cwd),
        hostname: start.hostname.clone(),
        vsock: request.vsock.as_ref().map(|path| absolute(path)),
        mounts: request.storage.mounts.iter().map(mounted).collect(),
        network: networked(&request.network),
        ports: declared.ports(),
        exposed: declared.exposed.clone(),
        volumes: declared.volumes.clone(),
        ..Record::default()
    }
}

fn mounted(attach: &Attach) -> Mounted {
    let (kind, source) = match &attach.what {
        What::Volume(name) => ("volume", Some(name.clone())),
        What::Directory(path) => ("directory", Some(absolute(path).display().to_string())),
        What::Memory(_) => ("tmpfs", None),
    };
    Mounted {
        kind: kind.into(),
        source,
        target: attach.target.clone(),
        read_only: attach.read_only,
    }
}

fn networked(request: &NetworkRequest) -> String {
    match &request.mode {
        Mode::User { open: false } => "user".into(),
        Mode::User { open: true } => "open".into(),
        Mode::None => "none".into(),
        Mode::Tap(name) => format!("tap:{name}"),
        Mode::Bridge(name) => format!("bridge:{name}"),
        Mode::Private(name) => format!("net:{name}"),
    }
}

/// Whoever keeps the machine later may have another working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
