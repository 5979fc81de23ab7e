// SPDX-License-Identifier: Apache-2.0
//! A file system as a tree in memory: names and attributes, never the data of files.
//!
//! Runs on the thread that opens an image. Sources fill it from hostile input, so every
//! entry passes through [`Tree::add`], which holds names to one path component each: a
//! tree cannot say anything about what lies outside it. It must never grow without bound.

use std::collections::BTreeMap;

/// Most entries of one image. Stops an archive of empty headers from eating the memory.
pub const MAX_ENTRIES: usize = 1 << 20;
/// Longest name: what Linux and EROFS hold.
pub const MAX_NAME: usize = 255;
/// Longest symbolic link, and longest path of an archive: PATH_MAX less its NUL.
pub const MAX_PATH: usize = 4095;
/// Most directories above an entry. Stops symbolic links of an archive that multiply
/// into paths no process could walk.
pub const MAX_DEPTH: u16 = 2048;
/// Most bytes of names, link targets, attributes and paths together. Stops a million
/// entries from having a four-kilobyte link each.
pub const MAX_METADATA: usize = 512 << 20;
/// Most bytes of one entry's extended attributes; Linux lists no more (XATTR_LIST_MAX).
pub const MAX_XATTRS: usize = 64 << 10;

/// Why an entry has no place in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a name is empty, `.`, `..`, or has a slash or NUL in it")]
    Name,
    #[error("a name is longer than {MAX_NAME} bytes")]
    LongName,
    #[error("a symbolic link is empty, longer than {MAX_PATH} bytes, or has a NUL in it")]
    Target,
    #[error("it lies more than {MAX_DEPTH} directories deep")]
    Depth,
    #[error("there are more than {MAX_ENTRIES} entries")]
    Entries,
    #[error("names and attributes take more than {} MiB", MAX_METADATA >> 20)]
    Metadata,
    #[error("its extended attributes take more than {} KiB", MAX_XATTRS >> 10)]
    Xattrs,
    #[error("its parent is not a directory")]
    Parent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    pub const ROOT: Self = Self(0);

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What every entry has. `mode` holds the twelve permission bits and no type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub mtime_nsec: u32,
}

/// An extended attribute under its full name, `user.` and so on included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    pub name: Box<[u8]>,
    pub value: Box<[u8]>,
}

pub type Names = BTreeMap<Box<[u8]>, NodeId>;

/// A piece of a file that is not a hole: `len` bytes at `at`, found at `from` of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub at: u64,
    pub from: u64,
    pub len: u64,
}

/// Where the bytes of a file are until the image is written.
#[derive(Clone, Debug)]
pub enum Data {
    /// In a file of the host at this path below the root, which must still be this inode.
    Host { path: Box<[u8]>, dev: u64, ino: u64 },
    /// In the archive, or that of the layer, in ascending order; holes between.
    Archive { layer: u16, extents: Box<[Extent]> },
}

#[derive(Clone, Debug)]
pub enum Kind {
    Directory { names: Names, depth: u16 },
    File { len: u64, data: Data },
    Symlink(Box<[u8]>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

impl Kind {
    pub fn directory() -> Self {
        Self::Directory {
            names: Names::new(),
            depth: 0,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub meta: Meta,
    pub xattrs: Box<[Xattr]>,
    pub kind: Kind,
}

/// The nodes in the order they came; some may no longer be reachable from the root.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Bytes counted against `MAX_METADATA`.
    metadata: usize,
}

impl Tree {
    pub fn new(meta: Meta) -> Self {
        let root = Node {
            meta,
            xattrs: Box::default(),
            kind: Kind::directory(),
        };
        Self {
            nodes: vec![root],
            metadata: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub fn names(&self, id: NodeId) -> Option<&Names> {
        match &self.node(id).kind {
            Kind::Directory { names, .. } => Some(names),
            _ => None,
        }
    }

    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.names(directory)?.get(name).copied()
    }

    /// Adds `node` as `name` in `parent`; what had that name has it no longer.
    pub fn add(&mut self, parent: NodeId, name: &[u8], mut node: Node) -> Result<NodeId, Refused> {
        let id = match u32::try_from(self.nodes.len()) {
            Ok(id) if self.nodes.len() < MAX_ENTRIES => NodeId(id),
            _ => return Err(Refused::Entries),
        };
        let above = self.depth(parent)?;
        if above >= MAX_DEPTH {
            return Err(Refused::Depth);
        }
        if let Kind::Directory { depth, .. } = &mut node.kind {
            *depth = above + 1;
        }
        if let Kind::Symlink(target) = &node.kind
            && (target.is_empty() || target.len() > MAX_PATH || target.contains(&0))
        {
            return Err(Refused::Target);
        }
        check_xattrs(&node.xattrs)?;
        self.charge(weight(&node))?;
        self.link(parent, name, id)?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Gives the node `id` one more name.
    pub fn link(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<(), Refused> {
        check_name(name)?;
        // The map's own node is charged too: a million hard links to one file are not free.
        self.charge(name.len() + size_of::<NodeId>() + size_of::<Box<[u8]>>())?;
        let Some(Node {
            kind: Kind::Directory { names, .. },
            ..
        }) = self.nodes.get_mut(parent.index())
        else {
            return Err(Refused::Parent);
        };
        names.insert(name.into(), id);
        Ok(())
    }

    /// Takes one name away, with all below it.
    pub fn remove(&mut self, directory: NodeId, name: &[u8]) {
        if let Kind::Directory { names, .. } = &mut self.nodes[directory.index()].kind {
            names.remove(name);
        }
    }

    /// Takes every name in a directory away.
    pub fn clear(&mut self, directory: NodeId) {
        if let Kind::Directory { names, .. } = &mut self.nodes[directory.index()].kind {
            names.clear();
        }
    }

    pub fn set_meta(&mut self, id: NodeId, meta: Meta) {
        self.nodes[id.index()].meta = meta;
    }

    pub fn set_xattrs(&mut self, id: NodeId, xattrs: Box<[Xattr]>) -> Result<(), Refused> {
        check_xattrs(&xattrs)?;
        self.charge(xattrs.iter().map(xattr_weight).sum())?;
        self.nodes[id.index()].xattrs = xattrs;
        Ok(())
    }

    fn depth(&self, directory: NodeId) -> Result<u16, Refused> {
        match &self.node(directory).kind {
            Kind::Directory { depth, .. } => Ok(*depth),
            _ => Err(Refused::Parent),
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Refused> {
        self.metadata = self.metadata.saturating_add(bytes);
        if self.metadata > MAX_METADATA {
            return Err(Refused::Metadata);
        }
        Ok(())
    }
}

fn xattr_weight(xattr: &Xattr) -> usize {
    xattr.name.len() + xattr.value.len() + size_of::<Xattr>()
}

fn weight(node: &Node) -> usize {
    let kind = match &node.kind {
        Kind::Symlink(target) => target.len(),
        Kind::File { data, .. } => match data {
            Data::Host { path, .. } => path.len(),
            Data::Archive { extents, .. } => extents.len() * size_of::<Extent>(),
        },
        _ => 0,
    };
    kind + node.xattrs.iter().map(xattr_weight).sum::<usize>()
}

fn check_name(name: &[u8]) -> Result<(), Refused> {
    if name.len() > MAX_NAME {
        return Err(Refused::LongName);
    }
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|&byte| byte == b'/' || byte == 0) {
        return Err(Refused::Name);
    }
    Ok(())
}

fn check_xattrs(xattrs: &[Xattr]) -> Result<(), Refused> {
    let whole: usize = xattrs.iter().map(|x| x.name.len() + x.value.len()).sum();
    let fits = xattrs.iter().all(|x| u16::try_from(x.value.len()).is_ok());
    if whole > MAX_XATTRS || !fits {
        return Err(Refused::Xattrs);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo() -> Node {
        Node {
            meta: Meta::default(),
            xattrs: Box::default(),
            kind: Kind::Fifo,
        }
    }

    fn directory() -> Node {
        Node {
            kind: Kind::directory(),
            ..fifo()
        }
    }

    #[test]
    fn only_single_components_are_names() {
        let mut tree = Tree::new(Meta::default());
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            assert_eq!(tree.add(NodeId::ROOT, name, fifo()), Err(Refused::Name));
        }
        assert_eq!(
            tree.add(NodeId::ROOT, &[b'x'; 256], fifo()),
            Err(Refused::LongName)
        );
        assert!(tree.add(NodeId::ROOT, &[b'x'; 255], fifo()).is_ok());
        assert!(tree.add(NodeId::ROOT, b"\xff\n...", fifo()).is_ok());
    }

    #[test]
    fn nothing_lies_below_what_is_no_directory() {
        let mut tree = Tree::new(Meta::default());
        let file = tree.add(NodeId::ROOT, b"f", fifo()).unwrap();
        assert_eq!(tree.add(file, b"x", fifo()), Err(Refused::Parent));
        assert_eq!(tree.link(file, b"x", file), Err(Refused::Parent));
    }

    #[test]
    fn depth_and_metadata_are_bounded() {
        let mut tree = Tree::new(Meta::default());
        let mut at = NodeId::ROOT;
        for _ in 0..MAX_DEPTH {
            at = tree.add(at, b"d", directory()).unwrap();
        }
        assert_eq!(tree.add(at, b"d", directory()), Err(Refused::Depth));

        let mut tree = Tree::new(Meta::default());
        let link = || Node {
            kind: Kind::Symlink(vec![b'x'; MAX_PATH].into()),
            ..fifo()
        };
        let refused = (0..MAX_ENTRIES).find_map(|n| {
            tree.add(NodeId::ROOT, &n.to_le_bytes().map(|b| b | 0x80), link())
                .err()
        });
        assert_eq!(refused, Some(Refused::Metadata));
    }

    #[test]
    fn entries_are_counted_also_when_they_replace_each_other() {
        let mut tree = Tree::new(Meta::default());
        let refused = (0..=MAX_ENTRIES).find_map(|_| tree.add(NodeId::ROOT, b"a", fifo()).err());
        assert_eq!(refused, Some(Refused::Entries));
        assert_eq!(tree.len(), MAX_ENTRIES);
    }

    #[test]
    fn the_last_of_one_name_wins() {
        let mut tree = Tree::new(Meta::default());
        let first = tree.add(NodeId::ROOT, b"a", fifo()).unwrap();
        let second = tree.add(NodeId::ROOT, b"a", directory()).unwrap();
        assert_ne!(first, second);
        assert_eq!(tree.lookup(NodeId::ROOT, b"a"), Some(second));
    }
}
