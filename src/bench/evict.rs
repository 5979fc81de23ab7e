// SPDX-License-Identifier: Apache-2.0
//! A cold page cache: what a contestant reads when it starts is dropped from this host's memory,
//! file by file (posix_fadvise(2), POSIX_FADV_DONTNEED). Nobody else's files are, and what a
//! process has mapped just now, such as the host's C library, stays. On the thread that measures.

use rustix::fs::{Advice, fadvise, fsync};
use std::fs::File;
use std::path::Path;

/// What a report says of a cold cache.
pub const METHOD: &str = "the contestant's files and the root's dropped by posix_fadvise \
    (DONTNEED) before each start; pages that any process has mapped stay";

/// Deepest folder that is looked into.
const DEPTH: u32 = 64;

/// Drops the pages of files, and of all files below folders.
pub fn evict<'a>(paths: impl IntoIterator<Item = &'a Path>) {
    for path in paths {
        below(path, DEPTH);
    }
}

fn below(path: &Path, depth: u32) {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return;
    };
    if meta.is_dir() && depth > 0 {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            below(&entry.path(), depth - 1);
        }
    } else if meta.is_file()
        && let Ok(file) = File::open(path)
    {
        // Pages that are not written back yet cannot be dropped.
        let _ = fsync(&file);
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    } else if meta.is_symlink()
        && let Ok(target) = std::fs::canonicalize(path)
        && target.is_file()
        && let Ok(file) = File::open(&target)
        // Links inside an image's tree lead out of it on the host.
        && depth == DEPTH
    {
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
}
