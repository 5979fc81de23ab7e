// SPDX-License-Identifier: Apache-2.0
//! Images made to do harm: each ends in an error that says what is wrong, having cost little,
//! or in an image that holds what it says and has touched nothing else.

use super::made::{Made, base};
use super::tar::Tar;
use crate::image::digest::Digest;
use crate::image::{BlobFault, ImageError, Malformed, Refused, Unfit};
use serde_json::{Value, json};

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
