// SPDX-License-Identifier: Apache-2.0
//! What all contestants are given: one root file system, as an image, as a disk and as a tree,
//! in a folder of the benchmark's own that goes with it. On the main thread, before anything is
//! measured.

use super::contestant::{Ground, VOLUME};
use super::load;
use super::session::{Service, Work};
use crate::image::{self, ImageConfig, Progress, RootFs, Typed};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// An image's reference; none is one that husk makes, of one small static program.
    pub image: Option<String>,
    /// Instead of what the image says is to be run.
    pub command: Vec<String>,
    /// Where the image's command answers requests; without it, it is one that ends.
    pub port: Option<u16>,
    /// What is asked for there.
    pub path: Option<String>,
    /// Programs in place of those in PATH, by contestant.
    pub with: BTreeMap<String, PathBuf>,
    pub memory: u64,
    pub cpus: u32,
}

/// A folder that is removed with all that is in it, mounts first.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked while its owner lives.
    _lock: File,
}

impl Folder {
    /// Makes one below `place`, and removes those whose owners are gone.
    pub fn make(place: &Path) -> Result<Self> {
        let shown = || format!("cannot make a folder in {}", place.display());
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(place).with_context(shown)?;
        // As the kernel calls it where it lists what is mounted.
        let place = &place.canonicalize().with_context(shown)?;
        // Below are an image's files, setuid ones among them: they are no other user's to run.
        let alone = || -> std::fs::Permissions { PermissionsExt::from_mode(0o700) };
        std::fs::set_permissions(place, alone()).with_context(shown)?;
        for old in std::fs::read_dir(place).with_context(shown)?.flatten() {
            if lock(&old.path()).is_some() {
                discard(&old.path());
            }
        }
        let path = tempfile::Builder::new().prefix("b").tempdir_in(place);
        let path = path.with_context(shown)?.keep();
        std::fs::set_permissions(&path, alone()).with_context(shown)?;
        std::fs::write(path.join(LOCK), "").with_context(shown)?;
        let lock = lock(&path).with_context(shown)?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        discard(&self.path);
    }
}

const LOCK: &str = "lock";

/// The lock of a folder, if nobody has it.
fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder.join(LOCK)).ok()?;
    let alone = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&file, alone).ok()?;
    Some(file)
}

fn discard(folder: &Path) {
    unmount(folder);
    // What is mounted there still may be the host's own, bound by a contestant: it stays.
    if mounts(folder).is_empty() {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Where something is mounted below a folder, in the order in which it was.
fn mounts(folder: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below = points
        .map(unescaped)
        .filter(|path| path.starts_with(folder));
    below.collect()
}

/// A path as mountinfo has it (proc(5)): blanks, tabs, newlines and backslashes are octal.
fn unescaped(text: &str) -> PathBuf {
    let mut path = text.to_owned();
    for (octal, letter) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        path = path.replace(octal, letter);
    }
    PathBuf::from(path)
}

/// Unmounts whatever is mounted below a folder, the last one first; says where that was.
pub fn unmount(folder: &Path) -> Vec<PathBuf> {
    let mut below = mounts(folder);
    below.reverse();
    below.retain(|path| nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).is_ok());
    below
}

/// Makes the ground of what is wanted in `folder`. `cache` is husk's own.
pub fn prepare(
    wanted: &Wanted,
    folder: &Folder,
    cache: &Path,
    kernel: Result<PathBuf, String>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Ground, Work)> {
    let path = folder.path();
    let tree = path.join("tree");
    let (root, reference) = match &wanted.image {
        Some(reference) => {
            let root = image::open(reference, cache, progress)?;
            (root, reference.clone())
        }
        None => own_image(path, progress)?,
    };
    image::extract(&root, &tree)?;
    std::fs::set_permissions(&tree, PermissionsExt::from_mode(0o755))?;
    // Not the file that is being executed: its pages could not be dropped.
    let husk = path.join("husk");
    let own = std::env::current_exe().context("cannot find this program")?;
    std::fs::copy(&own, &husk).context("cannot copy this program")?;
    let work = match &wanted.image {
        Some(reference) => work(wanted, &root.config, reference)?,
        None => own_work(),
    };
    let written = path.join("written");
    std::fs::create_dir(&written)?;
    let mut ground = Ground {
        work: path.to_owned(),
        tree,
        image: reference,
        disk: root.path,
        husk,
        with: wanted.with.clone(),
        memory: wanted.memory,
        cpus: wanted.cpus,
        kernel,
        cache: Some(cache.to_owned()),
        written,
        volume: Err(String::new()),
    };
    ground.volume = volume(&ground).map_err(|why| format!("{why:#}"));
    Ok((ground, work))
}

/// A volume of husk's, where husk makes such; below the folder, so that it goes with that.
fn volume(ground: &Ground) -> Result<PathBuf> {
    /// Twice what the work writes, and what ext4 needs.
    const SIZE: &str = "128m";
    let mut made = Command::new(&ground.husk);
    made.env("HUSK_DATA_DIR", ground.data());
    let output = made.args(["volume", "create", "--size", SIZE, VOLUME]);
    let output = output.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or("it does not say why");
        bail!(
            "no volume could be made: {}",
            first.trim_start_matches("husk: ")
        );
    }
    Ok(ground.data().join("volumes").join(format!("{VOLUME}.img")))
}

/// An image of one program and the directories that a container is mounted with.
fn own_image(path: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(RootFs, String)> {
    let from = path.join("image");
    for name in ["dev", "etc", "mnt", "proc", "run", "sys", "tmp"] {
        std::fs::create_dir_all(from.join(name))?;
    }
    let program = from.join(load::PATH.trim_start_matches('/'));
    std::fs::write(&program, load::PROGRAM)?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    let reference = format!("dir:{}", from.display());
    // In a cache of its own: it is nobody's image but this benchmark's.
    let mut root = image::open(&reference, &path.join("cache"), progress)?;
    let disk = path.join("root.erofs");
    std::fs::rename(&root.path, &disk)?;
    root.path.clone_from(&disk);
    std::fs::remove_dir_all(from)?;
    Ok((root, disk.display().to_string()))
}

fn own_work() -> Work {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    Work {
        once: Some((words(&[load::PATH, "hello"]), Some(load::SAYS))),
        service: Some(Service {
            argv: words(&[load::PATH, "web"]),
            port: None,
            path: "/".into(),
        }),
        env: Vec::new(),
        cwd: "/".into(),
    }
}

fn work(wanted: &Wanted, config: &ImageConfig, reference: &str) -> Result<Work> {
    let typed = Typed {
        command: wanted.command.iter().map(|word| word.as_bytes()).collect(),
        ..Typed::default()
    };
    let process = config.process(&typed);
    let text = |words: Vec<Vec<u8>>| -> Result<Vec<String>> {
        let words = words.into_iter().map(String::from_utf8);
        words
            .collect::<Result<_, _>>()
            .context("a word of the image's command is no text")
    };
    let argv = text(process.argv)?;
    if argv.is_empty() {
        bail!("{reference} says nothing of what is to be run: write a command behind `--`");
    }
    let mut env = text(process.env)?;
    if !env.iter().any(|pair| pair.starts_with("PATH=")) {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    let mut work = Work {
        env,
        cwd: match process.cwd.is_empty() {
            true => "/".into(),
            false => String::from_utf8(process.cwd).context("a directory that is no text")?,
        },
        ..Work::default()
    };
    match wanted.port {
        Some(port) => {
            work.service = Some(Service {
                argv,
                port: Some(port),
                path: wanted.path.clone().unwrap_or_else(|| "/".into()),
            });
        }
        None => work.once = Some((argv, None)),
    }
    Ok(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_below_a_folder_with_a_blank_in_its_name() {
        assert_eq!(unescaped(r"/a\040b\134/c"), Path::new("/a b\\/c"));
    }
}
