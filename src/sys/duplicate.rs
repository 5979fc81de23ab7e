// SPDX-License-Identifier: Apache-2.0
//! The content of one file as that of another: shared by file systems that can, else copied
//! without its holes.

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes a call copies at most.
const PIECE: usize = 1 << 30;
/// Bytes held at once where the kernel does not copy.
const HELD: usize = 256 << 10;

/// Makes `to`, an empty file, the same as `from`, of `length` bytes, which nobody writes to
/// meanwhile. Their positions afterwards are anywhere.
pub fn duplicate(from: &File, to: &File, length: u64) -> io::Result<()> {
    match ioctl_ficlone(to, from) {
        Ok(()) => return Ok(()),
        // Another file system, or one that shares nothing.
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    ftruncate(to, length)?;
    let mut at = 0;
    while at < length {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?.min(length);
        at = start;
        while at < end {
            at += piece(from, to, at, end)?;
        }
    }
    Ok(())
}

fn piece(from: &File, to: &File, at: u64, end: u64) -> io::Result<u64> {
    let (mut read, mut write) = (at, at);
    let length = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
    match copy_file_range(from, Some(&mut read), to, Some(&mut write), length) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(count as u64),
        Err(Errno::INTR) => Ok(0),
        // Between file systems of two kinds, and from some kinds at all, nobody copies for us.
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            by_hand(from, to, at, length)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn by_hand(from: &File, to: &File, at: u64, length: usize) -> io::Result<u64> {
    let mut held = vec![0; length.min(HELD)];
    match from.read_at(&mut held, at) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            to.write_all_at(&held[..count], at)?;
            Ok(count as u64)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_copy_has_the_content_and_the_holes() {
        const LENGTH: u64 = 64 << 20;
        let folder = tempfile::tempdir().expect("a folder");
        let open = |name: &str| {
            let mut options = File::options();
            let options = options.read(true).write(true).create_new(true);
            options.open(folder.path().join(name)).expect("a file")
        };
        let (from, to) = (open("from"), open("to"));
        from.set_len(LENGTH).expect("room");
        for at in [5, 10 << 20, LENGTH - 3] {
            from.write_all_at(b"abc", at).expect("room");
        }
        duplicate(&from, &to, LENGTH).expect("copied");
        let whole = |name: &str| std::fs::read(folder.path().join(name)).expect("a file");
        assert!(whole("from") == whole("to"));
        let blocks = to.metadata().expect("a file").blocks();
        assert!(blocks < 1000, "{blocks}");
    }

    #[test]
    fn between_file_systems_of_two_kinds_too() {
        const LENGTH: u64 = 64 << 20;
        let memory = rustix::fs::memfd_create("to", rustix::fs::MemfdFlags::CLOEXEC);
        let (from, to) = (
            tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file"),
            File::from(memory.expect("a file of memory")),
        );
        let bytes: Vec<u8> = (0..700_001u32).map(|i| i.to_le_bytes()[1]).collect();
        from.write_all_at(&bytes, 10 << 20).expect("room");
        from.set_len(LENGTH).expect("room");
        duplicate(&from, &to, LENGTH).expect("copied");
        let mut copied = vec![0; bytes.len()];
        to.read_exact_at(&mut copied, 10 << 20).expect("as long");
        assert!(copied == bytes);
        let meta = to.metadata().expect("a file");
        assert_eq!(meta.len(), LENGTH);
        assert!(meta.blocks() < 4000, "{}", meta.blocks());
    }

    #[test]
    fn a_file_that_is_shorter_than_it_should_be_is_an_error_or_a_hole() {
        let (from, to) = (tempfile::tempfile(), tempfile::tempfile());
        let (from, to) = (from.expect("a file"), to.expect("a file"));
        from.write_all_at(b"abc", 0).expect("room");
        duplicate(&from, &to, 1 << 20).expect("copied");
        let mut bytes = [0; 3];
        to.read_exact_at(&mut bytes, 0).expect("three bytes");
        assert_eq!(&bytes, b"abc");
    }
}
