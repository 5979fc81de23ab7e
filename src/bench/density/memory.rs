// SPDX-License-Identifier: Apache-2.0
//! What memory processes have, and files of theirs. Any thread. Processes come and go while
//! they are counted: one that is gone counts for nothing, and is no failure.

use super::Host;
use crate::sys::cached;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Files below a tree that are looked at: more than an image has. Stops a tree without end from
/// being walked without end.
const MOST_FILES: usize = 1_000_000;

/// Of processes, in bytes, by `smaps_rollup` (proc(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What no other process maps: what comes back when they end.
    pub unique: u64,
    /// Their proportional share of what they and others map.
    pub shared: u64,
    /// How many processes.
    pub processes: u64,
}

/// Of these processes together; those that cannot be read are told.
pub fn of(host: &Host, processes: &BTreeSet<i32>) -> (Memory, Vec<i32>) {
    let mut sum = Memory::default();
    let mut unread = Vec::new();
    for pid in processes {
        let rollup = host.text(&format!("proc/{pid}/smaps_rollup"));
        let Some((unique, proportional)) = rollup.as_deref().and_then(rolled_up) else {
            // A process without memory (a zombie) has an empty file; one that is gone, none.
            if host
                .text(&format!("proc/{pid}/stat"))
                .is_some_and(|stat| lives(&stat))
            {
                unread.push(*pid);
            }
            continue;
        };
        sum.unique += unique;
        sum.shared += proportional.saturating_sub(unique);
        sum.processes += 1;
    }
    (sum, unread)
}

/// Unique and proportional bytes.
fn rolled_up(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            let kib: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        })
    };
    let private = field("Private_Clean")?.checked_add(field("Private_Dirty")?)?;
    let huge = field("Private_Hugetlb").unwrap_or(0);
    Some((private.checked_add(huge)?, field("Pss")?.checked_add(huge)?))
}

/// Whether `/proc/PID/stat` is that of a process that has not ended.
fn lives(stat: &str) -> bool {
    !matches!(state_and_parent(stat), Some(("Z" | "X", _)) | None)
}

/// What stands behind the name, which may have any character in it, brackets too (proc(5)).
fn state_and_parent(stat: &str) -> Option<(&str, i32)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// These processes and all their descendants, as they are now.
pub fn trees(host: &Host, roots: &[i32]) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in host.pids() {
        let stat = host.text(&format!("proc/{pid}/stat"));
        if let Some((_, parent)) = stat.as_deref().and_then(state_and_parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = BTreeSet::new();
    let mut pending = roots.to_vec();
    while let Some(pid) = pending.pop() {
        if all.insert(pid) {
            pending.extend(children.get(&pid).into_iter().flatten());
        }
    }
    all
}

/// Bytes of these files, and of those below these folders, that are in the page cache.
pub fn page_cache(paths: &[PathBuf]) -> u64 {
    let mut bytes = 0;
    each_file(paths, |file| bytes += cached::cached(file).unwrap_or(0));
    bytes
}

/// Each file once, whatever its names. Links are not followed.
fn each_file(paths: &[PathBuf], mut visit: impl FnMut(&File)) {
    let mut seen = BTreeSet::new();
    let mut pending: Vec<PathBuf> = paths.to_vec();
    while let Some(path) = pending.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if seen.len() >= MOST_FILES || !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(entries.map(|entry| entry.path()));
        } else if meta.is_file()
            && let Ok(file) = File::open(&path)
        {
            visit(&file);
        }
    }
}

/// The file behind a path that may be a link, as it is counted above.
#[must_use]
pub fn behind(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    const ROLLUP: &str = "00400000-7ffd rw-p 00000000 00:00 0   [rollup]\nRss:   900 kB\n\
        Pss:    500 kB\nPss_Dirty: 3 kB\nShared_Clean: 500 kB\nPrivate_Clean: 100 kB\n\
        Private_Dirty:   300 kB\nPrivate_Hugetlb: 0 kB\n";

    fn put(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn unique_and_shared_add_up_to_the_proportional_share() {
        assert_eq!(rolled_up(ROLLUP), Some((400 << 10, 500 << 10)));
        assert_eq!(rolled_up(""), None);
        assert_eq!(rolled_up("Pss: 1 kB\n"), None);
        let folder = tempfile::TempDir::new().unwrap();
        put(folder.path(), "proc/7/smaps_rollup", ROLLUP);
        put(folder.path(), "proc/8/smaps_rollup", ROLLUP);
        put(folder.path(), "proc/9/smaps_rollup", "");
        put(folder.path(), "proc/9/stat", "9 (dead) Z 1 9");
        put(folder.path(), "proc/10/smaps_rollup", "");
        put(folder.path(), "proc/10/stat", "10 (hidden) S 1 9");
        let host = Host::at(folder.path());
        let (memory, unread) = of(&host, &BTreeSet::from([7, 8, 9, 10, 11]));
        assert_eq!((memory.unique, memory.shared), (800 << 10, 200 << 10));
        assert_eq!((memory.processes, unread), (2, vec![10]));
    }

    #[test]
    fn a_tree_is_its_root_and_all_below_whatever_they_are_called() {
        let folder = tempfile::TempDir::new().unwrap();
        for (pid, stat) in [
            (2, "2 (root) S 1 2"),
            (3, "3 (a) b) S 2 2"),
            (4, "4 (x y) R 3 2"),
            (5, "5 (else) S 1 5"),
        ] {
            put(folder.path(), &format!("proc/{pid}/stat"), stat);
        }
        put(folder.path(), "proc/self/stat", "9 (self) S 2 2");
        let host = Host::at(folder.path());
        assert_eq!(trees(&host, &[2]), BTreeSet::from([2, 3, 4]));
        assert_eq!(trees(&host, &[4, 5]), BTreeSet::from([4, 5]));
        // A process that is its own parent ends the walk all the same.
        put(folder.path(), "proc/6/stat", "6 (odd) S 6 6");
        assert_eq!(trees(&host, &[6]), BTreeSet::from([6]));
    }

    #[test]
    fn a_real_process_is_counted_with_its_children() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo ready; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        let stdout = shell.stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut ready).unwrap();
        let host = Host::default();
        let pid = i32::try_from(shell.id()).unwrap();
        let all = trees(&host, &[pid]);
        let (memory, unread) = of(&host, &all);
        for pid in &all {
            let pid = nix::unistd::Pid::from_raw(*pid);
            nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert_eq!((all.len(), memory.processes, unread), (2, 2, vec![]));
        assert!(
            memory.unique > 4096 && memory.unique < 64 << 20,
            "{memory:?}"
        );
    }

    #[test]
    fn files_of_a_tree_are_counted_once() {
        let folder = tempfile::TempDir::new().unwrap();
        put(folder.path(), "a/file", &"x".repeat(8192));
        std::fs::hard_link(folder.path().join("a/file"), folder.path().join("again")).unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("a/up")).unwrap();
        let paths = [folder.path().to_owned(), folder.path().join("a")];
        assert_eq!(page_cache(&paths), 8192);
        assert_eq!(page_cache(&[folder.path().join("none")]), 0);
    }
}
