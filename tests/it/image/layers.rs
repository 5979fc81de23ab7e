// SPDX-License-Identifier: Apache-2.0
//! Images of many layers, made here: more than any tool makes by itself.

use super::Cache;
use crate::support::husk::{Host, Husk};
use crate::support::root;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::Path;

fn put(layout: &Path, bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex = digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    std::fs::write(layout.join("blobs/sha256").join(&hex), bytes).expect("a blob");
    format!("sha256:{hex}")
}

fn entry(archive: &mut tar::Builder<Vec<u8>>, name: &str, text: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive
        .append_data(&mut header, name, text.as_bytes())
        .expect("an entry");
}

/// A layout whose first layer is the shared root, and each further one adds a file of its
/// own, replaces one, and hides that of the layer below.
fn write(layout: &Path, layers: usize) {
    std::fs::create_dir_all(layout.join("blobs/sha256")).expect("folders");
    let mut digests = Vec::new();
    for number in 0..layers {
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        if number == 0 {
            archive
                .append_dir_all(".", root::shared().path())
                .expect("the root");
        } else {
            entry(&mut archive, &format!("many/own-{number}"), "here\n");
            entry(&mut archive, "many/last", &format!("{number}\n"));
            entry(&mut archive, &format!("many/brief-{number}"), "gone\n");
            entry(&mut archive, &format!("many/.wh.brief-{}", number - 1), "");
        }
        let bytes = archive.into_inner().expect("an archive");
        digests.push((put(layout, &bytes), bytes.len()));
    }
    let ids: Vec<_> = digests.iter().map(|(digest, _)| digest).collect();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        _ => "arm64",
    };
    let config = json!({ "os": "linux", "architecture": arch, "config": {},
        "rootfs": { "type": "layers", "diff_ids": ids } })
    .to_string();
    let part = |kind: &str, digest: &str, size: usize| {
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest, "size": size })
    };
    let list = digests
        .iter()
        .map(|(digest, size)| part("layer.v1.tar", digest, *size));
    let manifest = json!({ "schemaVersion": 2, "layers": list.collect::<Vec<_>>(),
        "config": part("config.v1+json", &put(layout, config.as_bytes()), config.len()) })
    .to_string();
    let manifest = part(
        "manifest.v1+json",
        &put(layout, manifest.as_bytes()),
        manifest.len(),
    );
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(layout.join("index.json"), index.to_string()).expect("a file");
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("a file");
}

#[test]
fn fifty_layers_are_one_root() {
    let Some(host) = Host::find() else { return };
    let folder = Cache::new();
    write(folder.path(), 50);
    let image = format!("oci:{}", folder.path().display());
    let script = "cat /many/last; ls /many | wc -l; ls /many | grep brief";
    let husk = Husk::run(&host.root, image.into(), &["sh", "-c", script]);
    husk.end().is(0, "49\n51\nbrief-49\n", "");
}
