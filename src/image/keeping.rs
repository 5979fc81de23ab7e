// SPDX-License-Identifier: Apache-2.0
//! What is kept of images on this host: listed, looked into, removed.
//!
//! Tool side; runs on the thread that calls. What it says of the store is what is on the
//! disk at that moment.

use super::blob::Source;
use super::cache::{Cache, DEFAULT_LIMIT};
use super::digest::Digest;
use super::error::{ImageError, Misread};
use super::layers::Described;
use super::manifest;
use super::name::Name;
use super::process::ImageConfig;
use super::reference::{Reference, misread};
use super::store::{Kept, Reclaimed, Store};
use super::{Progress, open_source};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// An image without its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Of the manifest.
    pub digest: Digest,
    pub platform: String,
    pub layers: Vec<LayerSummary>,
    /// Bytes of the layers as they are stored.
    pub stored: u64,
    /// Disk of the file system made of it, if that is there.
    pub made: Option<u64>,
    pub config: ImageConfig,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerSummary {
    pub digest: Digest,
    pub diff_id: Digest,
    pub size: u64,
}

impl Summary {
    fn of(image: Described, images: &Cache) -> Self {
        let layers = image.manifest.layers.iter().zip(&image.diff_ids);
        Self {
            digest: image.digest,
            platform: format!("{}/{}", manifest::OS, manifest::arch()),
            layers: layers
                .map(|(layer, diff_id)| LayerSummary {
                    digest: layer.digest,
                    diff_id: *diff_id,
                    size: layer.size,
                })
                .collect(),
            stored: image.stored(),
            made: images.size(&image.key()),
            config: image.config,
        }
    }
}

/// All images of the store; none beside one that is damaged.
pub fn list(cache: &Path) -> Result<Vec<(Kept, Option<Summary>)>, ImageError> {
    let (store, images) = (Store::open(cache)?, Cache::open(cache, DEFAULT_LIMIT)?);
    let read = |kept: Kept| {
        let source = store.source(kept.manifest.digest);
        let image = Described::read(&source, Path::new(&kept.name)).ok();
        (kept, image.map(|image| Summary::of(image, &images)))
    };
    Ok(store.images()?.into_iter().map(read).collect())
}

/// One image, of the store or of a layout or archive.
pub fn inspect(
    reference: &str,
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary, ImageError> {
    let (store, images) = (Store::open(cache)?, Cache::open(cache, DEFAULT_LIMIT)?);
    let source: Box<dyn Source> = match &Reference::parse(reference)? {
        Reference::Name(name) => match store.find(name)? {
            Some(kept) => Box::new(store.source(kept.manifest.digest)),
            None => {
                let name = name.familiar();
                return Err(ImageError::NotKept { name });
            }
        },
        Reference::Directory(_) | Reference::Archive(_) | Reference::File(_) => {
            return Err(misread(Path::new(reference), Misread::Bare));
        }
        other => open_source(other, &store, progress)?,
    };
    let image = Described::read(&*source, Path::new(reference))?;
    Ok(Summary::of(image, &images))
}

/// What [`remove`] did.
#[derive(Debug, Default)]
pub struct Removed {
    pub names: Vec<String>,
    pub missing: Vec<String>,
    pub reclaimed: Reclaimed,
}

/// Removes images by name or by the first digits of their digest, and what only they
/// needed.
pub fn remove(
    wanted: &[String],
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Removed, ImageError> {
    let (store, images) = (Store::open(cache)?, Cache::open(cache, DEFAULT_LIMIT)?);
    let mut removed = Removed::default();
    let mut going = Vec::new();
    for text in wanted {
        let found = matching(&store.images()?, text);
        if found.is_empty() {
            removed.missing.push(text.clone());
        }
        going.extend(found);
    }
    let key = |kept: &Kept| {
        let source = store.source(kept.manifest.digest);
        let image = Described::read(&source, Path::new(&kept.name));
        image.ok().map(|image| image.key())
    };
    let keys: BTreeSet<_> = going.iter().filter_map(key).collect();
    removed.names = going.into_iter().map(|kept| kept.name).collect();
    if removed.names.is_empty() {
        return Ok(removed);
    }
    store.unname(&removed.names)?;
    let kept: BTreeSet<_> = store.images()?.iter().filter_map(key).collect();
    for key in keys.difference(&kept) {
        removed.reclaimed.bytes += images.forget(key);
    }
    let swept = store.sweep(&mut || progress(Progress::Waiting))?;
    removed.reclaimed.blobs += swept.blobs;
    removed.reclaimed.partial += swept.partial;
    removed.reclaimed.bytes += swept.bytes;
    Ok(removed)
}

/// Fewest digits that stand for a digest.
const FEWEST_DIGITS: usize = 6;

/// A name means one image; digits mean all names of one.
fn matching(images: &[Kept], text: &str) -> Vec<Kept> {
    let name = Name::parse(text).map(|name| name.to_string());
    let named = images
        .iter()
        .filter(|kept| Some(&kept.name) == name.as_ref());
    let named: Vec<Kept> = named.cloned().collect();
    if !named.is_empty() {
        return named;
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let by_digits = |kept: &&Kept| kept.manifest.digest.hex().starts_with(digits);
    let found: Vec<Kept> = match digits.len() >= FEWEST_DIGITS {
        true => images.iter().filter(by_digits).cloned().collect(),
        false => Vec::new(),
    };
    // Digits that begin two digests name neither.
    match found.iter().all(|kept| kept.manifest == found[0].manifest) {
        true => found,
        false => Vec::new(),
    }
}

/// Removes what no image of the store needs.
pub fn collect(
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Reclaimed, ImageError> {
    Store::open(cache)?.sweep(&mut || progress(Progress::Waiting))
}
