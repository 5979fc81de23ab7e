// SPDX-License-Identifier: Apache-2.0
//! Images of several layers: what the image specification says they are together, and
//! what hostile ones come to.

use super::archives::Tar;
use super::{Entries, Place, bytes, entries};
use crate::image::digest::Digest;
use crate::image::testing::fsck;
use crate::image::{BlobFault, ImageError, Malformed, Refused, RootFs, Unfit, open};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Write as _;

/// A layout on the disk, made by hand.
pub struct Made {
    pub place: Place,
    layers: Vec<(Value, Digest)>,
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

    fn entries(&self) -> Entries {
        let image = self.open().unwrap();
        fsck(&image.path);
        entries(&image)
    }

    fn names(&self) -> Vec<String> {
        let names = self.entries().into_keys().filter(|name| !name.is_empty());
        names.map(|name| String::from_utf8(name).unwrap()).collect()
    }

    fn malformed(&self) -> Malformed {
        match self.open() {
            Err(ImageError::Archive { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    fn unfit(&self) -> Unfit {
        match self.open() {
            Err(ImageError::Unfit { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    fn fault(&self) -> BlobFault {
        match self.open() {
            Err(ImageError::Blob { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }
}

fn base() -> Tar {
    Tar::default()
        .directory("d/")
        .file("d/a", b"a")
        .file("d/b", b"b")
        .directory("d/sub/")
        .file("d/sub/c", b"c")
        .file("f", b"f")
        .link(b'2', "link", "d")
}

#[test]
fn a_whiteout_hides_what_is_below_and_not_what_its_layer_brings() {
    // Before and behind: the order within a layer says nothing.
    let upper = Tar::default()
        .file("d/.wh.a", b"")
        .file("d/a/new", b"1")
        .file("d/b", b"2")
        .file("d/.wh.b", b"")
        .file(".wh.f", b"")
        .file("nowhere/.wh.x", b"");
    let made = Made::of([base(), upper]);
    assert_eq!(
        made.names(),
        ["d", "d/a", "d/a/new", "d/b", "d/sub", "d/sub/c", "link"]
    );
    assert_eq!(bytes(&made.entries(), "d/b"), b"2");
}

#[test]
fn an_opaque_directory_shows_its_own_layer_alone() {
    let upper = Tar::default()
        .file("d/new", b"")
        .file("d/.wh..wh..opq", b"")
        .file("d/.wh..wh.plnk/1.2", b"");
    let made = Made::of([base(), upper.clone(), Tar::default().file("d/.wh.new", b"")]);
    assert_eq!(made.names(), ["d", "f", "link"]);
    let made = Made::of([base(), upper]);
    assert_eq!(made.names(), ["d", "d/new", "f", "link"]);
}

#[test]
fn whiteouts_go_through_links_as_files_do_and_no_further() {
    let upper = Tar::default().file("link/.wh.a", b"").file("f/.wh.x", b"");
    let names = Made::of([base(), upper]).names();
    assert!(!names.contains(&"d/a".into()) && names.contains(&"f".into()));
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..", "../.wh.x"] {
        let made = Made::of([base(), Tar::default().file(name, b"")]);
        assert_eq!(made.malformed(), Malformed::Path, "{name}");
    }
}

#[test]
fn types_change_and_what_was_below_goes() {
    let upper = Tar::default()
        .file("d", b"now a file")
        .directory("f/")
        .file("f/x", b"");
    assert_eq!(Made::of([base(), upper]).names(), ["d", "f", "f/x", "link"]);
}

#[test]
fn hard_links_reach_into_the_layers_below_and_nowhere_else() {
    let upper = Tar::default().link(b'1', "again", "d/a");
    let found = Made::of([base(), upper]).entries();
    assert_eq!(found[&b"again"[..]].nid, found[&b"d/a"[..]].nid);
    assert_eq!(found[&b"again"[..]].links, 2);
    let upper = Tar::default()
        .file("d/.wh.a", b"")
        .link(b'1', "again", "d/a");
    assert_eq!(Made::of([base(), upper]).malformed(), Malformed::HardLink);
}

#[test]
fn packed_layers_are_those_unpacked() {
    let plain = base().whole();
    let gzip = |bytes: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    let twice = [gzip(&plain[..512]), gzip(&plain[512..])].concat();
    // A raw block of a frame without checksum, behind one to be skipped (RFC 8878).
    let zstd = |bytes: &[u8]| {
        let mut frame = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        frame.extend([0x28, 0xb5, 0x2f, 0xfd, 0xa0]);
        frame.extend((bytes.len() as u32).to_le_bytes());
        frame.extend(&((bytes.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        frame.extend(bytes);
        frame
    };
    let frames = [zstd(&plain[..1024]), zstd(&plain[1024..])].concat();
    let wanted = Made::of([base()]).entries();
    for stored in [&plain, &gzip(&plain), &twice, &frames] {
        let made = Made::new().blob(stored, &plain);
        assert_eq!(made.entries(), wanted);
    }
    for cut in [
        &gzip(&plain)[..60],
        &frames[..frames.len() - 1],
        &frames[..9],
    ] {
        assert_eq!(
            Made::new().blob(cut, &plain).malformed(),
            Malformed::Compressed
        );
    }
}

#[test]
fn the_same_layers_are_one_file_whatever_the_image_is_called() {
    let made = Made::of([base()]);
    let first = made.open().unwrap();
    made.index(|config, _| config["config"]["Cmd"] = json!(["other"]));
    let second = made.open().unwrap();
    assert_eq!((first.cached, second.cached), (false, true));
    assert_eq!(
        (first.path, second.config.cmd),
        (second.path, vec!["other".to_owned()])
    );
}

#[test]
fn bytes_without_their_digest_are_never_used() {
    let change = |made: &Made, digest: &Value, bytes: &[u8]| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        made.place.write(&format!("blobs/sha256/{hex}"), bytes);
    };
    let made = Made::of([base()]);
    made.index(|_, _| {});
    let digest = made.layers[0].0["digest"].clone();
    let mut other = base().whole();
    other[600] ^= 1;
    change(&made, &digest, &other);
    assert_eq!(made.fault(), BlobFault::Digest);
    change(&made, &digest, b"short");
    assert!(matches!(made.fault(), BlobFault::Size(5, _)));

    let made = Made::new().blob(&base().whole(), b"something else");
    assert!(matches!(made.fault(), BlobFault::DiffId(_)));
    let made = Made::of([base()]);
    made.index(|_, manifest| manifest["layers"][0]["digest"] = json!(Digest::of(b"gone")));
    assert_eq!(made.fault(), BlobFault::Absent);
    assert!(
        made.place
            .cached("")
            .iter()
            .all(|name| !name.ends_with("erofs"))
    );
}

#[test]
fn documents_that_lie_are_refused() {
    let with = |change: fn(&mut Value, &mut Value)| {
        let made = Made::of([base()]);
        made.index(change);
        made.unfit()
    };
    let set = with(|config, _| config["architecture"] = "riscv64".into());
    assert!(matches!(set, Unfit::Platform(_)), "{set}");
    assert_eq!(
        with(|_, manifest| manifest["layers"] = json!([])),
        Unfit::Layers(0, 1)
    );
    let set = with(|_, manifest| manifest["layers"][0]["digest"] = "sha256:../../x".into());
    assert!(
        matches!(set, Unfit::Digest(_) | Unfit::Document(..)),
        "{set}"
    );
    let set = with(|_, manifest| manifest["layers"][0]["size"] = u64::MAX.into());
    assert!(
        matches!(set, Unfit::LargeLayer(_) | Unfit::Document(..)),
        "{set}"
    );
    let set = with(|_, manifest| manifest["manifests"] = json!([]));
    assert!(matches!(set, Unfit::Kind(_)), "{set}");
    let set = with(|_, manifest| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = vec![layer; 513].into();
    });
    assert_eq!(set, Unfit::ManyLayers);
    let set = with(|config, _| config["config"]["Cmd"] = json!(["\0"]));
    assert!(matches!(set, Unfit::Config(_)), "{set}");
    let set = with(|_, manifest| {
        manifest["layers"][0]["mediaType"] =
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".into();
    });
    assert!(matches!(set, Unfit::Kind(_)), "{set}");

    let made = Made::of([base()]);
    made.place.write("index.json", vec![b' '; (4 << 20) + 1]);
    assert_eq!(made.unfit(), Unfit::Long("index"));
    made.place.write("index.json", "[".repeat(100_000));
    assert!(matches!(made.unfit(), Unfit::Document(..)));
}

#[test]
fn an_index_that_leads_to_itself_ends() {
    let made = Made::of([base()]);
    made.index(|_, _| {});
    let mut part: Value = {
        let index = std::fs::read(made.place.source.path().join("index.json")).unwrap();
        serde_json::from_slice::<Value>(&index).unwrap()["manifests"][0].clone()
    };
    // No index can hold its own digest; a row of them is as long as its maker wishes.
    for _ in 0..5 {
        let index = json!({ "schemaVersion": 2, "manifests": [part] });
        part = made.put(index.to_string().as_bytes());
        part["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
    }
    let index = json!({ "schemaVersion": 2, "manifests": [part] });
    made.place.write("index.json", index.to_string());
    assert!(matches!(made.unfit(), Unfit::Kind(_)));
}

/// Everything a layer may say to get out of its image, and nothing outside is touched.
#[test]
fn no_layer_reaches_the_host() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside
        .path()
        .to_str()
        .unwrap()
        .trim_start_matches('/')
        .to_owned();
    std::fs::write(outside.path().join("kept"), "as it was").unwrap();
    let absolute = format!("/{path}/kept");
    let links = Tar::default().link(b'2', "out", &format!("/{path}")).link(
        b'2',
        "up",
        "../../../../../../../../..",
    );
    let upper = Tar::default()
        .file("out/kept", b"changed")
        .file("out/.wh.kept", b"")
        .file("up/etc/new", b"")
        .file(&absolute, b"changed")
        .raw(b'3', b"out/device", 0, |_| {});
    let names = Made::of([links, upper]).names();
    assert!(names.contains(&format!("{path}/kept")), "{names:?}");
    assert!(names.contains(&"etc/new".to_owned()), "{names:?}");
    let found = std::fs::read_dir(outside.path()).unwrap().count();
    let kept = std::fs::read_to_string(outside.path().join("kept")).unwrap();
    assert_eq!((found, kept.as_str()), (1, "as it was"));
    let dots = Made::of([Tar::default().file("a/../../../kept", b"")]);
    assert_eq!(dots.malformed(), Malformed::Path);
}

#[test]
fn a_million_entries_over_all_layers_are_the_most() {
    let mut tar = Tar::default().file("x", b"");
    let header = tar.0.clone();
    // One layer twice: the blob is one, and its entries count each time.
    tar.0 = header.repeat((1 << 19) + 1);
    let whole = tar.whole();
    let made = Made::new().blob(&whole, &whole).blob(&whole, &whole);
    match made.open() {
        Err(ImageError::ArchiveEntry { source, .. }) => assert_eq!(source, Refused::Entries),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a layer says of those below, the answer is an image or an error, and the
    /// image is one a kernel can read.
    #[test]
    fn no_layer_does_more_than_fail(
        names in proptest::collection::vec("(d|f|link|\\.|\\.\\.|sub)?/?(\\.wh\\.)?(a|b|sub|\\.wh\\.\\.opq|link|d)?/?", 1..12),
        kinds in proptest::collection::vec(0usize..5, 12),
    ) {
        let layer = |names: &[String]| {
            names.iter().zip(&kinds).fold(Tar::default(), |tar, (name, kind)| match kind {
                0 => tar.file(name, b"new"),
                1 => tar.directory(name),
                2 => tar.link(b'2', name, "../link/d"),
                3 => tar.link(b'1', name, "d/a"),
                _ => tar.raw(b'4', name.as_bytes(), 0, |_| {}),
            })
        };
        let (lower, upper) = names.split_at(names.len() / 2);
        let made = Made::of([base(), layer(lower), layer(upper)]);
        if let Ok(image) = made.open() {
            entries(&image);
        }
    }
}
