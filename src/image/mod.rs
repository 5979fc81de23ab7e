// SPDX-License-Identifier: Apache-2.0
//! From the name of an image to one read-only file that holds a file system.
//!
//! Tool side; runs on the thread that calls [`open`], before there is a machine. Whatever
//! it reads may be hostile. It never changes a directory or archive it is given.

mod bare;
mod blob;
mod cache;
mod crew;
mod digest;
mod erofs;
mod error;
mod extract;
mod keeping;
mod layers;
mod manifest;
mod name;
mod process;
mod reference;
mod registry;
mod source;
mod store;
mod tree;
mod unpack;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use cache::DEFAULT_LIMIT;
pub use digest::Digest;
pub use error::{BlobFault, ImageError, Malformed, Misread};
pub use extract::extract;
pub use keeping::{LayerSummary, Removed, Summary, collect, inspect, list, remove};
pub use manifest::Unfit;
pub use name::Name;
pub use process::{ImageConfig, Process, Typed};
pub use reference::{FsKind, Reference};
pub use registry::{PullError, PullPolicy};
pub use store::{Kept, Reclaimed, Store};
pub use tree::Refused;
pub use unpack::{LOOK, room, unzstd};

use bare::{open_archive, open_directory};
use blob::{Blob, Source};
use cache::{Cache, Cached, Key, Part};
use erofs::Output;
use layers::Described;
use reference::{Packing, misread};
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use source::bundle::{Bundle, DockerArchive};
use source::layout::{Layout, OciArchive};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unpack::{Budget, Spool};

/// A root file system the guest can mount.
#[derive(Debug)]
pub struct RootFs {
    /// Open for reading only.
    pub file: File,
    pub path: PathBuf,
    pub kind: FsKind,
    /// Nothing had to be written for it.
    pub cached: bool,
    /// What the image says is to be run; empty for a bare file system.
    pub config: ImageConfig,
}

/// What takes long, while it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Another husk is writing this image.
    Waiting,
    /// A registry is asked.
    Asking { host: &'a str },
    /// Bytes of a layer that are here. All layers are told of before any is complete.
    Fetching {
        layer: usize,
        digest: &'a Digest,
        done: u64,
        total: u64,
    },
    /// Bytes copied into the store.
    Storing { done: u64, total: u64 },
    /// Bytes unpacked of compressed archives.
    Unpacking { done: u64 },
    /// Bytes written of the image.
    Writing { done: u64, total: u64 },
    /// An entry of the directory that is not in the image.
    Skipped { path: &'a Path, why: &'static str },
}

/// Counts in every key: a writer that writes other bytes makes other images.
const FORMAT_VERSION: u32 = 1;
/// Opens the image `reference` names; what must be made for it is kept below `cache`. One
/// that is not there is pulled.
pub fn open(
    reference: &str,
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<RootFs, ImageError> {
    open_with(reference, cache, PullPolicy::Missing, progress)
}

/// As [`open`], with a say in what a registry is asked.
pub fn open_with(
    reference: &str,
    cache: &Path,
    policy: PullPolicy,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<RootFs, ImageError> {
    let reference = Reference::parse(reference)?;
    let images = || Cache::open(cache, DEFAULT_LIMIT);
    match &reference {
        Reference::File(path) => open_file(path.clone()),
        Reference::Directory(path) => open_directory(path, &images()?, progress),
        Reference::Archive(path) => open_archive(path, &images()?, progress),
        Reference::Name(name) => {
            let store = Store::open(cache)?;
            // Nothing of it goes while it is read.
            let _using = store.using(&mut || progress(Progress::Waiting))?;
            let mut discarded = BTreeSet::new();
            loop {
                match open_kept((&store, name), &images()?, policy, progress) {
                    // The disk did not keep what was put there; each blob comes again once.
                    Err(ImageError::Blob {
                        digest,
                        problem: BlobFault::Digest,
                    }) if policy != PullPolicy::Never && discarded.insert(digest) => {
                        store.discard(&digest);
                    }
                    result => return result,
                }
            }
        }
        Reference::Layout(path, _)
        | Reference::OciArchive(path, _)
        | Reference::DockerArchive(path, _) => {
            let store = Store::open(cache)?;
            let source = open_source(&reference, &store, progress)?;
            let image = Described::read(&*source, path)?;
            layers::open(&image, &*source, &images()?, progress)
        }
    }
}

/// An image of the store, pulled if the policy says so.
fn open_kept(
    (store, name): (&Store, &Name),
    images: &Cache,
    policy: PullPolicy,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<RootFs, ImageError> {
    let digest = registry::ensure(store, name, policy, progress)?;
    let source = store.source(digest);
    let image = Described::read(&source, Path::new(&name.to_string()))?;
    layers::open(&image, &source, images, progress)
}

/// Brings an image of a registry into the store, or sees that it is the newest.
pub fn pull(
    name: &Name,
    cache: &Path,
    policy: PullPolicy,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Digest, ImageError> {
    let store = Store::open(cache)?;
    let _using = store.using(&mut || progress(Progress::Waiting))?;
    registry::ensure(&store, name, policy, progress)
}

/// Copies an image of a layout or archive into the store, under `name` or the one it has
/// there.
pub fn import(
    reference: &str,
    name: Option<&Name>,
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Name, Digest), ImageError> {
    let text = reference;
    let reference = Reference::parse(text)?;
    let (Reference::Layout(path, _)
    | Reference::OciArchive(path, _)
    | Reference::DockerArchive(path, _)) = &reference
    else {
        return Err(misread(Path::new(text), Misread::NoImport));
    };
    let store = Store::open(cache)?;
    let source = open_source(&reference, &store, progress)?;
    let image = Described::read(&*source, path)?;
    let _using = store.using(&mut || progress(Progress::Waiting))?;
    let own = || source.name().or_else(|| reference.suggested());
    let unnamed = || misread(Path::new(text), Misread::Unnamed);
    let name = name.cloned().or_else(own).ok_or_else(unnamed)?;
    store.import(&image, &*source, &name, progress)?;
    Ok((name, image.digest))
}

/// A layout, or one of the archives that hold an image.
fn open_source(
    reference: &Reference,
    store: &Store,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Box<dyn Source>, ImageError> {
    Ok(match reference {
        Reference::OciArchive(path, tag) => Box::new(OciArchive::new(
            open_bundle(path, store, progress)?,
            tag.clone(),
        )),
        Reference::DockerArchive(path, tag) => Box::new(DockerArchive::new(
            &open_bundle(path, store, progress)?,
            tag.as_deref(),
        )?),
        Reference::Layout(path, tag) => Box::new(Layout::new(path, tag.clone())),
        _ => unreachable!("the callers match these three"),
    })
}

/// An archive whose parts are read where they lie; one that is packed is unpacked first.
fn open_bundle(
    path: &Path,
    store: &Store,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Bundle, ImageError> {
    let file = open_for_reading(path, Misread::NotFile)?;
    let packing = reference::packing(&file, 0, path)?;
    if packing == Packing::Plain {
        return Bundle::new(file, path);
    }
    let spool = store.spool()?;
    let at = Spool { file: &spool, path };
    unpack(&file, path, packing, &at, progress)?;
    Bundle::new(spool, path)
}

impl From<Cached> for RootFs {
    fn from(image: Cached) -> Self {
        Self {
            file: image.file,
            path: image.path,
            kind: FsKind::Erofs,
            cached: image.hit,
            config: ImageConfig::default(),
        }
    }
}

fn open_file(path: PathBuf) -> Result<RootFs, ImageError> {
    let file = open_for_reading(&path, Misread::BareDirectory)?;
    let kind = reference::file_system(&file, &path)?;
    Ok(RootFs {
        file,
        path,
        kind,
        cached: true,
        config: ImageConfig::default(),
    })
}

/// Opens a regular file or block device; nothing else blocks or is read. `directory` is
/// what is wrong with a directory there.
fn open_for_reading(path: &Path, directory: Misread) -> Result<File, ImageError> {
    use rustix::io::Errno;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => misread(path, Misread::Absent),
        Errno::NXIO => misread(path, Misread::NotFile),
        errno => ImageError::io("read", path, errno),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| ImageError::io("read", path, errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => Ok(file.into()),
        FileType::Directory => Err(misread(path, directory)),
        _ => Err(misread(path, Misread::NotFile)),
    }
}

fn write(
    tree: &tree::Tree,
    contents: &dyn erofs::Contents,
    part: &Part,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ImageError> {
    let output = Output {
        file: &part.file,
        path: &part.path,
    };
    erofs::write(tree, contents, &output, &mut |done, total| {
        progress(Progress::Writing { done, total });
    })
}

/// Unpacks a compressed file of the operator's.
fn unpack(
    file: &File,
    path: &Path,
    packing: Packing,
    spool: &Spool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ImageError> {
    let failed = |error| ImageError::io("read", path, error);
    let blob = Blob {
        file: Arc::new(file.try_clone().map_err(failed)?),
        at: 0,
        len: file.metadata().map_err(failed)?.len(),
        path: path.to_owned(),
    };
    let mut done = 0;
    unpack::unpack(&blob, packing, spool, &Budget::new(), &mut |bytes| {
        done += bytes;
        progress(Progress::Unpacking { done });
        true
    })?;
    Ok(())
}

fn key(scheme: &[u8; 3], digest: &[u8]) -> Key {
    let mut key = Sha256::new();
    key.update(b"husk image");
    key.update(FORMAT_VERSION.to_le_bytes());
    key.update(scheme);
    key.update(digest);
    key.finalize().into()
}
