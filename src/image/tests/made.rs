// SPDX-License-Identifier: Apache-2.0
//! Images of several layers put together by hand.

use super::tar::Tar;
use super::{Entries, Place, entries};
use crate::image::digest::Digest;
use crate::image::testing::fsck;
use crate::image::{BlobFault, ImageError, Malformed, RootFs, Unfit, open};
use serde_json::{Value, json};

/// A layout on the disk, made by hand.
pub struct Made {
    pub place: Place,
    pub layers: Vec<(Value, Digest)>,
}

impl Made {
    pub fn new() -> Self {
        let place = Place::new();
        std::fs::create_dir_all(place.source.path().join("blobs/sha256")).unwrap();
        place.write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        let layers = Vec::new();
        Self { place, layers }
    }

    pub fn of(layers: impl IntoIterator<Item = Tar>) -> Self {
        let add = |made: Self, tar: Tar| {
            let whole = tar.whole();
            made.blob(&whole, &whole)
        };
        layers.into_iter().fold(Self::new(), add)
    }

    pub fn put(&self, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.place
            .write(&format!("blobs/sha256/{}", digest.hex()), bytes);
        json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest, "size": bytes.len() })
    }

    /// A layer as it is stored, and what is in it.
    pub fn blob(mut self, stored: &[u8], plain: &[u8]) -> Self {
        let descriptor = self.put(stored);
        self.layers.push((descriptor, Digest::of(plain)));
        self
    }

    pub fn index(&self, change: impl FnOnce(&mut Value, &mut Value)) {
        let diff_ids: Vec<_> = self.layers.iter().map(|(_, id)| id).collect();
        let layers: Vec<_> = self.layers.iter().map(|(layer, _)| layer).collect();
        let mut config = json!({ "os": "linux", "architecture": "amd64",
            "config": { "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let mut manifest = json!({ "schemaVersion": 2, "layers": layers });
        change(&mut config, &mut manifest);
        let mut config = self.put(config.to_string().as_bytes());
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        if manifest.get("config").is_none() {
            manifest["config"] = config;
        }
        let mut manifest = self.put(manifest.to_string().as_bytes());
        manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        self.place.write("index.json", index.to_string());
    }

    pub fn reference(&self) -> String {
        format!("oci:{}", self.place.source.path().display())
    }

    pub fn open(&self) -> Result<RootFs, ImageError> {
        if !self.place.source.path().join("index.json").exists() {
            self.index(|_, _| {});
        }
        open(&self.reference(), self.place.cache.path(), &mut |_| {})
    }

    pub fn entries(&self) -> Entries {
        let image = self.open().unwrap();
        fsck(&image.path);
        entries(&image)
    }

    pub fn names(&self) -> Vec<String> {
        let names = self.entries().into_keys().filter(|name| !name.is_empty());
        names.map(|name| String::from_utf8(name).unwrap()).collect()
    }

    pub fn malformed(&self) -> Malformed {
        match self.open() {
            Err(ImageError::Archive { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    pub fn unfit(&self) -> Unfit {
        match self.open() {
            Err(ImageError::Unfit { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    pub fn fault(&self) -> BlobFault {
        match self.open() {
            Err(ImageError::Blob { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }
}

/// A layer with a bit of everything.
pub fn base() -> Tar {
    Tar::default()
        .directory("d/")
        .file("d/a", b"a")
        .file("d/b", b"b")
        .directory("d/sub/")
        .file("d/sub/c", b"c")
        .file("f", b"f")
        .link(b'2', "link", "d")
}
