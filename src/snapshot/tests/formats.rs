// SPDX-License-Identifier: Apache-2.0
//! Manifests of other formats, of other lengths, and of machines that cannot be.

use super::made::Kept;
use super::*;
use serde_json::{Value, json};

/// The snapshot with another manifest, and its digest.
fn put(kept: &Kept, name: &str, manifest: &Value) {
    put_bytes(kept, name, &serde_json::to_vec(manifest).unwrap());
}

fn put_bytes(kept: &Kept, name: &str, bytes: &[u8]) {
    fs::write(kept.path(name, "manifest.json"), bytes).unwrap();
    let digest = crate::image::Digest::of(bytes);
    fs::write(kept.path(name, "digest"), format!("{digest}\n")).unwrap();
}

fn manifest(kept: &Kept, name: &str) -> Value {
    serde_json::from_slice(&fs::read(kept.path(name, "manifest.json")).unwrap()).unwrap()
}

#[test]
fn another_format_is_refused_by_its_number() {
    let kept = Kept::new();
    kept.whole("a", 1);
    let mut newer = manifest(&kept, "a");
    newer["format"] = json!(2);
    newer["sparkles"] = json!(true);
    put(&kept, "a", &newer);
    let told = kept.store.get("a").unwrap_err();
    assert_eq!(
        told.to_string(),
        "snapshot 'a' was made by a newer husk: format 2, this one reads 1"
    );
    assert!(told.hint().unwrap().contains("update husk"));
    // Such a one may have no digest where ours have theirs.
    fs::remove_file(kept.path("a", "digest")).unwrap();
    assert!(refused(&kept, "a").contains("by a newer husk: format 2"));
    newer["format"] = json!(0);
    put(&kept, "a", &newer);
    assert_eq!(
        refused(&kept, "a"),
        "snapshot 'a' was made by an older husk: format 0, this one reads 1"
    );
    for nonsense in [
        json!(null),
        json!("1"),
        json!(1.5),
        json!(-1),
        json!(1u64 << 40),
    ] {
        newer["format"] = nonsense;
        put(&kept, "a", &newer);
        assert!(refused(&kept, "a").contains("does not make sense"));
    }
}

#[test]
fn a_parent_of_another_format_keeps_its_children() {
    let kept = Kept::new();
    let base = kept.whole("base", 1);
    kept.since("a", &base, &[]);
    let mut newer = manifest(&kept, "a");
    newer["format"] = json!(2);
    newer["sparkles"] = json!(true);
    put(&kept, "a", &newer);
    let told = kept.store.remove("base").unwrap_err().to_string();
    assert!(told.contains("a builds on it"), "{told}");
}

#[test]
fn an_unknown_field_is_refused_wherever_it_is() {
    let kept = Kept::new();
    kept.whole("a", 1);
    let good = manifest(&kept, "a");
    for place in [
        "",
        "/about",
        "/machine",
        "/needs",
        "/needs/cpuid/0",
        "/files/0",
    ] {
        let mut bad = good.clone();
        bad.pointer_mut(place).unwrap()["sparkles"] = json!(1);
        put(&kept, "a", &bad);
        let told = refused(&kept, "a");
        assert!(told.contains("unknown field `sparkles`"), "{place}: {told}");
    }
    // The blueprint is for who wrote it.
    let mut other = good;
    other["blueprint"]["sparkles"] = json!(1);
    put(&kept, "a", &other);
    kept.store.get("a").unwrap();
}

#[test]
fn no_machine_is_beyond_what_there_can_be() {
    let kept = Kept::new();
    kept.whole("a", 1);
    let good = manifest(&kept, "a");
    let text = "x".repeat(5000);
    let many = |value: &Value, count: usize| json!(vec![value.clone(); count]);
    let file =
        |name: &str| json!({"name": name, "length": 1, "digest": good["files"][0]["digest"]});
    let with = |more: &[Value]| {
        let files = good["files"].as_array().unwrap().iter().cloned();
        json!(files.chain(more.iter().cloned()).collect::<Vec<_>>())
    };
    let disks: Vec<Value> = (1..40)
        .map(|number| file(&format!("disk-{number}")))
        .collect();
    for (place, value) in [
        ("/husk", json!(text)),
        ("/about/image", json!(text)),
        ("/needs/model", json!(text)),
        ("/machine/cpus", json!(0)),
        ("/machine/cpus", json!(255)),
        ("/machine/memory", json!(0)),
        ("/machine/memory", json!(4097)),
        ("/machine/memory", json!(u64::MAX - 4095)),
        ("/machine/devices", many(&json!(1), 65)),
        ("/machine/variant", json!("ring1")),
        ("/needs/cpuid", many(&good["needs"]["cpuid"][0], 257)),
        ("/needs/registers", many(&json!(1), 5000)),
        (
            "/parent",
            json!({"name": "../x", "digest": good["files"][0]["digest"]}),
        ),
        ("/parent", json!({"name": "x", "digest": "sha256:0"})),
        ("/files", json!([])),
        ("/files", with(&[file("../../x")])),
        ("/files", with(&[file("state")])),
        ("/files", with(&[file("disk-2")])),
        ("/files", with(&disks)),
        ("/files/0/name", json!("memory")),
        ("/files/0/length", json!(1u64 << 40)),
        ("/files/1/length", json!(4096)),
        ("/files/2/length", json!(1u64 << 60)),
        ("/files/0/digest", json!("md5:0")),
        ("/blueprint", json!("y".repeat(5 << 20))),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        put(&kept, "a", &bad);
        let told = refused(&kept, "a");
        let reason = told.contains("does not make sense") || told.contains("longer than 4 MiB");
        assert!(reason, "{place}: {told}");
        assert!(told.len() < 400, "{} letters", told.len());
    }
    for nonsense in [&b""[..], b"null", b"[]", b"{}", b"\xff", b"{\"format\":1}"] {
        put_bytes(&kept, "a", nonsense);
        assert!(refused(&kept, "a").contains("does not make sense"));
    }
    let deep = [
        b"{\"format\":1,\"blueprint\":".to_vec(),
        vec![b'['; 100_000],
    ]
    .concat();
    put_bytes(&kept, "a", &deep);
    assert!(refused(&kept, "a").contains("does not make sense"));
}

#[test]
fn state_and_manifest_are_of_one_machine() {
    let kept = Kept::new();
    kept.whole("a", 1);
    let good = manifest(&kept, "a");
    for (place, value) in [
        ("/machine/cpus", json!(1)),
        ("/machine/variant", json!("ring3")),
        ("/machine/devices", json!([19, 5])),
        ("/needs/xsave", json!(4095)),
        ("/needs/vendor", json!("AuthenticAMD")),
        ("/needs/cpuid/1/ecx", json!(0)),
        ("/needs/registers", json!([16])),
        ("/needs/bound", json!({"processor": "x", "boot": "y"})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        put(&kept, "a", &bad);
        let told = refused(&kept, "a");
        assert!(told.contains("of different machines"), "{place}: {told}");
    }
}
