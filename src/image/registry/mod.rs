// SPDX-License-Identifier: Apache-2.0
//! Images of registries: from a name to blobs in the store.
//!
//! Runs on the thread that opens an image; layers come on a few threads beside it. A
//! registry is hostile: what it sends is bounded, and goes by its digest or not at all.
//! The protocol is that of the distribution specification, "Pull".

mod client;
mod credentials;
mod fetch;
mod keeper;

#[cfg(test)]
mod serving;
#[cfg(test)]
mod tests;

use super::crew;
use super::digest::Digest;
use super::error::{BlobFault, ImageError};
use super::manifest::{self, Document, Manifest, Part, Unfit};
use super::name::Name;
use super::store::Store;
use super::{Progress, blob};
use client::Client;
pub use keeper::KeeperFault;
use std::path::{Path, PathBuf};

/// When a registry is asked for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time; what is here already does not come again.
    Always,
    /// When it is not in the store.
    #[default]
    Missing,
    Never,
}

/// Layers that come at once: more share the same line.
const AT_ONCE: usize = 3;

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{host} cannot be reached")]
    Unreachable {
        host: String,
        source: Box<ureq::Error>,
    },
    #[error("{host} has no such image, or shows it only to those who log in")]
    Absent { host: String },
    #[error("{host} does not let you have it")]
    Denied { host: String, logged_in: bool },
    #[error("{host} answers {status}: {said}")]
    Status {
        host: String,
        status: u16,
        said: String,
    },
    #[error("{host} leads to {to:?}, which is no HTTPS address")]
    Insecure { host: String, to: String },
    #[error("{host} leads from one address to the next without end")]
    Circle { host: String },
    #[error("{host} wants a kind of login that husk does not know")]
    Challenge { host: String },
    #[error("{host} sends a {what} that is too long")]
    Long { host: String, what: &'static str },
    #[error("{host} broke off after {have} of {size} bytes, again and again")]
    Cut { host: String, have: u64, size: u64 },
    #[error("the credentials in {path:?} cannot be read")]
    Credentials { path: PathBuf },
    #[error("the login for {host} cannot be had of {program:?}")]
    Keeper {
        host: String,
        program: String,
        #[source]
        problem: KeeperFault,
    },
}

impl PullError {
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Absent { .. } => {
                "look at the spelling; log in with skopeo login, podman login or docker login"
                    .into()
            }
            Self::Denied {
                host,
                logged_in: false,
                ..
            } => format!("log in first: skopeo login {host}"),
            Self::Denied { host, .. } => {
                format!("the login kept for {host} was refused; log in again")
            }
            Self::Keeper {
                program,
                problem: KeeperFault::Start(_),
                ..
            } => {
                format!("config.json names {program}: put it into a folder of PATH, or log in anew")
            }
            Self::Insecure { .. } => "plain HTTP is for registries on localhost".into(),
            Self::Cut { .. } => "what came is kept: the same command goes on from there".into(),
            _ => return None,
        })
    }
}

/// The manifest of an image that is complete in the store, pulled if the policy says so.
/// The caller holds the store.
pub fn ensure(
    store: &Store,
    name: &Name,
    policy: PullPolicy,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Digest, ImageError> {
    if policy != PullPolicy::Always
        && let Some(kept) = store.find(name)?
        && store.complete(&kept.manifest.digest)?
    {
        return Ok(kept.manifest.digest);
    }
    if policy == PullPolicy::Never {
        let name = name.familiar();
        return Err(ImageError::NotKept { name });
    }
    progress(Progress::Asking { host: &name.host });
    let pull = Pull {
        client: Client::new(name).map_err(|error| failed(name, error))?,
        store,
        name,
    };
    pull.run(progress)
}

fn failed(name: &Name, source: PullError) -> ImageError {
    ImageError::Pull {
        name: name.familiar(),
        source,
    }
}

struct Pull<'a> {
    client: Client,
    store: &'a Store,
    name: &'a Name,
}

impl Pull<'_> {
    fn run(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Digest, ImageError> {
        let (document, manifest) = self.manifest()?;
        self.blob(&manifest.config, &mut |_| true)?;
        self.check(&manifest)?;
        self.layers(&manifest, progress)?;
        let part = self.store.put(&document)?;
        self.store.name(self.name, &part)?;
        Ok(part.digest)
    }

    fn unfit(&self, problem: Unfit) -> ImageError {
        ImageError::unfit(Path::new(&self.name.familiar()), problem)
    }

    /// The manifest for this host, which has the digest it was asked for by.
    fn manifest(&self) -> Result<(Vec<u8>, Manifest), ImageError> {
        let fetch = |wanted: &str, digest: Option<&Digest>| {
            let bytes = self.client.manifest(wanted);
            let bytes = bytes.map_err(|error| failed(self.name, error))?;
            match digest {
                Some(digest) if Digest::of(&bytes) != *digest => {
                    Err(blob::fault(digest, BlobFault::Digest))
                }
                _ => Ok(bytes),
            }
        };
        let bytes = fetch(&self.name.wanted(), self.name.digest.as_ref())?;
        let (bytes, read) = match manifest::read(&bytes).map_err(|p| self.unfit(p))? {
            Document::Index(part) => {
                let bytes = fetch(&part.digest.to_string(), Some(&part.digest))?;
                let read = manifest::read(&bytes).map_err(|p| self.unfit(p))?;
                (bytes, read)
            }
            manifest => (bytes, manifest),
        };
        match read {
            Document::Manifest(manifest) => Ok((bytes, manifest)),
            Document::Index(_) => Err(self.unfit(Unfit::Kind("index of an index".into()))),
        }
    }

    /// Is it an image at all? Before gigabytes come.
    fn check(&self, manifest: &Manifest) -> Result<(), ImageError> {
        let source = self.store.source(manifest.config.digest);
        let config = blob::document(&source, &manifest.config.digest)?;
        let read = manifest::configuration(&config, manifest.layers.len());
        read.map(drop).map_err(|problem| self.unfit(problem))
    }

    fn blob(&self, part: &Part, told: &mut dyn FnMut(u64) -> bool) -> Result<(), ImageError> {
        let Some(incoming) = self.store.incoming(part, &mut || {})? else {
            told(part.size);
            return Ok(());
        };
        let taken_up = incoming.have() > 0;
        match fetch::fetch(&self.client, self.name, incoming, part, told) {
            // What an earlier attempt left may have been damaged since; it is gone now.
            Err(ImageError::Blob {
                problem: BlobFault::Digest,
                ..
            }) if taken_up => self.blob(part, told),
            result => result,
        }
    }

    fn layers(
        &self,
        manifest: &Manifest,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), ImageError> {
        // One blob may be several layers, and comes once.
        let mut layers: Vec<&Part> = Vec::new();
        for layer in &manifest.layers {
            if !layers.iter().any(|known| known.digest == layer.digest) {
                layers.push(layer);
            }
        }
        let mut tell = |layer: usize, done| {
            progress(Progress::Fetching {
                layer,
                digest: &layers[layer].digest,
                done,
                total: layers[layer].size,
            });
        };
        (0..layers.len()).for_each(|layer| tell(layer, 0));
        let fetch = |number: usize, report: &crew::Report<(usize, u64)>| {
            self.blob(layers[number], &mut |done| report.tell((number, done)))
        };
        crew::run(layers.len(), AT_ONCE, fetch, &mut |(layer, done)| {
            tell(layer, done)
        })?;
        Ok(())
    }
}
