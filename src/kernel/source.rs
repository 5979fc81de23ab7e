// SPDX-License-Identifier: Apache-2.0
//! The distribution's kernel source package: which file it is and what its digest is.
//! Reads 150 MB at most once for each version of the file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::recipe::hex;
use super::{KernelError, Progress};

/// Where Debian's `linux-source-6.12` puts it.
pub(super) const PACKAGE: &str = "/usr/src/linux-source-6.12.tar.xz";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub path: PathBuf,
    pub size: u64,
    /// SHA-256 of the file, in hex.
    pub digest: String,
}

/// A file's digest with what it was taken of. As long as none of these changed the bytes did not
/// either: only root can set a file's change time back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    digest: String,
}

pub(super) fn identify(
    path: &Path,
    cache: &Cache,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Package, KernelError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KernelError::SourceMissing {
            path: path.to_owned(),
        },
        _ => KernelError::File {
            action: "open",
            path: path.to_owned(),
            source,
        },
    })?;
    let failed = |source| KernelError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let meta = file.metadata().map_err(failed)?;
    let mut stamp = Stamp {
        path: path.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        changed: (meta.ctime(), meta.ctime_nsec()),
        digest: String::new(),
    };
    match known(&cache.stamp()) {
        Some(old)
            if (Stamp {
                digest: String::new(),
                ..old.clone()
            }) == stamp =>
        {
            stamp.digest = old.digest;
        }
        _ => {
            progress(Progress::Hashing);
            stamp.digest = hash(file).map_err(failed)?;
            // A lost stamp costs the next build a second, so it may fail quietly.
            if let Ok(text) = serde_json::to_vec_pretty(&stamp) {
                let _ = cache.replace(&cache.stamp(), &text);
            }
        }
    }
    Ok(Package {
        path: stamp.path,
        size: stamp.size,
        digest: stamp.digest,
    })
}

/// An unreadable stamp is no stamp.
fn known(path: &Path) -> Option<Stamp> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn hash(mut file: File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}
