// SPDX-License-Identifier: Apache-2.0
//! What a snapshot says its machine was asked for, held to what the command line takes:
//! whoever made an imported one may have written there what they liked. Pure.

use super::RunRequest;
use super::blueprint::{Blueprint, RootId};
use super::network::{Mode, NetworkRequest, name, plain};
use super::request::{hostname, user, workdir};
use super::storage::{MAX_PATH, Storage, What, target};
use crate::config::net::{Destination, MAX_PUBLISHED, MAX_RULES, Rule};
use crate::config::{MAX_CPUS, MIN_MEMORY};
use crate::instance::record::{Record, is_name};
use crate::snapshot::{MAX_MEMORY, Shape};
use crate::units::{ByteSize, LONGEST_SPAN};
use crate::volume;
use husk_protocol::MAX_START;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

/// Most labels: each is a line of a record that everybody who lists machines reads.
const MAX_LABELS: usize = 4096;
/// Longest label, key and value, and longest name of an image: they stand in tables.
const MAX_TEXT: usize = 64 << 10;
/// Most mounts, of which few are devices: the agent makes one after the other.
const MAX_MOUNTS: usize = 256;
/// Most variables and arguments together: each takes memory of its own, however short.
const MAX_WORDS: usize = 64 << 10;
/// The last signal (signal(7)).
const LAST_SIGNAL: u8 = 64;

/// What is wrong with it, the first.
pub fn check(blueprint: &Blueprint, shape: &Shape) -> Result<(), String> {
    let Blueprint {
        request,
        record,
        root,
        parent: _,
    } = blueprint;
    its_shape(request, shape)?;
    its_command(request)?;
    its_names(request)?;
    its_storage(&request.storage, request.read_only)?;
    its_network(&request.network)?;
    its_record(record)?;
    let path = match root {
        RootId::Made { name, .. } => Path::new(name),
        RootId::File { path, .. } => path,
    };
    good(is_path(path), "its root's name")
}

fn good(is: bool, what: &str) -> Result<(), String> {
    match is {
        true => Ok(()),
        false => Err(what.to_owned()),
    }
}

fn its_shape(request: &RunRequest, shape: &Shape) -> Result<(), String> {
    let (cpus, memory) = (request.shape.cpus, request.shape.memory.bytes());
    good((1..=MAX_CPUS).contains(&cpus), "its number of CPUs")?;
    let whole = memory.is_multiple_of(ByteSize::MIB.bytes());
    let fits = (MIN_MEMORY..=MAX_MEMORY).contains(&memory);
    good(whole && fits, "its size of memory")?;
    let same = (cpus, memory) == (shape.cpus, shape.memory);
    good(same, "another size than that it was saved with")?;
    let some = request.timeout > Duration::ZERO && request.timeout <= LONGEST_SPAN;
    good(some, "how long its agent may take")
}

fn its_command(request: &RunRequest) -> Result<(), String> {
    let words = request.command.iter().chain(&request.entrypoint);
    let words: Vec<&[u8]> = words.map(|word| word.as_bytes()).collect();
    let env = &request.env;
    good(words.len() + env.len() <= MAX_WORDS, "its number of words")?;
    let values = env.iter().flat_map(|(name, value)| [name, value]);
    let values = values.map(|word| word.as_bytes());
    let all: Vec<&[u8]> = words.into_iter().chain(values).collect();
    let length: usize = all.iter().map(|word| word.len()).sum();
    good(length <= MAX_START, "the length of its command")?;
    good(all.iter().all(|word| !word.contains(&0)), "its command")?;
    let named = env.iter().all(|(name, _)| is_variable(name));
    good(named, "the name of a variable")
}

/// As `request::variable` takes them.
fn is_variable(name: &OsStr) -> bool {
    let odd = |byte: &u8| *byte == b'=' || byte.is_ascii_whitespace() || byte.is_ascii_control();
    !name.is_empty() && !name.as_bytes().iter().any(odd)
}

fn its_names(request: &RunRequest) -> Result<(), String> {
    let image = &request.image;
    let image = !image.is_empty() && is_text(image);
    good(image, "the name of its image")?;
    let taken = |text: &Option<String>, check: fn(&str) -> bool| {
        text.as_deref()
            .is_none_or(|text| is_text(text) && check(text))
    };
    good(taken(&request.name, is_name), "its name")?;
    good(taken(&request.hostname, is_host), "its host name")?;
    good(taken(&request.user, |text| user(text).is_ok()), "its user")?;
    let is_directory = |text: &str| workdir(text).is_ok() && is_path(Path::new(text));
    good(taken(&request.workdir, is_directory), "its directory")?;
    let signal = request.stop_signal;
    let signal = signal.is_none_or(|signal| (1..=LAST_SIGNAL).contains(&signal));
    good(signal, "what it is asked to end with")?;
    for path in [&request.kernel, &request.vsock].into_iter().flatten() {
        good(is_path(path), "a path of the host")?;
    }
    its_labels(&request.labels)
}

fn its_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    good(labels.len() <= MAX_LABELS, "its number of labels")?;
    let fits = |(key, value): (&String, &String)| {
        !key.is_empty() && key.len().saturating_add(value.len()) <= MAX_TEXT
    };
    good(labels.iter().all(fits), "a label")
}

/// A host name, or the name of a machine, which stands in for one.
fn is_host(text: &str) -> bool {
    hostname(text).is_ok() || is_name(text)
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.contains('\0')
}

fn is_path(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    !bytes.is_empty() && bytes.len() <= MAX_PATH && !bytes.contains(&0)
}

fn its_storage(storage: &Storage, read_only: bool) -> Result<(), String> {
    let sizes = volume::MIN_SIZE..=volume::MAX_SIZE;
    let size = storage.disk_size;
    let whole = |size: u64| sizes.contains(&size) && size.is_multiple_of(4096);
    good(size.is_none_or(whole), "the size of its disk")?;
    good(
        size.is_none() || !read_only,
        "a disk for what it cannot write",
    )?;
    good(storage.bps != Some(0), "how fast its disks are")?;
    let most = u64::from(u32::MAX);
    let count = storage.iops.is_none_or(|count| (1..=most).contains(&count));
    good(count, "how fast its disks are")?;
    good(storage.mounts.len() <= MAX_MOUNTS, "its number of mounts")?;
    for mount in &storage.mounts {
        let place = target(&mount.target).as_ref() == Ok(&mount.target);
        good(place, "where something is mounted")?;
        let what = match &mount.what {
            What::Volume(name) => volume::is_name(name),
            What::Directory(path) => path.is_absolute() && is_path(path),
            What::Memory(_) => !mount.read_only,
        };
        good(what, "what is mounted")?;
    }
    let mut problems = Vec::new();
    storage.agree(&mut problems);
    problems.pop().map_or(Ok(()), |problem| Err(problem.what))
}

fn its_network(network: &NetworkRequest) -> Result<(), String> {
    let called = match &network.mode {
        Mode::User { .. } | Mode::None => None,
        Mode::Tap(name) | Mode::Bridge(name) | Mode::Private(name) => Some(name),
    };
    good(called.is_none_or(|name| plain(name)), "its network's name")?;
    let stack = network.is_common();
    let rules = stack && !matches!(network.mode, Mode::User { open: true });
    let count = network.publish.len();
    good(count <= MAX_PUBLISHED, "its number of ports")?;
    good(stack || count == 0, "ports of a network that has none")?;
    let ports = network.publish.iter();
    let some = ports
        .flat_map(|port| [port.host, port.guest])
        .all(|port| port != 0);
    good(some, "a port")?;
    let count = network.allow.len();
    good(count <= MAX_RULES, "its number of rules")?;
    good(rules || count == 0, "rules of a network that has none")?;
    good(network.allow.iter().all(is_rule), "a rule of its network")?;
    good(network.bps != Some(0), "how fast its network is")
}

fn is_rule(rule: &Rule) -> bool {
    let to = match &rule.to {
        Destination::Network {
            address: IpAddr::V4(_),
            prefix,
        } => *prefix <= 32,
        Destination::Network { prefix, .. } => *prefix <= 128,
        Destination::Name { name: text, .. } => matches!(
            name(text),
            Some(Destination::Name { name, below: false }) if name == *text
        ),
    };
    to && rule.port != Some(0)
}

/// What is taken over from it: what else it says is of another machine.
fn its_record(record: &Record) -> Result<(), String> {
    let host = record.hostname.is_empty() || is_host(&record.hostname);
    good(host, "its host name")?;
    good(
        record.stop_signal <= LAST_SIGNAL,
        "what it is asked to end with",
    )?;
    good(record.env.len() <= MAX_WORDS, "its number of words")?;
    let texts = record.env.iter();
    let texts = texts.chain([&record.user, &record.workdir, &record.kernel]);
    good(
        texts.clone().all(|text| !text.contains('\0')),
        "its variables",
    )?;
    let length: usize = texts.map(String::len).sum();
    // What is no UTF-8 is three bytes for each there.
    good(length <= 3 * MAX_START, "the length of its variables")
}

#[cfg(test)]
mod tests;
