// SPDX-License-Identifier: Apache-2.0
//! From the layers of an image to one file system: unpacked, checked, laid over each
//! other in memory, and written as one image of the cache.
//!
//! Runs on the thread that opens an image; layers are unpacked beside it. No path of a
//! layer is ever given to the host: what is unpacked are whole archives, into files
//! without names.

use super::blob::{Blob, Source, document, fault};
use super::cache::{Cache, Part, Wait};
use super::crew;
use super::digest::Digest;
use super::erofs::{Contents, Opened};
use super::error::{BlobFault, ImageError, Malformed};
use super::manifest::{self, Document, Manifest, Unfit};
use super::process::ImageConfig;
use super::reference::Packing;
use super::source::archive::{Archive, empty_root};
use super::source::bundle::sniff;
use super::source::place::Walker;
use super::source::stamp;
use super::tree::{Data, Tree};
use super::unpack::{Budget, Spool, unpack};
use super::{Progress, RootFs, key, write};
use rustix::fs::Mode;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most layers unpacked at once: each is a processor's whole work.
const MOST_AT_ONCE: usize = 4;

/// An image as its documents describe it.
#[derive(Debug)]
pub struct Described {
    /// Of the manifest.
    pub digest: Digest,
    pub document: Vec<u8>,
    pub manifest: Manifest,
    /// Of the layers unpacked, in order.
    pub diff_ids: Vec<Digest>,
    pub config: ImageConfig,
}

impl Described {
    /// `path` is for messages.
    pub fn read(source: &dyn Source, path: &Path) -> Result<Self, ImageError> {
        let unfit = |problem| ImageError::unfit(path, problem);
        let (digest, document) = source.manifest()?;
        let Document::Manifest(manifest) = manifest::read(&document).map_err(unfit)? else {
            return Err(unfit(Unfit::Kind("list of images".into())));
        };
        let config = self::document(source, &manifest.config.digest)?;
        let (diff_ids, config) =
            manifest::configuration(&config, manifest.layers.len()).map_err(unfit)?;
        Ok(Self {
            digest,
            document,
            manifest,
            diff_ids,
            config,
        })
    }

    /// What the layers are together: two images of the same are one file.
    pub fn key(&self) -> super::cache::Key {
        let ids: Vec<u8> = self.diff_ids.iter().flat_map(|id| *id.bytes()).collect();
        key(b"oci", &ids)
    }

    /// Bytes of the layers as they are stored.
    pub fn stored(&self) -> u64 {
        let sizes = self.manifest.layers.iter().map(|layer| layer.size);
        sizes.fold(0, u64::saturating_add)
    }
}

/// The file system of an image, made or found.
pub fn open(
    image: &Described,
    source: &dyn Source,
    cache: &Cache,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<RootFs, ImageError> {
    let cached = cache.image(&image.key(), &mut |wait| match wait {
        Wait::Other => {
            progress(Progress::Waiting);
            Ok(())
        }
        Wait::Write(part) => {
            let stack = Stack::unpack(image, source, part, progress)?;
            write(&stack.tree()?, &stack, part, progress)?;
            stack.unchanged()
        }
    })?;
    Ok(RootFs {
        config: image.config.clone(),
        ..cached.into()
    })
}

/// The layers as plain archives, lowest first.
struct Stack {
    layers: Vec<Layer>,
}

struct Layer {
    archive: Archive,
    /// Of a file that is not ours, what it was when its digest was taken.
    stamp: Option<[u8; 72]>,
    path: PathBuf,
}

impl Stack {
    fn unpack(
        image: &Described,
        source: &dyn Source,
        part: &Part,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ImageError> {
        let budget = Budget::new();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let mut done = 0;
        let layers = crew::run(
            image.manifest.layers.len(),
            workers.min(MOST_AT_ONCE),
            |number, report: &crew::Report<u64>| {
                let layer = &image.manifest.layers[number];
                let mut blob = source.blob(&layer.digest)?;
                blob.check_size(layer)?;
                // What is wrong with a layer is said of the layer, wherever it lies.
                blob.path = PathBuf::from(format!("layer {}", layer.digest));
                let ids = (layer.digest, image.diff_ids[number]);
                Layer::unpack(&blob, ids, part, &budget, &mut |bytes| report.tell(bytes))
            },
            &mut |bytes| {
                done += bytes;
                progress(Progress::Unpacking { done });
            },
        )?;
        Ok(Self { layers })
    }

    fn tree(&self) -> Result<Tree, ImageError> {
        let mut tree = empty_root();
        let mut walker = Walker::default();
        for (number, layer) in (0..).zip(&self.layers) {
            layer.archive.lay_over(&mut tree, &mut walker, number)?;
        }
        Ok(tree)
    }

    /// What was read in place must still be what its digest was taken of.
    fn unchanged(&self) -> Result<(), ImageError> {
        for layer in &self.layers {
            if layer
                .stamp
                .is_some_and(|before| layer.now().ok() != Some(before))
            {
                return Err(ImageError::Changing {
                    path: layer.path.clone(),
                });
            }
        }
        Ok(())
    }
}

impl Layer {
    /// `ids` are the digests of the blob and of what is in it.
    fn unpack(
        blob: &Blob,
        ids: (Digest, Digest),
        part: &Part,
        budget: &Budget,
        told: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Self, ImageError> {
        let packing = sniff(blob)?;
        if packing == Packing::Plain && ours(blob)? {
            return Self::in_place(blob, ids);
        }
        let file = part.spool()?;
        let spool = Spool {
            file: &file,
            path: &part.path,
        };
        let found = match unpack(blob, packing, &spool, budget, told) {
            // Cannot be unpacked: is it made so, or not what was made?
            Err(
                error @ ImageError::Archive {
                    problem: Malformed::Compressed,
                    ..
                },
            ) => {
                return Err(match blob.digest()? == ids.0 {
                    true => error,
                    false => fault(&ids.0, BlobFault::Digest),
                });
            }
            found => found?,
        };
        // In this order: who changed a blob is told so, and not that its image is wrong.
        if found.packed != ids.0 {
            return Err(fault(&ids.0, BlobFault::Digest));
        }
        if found.plain != ids.1 {
            return Err(fault(&ids.0, BlobFault::DiffId(ids.1)));
        }
        Ok(Self {
            archive: Archive::new(file, &blob.path)?,
            stamp: None,
            path: blob.path.clone(),
        })
    }

    /// A layer that is not packed is read where it lies. Between its digest and its last
    /// byte it may change, which `unchanged` sees.
    fn in_place(blob: &Blob, ids: (Digest, Digest)) -> Result<Self, ImageError> {
        let range = blob.at..blob.at.saturating_add(blob.len);
        let mut layer = Self {
            archive: Archive::within(Arc::clone(&blob.file), range, &blob.path),
            stamp: None,
            path: blob.path.clone(),
        };
        layer.stamp = Some(layer.now()?);
        let digest = blob.digest()?;
        if digest != ids.0 {
            return Err(fault(&ids.0, BlobFault::Digest));
        }
        if digest != ids.1 {
            return Err(fault(&ids.0, BlobFault::DiffId(ids.1)));
        }
        Ok(layer)
    }

    fn now(&self) -> Result<[u8; 72], ImageError> {
        let stat = rustix::fs::fstat(&*self.archive.file());
        Ok(stamp(&stat.map_err(|errno| {
            ImageError::io("read", &self.path, errno)
        })?))
    }
}

/// Is it a file nobody else writes to? What is made of layers is kept under their digests,
/// for every image that has them; and who writes through a mapping of a page that is dirty
/// changes no time of the file, so a stranger's is copied before its digest is taken.
fn ours(blob: &Blob) -> Result<bool, ImageError> {
    let stat = rustix::fs::fstat(&*blob.file)
        .map_err(|errno| ImageError::io("read", &blob.path, errno))?;
    let owner = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    let others = Mode::WGRP | Mode::WOTH;
    Ok(owner && !Mode::from_raw_mode(stat.st_mode).intersects(others))
}

impl Contents for Stack {
    fn path(&self) -> &Path {
        self.layers
            .first()
            .map_or(Path::new("image"), |layer| &layer.path)
    }

    fn open(&self, data: &Data, len: u64) -> Result<Opened, ImageError> {
        let Data::Archive { layer, .. } = data else {
            unreachable!("a layer's files are in its archive");
        };
        self.layers[usize::from(*layer)].archive.open(data, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::cache::DEFAULT_LIMIT;
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

    #[test]
    fn what_others_may_write_is_no_longer_read_once_its_digest_is_known() {
        let cache = tempfile::tempdir().unwrap();
        let cache = Cache::open(cache.path(), DEFAULT_LIMIT).unwrap();
        for (mode, kept) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&[7; 1024], 0).unwrap();
            file.set_permissions(std::fs::Permissions::from_mode(mode))
                .unwrap();
            let blob = Blob {
                file: Arc::new(file),
                at: 0,
                len: 1024,
                path: "layer".into(),
            };
            let id = Digest::of(&[7; 1024]);
            let read = cache.image(&[0; 32], &mut |wait| {
                let Wait::Write(part) = wait else {
                    return Ok(());
                };
                let layer = Layer::unpack(&blob, (id, id), part, &Budget::new(), &mut |_| true)?;
                blob.file.write_all_at(&[8; 1024], 0).unwrap();
                let mut byte = [0];
                layer.archive.file().read_exact_at(&mut byte, 0).unwrap();
                assert_eq!(byte == [8], kept, "{mode:o}");
                assert_eq!(layer.stamp.is_some(), kept, "{mode:o}");
                Err(fault(&id, BlobFault::Absent))
            });
            assert!(matches!(read, Err(ImageError::Blob { .. })));
        }
    }
}
