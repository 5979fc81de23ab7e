// SPDX-License-Identifier: Apache-2.0
//! What an image is called on the command line, and what kind of file is behind the name.
//!
//! Runs on the thread that opens an image. It never guesses: what could be meant in two
//! ways is refused, and the hint says what to type.

use super::error::{ImageError, Misread};
use super::name::Name;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The file systems the guest kernel mounts as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsKind {
    Erofs,
    Ext4,
    Squashfs,
}

impl FsKind {
    /// As mount(8) and the kernel call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::Squashfs => "squashfs",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    Directory(PathBuf),
    Archive(PathBuf),
    /// A file or block device with a file system in it.
    File(PathBuf),
    /// An OCI layout, and the name of one of its images.
    Layout(PathBuf, Option<String>),
    /// A layout in a tar archive.
    OciArchive(PathBuf, Option<String>),
    /// What `docker save` writes.
    DockerArchive(PathBuf, Option<String>),
    /// An image of the store, or of a registry.
    Name(Name),
}

impl Reference {
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let (scheme, path) = text.split_once(':').unwrap_or(("", text));
        let tagged: Option<fn(PathBuf, Option<String>) -> Self> = match scheme {
            "oci" => Some(Self::Layout),
            "oci-archive" => Some(Self::OciArchive),
            "docker-archive" => Some(Self::DockerArchive),
            _ => None,
        };
        let plain = match scheme {
            "dir" => Some(Self::Directory(path.into())),
            "tar" => Some(Self::Archive(path.into())),
            _ if text.starts_with(['/', '.']) => Some(Self::File(text.into())),
            _ => None,
        };
        if path.is_empty() || path == "//" {
            return Err(misread(Path::new(text), Misread::Empty));
        }
        match (plain, tagged) {
            (Some(reference), _) => Ok(reference),
            (None, Some(reference)) => tag(path)
                .map(|(path, tag)| reference(path, tag))
                .ok_or_else(|| misread(Path::new(text), Misread::Empty)),
            (None, None) => Self::bare(text),
        }
    }

    /// A name for an image that is imported without one: its file's, and its tag.
    pub fn suggested(&self) -> Option<Name> {
        let (Self::Layout(path, tag)
        | Self::OciArchive(path, tag)
        | Self::DockerArchive(path, tag)) = self
        else {
            return None;
        };
        let stem = path.file_stem()?.to_str()?.to_ascii_lowercase();
        match tag {
            Some(tag) => Name::parse(&format!("{stem}:{tag}")),
            None => Name::parse(&stem),
        }
    }

    /// A name of a registry, unless a file is meant. Where it could be either, it is
    /// refused: a directory is no image by itself and so is never meant.
    fn bare(text: &str) -> Result<Self, ImageError> {
        let path = Path::new(text);
        let name = Name::parse(text.strip_prefix("docker://").unwrap_or(text));
        match (name, path.metadata()) {
            (Some(_), Ok(found)) if !found.is_dir() => Err(misread(path, Misread::Ambiguous)),
            (Some(name), _) => Ok(Self::Name(name)),
            (None, Ok(_)) => Ok(Self::File(path.into())),
            (None, Err(_)) => Err(misread(path, Misread::NoName)),
        }
    }
}

/// `PATH[:TAG]`. A tag has no slash, so a colon in a folder's name is no tag's. Docker's
/// own tags are whole names, which have.
fn tag(text: &str) -> Option<(PathBuf, Option<String>)> {
    let (path, tag) = match text.split_once(':') {
        // A path with a colon in it must end in a slash, or be named by `dir`.
        Some((path, tag)) if !tag.is_empty() => (path, Some(tag.to_owned())),
        Some(_) => return None,
        None => (text, None),
    };
    (!path.is_empty()).then(|| (path.into(), tag))
}

pub(super) fn misread(path: &Path, problem: Misread) -> ImageError {
    ImageError::Reference {
        reference: path.to_owned(),
        problem,
    }
}

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

const GZIP: &[u8] = &[0x1f, 0x8b];
/// A frame of data; one to be skipped has fifteen others beside it (RFC 8878, section 3.1).
const ZSTD: [&[u8]; 2] = [&[0x28, 0xb5, 0x2f, 0xfd], &[0x50, 0x2a, 0x4d, 0x18]];
/// xz, bzip2, lz4.
const FOREIGN_COMPRESSION: [&[u8]; 3] = [b"\xfd7zXZ\0", b"BZh", &[0x04, 0x22, 0x4d, 0x18]];
/// Enough for every magic below: ext4's lies at 1080.
const HEAD: usize = 2048;

/// Of what begins at `at`.
pub fn packing(file: &File, at: u64, path: &Path) -> Result<Packing, ImageError> {
    let head = head(file, at, path)?;
    if head.starts_with(GZIP) {
        return Ok(Packing::Gzip);
    }
    if ZSTD.iter().any(|magic| head.starts_with(magic)) {
        return Ok(Packing::Zstd);
    }
    if FOREIGN_COMPRESSION
        .iter()
        .any(|magic| head.starts_with(magic))
    {
        return Err(misread(path, Misread::Compression));
    }
    // Whatever else it is, reading it will say where it goes wrong.
    Ok(Packing::Plain)
}

pub fn file_system(file: &File, path: &Path) -> Result<FsKind, ImageError> {
    let head = head(file, 0, path)?;
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(
        super::erofs::SUPER_OFFSET,
        &super::erofs::MAGIC.to_le_bytes(),
    ) {
        Ok(FsKind::Erofs)
    } else if at(0, b"hsqs") {
        Ok(FsKind::Squashfs)
    } else if at(1024 + 0x38, &0xEF53_u16.to_le_bytes()) {
        // ext2 and ext3 have the same magic, and the kernel's ext4 mounts them.
        Ok(FsKind::Ext4)
    } else if at(257, b"ustar") || head.starts_with(GZIP) {
        Err(misread(path, Misread::BareArchive))
    } else {
        Err(misread(path, Misread::UnknownFormat))
    }
}

/// The first bytes, fewer if the file is shorter.
fn head(file: &File, at: u64, path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut head = vec![0; HEAD];
    let mut len = 0;
    while len < HEAD {
        match file.read_at(&mut head[len..], at + len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ImageError::io("read", path, error)),
        }
    }
    head.truncate(len);
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_what_it_is() {
        let parse = |text| Reference::parse(text).unwrap();
        assert_eq!(parse("dir:/a:b"), Reference::Directory("/a:b".into()));
        assert_eq!(parse("tar:x.tgz"), Reference::Archive("x.tgz".into()));
        assert_eq!(parse("./tar:x"), Reference::File("./tar:x".into()));
        for empty in ["", "dir:", "tar:"] {
            let error = Reference::parse(empty).unwrap_err();
            assert!(error.to_string().ends_with("names nothing"), "{error}");
            assert!(error.hint().unwrap().contains("dir:PATH"));
        }
    }

    fn kind_of(bytes: &[u8]) -> Result<FsKind, ImageError> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file_system(&file, Path::new("image"))
    }

    fn with(len: usize, at: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    }

    #[test]
    fn file_systems_are_known_by_their_magic() {
        let erofs = [0xe2, 0xe1, 0xf5, 0xe0];
        assert_eq!(kind_of(&with(4096, 1024, &erofs)).unwrap(), FsKind::Erofs);
        assert_eq!(
            kind_of(&with(4096, 1080, &[0x53, 0xef])).unwrap(),
            FsKind::Ext4
        );
        assert_eq!(kind_of(&with(96, 0, b"hsqs")).unwrap(), FsKind::Squashfs);
    }

    #[test]
    fn what_is_no_file_system_is_said_in_one_line() {
        for (bytes, end, hint) in [
            (
                vec![],
                "is no EROFS, ext4 or squashfs file system",
                "an image is",
            ),
            (
                vec![0; 5000],
                "is no EROFS, ext4 or squashfs file system",
                "an image is",
            ),
            (
                with(1024, 257, b"ustar"),
                "is named by `tar:`",
                "type tar:image",
            ),
            (with(20, 0, GZIP), "is named by `tar:`", "type tar:image"),
        ] {
            let error = kind_of(&bytes).unwrap_err();
            assert!(error.to_string().ends_with(end), "{error}");
            assert!(error.hint().unwrap().starts_with(hint));
        }
    }
}
