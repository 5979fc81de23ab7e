// SPDX-License-Identifier: Apache-2.0
//! An image as a tree of the host: for what runs on the host's own file systems.
//!
//! On the thread that calls; reads only images of this program's own writer (`erofs`), and
//! writes only below one directory that is new, in one that nobody else may enter: owners and
//! setuid bits are an image's, and no other user of the host may have them. Names are an
//! image's and hostile: every entry is made anew in a directory made here, so no link of the
//! image is ever followed. Devices, attributes (capabilities among them) and times are not
//! taken along.

use super::erofs::{MAGIC, SUPER_OFFSET};
use super::tree::{MAX_DEPTH, MAX_ENTRIES, MAX_NAME, MAX_PATH};
use super::{FsKind, ImageError, RootFs};
use rustix::fs::{CWD, FileType, Mode, SeekFrom};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    lchown,
};
use std::path::{Path, PathBuf};

const BLOCK: u64 = 4096;
const SLOT: u64 = 32;
const DIRENT: usize = 12;
/// Longest directory: what all entries of an image could take. Stops a length of a damaged
/// image from being memory of ours.
const MAX_DIRECTORY: u64 = (MAX_ENTRIES * (DIRENT + 16)) as u64;
/// What is copied at once.
const CHUNK: u64 = 1 << 20;

/// Of the room that is free where the tree is made, a part that stays so. Stops an image from
/// filling the host's disk.
const SPARED: u64 = 16;

/// Makes the tree of `root` at `into`, which must not be there yet, in a directory that nobody
/// but its owner may enter.
pub fn extract(root: &RootFs, into: &Path) -> Result<(), ImageError> {
    let unreadable = |source| ImageError::io("read", &root.path, source);
    if root.kind != FsKind::Erofs {
        return Err(unreadable(invalid(
            "only images of husk's own making are unpacked",
        )));
    }
    let image = Image::open(&root.file).map_err(unreadable)?;
    let unmade = |error| ImageError::io("make", into, error);
    let mut room = room(into).map_err(unmade)?;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(into)
        .map_err(unmade)?;
    let mut known: HashMap<u64, PathBuf> = HashMap::new();
    let mut pending = vec![(into.to_owned(), image.root, 0u16)];
    let mut entries = 0;
    while let Some((directory, nid, depth)) = pending.pop() {
        let inode = image.inode(nid).map_err(unreadable)?;
        for (name, child) in image.names(&inode).map_err(unreadable)? {
            entries += 1;
            if entries > MAX_ENTRIES || depth >= MAX_DEPTH {
                return Err(unreadable(invalid("it has no end")));
            }
            let path = directory.join(OsStr::from_bytes(&name));
            let below = image.inode(child).map_err(unreadable)?;
            let written = |source| ImageError::io("write", &path, source);
            match below.kind() {
                FileType::Directory => {
                    std::fs::create_dir(&path).map_err(written)?;
                    pending.push((path, child, depth + 1));
                }
                // A node of an image would be a door to the host's own device, and whoever
                // runs something in the tree brings a /dev along.
                FileType::CharacterDevice | FileType::BlockDevice => {}
                _ => match known.get(&child) {
                    Some(first) => std::fs::hard_link(first, &path).map_err(written)?,
                    None => {
                        image.make(&below, &path, &mut room).map_err(written)?;
                        known.insert(child, path);
                    }
                },
            }
        }
        // Last: it may take the right to write in it away.
        own(&directory, &inode).map_err(|error| ImageError::io("write", &directory, error))?;
    }
    Ok(())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// How many bytes there may be below `into`, if nobody but us may enter where it is made.
fn room(into: &Path) -> io::Result<u64> {
    let folder = into.parent().filter(|path| !path.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let meta = std::fs::metadata(folder)?;
    if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        let what = "other users may enter the directory it would be in";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    let disk = rustix::fs::statvfs(folder)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(free - free / SPARED)
}

/// Owner and mode. Who is not root owns what is made, and that must do.
fn own(path: &Path, inode: &Inode) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        lchown(path, Some(inode.uid), Some(inode.gid))?;
    }
    if inode.kind() == FileType::Symlink {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(u32::from(inode.mode & 0o7777)))
}

struct Inode {
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    /// First block of the data, or a device's number.
    place: u32,
    /// Where the last, partial block is, if it follows the inode.
    tail: Option<u64>,
}

impl Inode {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }
}

struct Image<'a> {
    file: &'a File,
    len: u64,
    root: u64,
}

impl<'a> Image<'a> {
    fn open(file: &'a File) -> io::Result<Self> {
        let mut head = [0; 128];
        file.read_exact_at(&mut head, SUPER_OFFSET as u64)?;
        if word32(&head, 0) != MAGIC || u64::from(head[12]) != u64::from(BLOCK.trailing_zeros()) {
            return Err(invalid("it is no image of husk's own making"));
        }
        Ok(Self {
            file,
            len: file.metadata()?.len(),
            root: word16(&head, 14).into(),
        })
    }

    fn bytes(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let fits = at.checked_add(len).is_some_and(|end| end <= self.len);
        let len = usize::try_from(len).ok().filter(|_| fits);
        let mut bytes = vec![0; len.ok_or_else(|| invalid("it ends too early"))?];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn inode(&self, nid: u64) -> io::Result<Inode> {
        let at = nid.checked_mul(SLOT).ok_or_else(|| invalid("an inode"))?;
        let head = self.bytes(at, 32)?;
        let format = word16(&head, 0);
        let attributes = match word16(&head, 2) {
            0 => 0,
            count => 12 + 4 * (u64::from(count) - 1),
        };
        let compact = format & 1 == 0;
        let own = if compact { 32 } else { 64 };
        let mut inode = Inode {
            mode: word16(&head, 4),
            uid: word16(&head, 24).into(),
            gid: word16(&head, 26).into(),
            size: word32(&head, 8).into(),
            place: word32(&head, 16),
            tail: (format >> 1 == 2).then_some(at + own + attributes),
        };
        if !compact {
            let whole = self.bytes(at, 64)?;
            inode.size = u64::from(word32(&whole, 12)) << 32 | u64::from(word32(&whole, 8));
            (inode.uid, inode.gid) = (word32(&whole, 24), word32(&whole, 28));
        }
        match inode.kind() {
            FileType::Symlink if inode.size > MAX_PATH as u64 => Err(invalid("a long link")),
            FileType::Directory if inode.size > MAX_DIRECTORY => Err(invalid("a long directory")),
            _ => Ok(inode),
        }
    }

    /// `len` bytes of an inode's data, from a multiple of the size of a block on.
    fn data(&self, inode: &Inode, from: u64, len: u64) -> io::Result<Vec<u8>> {
        let blocks = u64::from(inode.place) * BLOCK;
        let whole = match inode.tail {
            Some(_) => inode.size / BLOCK * BLOCK,
            None => inode.size,
        };
        let end = from + len;
        let mut bytes = match from < whole {
            true => self.bytes(blocks + from, end.min(whole) - from)?,
            false => Vec::new(),
        };
        if let Some(tail) = inode.tail.filter(|_| end > whole) {
            bytes.extend(self.bytes(tail, end - whole)?);
        }
        Ok(bytes)
    }

    fn names(&self, directory: &Inode) -> io::Result<Vec<(Vec<u8>, u64)>> {
        let content = self.data(directory, 0, directory.size)?;
        let mut names = Vec::new();
        for block in content.chunks(4096) {
            let entry = |n: usize| block.get(n * DIRENT..(n + 1) * DIRENT);
            let first = entry(0).map_or(0, |entry| usize::from(word16(entry, 8)));
            for n in 0..first / DIRENT {
                let bad = || invalid("a directory");
                let this = entry(n).ok_or_else(bad)?;
                let start = usize::from(word16(this, 8));
                let next = (n + 1 < first / DIRENT).then(|| entry(n + 1)).flatten();
                let end = next.map_or(block.len(), |next| usize::from(word16(next, 8)));
                let name = block.get(start..end).ok_or_else(bad)?;
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                if name == b"." || name == b".." {
                    continue;
                }
                if name.is_empty() || name.len() > MAX_NAME || name.contains(&b'/') {
                    return Err(invalid("a name"));
                }
                let nid = u64::from(word32(this, 4)) << 32 | u64::from(word32(this, 0));
                names.push((name.to_vec(), nid));
            }
        }
        Ok(names)
    }

    /// Anything but a directory or a device.
    fn make(&self, inode: &Inode, path: &Path, room: &mut u64) -> io::Result<()> {
        match inode.kind() {
            FileType::RegularFile => self.copy(inode, path, room)?,
            FileType::Symlink => {
                let target = self.data(inode, 0, inode.size)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), path)?;
            }
            kind @ FileType::Fifo => rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, 0)?,
            _ => return Err(invalid("an entry of no kind")),
        }
        own(path, inode)
    }

    /// Holes stay holes: a file may be larger than the disk.
    fn copy(&self, inode: &Inode, path: &Path, room: &mut u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.set_len(inode.size)?;
        let mut at = 0;
        while at < inode.size {
            let bytes = self.data(inode, at, CHUNK.min(inode.size - at))?;
            let len = bytes.len() as u64;
            if len == 0 {
                return Err(invalid("it ends too early"));
            }
            if bytes.iter().any(|&byte| byte != 0) {
                *room = room.checked_sub(len).ok_or(Errno::NOSPC)?;
                file.write_all_at(&bytes, at)?;
                at += len;
            } else {
                at = self.next_data(inode, at + len);
            }
        }
        Ok(())
    }

    /// Where there may be something else than a hole of the image's own file, from a multiple
    /// of the size of a block on: terabytes of nothing are not read.
    fn next_data(&self, inode: &Inode, from: u64) -> u64 {
        let start = u64::from(inode.place) * BLOCK;
        let whole = match inode.tail {
            Some(_) => inode.size / BLOCK * BLOCK,
            None => inode.size,
        };
        if from >= whole {
            return from;
        }
        match rustix::fs::seek(self.file, SeekFrom::Data(start + from)) {
            Ok(data) => ((data - start) / BLOCK * BLOCK).clamp(from, whole),
            // Nothing but a hole up to the end of the image.
            Err(Errno::NXIO) => whole,
            Err(_) => from,
        }
    }
}

fn word16(bytes: &[u8], at: usize) -> u16 {
    let mut word = [0; 2];
    if let Some(found) = bytes.get(at..at + 2) {
        word.copy_from_slice(found);
    }
    u16::from_le_bytes(word)
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from(word16(bytes, at + 2)) << 16 | u32::from(word16(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_tree_that_was_an_image_is_the_same_tree_again() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let (from, into) = (folder.path().join("from"), folder.path().join("into"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        let long: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        for (name, content) in [
            ("a/empty", &b""[..]),
            ("a/short", b"x"),
            ("a/b/long", &long),
        ] {
            std::fs::write(from.join(name), content).unwrap();
        }
        std::fs::hard_link(from.join("a/short"), from.join("second")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        for n in 0..600 {
            std::fs::write(from.join(format!("a/b/{n:0100}")), n.to_string()).unwrap();
        }
        std::fs::set_permissions(from.join("a/short"), Permissions::from_mode(0o4751)).unwrap();
        std::fs::set_permissions(from.join("a/b"), Permissions::from_mode(0o500)).unwrap();
        let reference = format!("dir:{}", from.display());
        let root = super::super::open(&reference, &folder.path().join("cache"), &mut |_| {});
        extract(&root.unwrap(), &into).unwrap();
        for name in ["a/empty", "a/short", "a/b/long", "second", "a/b"] {
            let of = |root: &Path| std::fs::symlink_metadata(root.join(name)).unwrap();
            let (a, b) = (of(&from), of(&into));
            assert_eq!((a.mode(), a.uid()), (b.mode(), b.uid()), "{name}");
        }
        assert!(std::fs::read(into.join("a/b/long")).unwrap() == long);
        let names = |root: &Path| std::fs::read_dir(root.join("a/b")).unwrap().count();
        assert_eq!(names(&into), 601);
        assert_eq!(
            std::fs::read(into.join(format!("a/b/{:0100}", 77))).unwrap(),
            b"77"
        );
        let link = std::fs::read_link(into.join("link")).unwrap();
        assert_eq!(link, Path::new("/etc/passwd"));
        let inode = |name: &str| std::fs::metadata(into.join(name)).unwrap().ino();
        assert_eq!(inode("second"), inode("a/short"));
    }

    #[test]
    fn what_is_no_image_or_half_of_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let from = folder.path().join("from");
        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("file"), vec![7; 100_000]).unwrap();
        let reference = format!("dir:{}", from.display());
        let cache = folder.path().join("cache");
        let root = super::super::open(&reference, &cache, &mut |_| {}).unwrap();
        let whole = std::fs::read(&root.path).unwrap();
        let path = folder.path().join("damaged");
        // Whatever a byte becomes, it is an error or a tree, and never a panic.
        for at in (1024..1600).chain([0]) {
            for flip in [0xff, 0x01, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                bytes.truncate(if at == 0 { 9000 } else { bytes.len() });
                std::fs::write(&path, &bytes).unwrap();
                let damaged = RootFs {
                    file: File::open(&path).unwrap(),
                    path: path.clone(),
                    kind: FsKind::Erofs,
                    cached: true,
                    config: Default::default(),
                };
                let into = folder.path().join(format!("into-{at}-{flip}"));
                let made = extract(&damaged, &into);
                assert!(at != 0 || made.is_err());
                let _ = std::fs::remove_dir_all(into);
            }
        }
    }
}
