// SPDX-License-Identifier: Apache-2.0
//! An archive of an image's parts: what `docker save`, `skopeo copy` and `podman save`
//! write.
//!
//! Runs on the thread that opens an image. The outer archive is read as any hostile
//! archive is, into a tree; a part of the image is then a piece of the archive's file, and
//! nothing is unpacked.

use super::archive::Archive;
use super::place;
use crate::image::blob::{Blob, Source, fault};
use crate::image::digest::Digest;
use crate::image::error::{BlobFault, ImageError};
use crate::image::manifest::{self, MAX_LAYERS, OCI_CONFIG, OCI_MANIFEST, Unfit};
use crate::image::name::Name;
use crate::image::reference::{Packing, packing};
use crate::image::tree::{Data, Kind, Tree};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The outer archive.
pub struct Bundle {
    file: Arc<File>,
    tree: Tree,
    path: PathBuf,
}

impl Bundle {
    /// `file` is uncompressed; `path` is for messages.
    pub fn new(file: File, path: &Path) -> Result<Self, ImageError> {
        let archive = Archive::new(file, path)?;
        Ok(Self {
            tree: archive.tree()?,
            file: archive.file(),
            path: path.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of that name, links followed inside the archive; none where it has no such
    /// file, or one with holes, which no tool writes.
    pub fn find(&self, name: &str) -> Result<Option<Blob>, ImageError> {
        let Some(id) = place::find(&self.tree, name.as_bytes()) else {
            return Ok(None);
        };
        let Kind::File { len, data } = &self.tree.node(id).kind else {
            return Ok(None);
        };
        let at = match data {
            Data::Archive { extents, .. } => match &extents[..] {
                [] if *len == 0 => 0,
                [whole] if whole.at == 0 && whole.len == *len => whole.from,
                _ => return Ok(None),
            },
            Data::Host { .. } => return Ok(None),
        };
        Ok(Some(Blob {
            file: Arc::clone(&self.file),
            at,
            len: *len,
            path: self.path.clone(),
        }))
    }

    pub fn file(&self, name: &'static str) -> Result<Blob, ImageError> {
        self.find(name)?
            .ok_or_else(|| ImageError::unfit(&self.path, Unfit::NoFile(name.into())))
    }
}

/// One image of a manifest.json, as Docker writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What `docker save` writes. It has no manifest in the sense of the specification: one is
/// made of what is there, the same for the same image.
pub struct DockerArchive {
    manifest: Vec<u8>,
    blobs: HashMap<Digest, Blob>,
    name: Option<Name>,
}

impl DockerArchive {
    /// `name` is one of those the image was saved with; without, there must be one image.
    pub fn new(bundle: &Bundle, name: Option<&str>) -> Result<Self, ImageError> {
        let unfit = |problem| ImageError::unfit(&bundle.path, problem);
        let list = bundle.file("manifest.json")?.document()?;
        let list: Vec<Saved> = manifest::parse("manifest.json", &list).map_err(unfit)?;
        let saved = choose(&list, name).map_err(unfit)?;
        if saved.layers.len() > MAX_LAYERS {
            return Err(unfit(Unfit::ManyLayers));
        }
        let file = |name: &String| {
            let found = bundle.find(name)?;
            found.ok_or_else(|| unfit(Unfit::NoFile(name.clone())))
        };
        let config = file(&saved.config)?;
        let bytes = config.document()?;
        let config_digest = Digest::of(&bytes);
        let (diff_ids, _) = manifest::configuration(&bytes, saved.layers.len()).map_err(unfit)?;
        let mut blobs = HashMap::from([(config_digest, config)]);
        let mut layers = Vec::new();
        for (layer, diff_id) in saved.layers.iter().zip(diff_ids) {
            let blob = file(layer)?;
            // Of an uncompressed layer the digest is known; it is checked when it is read.
            let (digest, packed) = match sniff(&blob)? {
                Packing::Plain => (diff_id, ""),
                Packing::Gzip => (blob.digest()?, "+gzip"),
                Packing::Zstd => (blob.digest()?, "+zstd"),
            };
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{packed}");
            layers.push(descriptor(&media_type, digest, blob.len));
            blobs.insert(digest, blob);
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, config_digest, bytes.len() as u64),
            "layers": layers,
        });
        let saved_as = saved.repo_tags.iter().flatten().next();
        Ok(Self {
            manifest: manifest.to_string().into_bytes(),
            blobs,
            name: Name::parse(name.or(saved_as.map(String::as_str)).unwrap_or_default()),
        })
    }
}

pub fn sniff(blob: &Blob) -> Result<Packing, ImageError> {
    packing(&blob.file, blob.at, &blob.path)
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size })
}

fn choose<'a>(list: &'a [Saved], name: Option<&str>) -> Result<&'a Saved, Unfit> {
    let names = || {
        list.iter()
            .filter_map(|saved| saved.repo_tags.as_deref())
            .flatten()
    };
    match (name, list) {
        (_, []) => Err(Unfit::Empty),
        (None, [only]) => Ok(only),
        (None, _) => Err(Unfit::Many(list.len(), manifest::list(names().cloned()))),
        (Some(name), _) => {
            // Tools write the name in full or as it was typed.
            let wanted = Name::parse(name);
            let same =
                |tag: &String| tag == name || (wanted.is_some() && Name::parse(tag) == wanted);
            list.iter()
                .find(|saved| saved.repo_tags.iter().flatten().any(same))
                .ok_or_else(|| Unfit::NoTag(name.to_owned()))
        }
    }
}

impl Source for DockerArchive {
    fn manifest(&self) -> Result<(Digest, Vec<u8>), ImageError> {
        Ok((Digest::of(&self.manifest), self.manifest.clone()))
    }

    fn name(&self) -> Option<Name> {
        self.name.clone()
    }

    fn blob(&self, digest: &Digest) -> Result<Blob, ImageError> {
        let found = self.blobs.get(digest).cloned();
        found.ok_or_else(|| fault(digest, BlobFault::Absent))
    }
}
