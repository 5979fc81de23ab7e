// SPDX-License-Identifier: Apache-2.0
//! What an image says of itself: its index, manifest and configuration, read and checked.
//!
//! Pure. The documents are those of the image specification and of Docker before it, and
//! hostile: each is bounded before it is parsed, and every digest in it is parsed before
//! it is used.

use super::digest::Digest;
use super::process::ImageConfig;
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};
use serde::de::DeserializeOwned;

/// Longest index, manifest or configuration. The distribution specification has registries
/// take manifests up to this; stops a document from being read into memory for ever.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of one image. Docker makes at most 127; each is an open file while the
/// image is made.
pub const MAX_LAYERS: usize = 512;
/// Longest layer as stored. Stops a size nobody means from filling the disk.
pub const MAX_BLOB: u64 = 64 << 30;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Why the documents make no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("its {0} cannot be read: {1}")]
    Document(&'static str, String),
    #[error("its {0} is longer than 4 MiB")]
    Long(&'static str),
    #[error("it has a digest that husk does not read: {0:?}")]
    Digest(String),
    #[error("it has no image for {os}/{arch}, only for {0}", os = OS, arch = arch())]
    Platform(String),
    #[error("it holds {0} images, and none was named: {1}")]
    Many(usize, String),
    #[error("it holds no image {0:?}")]
    NoTag(String),
    #[error("it holds no image")]
    Empty,
    #[error("it has more names than husk keeps; husk rmi takes some away")]
    Names,
    #[error("there is no file {0:?} in it")]
    NoFile(String),
    #[error("it has {0} layers, and its configuration speaks of {1}")]
    Layers(usize, usize),
    #[error("it has more than {MAX_LAYERS} layers")]
    ManyLayers,
    #[error("one of its layers is {0} bytes, which is more than husk takes")]
    LargeLayer(u64),
    #[error("it is a {0}, which is no image husk can run")]
    Kind(String),
    #[error("its configuration {0}")]
    Config(&'static str),
}

pub const OS: &str = "linux";

/// This host's architecture as images call it (Go's GOARCH).
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// One blob as a manifest speaks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub digest: Digest,
    pub size: u64,
}

impl Part {
    fn of(descriptor: &Descriptor) -> Result<Self, Unfit> {
        let text = descriptor.digest().to_string();
        Ok(Self {
            digest: Digest::parse(&text).ok_or(Unfit::Digest(text))?,
            size: descriptor.size(),
        })
    }
}

/// What a manifest's digest may name.
#[derive(Debug)]
pub enum Document {
    Manifest(Manifest),
    /// The manifest of this host's platform.
    Index(Part),
}

#[derive(Clone, Debug)]
pub struct Manifest {
    pub config: Part,
    pub layers: Vec<Part>,
}

/// Reads what a registry or layout gave for a manifest, an index of many platforms or not.
pub fn read(bytes: &[u8]) -> Result<Document, Unfit> {
    #[derive(serde::Deserialize)]
    struct Shape {
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
    }
    let shape: Shape = parse("manifest", bytes)?;
    // A document that could be read as both is one made to be read differently by two
    // programs (CVE-2021-41190).
    match (shape.manifests.is_some(), shape.layers.is_some()) {
        (true, false) => choose(&parse("index", bytes)?).map(Document::Index),
        (false, true) => manifest(bytes).map(Document::Manifest),
        _ => Err(Unfit::Kind(
            shape
                .media_type
                .unwrap_or_else(|| "document of no type".into()),
        )),
    }
}

fn manifest(bytes: &[u8]) -> Result<Manifest, Unfit> {
    let manifest: ImageManifest = parse("manifest", bytes)?;
    if manifest.layers().len() > MAX_LAYERS {
        return Err(Unfit::ManyLayers);
    }
    let kind = manifest.config().media_type().to_string();
    if !kind.contains("image") {
        return Err(Unfit::Kind(kind));
    }
    let layers = manifest.layers().iter().map(|layer| {
        let kind = layer.media_type().to_string();
        if !kind.contains(".tar") || kind.ends_with("encrypted") {
            return Err(Unfit::Kind(format!("thing with a layer of type {kind}")));
        }
        let part = Part::of(layer)?;
        match part.size > MAX_BLOB {
            true => Err(Unfit::LargeLayer(part.size)),
            false => Ok(part),
        }
    });
    let manifest = Manifest {
        config: Part::of(manifest.config())?,
        layers: layers.collect::<Result<_, _>>()?,
    };
    match manifest.config.size > MAX_DOCUMENT {
        true => Err(Unfit::Long("configuration")),
        false => Ok(manifest),
    }
}

/// The first manifest of an index that this host runs.
fn choose(index: &ImageIndex) -> Result<Part, Unfit> {
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform().as_ref().is_none_or(|platform| {
            *platform.os() == Os::Linux && *platform.architecture() == Arch::from(arch())
        })
    };
    match index.manifests().iter().find(fits) {
        Some(descriptor) => Part::of(descriptor),
        None => Err(Unfit::Platform(list(index.manifests().iter().filter_map(
            |descriptor| {
                let platform = descriptor.platform().as_ref()?;
                // What builders say of an image stands beside it, for no platform.
                if *platform.os() == Os::Other("unknown".into()) {
                    return None;
                }
                Some(format!("{}/{}", platform.os(), platform.architecture()))
            },
        )))),
    }
}

/// The name an image has in an index.json (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The manifest, or index, of that name in the index of a layout; without one the only
/// there is.
pub fn named(bytes: &[u8], tag: Option<&str>) -> Result<Part, Unfit> {
    let index: ImageIndex = parse("index", bytes)?;
    let name = |descriptor: &Descriptor| descriptor.annotations().as_ref()?.get(REF_NAME).cloned();
    let all = index.manifests();
    match (tag, &all[..]) {
        (_, []) => Err(Unfit::Empty),
        (Some(tag), _) => all
            .iter()
            .find(|descriptor| name(descriptor).as_deref() == Some(tag))
            .ok_or_else(|| Unfit::NoTag(tag.to_owned()))
            .and_then(Part::of),
        (None, [only]) => Part::of(only),
        (None, _) => Err(Unfit::Many(all.len(), list(all.iter().filter_map(name)))),
    }
}

/// Most names a message lists: an index may hold thousands.
const LISTED: usize = 8;

pub fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.take(LISTED + 1).collect();
    if names.len() > LISTED {
        names[LISTED] = "…".into();
    }
    match names.is_empty() {
        true => "nothing with a name".into(),
        false => names.join(", "),
    }
}

/// A configuration: the digests of the unpacked layers, and what to run.
pub fn configuration(bytes: &[u8], layers: usize) -> Result<(Vec<Digest>, ImageConfig), Unfit> {
    let config: ImageConfiguration = parse("configuration", bytes)?;
    if *config.os() != Os::Linux || *config.architecture() != Arch::from(arch()) {
        let other = format!("{}/{}", config.os(), config.architecture());
        return Err(Unfit::Platform(other));
    }
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        return Err(Unfit::Layers(layers, diff_ids.len()));
    }
    let parse = |text: &String| Digest::parse(text).ok_or_else(|| Unfit::Digest(text.clone()));
    let diff_ids = diff_ids.iter().map(parse).collect::<Result<_, _>>()?;
    let created = config.created().clone();
    Ok((
        diff_ids,
        ImageConfig::of(config.config().as_ref(), created)?,
    ))
}

pub fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Unfit> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Unfit::Long(what));
    }
    serde_json::from_slice(bytes).map_err(|error| Unfit::Document(what, error.to_string()))
}
