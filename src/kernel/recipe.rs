// SPDX-License-Identifier: Apache-2.0
//! What husk puts into a kernel: fragments, patches, the variables `make` is given, and the
//! digest over all of it. Data and hashing only; nothing here touches the cache.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::source::Package;
use super::{KernelError, config};
use crate::units::Variant;

/// Counts changes to the steps in `build.rs` that change the result.
const RECIPE_VERSION: u32 = 1;

macro_rules! embed {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(Text {
            name: $name,
            text: include_str!(concat!("../../guest/kernel/", $folder, "/", $name)),
        }),*]
    };
}

/// One embedded file of `guest/kernel`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    pub name: &'static str,
    pub text: &'static str,
}

const FRAGMENTS: &[Text] = embed!("config":
    "00-base.config",
    "10-x86.config",
    "11-mitigations.config",
    "20-memory.config",
    "30-programs.config",
    "40-filesystems.config",
    "50-network.config",
    "60-devices.config",
    "70-diagnosis.config",
    "80-crypto.config",
);

const PATCHES: &[Text] = embed!("patches":
    "0001-x86-mm-finish-a-SYSCALL-that-arrives-as-a-page-fault.patch",
    "0002-x86-let-the-VMM-clear-and-copy-memory.patch",
    "0003-x86-end-a-VM-without-ACPI-by-a-reset.patch",
    "0004-mm-slub-make-sys-kernel-slab-only-on-request.patch",
    "0005-x86-mm-look-at-a-page-table-entry-before-the-memory-map.patch",
    "0006-params-make-sys-module-only-on-request.patch",
    "0007-x86-give-per-CPU-areas-the-size-they-need.patch",
    "0008-x86-mm-leave-memory-the-boot-gives-back-as-it-is.patch",
    "0009-mm-let-the-VMM-write-out-runs-of-alike-struct-pages.patch",
    "0010-x86-alternative-do-not-decode-what-needs-no-decoding.patch",
    "0011-mm-irq-fewer-folders-in-sysfs.patch",
    "0012-ipv4-a-table-of-IP-identifiers-that-does-not-grow.patch",
    "0013-tick-a-longer-stride-where-the-kernel-is-interpreted.patch",
);

/// On top of the others, for a kernel that lives in ring 3.
const RING3_FRAGMENTS: &[Text] = embed!("config":
    "ring3/90-ring3.config",
);

const RING3_PATCHES: &[Text] = embed!("patches":
    "ring3/0001-x86-mm-kernel-memory-that-ring-3-can-reach.patch",
    "ring3/0002-x86-leave-ring-0-and-call-back.patch",
    "ring3/0003-x86-the-interrupt-flag-in-memory.patch",
    "ring3/0004-x86-entry-frames-that-are-ready.patch",
    "ring3/0005-x86-privileged-instructions-by-call.patch",
    "ring3/0006-x86-vdso-getcpu-by-system-call.patch",
    "ring3/0007-x86-no-help-needed.patch",
);

/// Fixed, so that the same inputs give the same bytes.
const MAKE_VARIABLES: &[&str] = &[
    "KBUILD_BUILD_TIMESTAMP=@0",
    "KBUILD_BUILD_USER=husk",
    "KBUILD_BUILD_HOST=husk",
    "KBUILD_BUILD_VERSION=1",
];

/// Programs a build runs, as Debian names the package that brings each.
const PROGRAMS: &[(&str, &str)] = &[
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("patch", "patch"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
];

/// objtool links against libelf.
const LIBELF_HEADER: &str = "/usr/include/libelf.h";

#[derive(Debug, Clone)]
pub(super) struct Recipe {
    /// Not an ingredient of its own: what makes the variant is in the texts.
    pub variant: Variant,
    pub fragments: Vec<Text>,
    pub patches: Vec<Text>,
    pub variables: Vec<&'static str>,
}

/// The programs whose version changes the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tools {
    pub compiler: String,
    pub linker: String,
}

impl Recipe {
    pub fn embedded(variant: Variant) -> Self {
        let mut fragments = FRAGMENTS.to_vec();
        let mut patches = PATCHES.to_vec();
        if variant == Variant::Ring3 {
            fragments.extend(RING3_FRAGMENTS);
            patches.extend(RING3_PATCHES);
        }
        Self {
            variant,
            fragments,
            patches,
            variables: MAKE_VARIABLES.to_vec(),
        }
    }

    /// Over what is in this binary; the source package and the compiler are not asked.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        field(&mut hash, "recipe", &RECIPE_VERSION.to_string());
        for variable in &self.variables {
            field(&mut hash, "variable", variable);
        }
        for fragment in &self.fragments {
            field(&mut hash, fragment.name, fragment.text);
        }
        for patch in &self.patches {
            field(&mut hash, patch.name, patch.text);
        }
        hex(&hash.finalize())
    }

    pub fn kernel_digest(&self, package: &Package, tools: &Tools) -> String {
        let mut hash = Sha256::new();
        field(&mut hash, "recipe", &self.digest());
        field(&mut hash, "source", &package.digest);
        field(&mut hash, "compiler", &tools.compiler);
        field(&mut hash, "linker", &tools.linker);
        hex(&hash.finalize())
    }

    /// The fragments as one text, in order: what `KCONFIG_ALLCONFIG` is given.
    pub fn merged_config(&self) -> String {
        let texts: Vec<&str> = self.fragments.iter().map(|text| text.text).collect();
        config::merge(&texts)
    }

    pub fn probe_tools(&self) -> Result<Tools, KernelError> {
        let mut missing: Vec<&'static str> = PROGRAMS
            .iter()
            .filter(|(program, _)| !in_path(program))
            .map(|(_, package)| *package)
            .collect();
        if !std::path::Path::new(LIBELF_HEADER).exists() {
            missing.push("libelf-dev");
        }
        if !missing.is_empty() {
            return Err(KernelError::ToolsMissing { missing });
        }
        Ok(Tools {
            compiler: version_of("gcc")?,
            linker: version_of("ld")?,
        })
    }
}

/// Name and value with their lengths, so that no two lists of fields hash alike.
fn field(hash: &mut Sha256, name: &str, value: &str) {
    hash.update(format!("{}:{name}{}:", name.len(), value.len()));
    hash.update(value);
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn version_of(program: &str) -> Result<String, KernelError> {
    let output = Command::new(program)
        .arg("--version")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| KernelError::Spawn {
            program: program.to_owned(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
