// SPDX-License-Identifier: Apache-2.0
//! The guest kernel: built once from the distribution's source package with husk's own
//! configuration and patches, kept in a cache, found again by digest.
//!
//! Tool side, on the calling thread; `ensure` may run for minutes and says what it does.
//! Never runs inside the jail and never leaves anything in the cache that looks finished
//! but is not.

mod build;
mod cache;
mod config;
mod provenance;
mod recipe;
mod source;

use std::path::{Path, PathBuf};

pub use crate::units::Variant;
pub use config::Lost;
pub use provenance::Provenance;

use cache::Cache;
use recipe::Recipe;

/// What a newcomer types when something of the tool chain is missing.
pub const INSTALL_LINE: &str =
    "apt-get install linux-source-6.12 flex bison bc libelf-dev xz-utils gcc make patch";

/// A built kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// SHA-256, in hex, over everything that went into the build.
    pub digest: String,
    /// The bootable image: an ELF file without symbols.
    pub vmlinux: PathBuf,
    /// Addresses and names of its symbols, for whoever reads an oops.
    pub system_map: PathBuf,
    /// The configuration as Kconfig completed it.
    pub config: PathBuf,
    pub variant: Variant,
    /// What `uname -r` says in the guest.
    pub version: String,
    /// Seconds since the epoch.
    pub built_at: u64,
}

/// Where a build is. Phases come in this order; some take no time when the work was done before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Another build holds the cache; ours goes on when that one ends.
    Waiting,
    /// Reading the source package to learn its digest.
    Hashing,
    Unpacking,
    Patching {
        name: &'a str,
    },
    Configuring,
    /// Translation units so far; `expected` is what the last measured build had, for a bar.
    Compiling {
        objects: u32,
        expected: u32,
    },
    Finishing,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("the kernel source package is not installed: {} does not exist", path.display())]
    SourceMissing { path: PathBuf },
    #[error("building a kernel needs what this host lacks: {}", missing.join(", "))]
    ToolsMissing { missing: Vec<&'static str> },
    #[error("{} is not a kernel source package: {what}", path.display())]
    SourceUnusable { path: PathBuf, what: &'static str },
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot run {program}")]
    Spawn {
        program: String,
        source: std::io::Error,
    },
    #[error("{step} failed; the whole log is in {}\n{tail}", log.display())]
    Step {
        step: String,
        log: PathBuf,
        tail: String,
    },
    #[error("the kernel's configuration did not take {}", config::join(lost))]
    OptionsLost { lost: Vec<Lost> },
    #[error("{} is not a provenance record", path.display())]
    Record {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl KernelError {
    /// What the user can do about it, where that is one command.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::SourceMissing { .. } | Self::ToolsMissing { .. } => Some(INSTALL_LINE),
            _ => None,
        }
    }
}

/// The kernel this binary's recipe for `variant` makes of the installed source package, building it if the
/// cache has none. `cache` is husk's cache directory; it is created if need be.
pub fn ensure(
    cache: &Path,
    variant: Variant,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Kernel, KernelError> {
    ensure_with(
        &Recipe::embedded(variant),
        Path::new(source::PACKAGE),
        cache,
        progress,
    )
}

/// The newest kernel of this binary's recipe for `variant` that is ready to boot. Costs two file reads and
/// asks neither the source package nor the compiler, so that a start need not wait for them.
pub fn find(cache: &Path, variant: Variant) -> Result<Option<Kernel>, KernelError> {
    Cache::at(cache).current(&Recipe::embedded(variant).digest())
}

/// Every finished kernel in the cache, newest first.
pub fn list(cache: &Path) -> Result<Vec<Kernel>, KernelError> {
    Cache::at(cache).entries()
}

fn ensure_with(
    recipe: &Recipe,
    package: &Path,
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Kernel, KernelError> {
    let cache = Cache::at(cache);
    cache.create()?;
    let package = source::identify(package, &cache, progress)?;
    let tools = recipe.probe_tools()?;
    let digest = recipe.kernel_digest(&package, &tools);
    if let Some(kernel) = cache.entry(&digest)? {
        cache.point(&recipe.digest(), &digest)?;
        return Ok(kernel);
    }

    let lock = cache.lock(progress)?;
    // Another process may have built it while this one waited.
    if let Some(kernel) = cache.entry(&digest)? {
        cache.point(&recipe.digest(), &digest)?;
        return Ok(kernel);
    }
    cache.sweep(&lock)?;
    let staging = cache.stage(&lock, &digest)?;
    let outcome = build::run(recipe, &package, &tools, &digest, &staging, progress);
    let kernel = match outcome {
        Ok(()) => cache.publish(&staging, &digest)?,
        Err(error) => return Err(cache.abandon(&staging, &digest, error)),
    };
    cache.point(&recipe.digest(), &digest)?;
    Ok(kernel)
}

#[cfg(test)]
mod tests;
