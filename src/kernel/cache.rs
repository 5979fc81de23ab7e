// SPDX-License-Identifier: Apache-2.0
//! The kernel cache on disk, `<cache>/kernels`:
//!
//! - `<digest>/`: one finished kernel (`vmlinux`, `System.map`, `config`, `provenance.json`),
//!   moved here whole by one rename;
//! - `of-recipe-<digest>`: a link to the newest kernel of a recipe;
//! - `staging-<digest>/`: a build under way, or what a killed one left;
//! - `failed-<digest>.log`: the log of a build that failed;
//! - `lock`: held by whoever builds, and by the programs it started;
//! - `source.json`: the source package's digest, see `source.rs`.
//!
//! Runs on the caller's thread. Readers take no lock: what they may find is complete or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};

use super::{Kernel, KernelError, Progress, Provenance};

const STAGING: &str = "staging-";

pub(super) struct Cache {
    folder: PathBuf,
}

/// Proof that this process is the one that builds.
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Cache {
    pub fn at(cache: &Path) -> Self {
        Self {
            folder: cache.join("kernels"),
        }
    }

    pub fn create(&self) -> Result<(), KernelError> {
        fs::create_dir_all(&self.folder).map_err(failed("create", &self.folder))
    }

    pub fn stamp(&self) -> PathBuf {
        self.folder.join("source.json")
    }

    /// Waits for another build, saying so once. The file is left open in every program this
    /// process starts, so that a compiler which outlives a killed husk still keeps others out
    /// of the cache it writes to.
    pub fn lock(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Lock, KernelError> {
        let path = self.folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                progress(Progress::Waiting);
                Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, errno)| failed("lock", &path)(errno.into()))?
            }
            Err((_, errno)) => return Err(failed("lock", &path)(errno.into())),
        };
        fcntl(&*file, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(|errno| failed("lock", &path)(errno.into()))?;
        Ok(Lock { _file: file })
    }

    /// Removes what killed builds left. Whoever holds the lock knows that nobody uses it.
    pub fn sweep(&self, _lock: &Lock) -> Result<(), KernelError> {
        for entry in fs::read_dir(&self.folder).map_err(failed("read", &self.folder))? {
            let path = entry.map_err(failed("read", &self.folder))?.path();
            if name_of(&path).is_some_and(|name| name.starts_with(STAGING)) {
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    pub fn stage(&self, _lock: &Lock, digest: &str) -> Result<PathBuf, KernelError> {
        let path = self.folder.join(format!("{STAGING}{digest}"));
        fs::create_dir(&path).map_err(failed("create", &path))?;
        Ok(path)
    }

    /// Makes the finished kernel in `staging/done` the cache's entry for `digest`.
    pub fn publish(&self, staging: &Path, digest: &str) -> Result<Kernel, KernelError> {
        let done = staging.join("done");
        let entry = self.folder.join(digest);
        // The rename must not reach the disk before the bytes do.
        for file in fs::read_dir(&done).map_err(failed("read", &done))? {
            let path = file.map_err(failed("read", &done))?.path();
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(failed("sync", &path))?;
        }
        // An entry that nobody could read (`entry` said there is none) makes way.
        match fs::remove_dir_all(&entry) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace", &entry)(error));
            }
            _ => {}
        }
        fs::rename(&done, &entry).map_err(failed("create", &entry))?;
        fs::remove_dir_all(staging).map_err(failed("remove", staging))?;
        read_entry(&entry)
    }

    /// Drops a failed build but for its log, whose new place the error then names.
    pub fn abandon(&self, staging: &Path, digest: &str, error: KernelError) -> KernelError {
        let kept = self.folder.join(format!("failed-{digest}.log"));
        // The build's own failure is what the user must see, not that of tidying up after it;
        // the next build sweeps what is left.
        let moved = fs::rename(staging.join("build.log"), &kept);
        let _ = fs::remove_dir_all(staging);
        match error {
            KernelError::Step { step, tail, .. } if moved.is_ok() => KernelError::Step {
                step,
                log: kept,
                tail,
            },
            other => other,
        }
    }

    /// Points the recipe at its newest kernel.
    pub fn point(&self, recipe: &str, digest: &str) -> Result<(), KernelError> {
        let link = self.link(recipe);
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(digest)) {
            return Ok(());
        }
        let fresh = self.fresh_name(&link);
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(digest, &fresh).map_err(failed("create", &fresh))?;
        fs::rename(&fresh, &link).map_err(failed("create", &link))
    }

    pub fn current(&self, recipe: &str) -> Result<Option<Kernel>, KernelError> {
        match fs::read_link(self.link(recipe)) {
            Ok(target) => self.entry(&target.to_string_lossy()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &self.link(recipe))(error)),
        }
    }

    /// The entry for `digest`; one that was damaged counts as absent, to be built anew.
    pub fn entry(&self, digest: &str) -> Result<Option<Kernel>, KernelError> {
        let folder = self.folder.join(digest);
        match read_entry(&folder) {
            Ok(kernel) => Ok(Some(kernel).filter(|kernel| kernel.vmlinux.is_file())),
            Err(KernelError::Record { .. }) => Ok(None),
            Err(KernelError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub fn entries(&self) -> Result<Vec<Kernel>, KernelError> {
        let listing = match fs::read_dir(&self.folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &self.folder)(error)),
        };
        let mut kernels = Vec::new();
        for entry in listing {
            let path = entry.map_err(failed("read", &self.folder))?.path();
            if let Some(name) = name_of(&path).filter(|name| is_digest(name)) {
                kernels.extend(self.entry(name)?);
            }
        }
        kernels.sort_by(|a, b| b.built_at.cmp(&a.built_at).then(a.digest.cmp(&b.digest)));
        Ok(kernels)
    }

    /// Writes `path` whole or not at all.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.fresh_name(path);
        File::create(&fresh)?.write_all(bytes)?;
        fs::rename(&fresh, path)
    }

    /// A name beside `path` that no other thread or process writes to.
    fn fresh_name(&self, path: &Path) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = name_of(path).unwrap_or_default();
        self.folder
            .join(format!("{name}.{}.{count}", std::process::id()))
    }

    fn link(&self, recipe: &str) -> PathBuf {
        self.folder.join(format!("of-recipe-{recipe}"))
    }
}

fn read_entry(folder: &Path) -> Result<Kernel, KernelError> {
    let path = Provenance::path(folder);
    let bytes = fs::read(&path).map_err(failed("read", &path))?;
    let record: Provenance =
        serde_json::from_slice(&bytes).map_err(|source| KernelError::Record { path, source })?;
    Ok(Kernel {
        digest: record.digest,
        vmlinux: folder.join("vmlinux"),
        system_map: folder.join("System.map"),
        config: folder.join("config"),
        variant: record.variant,
        version: record.version,
        built_at: record.built_at,
    })
}

/// Turns an I/O error into ours, with the path it is about.
pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> KernelError + 'a {
    move |source| KernelError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
