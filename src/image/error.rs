// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with an image, in one line each; the cause is the `source`.

use super::digest::Digest;
use super::manifest::Unfit;
use super::registry::PullError;
use super::tree::Refused;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image {reference:?} {problem}")]
    Reference {
        reference: PathBuf,
        problem: Misread,
    },
    #[error("cannot {action} {path:?}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot take {path:?} into the image")]
    Entry { path: PathBuf, source: Refused },
    #[error("archive {archive:?} is not usable at byte {offset}: {problem}")]
    Archive {
        archive: PathBuf,
        offset: u64,
        problem: Malformed,
    },
    #[error("archive {archive:?} has an entry at byte {offset} that fits no image")]
    ArchiveEntry {
        archive: PathBuf,
        offset: u64,
        source: Refused,
    },
    #[error("{path:?} kept changing while it was read")]
    Changing { path: PathBuf },
    #[error("the files of {path:?} would make an image of more than {limit} bytes")]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("image {image:?} cannot be used: {problem}")]
    Unfit { image: PathBuf, problem: Unfit },
    #[error("blob {digest} {problem}")]
    Blob { digest: Digest, problem: BlobFault },
    #[error("cannot pull {name}")]
    Pull { name: String, source: PullError },
    #[error("image '{name}' is not in the store")]
    NotKept { name: String },
}

/// What is wrong with the bytes a digest should name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobFault {
    #[error("is not there")]
    Absent,
    #[error("does not have that digest: it was changed, or damaged")]
    Digest,
    #[error("is {0} bytes long, and should be {1}")]
    Size(u64, u64),
    #[error("unpacks to something else than the image says, which is {0}")]
    DiffId(Digest),
}

/// Why a reference names no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misread {
    #[error("names nothing")]
    Empty,
    #[error("does not exist")]
    Absent,
    #[error("is a directory, and a directory is named by `dir:`")]
    BareDirectory,
    #[error("is a tar archive, and an archive is named by `tar:`")]
    BareArchive,
    #[error("is no directory")]
    NotDirectory,
    #[error("is neither a regular file nor a block device")]
    NotFile,
    #[error("is no EROFS, ext4 or squashfs file system")]
    UnknownFormat,
    #[error("is compressed in a way husk does not read")]
    Compression,
    #[error("is a file here, and could be an image of a registry")]
    Ambiguous,
    #[error("is neither a file nor the name of an image")]
    NoName,
    #[error("is a bare file system, which says nothing of itself")]
    Bare,
    #[error("suggests no name for what is in it")]
    Unnamed,
    #[error("is nothing to import")]
    NoImport,
}

/// What is wrong inside a tar archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it ends in the middle of an entry")]
    Truncated,
    #[error("this is no tar header")]
    Checksum,
    #[error("a number of the header cannot be read")]
    Number,
    #[error("an extended header is larger than it may be")]
    LongExtension,
    #[error("an extended header cannot be read")]
    Extension,
    #[error("a path has `..` or NUL in it")]
    Path,
    #[error("a path is longer than it may be")]
    LongPath,
    #[error("a path goes through a file, a loop of links, or a link that leads nowhere")]
    Through,
    #[error("a hard link leads to no earlier file of the archive")]
    HardLink,
    #[error("the map of a sparse file cannot be right")]
    Sparse,
    #[error("an entry's type is unknown")]
    Type,
    #[error("the compressed data cannot be read")]
    Compressed,
    #[error("it unpacks to more than it may")]
    Bomb,
    #[error("its paths, with the links in them, are longer together than they may be")]
    Steps,
    #[error("a device number is too large")]
    Device,
}

impl ImageError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let Self::Reference { reference, problem } = self else {
            return match self {
                Self::Changing { .. } => {
                    Some("stop what writes there, or take a copy and use that".into())
                }
                Self::Archive {
                    problem: Malformed::Path,
                    ..
                } => Some(
                    "pack the archive again from inside the directory: tar -C DIR -cf FILE ."
                        .into(),
                ),
                Self::Pull { source, .. } => source.hint(),
                Self::NotKept { .. } => Some("husk images lists those that are".into()),
                Self::Unfit {
                    image,
                    problem: Unfit::Many(..),
                } => Some(format!("name one of them: {}:NAME", image.display())),
                _ => None,
            };
        };
        let path = reference.display();
        Some(match problem {
            Misread::Empty
            | Misread::Absent
            | Misread::UnknownFormat
            | Misread::NotFile
            | Misread::NoName => "an image is NAME[:TAG] of a registry, dir:PATH, tar:PATH, \
                 oci:PATH[:TAG], oci-archive:PATH, docker-archive:PATH, or the path of an \
                 EROFS, ext4 or squashfs file"
                .into(),
            Misread::Ambiguous => {
                format!("type ./{path} for the file, docker://{path} for the other")
            }
            Misread::Unnamed => "write one behind it: husk import SOURCE NAME".into(),
            Misread::NoImport => "husk import takes oci:PATH[:TAG], oci-archive:PATH[:TAG] and \
                 docker-archive:PATH[:NAME]; husk run takes the rest as it is"
                .into(),
            Misread::BareDirectory => format!("type dir:{path}"),
            Misread::BareArchive => format!("type tar:{path}"),
            Misread::Compression => {
                "decompress it first (xz -d, bzip2 -d, lz4 -d); plain, gzip and zstd are read"
                    .into()
            }
            Misread::NotDirectory | Misread::Bare => return None,
        })
    }

    pub(super) fn unfit(image: &Path, problem: Unfit) -> Self {
        Self::Unfit {
            image: image.to_owned(),
            problem,
        }
    }

    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
