// SPDX-License-Identifier: Apache-2.0
//! What a machine wrote to first when it went on from a snapshot or a template, kept in its
//! folder for those that go on from there later. Advice: sealed by nothing, and whoever reads
//! it trusts nothing. Any thread of the tool.

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// The list of pages.
pub const NAME: &str = "working-set";

/// What an earlier machine has left, if one did. No link, and no pipe that would have us wait.
#[must_use]
pub fn open(folder: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(folder.join(NAME), flags, Mode::empty()).ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}

/// A file without a name, for what the first machine shows.
pub fn learning(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Gives it its name, unless another was faster, or nothing was shown.
pub fn learned(folder: &Path, file: &File) -> io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    let follow = AtFlags::SYMLINK_FOLLOW;
    Ok(rustix::fs::linkat(
        CWD,
        from,
        CWD,
        folder.join(NAME),
        follow,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::symlink;

    #[test]
    fn the_first_that_shows_something_is_kept_and_nothing_else_is_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path();
        learned(place, &learning(place).expect("a file")).expect("nothing to keep");
        assert!(open(place).is_none());
        for text in ["first", "second"] {
            let mut file = learning(place).expect("a file");
            file.write_all(text.as_bytes()).expect("room");
            assert_eq!(learned(place, &file).is_ok(), text == "first");
        }
        let mut text = String::new();
        let mut file = open(place).expect("it is kept");
        file.read_to_string(&mut text).expect("text");
        assert_eq!(text, "first");
        let other = tempfile::tempdir().expect("a folder");
        symlink(place.join(NAME), other.path().join(NAME)).expect("a link");
        assert!(open(other.path()).is_none(), "a link");
    }
}
