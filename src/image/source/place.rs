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

/// Counts lookups over all archives of an image.
#[derive(Default)]
pub struct Walker {
    steps: usize,
}

/// A directory, and the name that is not in it.
type Missing = (NodeId, Box<[u8]>);

/// A path on its way through the tree.
struct Walk {
    pending: VecDeque<Box<[u8]>>,
    /// The way back up, for links that say `..`.
    way: Vec<NodeId>,
    links: usize,
}

impl Walk {
    fn new(components: &[&[u8]]) -> Self {
        Self {
            pending: components.iter().map(|&part| part.into()).collect(),
            way: vec![NodeId::ROOT],
            links: 0,
        }
    }

    fn here(&self) -> NodeId {
        *self.way.last().expect("the root is never popped")
    }
}

impl Walker {
    /// The directory `components` lead to; those missing come into being, as they do
    /// wherever tar unpacks.
    pub fn directory(
        &mut self,
        tree: &mut Tree,
        components: &[&[u8]],
    ) -> Result<NodeId, PlaceError> {
        let mut walk = Walk::new(components);
        while let Some((here, name)) = self.advance(tree, &mut walk)? {
            walk.way.push(tree.add(here, &name, implied())?);
        }
        match tree.names(walk.here()) {
            Some(_) => Ok(walk.here()),
            None => Err(Malformed::Through.into()),
        }
    }

    /// What `components` lead to, if to anything.
    pub fn find(&mut self, tree: &Tree, components: &[&[u8]]) -> Result<Option<NodeId>, Malformed> {
        let mut walk = Walk::new(components);
        match self.advance(tree, &mut walk) {
            Ok(None) => Ok(Some(walk.here())),
            Ok(Some(_)) | Err(Malformed::Through) => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Goes on to the end, or to the first name that is missing and where it is.
    fn advance(&mut self, tree: &Tree, walk: &mut Walk) -> Result<Option<Missing>, Malformed> {
        while let Some(name) = walk.pending.pop_front() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Malformed::Steps);
            }
            let here = walk.here();
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    walk.way.truncate((walk.way.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let Some(id) = tree.lookup(here, &name) else {
                return Ok(Some((here, name)));
            };
            match &tree.node(id).kind {
                Kind::Directory { .. } => walk.way.push(id),
                Kind::Symlink(target) if walk.links < MAX_LINKS => {
                    walk.links += 1;
                    if target.starts_with(b"/") {
                        walk.way.truncate(1);
                    }
                    for part in target.rsplit(|&byte| byte == b'/') {
                        walk.pending.push_front(part.into());
                    }
                }
                Kind::Symlink(_) => return Err(Malformed::Through),
                // Nothing is below a file.
                _ if walk.pending.is_empty() => walk.way.push(id),
                _ => return Err(Malformed::Through),
            }
        }
        Ok(None)
    }
}

/// What a path leads to; none where it leads nowhere.
pub fn find(tree: &Tree, path: &[u8]) -> Option<NodeId> {
    let components = components(path).ok()?;
    Walker::default().find(tree, &components).ok().flatten()
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
