// SPDX-License-Identifier: Apache-2.0
//! Where in the tree a path of an archive leads.
//!
//! Runs on the thread that opens an image. Paths are hostile: they are resolved in the
//! tree alone, as in a root of their own, and never given to the host's file system.

use crate::image::error::Malformed;
use crate::image::tree::{Kind, MAX_PATH, Meta, Node, NodeId, Tree};
use std::collections::VecDeque;

/// Most symbolic links on one path; the kernel's own limit (MAXSYMLINKS).
const MAX_LINKS: usize = 40;
/// Most components looked up for one archive: 32 for each of the most entries. Stops
/// paths of a thousand components, and links that lead to such paths, from taking hours.
const MAX_STEPS: usize = 32 << 20;

/// The components of a path. What leads upwards is refused, not cleaned: an archive that
/// says `..` was made to escape, or by a tool nobody should trust.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    if path.len() > MAX_PATH {
        return Err(Malformed::LongPath);
    }
    let components: Vec<_> = path
        .split(|&byte| byte == b'/')
        .filter(|&part| !matches!(part, b"" | b"."))
        .collect();
    if path.contains(&0) || components.contains(&&b".."[..]) {
        return Err(Malformed::Path);
    }
    Ok(components)
}

/// Counts lookups over a whole archive.
#[derive(Default)]
pub struct Walker {
    steps: usize,
}

impl Walker {
    /// The directory `components` lead to; those missing come into being, as they do
    /// wherever tar unpacks.
    pub fn directory(
        &mut self,
        tree: &mut Tree,
        components: &[&[u8]],
    ) -> Result<NodeId, PlaceError> {
        let mut pending: VecDeque<Box<[u8]>> = components.iter().map(|&part| part.into()).collect();
        // The way back up, for links that say `..`.
        let mut way = vec![NodeId::ROOT];
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Malformed::Bomb.into());
            }
            let here = *way.last().expect("the root is never popped");
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    way.truncate((way.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let Some(id) = tree.lookup(here, &name) else {
                way.push(tree.add(here, &name, implied())?);
                continue;
            };
            match &tree.node(id).kind {
                Kind::Directory { .. } => way.push(id),
                Kind::Symlink(target) if links < MAX_LINKS => {
                    links += 1;
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    for part in target.rsplit(|&byte| byte == b'/') {
                        pending.push_front(part.into());
                    }
                }
                _ => return Err(Malformed::Through.into()),
            }
        }
        Ok(*way.last().expect("the root is never popped"))
    }
}

/// A path leads nowhere, or the tree is full.
pub enum PlaceError {
    Malformed(Malformed),
    Refused(crate::image::tree::Refused),
}

impl From<Malformed> for PlaceError {
    fn from(problem: Malformed) -> Self {
        Self::Malformed(problem)
    }
}

impl From<crate::image::tree::Refused> for PlaceError {
    fn from(refused: crate::image::tree::Refused) -> Self {
        Self::Refused(refused)
    }
}

/// A directory the archive does not speak of.
fn implied() -> Node {
    Node {
        meta: Meta {
            mode: 0o755,
            ..Meta::default()
        },
        xattrs: Box::default(),
        kind: Kind::directory(),
    }
}
