// SPDX-License-Identifier: Apache-2.0
//! Services that are kept once they are ready, and started from there: by `--checkpoint-ready`
//! without a name, by `husk bake` as a snapshot. Main thread.

use super::RunRequest;
use super::begin;
use super::blueprint::RootId;
use super::detach;
use super::parts::{self, kernel_of};
use super::ready::Ready;
use super::restore::{self, Saved};
use super::saving::{How, save};
use super::storage::What;
use super::{Recipe, find_one, place};
use crate::cli::host::cache_dir;
use crate::cli::output::{Failure, Printer, Problem};
use crate::cli::progress::Waiting;
use crate::cli::snapshot::problem;
use crate::cli::trace::Waterfall;
use crate::image::Digest;
use crate::instance::call;
use crate::instance::desk::Ask;
use crate::snapshot::{About, HostCpu, Snapshot, Store};
use anyhow::Context as _;
use std::path::Path;

/// Disk that services without a name may take before one more is kept.
const LIMIT: u64 = 4 << 30;
/// Digits of a key.
const DIGITS: usize = 24;

/// Runs the service in a machine of its own until it is ready, and keeps that.
pub fn bake(
    request: &RunRequest,
    ready: &Ready,
    (store, name): (&Store, &str),
    replace: bool,
    printer: &Printer,
) -> Result<Snapshot, Failure> {
    if let Some(mount) = request
        .storage
        .mounts
        .iter()
        .find(|mount| matches!(mount.what, What::Volume(_)) && !mount.read_only)
    {
        return Err(Problem::new(format!(
            "what the service writes to the volume at {} would not be there when it goes on",
            mount.target
        ))
        .hint("a service that keeps data has to start by itself")
        .into());
    }
    let draft = store.draft(name).map_err(|error| problem(&error))?;
    let draft = match replace {
        true => draft,
        false => draft.only_new(),
    };
    let mut own = request.clone();
    own.detach = true;
    own.remove = true;
    own.name = None;
    own.vsock = None;
    own.trace = None;
    // Whoever goes on from it publishes them.
    own.network.publish.clear();
    own.network.publish_all = false;
    let waiting = Waiting::for_the("starting the service", printer.talk, request.quiet);
    let parts = parts::gather(&own, printer, &mut Waterfall::default())?;
    let id = detach::start(&own, parts, printer)?;
    let place = place()?;
    let kept = ready.wait(&place, &id, request.timeout).and_then(|()| {
        let found = find_one(&place, &id)?;
        let how = How {
            hold: true,
            changes: false,
        };
        let mut saved = save(&found, draft.path(), how)?;
        let blueprint = &mut saved.blueprint;
        blueprint.request.network.clone_from(&request.network);
        let about = About {
            machine: id.clone(),
            image: Some(request.image.clone()),
            kernel: blueprint.record.kernel.clone(),
        };
        let described = serde_json::to_value(blueprint).map_err(anyhow::Error::from)?;
        let snapshot = draft.commit(about, None, described);
        Ok(snapshot.map_err(|error| problem(&error))?)
    });
    drop(waiting);
    // Ready or not, it was there for this alone.
    if let Ok(found) = place.find(&id) {
        let _ = call::ask(&found, &Ask::End);
    }
    kept
}

/// The service as it is when it is ready: kept from before, or kept now.
pub fn gather(
    request: &RunRequest,
    ready: &Ready,
    printer: &Printer,
    waterfall: &mut Waterfall,
) -> Result<parts::Parts, Failure> {
    let cache = cache_dir()?;
    let store = Store::open(&cache.join("checkpoints"));
    let name = key(request, ready, &cache, printer, waterfall)?;
    let host = HostCpu::read().context("cannot learn what this host's KVM offers")?;
    let kept = store.get(&name).ok();
    let kept = kept.filter(|kept| host.check(&kept.manifest.needs).is_ok());
    let snapshot = match kept {
        Some(kept) => kept,
        None => {
            evict(&store);
            bake(request, ready, (&store, &name), true, printer)?
        }
    };
    waterfall.reached("checkpoint ready");
    restore::gather(Saved::of(snapshot, false)?, request, waterfall)
}

/// A digest over all that a service is made of before it is ready.
fn key(
    request: &RunRequest,
    ready: &Ready,
    cache: &Path,
    printer: &Printer,
    waterfall: &mut Waterfall,
) -> Result<String, Failure> {
    let (kernel, variant) = kernel_of(request, cache, printer, waterfall)?;
    let recipe = Recipe {
        kernel: &kernel,
        variant,
        shape: request.shape,
        jail: request.jail,
        network: request.network.is_common(),
        timeout: request.timeout,
    };
    let machine = begin::key(&recipe)?;
    let root = parts::root_of(request, cache, printer)?;
    digits(&machine, &root, request, ready)
}

/// `machine` is the key of its template.
fn digits(
    machine: &str,
    root: &RootId,
    request: &RunRequest,
    ready: &Ready,
) -> Result<String, Failure> {
    let mut same = request.clone();
    // What each start has for itself.
    same.name = None;
    same.hostname = None;
    same.labels.clear();
    same.vsock = None;
    same.trace = None;
    same.timeout = std::time::Duration::ZERO;
    (same.quiet, same.detach, same.remove, same.jail) = (false, false, false, true);
    same.network.publish.clear();
    // What is ready by one sign is not by another.
    let ready = format!("{ready:?}");
    let text = serde_json::to_vec(&(machine, root, same, ready)).map_err(anyhow::Error::from)?;
    let mut digits = Digest::of(&text).hex();
    digits.truncate(DIGITS);
    Ok(digits)
}

/// Makes room for one more: what was made the longest ago goes first.
fn evict(store: &Store) {
    let mut list = store.list().unwrap_or_default();
    let made = |listed: &crate::snapshot::Listed| {
        listed
            .manifest
            .as_ref()
            .map_or(0, |(manifest, _)| manifest.created)
    };
    list.sort_by_key(|listed| std::cmp::Reverse(made(listed)));
    let mut left = LIMIT;
    for listed in list {
        match left.checked_sub(listed.disk) {
            Some(rest) => left = rest,
            // One that stays costs disk and nothing else.
            None => drop(store.remove(&listed.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::run::request::tests::check;

    #[test]
    fn a_service_is_kept_once_for_each_sign_that_it_is_ready() {
        let root = RootId::Made {
            name: "image".to_owned(),
            length: 1,
        };
        let key = |words: &[&str], ready: &str| {
            let request = check(words).expect("a request");
            let ready = Ready::parse(ready).map_err(|problem| problem.what);
            let key = digits("machine", &root, &request, &ready.expect("a sign"));
            key.map_err(|_| "no key").expect("a key")
        };
        let one = key(&["web"], "80");
        assert_eq!(key(&["--name", "x", "-p", "1:2", "web"], "80"), one);
        let others = ["81", "http://localhost:80/", "ready", "80 is open"];
        for ready in others {
            assert_ne!(key(&["web"], ready), one, "{ready}");
        }
        assert_ne!(key(&["-e", "A=b", "web"], "80"), one);
    }
}
