// SPDX-License-Identifier: Apache-2.0
//! What a machine is, beyond what it was saved with: kept beside its state in a snapshot, so
//! that it can be put together again. Plain data, which may come from another host and lie.

use super::RunRequest;
use super::network::{Mode, Publish};
use super::storage::What;
use crate::cli::output::Problem;
use crate::image::RootFs;
use crate::instance::record::Record;
use crate::snapshot::Parent;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A machine of `husk run`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Blueprint {
    /// What was asked for; every port that is published is there.
    pub request: RunRequest,
    /// What was written down of it.
    pub record: Record,
    pub root: RootId,
    /// The snapshot it went on from, of those that have a name.
    pub parent: Option<Parent>,
}

impl Blueprint {
    /// What its machine gets of the host it is restored on, beyond what every machine has, in
    /// words. `published` says whether its ports are still its own.
    pub fn wants(&self, published: bool) -> Vec<String> {
        let mut wants = Vec::new();
        for mount in &self.request.storage.mounts {
            let how = match mount.read_only {
                true => "to read",
                false => "to write to",
            };
            match &mount.what {
                What::Directory(path) => {
                    wants.push(format!("the directory {}, {how}", path.display()));
                }
                // One that can be written came with the snapshot.
                What::Volume(name) if mount.read_only => {
                    wants.push(format!("the volume '{name}', {how}"));
                }
                What::Volume(_) | What::Memory(_) => {}
            }
        }
        if let RootId::File { path, .. } = &self.root {
            wants.push(format!("the file {}, as its root", path.display()));
        }
        let network = &self.request.network;
        match &network.mode {
            Mode::User { open: false } | Mode::None => {}
            Mode::User { open: true } => wants.push("all of the host's network".into()),
            Mode::Tap(name) => wants.push(format!("the interface '{name}'")),
            Mode::Bridge(name) => wants.push(format!("the bridge '{name}'")),
            Mode::Private(name) => wants.push(format!("the private network '{name}'")),
        }
        if !network.allow.is_empty() {
            let count = network.allow.len();
            wants.push(format!("what {count} of its rules allow of the network"));
        }
        let open = |port: &&Publish| port.address.is_some_and(|address| !address.is_loopback());
        if published && let Some(port) = network.publish.iter().find(open) {
            wants.push(format!("port {} for everybody", port.host));
        }
        wants
    }
}

/// Which root it has. A guest that goes on knows its root's blocks: it must be the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootId {
    /// An image husk made, by its name in the cache: a digest of what it was made from.
    Made { name: String, length: u64 },
    /// A file of the operator's own.
    File {
        path: PathBuf,
        length: u64,
        /// When it was last changed: seconds and nanoseconds since 1970.
        changed: (i64, i64),
    },
}

impl RootId {
    pub fn of(root: &RootFs, cache: &Path) -> Result<Self, Problem> {
        let meta = root
            .file
            .metadata()
            .map_err(|error| unread(&root.path, &error))?;
        let made = root.path.parent() == Some(&made(cache));
        match root.path.file_name().and_then(|name| name.to_str()) {
            Some(name) if made => Ok(Self::Made {
                name: name.to_owned(),
                length: meta.len(),
            }),
            _ => Ok(Self::File {
                path: std::path::absolute(&root.path)
                    .map_err(|error| unread(&root.path, &error))?,
                length: meta.len(),
                changed: (meta.mtime(), meta.mtime_nsec()),
            }),
        }
    }

    /// The root again, if it is still there and the same. `again` makes the image anew where
    /// the cache has let go of it.
    pub fn open(
        &self,
        cache: &Path,
        again: impl FnOnce() -> Result<RootFs, Problem>,
    ) -> Result<(File, PathBuf), Problem> {
        match self {
            Self::Made { name, length } => {
                // A name, and nothing else: whoever wrote it may have meant another file.
                let is_name = name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
                let path = made(cache).join(name);
                if let Some(file) = File::open(&path).ok().filter(|_| is_name) {
                    let found = file.metadata().map_err(|error| unread(&path, &error))?;
                    if found.is_file() && found.len() == *length {
                        return Ok((file, path));
                    }
                }
                let root = again()?;
                match Self::of(&root, cache)? == *self {
                    true => Ok((root.file, root.path)),
                    false => Err(Problem::new(
                        "the image is another one than when the machine was saved",
                    )
                    .hint("what it was saved with is not in the cache any more")),
                }
            }
            Self::File {
                path,
                length,
                changed,
            } => {
                let file = File::open(path).map_err(|error| unread(path, &error))?;
                let meta = file.metadata().map_err(|error| unread(path, &error))?;
                match meta.len() == *length && (meta.mtime(), meta.mtime_nsec()) == *changed {
                    true => Ok((file, path.clone())),
                    false => Err(Problem::new(format!(
                        "the root, {}, was changed since the machine was saved",
                        path.display()
                    ))),
                }
            }
        }
    }
}

fn unread(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(format!("cannot open the root, {}", path.display())).because(error)
}

/// Where husk keeps the images it made.
fn made(cache: &Path) -> PathBuf {
    cache.join("images")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::run::request::tests::check;

    fn blueprint(words: &[&str]) -> Blueprint {
        Blueprint {
            request: check(words).expect("a request"),
            record: Record::default(),
            root: RootId::Made {
                name: "image".to_owned(),
                length: 1,
            },
            parent: None,
        }
    }

    #[test]
    fn what_a_machine_gets_of_the_host_is_told_and_nothing_else() {
        let plain = ["-p", "8080:80", "-v", "data:/data", "--tmpfs", "/t", "web"];
        assert_eq!(blueprint(&plain).wants(true), [""; 0]);
        assert_eq!(
            blueprint(&["--network", "none", "web"]).wants(true),
            [""; 0]
        );
        let cases: [(&[&str], &str); 9] = [
            (&["-v", "/etc:/x"], "the directory /etc, to write to"),
            (&["-v", "/etc:/x:ro"], "the directory /etc, to read"),
            (&["-v", "data:/x:ro"], "the volume 'data', to read"),
            (&["--network", "open"], "all of the host's network"),
            (&["--network", "tap:t0"], "the interface 't0'"),
            (&["--network", "bridge:b0"], "the bridge 'b0'"),
            (&["--network", "net:blue"], "the private network 'blue'"),
            (
                &["--allow", "127.0.0.1:5432"],
                "what 1 of its rules allow of the network",
            ),
            (&["-p", "0.0.0.0:8080:80"], "port 8080 for everybody"),
        ];
        for (options, want) in cases {
            let words = [options, &["web"]].concat();
            assert_eq!(blueprint(&words).wants(true), [want], "{words:?}");
        }
        let open = blueprint(&["-p", "0.0.0.0:8080:80", "web"]);
        assert_eq!(open.wants(false), [""; 0], "others take its place");
        let file = Blueprint {
            root: RootId::File {
                path: "/home/me/root.img".into(),
                length: 1,
                changed: (0, 0),
            },
            ..blueprint(&["web"])
        };
        assert_eq!(
            file.wants(true),
            ["the file /home/me/root.img, as its root"]
        );
    }
}
