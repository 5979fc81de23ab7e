// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with a snapshot, and with what is asked of them, in words.

use super::cpu::Unfit;
use super::format::{FormatFault, MAX_NAME};
use super::pages::PagesFault;
use crate::machine::StateFileError;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("there is no snapshot '{0}'")]
    Missing(String),
    #[error("there is a snapshot '{0}' already")]
    Exists(String),
    #[error("'{0}' is not a name for a snapshot")]
    Name(String),
    #[error("snapshot '{name}' cannot be {done}: {} {} on it", .children.join(", "), build(.children))]
    Children {
        name: String,
        done: &'static str,
        children: Vec<String>,
    },
    #[error("snapshot '{name}' {fault}")]
    Fault { name: String, fault: Fault },
    #[error("snapshot '{name}' cannot go on on this host: {unfit}")]
    Unfit { name: String, unfit: Unfit },
    #[error("this is no snapshot: {0}")]
    Stream(String),
    #[error("cannot {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn build(children: &[String]) -> &'static str {
    match children {
        [_] => "builds",
        _ => "build",
    }
}

/// What is wrong with one snapshot, behind its name.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("was {0}")]
    Made(FormatFault),
    #[error("is damaged: {0}")]
    Format(FormatFault),
    #[error("is damaged: its file '{0}' is missing")]
    NoFile(String),
    #[error("is damaged: its file '{file}' has {found} bytes, {expected} belong there")]
    Length {
        file: String,
        found: u64,
        expected: u64,
    },
    #[error("is damaged: its file '{0}' is not what was saved")]
    Digest(String),
    #[error("is damaged: {0}")]
    State(StateFileError),
    #[error("is damaged: its state and its manifest are of different machines")]
    Other,
    #[error("is damaged: {0}")]
    Pages(PagesFault),
    #[error("builds on snapshot '{0}', which is not there")]
    NoParent(String),
    #[error("builds on a snapshot '{0}' that is not there any more: this one is another")]
    OtherParent(String),
    #[error("builds on more than {0} others")]
    Deep(usize),
    #[error("builds on snapshot '{parent}', which {fault}")]
    Parent { parent: String, fault: Box<Fault> },
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("has no file '{0}' yet")]
    Unmade(&'static str),
}

impl From<FormatFault> for Fault {
    fn from(fault: FormatFault) -> Self {
        match fault {
            FormatFault::Newer(_) | FormatFault::Older(_) => Self::Made(fault),
            other => Self::Format(other),
        }
    }
}

impl SnapshotError {
    pub(super) fn fault(name: &str, fault: Fault) -> Self {
        Self::Fault {
            name: name.to_owned(),
            fault,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing(_) => "`husk snapshots` lists those there are".to_owned(),
            Self::Exists(_) => "give another name, or remove that one: husk snapshot rm".to_owned(),
            Self::Name(_) => format!(
                "a name has up to {MAX_NAME} letters, digits, '_', '-' and '.', begins with one of \
                 the first two, and is no word of `husk snapshot`"
            ),
            Self::Children { children, .. } => format!(
                "`husk snapshot flatten {}` makes it stand alone",
                children.first().map_or("NAME", String::as_str)
            ),
            Self::Fault { name, fault } => fault.hint(name)?,
            Self::Unfit { .. } => "`husk snapshot inspect` says what it needs".to_owned(),
            Self::Stream(_) => "`husk snapshot export` makes one".to_owned(),
            Self::Io { .. } => return None,
        })
    }
}

impl Fault {
    fn hint(&self, name: &str) -> Option<String> {
        Some(match self {
            Self::Made(FormatFault::Newer(_)) => "update husk, or make it anew".to_owned(),
            Self::NoParent(parent) | Self::OtherParent(parent) => {
                format!("import '{parent}' first, or a '{name}' that was flattened")
            }
            Self::Read(_) | Self::Unmade(_) | Self::Made(_) => return None,
            _ => format!("`husk snapshot rm {name}` removes it"),
        })
    }
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}
