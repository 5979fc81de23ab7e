// SPDX-License-Identifier: Apache-2.0
//! The record beside every built kernel: what it was made of, by what, when. Data only.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::recipe::{Recipe, Text, Tools, hex};
use super::source::Package;
use crate::units::Variant;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The cache key: over recipe, source and tools.
    pub digest: String,
    /// Over fragments, patches and steps alone.
    pub recipe: String,
    /// Records from before there were two are of the ordinary one.
    #[serde(default)]
    pub variant: Variant,
    /// What `uname -r` says in the guest.
    pub version: String,
    /// Seconds since the epoch.
    pub built_at: u64,
    pub build_seconds: u64,
    pub source: PathBuf,
    pub source_bytes: u64,
    pub source_sha256: String,
    pub compiler: String,
    pub linker: String,
    pub command: Vec<String>,
    pub fragments: Vec<Ingredient>,
    pub patches: Vec<Ingredient>,
    pub objects: u32,
    pub vmlinux_bytes: u64,
    pub vmlinux_sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingredient {
    pub name: String,
    pub sha256: String,
}

/// What only the finished build knows.
pub(super) struct Outcome {
    pub version: String,
    pub built_at: u64,
    pub build_seconds: u64,
    pub command: Vec<String>,
    pub objects: u32,
    pub vmlinux: Vec<u8>,
}

impl Provenance {
    pub(super) fn new(
        recipe: &Recipe,
        package: &Package,
        tools: &Tools,
        digest: &str,
        outcome: Outcome,
    ) -> Self {
        Self {
            digest: digest.to_owned(),
            recipe: recipe.digest(),
            variant: recipe.variant,
            version: outcome.version,
            built_at: outcome.built_at,
            build_seconds: outcome.build_seconds,
            source: package.path.clone(),
            source_bytes: package.size,
            source_sha256: package.digest.clone(),
            compiler: tools.compiler.clone(),
            linker: tools.linker.clone(),
            command: outcome.command,
            fragments: ingredients(&recipe.fragments),
            patches: ingredients(&recipe.patches),
            objects: outcome.objects,
            vmlinux_bytes: outcome.vmlinux.len() as u64,
            vmlinux_sha256: hex(&Sha256::digest(&outcome.vmlinux)),
        }
    }

    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join("provenance.json")
    }
}

fn ingredients(texts: &[Text]) -> Vec<Ingredient> {
    texts
        .iter()
        .map(|text| Ingredient {
            name: text.name.to_owned(),
            sha256: hex(&Sha256::digest(text.text)),
        })
        .collect()
}
