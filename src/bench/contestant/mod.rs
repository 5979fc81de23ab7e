// SPDX-License-Identifier: Apache-2.0
//! Somebody the same thing is asked of: how it is found, made ready, told to start something
//! and to end it, and what it leaves to be cleared up. On the thread that measures; a
//! contestant only says which commands are to be run, it never runs the ones that are timed,
//! and it must leave nothing once `cleanup` returned.

mod engine;
mod husk;
mod monitor;
mod oci;
mod plain;

pub use monitor::CLOUD_KERNEL;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One of the things a benchmark can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// A command in the foreground: its output on ours, its exit code ours.
    Foreground,
    /// A start that returns while what it started goes on.
    Detached,
    /// A service inside that the host reaches by TCP.
    Service,
}

/// What everybody is given: the same root file system, once.
#[derive(Clone, Debug)]
pub struct Ground {
    /// A folder of the benchmark's own, on a disk; contestants keep theirs below it.
    pub work: PathBuf,
    /// The root file system as a tree of the host.
    pub tree: PathBuf,
    /// The same as husk is asked for it.
    pub image: String,
    /// The same as a disk (EROFS), for machines of other monitors.
    pub disk: PathBuf,
    /// The program husk, which is this one.
    pub husk: PathBuf,
    /// Programs to be used in place of those in PATH, by their contestant's name.
    pub with: BTreeMap<String, PathBuf>,
    /// Of a machine: bytes, and processors.
    pub memory: u64,
    pub cpus: u32,
    /// The guest kernel of husk, for other machine monitors; or why there is none.
    pub kernel: Result<PathBuf, String>,
    /// Where husk keeps kernels and templates.
    pub cache: Option<PathBuf>,
    /// A directory on the host's disk, for those who are given one to write to.
    pub written: PathBuf,
    /// A file beside it, an ext4 file system in it, for those who are given disks; or why there
    /// is none. It is husk's volume `VOLUME`.
    pub volume: Result<PathBuf, String>,
}

/// Of the benchmark's own, in its own folder.
pub const VOLUME: &str = "work";

/// Where a task finds the disk that it is given.
pub const DISK: &str = "/mnt";

/// Where files end that nobody asked to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Files of the host, in whatever way.
    Disk,
    /// Of a machine: gone with it.
    Memory,
}

impl Ground {
    /// The program of a contestant: the one it was given, or the first of that name in PATH.
    pub fn program(&self, contestant: &str, name: &str) -> Result<PathBuf, Absent> {
        if let Some(path) = self.with.get(contestant) {
            return Ok(path.clone());
        }
        in_path(name).ok_or_else(|| Absent(format!("{name} is not installed")))
    }

    /// husk's folder of volumes is below this one.
    pub fn data(&self) -> PathBuf {
        self.work.join("data")
    }

    /// The folder of a contestant.
    pub fn folder(&self, contestant: &str) -> PathBuf {
        self.work.join(contestant)
    }
}

/// The first executable file of this name in PATH, or where Debian puts what only root runs.
pub fn in_path(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let found = |folder: PathBuf| {
        let file = folder.join(name);
        let meta = std::fs::metadata(&file).ok()?;
        (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some(file)
    };
    std::env::split_paths(&path).chain(more).find_map(found)
}

/// Everybody, in the order of reports.
pub fn all() -> Vec<Box<dyn Contestant>> {
    vec![
        Box::new(husk::Husk::warm()),
        Box::new(husk::Husk::cold()),
        Box::new(plain::Process::default()),
        Box::new(plain::Bubblewrap::default()),
        Box::new(oci::Runtime::runc()),
        Box::new(oci::Runtime::crun()),
        Box::new(oci::Runtime::gvisor()),
        Box::new(oci::Runtime::krun()),
        Box::new(engine::Engine::podman()),
        Box::new(engine::Engine::docker()),
        Box::new(engine::Engine::nerdctl()),
        Box::new(monitor::Qemu::default()),
        Box::new(monitor::Firecracker::default()),
        Box::new(monitor::CloudHypervisor::default()),
    ]
}

/// How long a version may take to be told. Stops a program that waits for something.
const ASKED: std::time::Duration = std::time::Duration::from_secs(10);
/// Longest version that is shown.
const MOST_VERSION: usize = 100;

/// The first line of what a program says of itself.
pub fn ask(program: &Path, words: &[&str]) -> Result<String, Absent> {
    use crate::bench::supervise;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};
    let shown = program.display();
    let mut command = Command::new(program);
    command.args(words).process_group(0).stdin(Stdio::null());
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|error| Absent(format!("{shown} does not run: {error}")))?;
    let out = child.stdout.take();
    // It waits for its end, or ours; whoever is late is killed, and its pipe ends.
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = out.map(|out| out.take(1 << 16).read_to_end(&mut said));
        said
    });
    let until = std::time::Instant::now() + ASKED;
    let handle = i32::try_from(child.id()).ok().and_then(supervise::handle);
    let mut status = None;
    while let Some(handle) = &handle {
        status = child.try_wait().ok().flatten();
        let left = until.saturating_duration_since(std::time::Instant::now());
        if status.is_some() || left.is_zero() {
            break;
        }
        let _ = supervise::wait(&mut [supervise::readable(handle.as_fd())], left);
    }
    if status.is_none() {
        let group = i32::try_from(child.id()).map(nix::unistd::Pid::from_raw);
        let _ = group.map(|group| nix::sys::signal::killpg(group, nix::sys::signal::SIGKILL));
        let _ = child.wait();
        return Err(Absent(format!("{shown} does not say its version")));
    }
    let said = reader.join().unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    match (status.is_some_and(|status| status.success()), line) {
        (true, Some(line)) => Ok(line.chars().take(MOST_VERSION).collect()),
        _ => Err(Absent(format!("{shown} does not say its version"))),
    }
}

/// Why a contestant takes no part: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Absent(pub String);

/// What one start is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Unlike that of any other start of this benchmark: letters, digits and hyphens.
    pub id: String,
    /// The command inside; its first word is a path in the root file system.
    pub argv: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// The working directory inside.
    pub cwd: String,
    /// At which TCP port the command listens.
    pub port: Option<u16>,
    /// A port of the host that leads there, for those who give what they start a network of
    /// its own.
    pub host_port: u16,
    /// Whether the start is to return and leave it running.
    pub detached: bool,
    /// Whether it is given a disk of the host's to write to, at `DISK`.
    pub disk: bool,
}

/// A command of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The first word is a path.
    pub argv: Vec<OsString>,
    /// Besides this process's own.
    pub env: Vec<(OsString, OsString)>,
}

impl Invocation {
    pub fn new(program: &Path) -> Self {
        Self {
            argv: vec![program.into()],
            env: Vec::new(),
        }
    }

    #[must_use]
    pub fn word(mut self, word: impl Into<OsString>) -> Self {
        self.argv.push(word.into());
        self
    }

    #[must_use]
    pub fn words<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.argv.extend(words.into_iter().map(Into::into));
        self
    }
}

/// How a start is made, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What is timed.
    pub start: Invocation,
    /// Where the host reaches the service inside.
    pub service: Option<SocketAddr>,
    /// What ends it, in order; a start in the foreground that has ended needs none of it.
    pub stop: Vec<Invocation>,
    /// What clears up after one that was ended or went wrong; run even if one fails.
    pub remove: Vec<Invocation>,
    /// Folders of this start, which go last and in any case.
    pub folders: Vec<PathBuf>,
}

/// Somebody who starts things in isolation, or in none.
///
/// In this order: `find`; `prepare` once; for each start `launch`, the commands it names, and
/// nothing else; `cleanup` once, also after a `prepare` that failed half way.
pub trait Contestant: Send + Sync {
    /// As on the command line.
    fn name(&self) -> &'static str;

    /// How it isolates, in a few words.
    fn kind(&self) -> &'static str;

    /// What its version command says, or why it takes no part. Starts nothing.
    fn find(&mut self, ground: &Ground) -> Result<String, Absent>;

    /// Another way to start the same, where the last one tried does not work on this host, and
    /// what it is called; none when there is no more.
    fn another(&mut self) -> Option<String> {
        None
    }

    /// Makes ready what all starts share: bundles, an image in a storage of the benchmark's
    /// own, a template. May take seconds.
    fn prepare(&mut self, ground: &Ground) -> anyhow::Result<()>;

    /// Whether it has this; or why not, in one line that stands in reports.
    fn offers(&self, feature: Feature) -> Result<(), String>;

    /// Where a task that is given a disk finds it; or why it cannot be given one, in one line
    /// that stands in reports.
    fn disk(&self, _ground: &Ground) -> Result<String, String> {
        Ok(DISK.to_owned())
    }

    /// A directory in which a task writes to where everything goes that nobody said more of.
    fn own(&self, _ground: &Ground) -> (String, Medium) {
        ("/".to_owned(), Medium::Disk)
    }

    /// How `task` is started. Makes what this one start needs (a bundle's configuration), so
    /// that it is not timed.
    fn launch(&self, ground: &Ground, task: &Task) -> anyhow::Result<Launch>;

    /// The processes of a start that runs and are no descendants of the benchmark, because a
    /// daemon is their parent.
    fn elsewhere(&self, _ground: &Ground, _id: &str) -> Vec<i32> {
        Vec::new()
    }

    /// The files it reads when it starts, beside those of the tree: programs, kernels, images,
    /// templates. For runs with a cold page cache.
    fn files(&self, ground: &Ground) -> Vec<PathBuf>;

    /// Removes everything `prepare` made, and whatever starts left.
    fn cleanup(&mut self, ground: &Ground) -> anyhow::Result<()>;
}
