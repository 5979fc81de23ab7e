// SPDX-License-Identifier: Apache-2.0
//! From a kernel's file to a guest memory that only needs its first instruction.
//! Every file read here is distrusted; all of it runs inside the jail.

mod initrd;
mod kernel;
mod note;

pub use initrd::InitrdError;
pub use kernel::KernelError;

use crate::arch::boot::{self as arch, BootTableError, Entry, Image};
use crate::arch::layout;
use crate::config;
use crate::memory::GuestRam;
use crate::units::Variant;
use std::fs::File;

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("kernel {0}")]
    Kernel(String, #[source] KernelError),
    #[error("initrd {0}")]
    Initrd(String, #[source] InitrdError),
    #[error("kernel {name} lives in ring {}, and one for ring {} was wanted", found.ring(), wanted.ring())]
    OtherRing {
        name: String,
        found: Variant,
        wanted: Variant,
    },
    #[error("the command line is {0} bytes long, {limit} are the limit", limit = layout::CMDLINE_SIZE - 1)]
    Cmdline(usize),
    #[error("the command line has a NUL byte in it")]
    Nul,
    #[error(transparent)]
    Tables(#[from] BootTableError),
}

/// Files to boot from, open.
pub struct Files {
    pub kernel: File,
    pub initrd: Option<File>,
}

/// A kernel in guest memory with all it reads first.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    pub entry: Entry,
    pub variant: Variant,
}

/// Loads kernel and initrd and writes the boot tables. `words` go to the end of the
/// operator's command line: the machine's devices, and what a kernel of its variant needs.
pub fn load(
    ram: &GuestRam,
    config: &config::Boot,
    files: Files,
    words: &dyn Fn(Variant) -> Vec<String>,
    mark: &mut dyn FnMut(&'static str),
) -> Result<Loaded, BootError> {
    let name = |file: &config::HostFile| file.path.display().to_string();
    let kernel = kernel::load(ram, files.kernel)
        .map_err(|error| BootError::Kernel(name(&config.kernel), error))?;
    let found = kernel.variant;
    if let Some(wanted) = config.variant.filter(|wanted| *wanted != found) {
        let name = name(&config.kernel);
        return Err(BootError::OtherRing {
            name,
            found,
            wanted,
        });
    }
    let cmdline = cmdline(&config.cmdline, &words(found))?;
    mark("kernel loaded");
    let initrd = match (files.initrd, &config.initrd) {
        (Some(file), Some(from)) => {
            let range = initrd::load(ram, &file, &kernel)
                .map_err(|error| BootError::Initrd(name(from), error))?;
            mark("initrd loaded");
            Some(range)
        }
        _ => None,
    };
    let image = Image {
        entry: kernel.entry,
        header: kernel.header,
        initrd,
    };
    arch::write_tables(ram, &image, cmdline.as_bytes())?;
    Ok(Loaded {
        entry: kernel.entry,
        variant: kernel.variant,
    })
}

fn cmdline(text: &str, words: &[String]) -> Result<String, BootError> {
    let mut line = text.trim().to_owned();
    // Kernel words end where the init's arguments begin.
    let (kernel, init) = match line.split_once(" -- ") {
        Some((kernel, init)) => (kernel.to_owned(), Some(init.to_owned())),
        None => (std::mem::take(&mut line), None),
    };
    line = kernel;
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if let Some(init) = init {
        line.push_str(" -- ");
        line.push_str(&init);
    }
    if line.contains('\0') {
        return Err(BootError::Nul);
    }
    if line.len() >= layout::CMDLINE_SIZE {
        return Err(BootError::Cmdline(line.len()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_words_stand_before_the_inits_arguments() {
        let words = ["a=1".to_owned(), "b".to_owned()];
        assert_eq!(cmdline("quiet", &words).expect("short"), "quiet a=1 b");
        assert_eq!(cmdline("", &words).expect("short"), "a=1 b");
        assert_eq!(
            cmdline("quiet -- --flag x", &words).expect("short"),
            "quiet a=1 b -- --flag x"
        );
    }

    #[test]
    fn a_command_line_the_kernel_would_cut_is_refused() {
        assert!(cmdline(&"x".repeat(layout::CMDLINE_SIZE - 1), &[]).is_ok());
        assert!(matches!(
            cmdline(&"x".repeat(layout::CMDLINE_SIZE), &[]),
            Err(BootError::Cmdline(_))
        ));
        assert!(matches!(cmdline("a\0b", &[]), Err(BootError::Nul)));
    }
}
