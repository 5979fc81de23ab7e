// SPDX-License-Identifier: Apache-2.0
//! A real registry: what comes, what need not come again, and who may have it.

use super::server::{Kind, Registry};
use super::{Cache, Sample};
use crate::support::finish;
use serde_json::json;

#[test]
fn what_is_here_does_not_come_again() {
    let Some((registry, name)) = Registry::serving(Kind::default(), "app:1", &[]) else {
        return;
    };
    let cache = Cache::new();
    let digest = cache.good(&["pull", &name]);
    assert_eq!(cache.blobs().len(), 4);
    assert_eq!(cache.good(&["pull", &name]), digest);
    let listed = cache.json(&["images", "--format", "json"]);
    assert_eq!(listed[0]["name"], name.as_str());
    assert_eq!(listed[0]["digest"], digest.trim());
    assert_eq!(cache.good(&["images", "-q"]), format!("{name}\n"));
    // Pinned, it is the same; and a digest that is another's is refused.
    let pinned = format!("{}/app@{}", registry.host, digest.trim());
    assert_eq!(cache.good(&["pull", &pinned]), digest);
    let other = pinned.replace(&digest.trim()[7..], &"0".repeat(64));
    cache.bad(&["pull", &other], 1, "no such image");
    cache.bad(
        &["pull", &format!("{}/app:2", registry.host)],
        1,
        "no such image",
    );

    // Without the registry: what is here runs on.
    let host = registry.host.clone();
    drop(registry);
    assert_eq!(cache.good(&["pull", "--pull", "missing", &name]), digest);
    assert_eq!(cache.good(&["pull", "--pull", "never", &name]), digest);
    cache.bad(&["pull", &name], 1, &format!("cannot pull {host}/app:1"));

    assert_eq!(cache.good(&["rmi", &name]), format!("{name}\n"));
    assert_eq!(cache.blobs().len(), 4, "the pinned name keeps them");
    cache.good(&["rmi", &digest[7..19]]);
    assert!(cache.blobs().is_empty());
}

#[test]
fn one_of_many_platforms_is_chosen() {
    let Some((registry, name)) = Registry::serving(Kind::default(), "app:amd64", &[]) else {
        return;
    };
    let cache = Cache::new();
    let digest = cache.good(&["pull", &name]);
    let blob = |digest: &str| {
        cache
            .path()
            .join("store/blobs/sha256")
            .join(&digest.trim()[7..])
    };
    let size = std::fs::metadata(blob(&digest)).expect("a manifest").len();
    let kind = "application/vnd.oci.image.index.v1+json";
    let entry = |arch: &str| {
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest.trim(), "size": size,
            "platform": { "os": "linux", "architecture": arch } })
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        _ => "arm64",
    };
    let index = |list: &[&str]| {
        let manifests: Vec<_> = list.iter().map(|arch| entry(arch)).collect();
        json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests }).to_string()
    };
    registry.put("/v2/app/manifests/many", kind, &index(&["s390x", arch]));
    registry.put("/v2/app/manifests/none", kind, &index(&["s390x"]));
    assert_eq!(
        cache.good(&["pull", &format!("{}/app:many", registry.host)]),
        digest
    );
    let none = format!("{}/app:none", registry.host);
    cache.bad(
        &["pull", &none],
        1,
        &format!("no image for linux/{arch}, only for linux/s390x"),
    );
}

const LOGIN: Kind = Kind {
    login: true,
    tls: false,
};

#[test]
fn logins_are_those_of_other_tools() {
    let Some((registry, name)) =
        Registry::serving(LOGIN, "app:1", &["--dest-creds", "user:secret"])
    else {
        return;
    };
    let cache = Cache::new();
    cache.bad(
        &["pull", &name],
        1,
        &format!("hint: log in first: skopeo login {}", registry.host),
    );
    let login = |auth: &str| {
        let file = json!({ "auths": { registry.host.clone(): { "auth": auth } } });
        std::fs::write(cache.path().join("none.json"), file.to_string()).expect("a file");
    };
    // user:wrong, user:secret
    login("dXNlcjp3cm9uZw==");
    cache.bad(&["pull", &name], 1, "was refused");
    login("dXNlcjpzZWNyZXQ=");
    cache.good(&["pull", &name]);
    std::fs::write(cache.path().join("none.json"), "{").expect("a file");
    cache.bad(&["pull", &name], 1, "cannot be read");
}

/// A program in PATH that keeps the login of one registry.
fn helper(folder: &std::path::Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
}

#[test]
fn a_login_is_had_of_the_program_that_keeps_it() {
    let Some((registry, name)) =
        Registry::serving(LOGIN, "app:1", &["--dest-creds", "user:secret"])
    else {
        return;
    };
    let cache = Cache::new();
    let folder = cache.path().join("helpers");
    std::fs::create_dir(&folder).expect("a folder");
    helper(
        &folder,
        "good",
        r#"read -r host; test "$1 $host" = "get $WANTED" || exit 1
        echo '{"ServerURL":"","Username":"user","Secret":"secret"}'"#,
    );
    helper(&folder, "locked", "echo the keychain is locked; exit 1");
    helper(
        &folder,
        "none",
        "echo credentials not found in native keychain; exit 1",
    );
    let pull = |file: serde_json::Value| {
        std::fs::write(cache.path().join("none.json"), file.to_string()).expect("a file");
        let mut husk = cache.command(&["pull", "--quiet", &name]);
        let path = std::env::var("PATH").expect("a PATH");
        husk.env("PATH", format!("{}:{path}", folder.display()));
        finish(husk.env("WANTED", &registry.host))
    };
    let host = || registry.host.clone();
    for good in [
        json!({ "credHelpers": { host(): "good" } }),
        json!({ "credsStore": "good", "auths": { host(): {} } }),
        json!({ "credsStore": "good" }),
        // The one that is named for it comes first.
        json!({ "credHelpers": { host(): "good" }, "credsStore": "locked" }),
    ] {
        let outcome = pull(good.clone());
        assert_eq!(outcome.code, 0, "{good}: {outcome:?}");
    }
    for (helper, says) in [
        ("locked", "it says: the keychain is locked"),
        ("gone", "hint: config.json names docker-credential-gone"),
        ("../good", "a helper's name has letters"),
        ("none", "hint: log in first"),
    ] {
        let outcome = pull(json!({ "credHelpers": { host(): helper } }));
        assert_eq!(outcome.code, 1, "{helper}: {outcome:?}");
        assert!(outcome.stderr.contains(says), "{helper}: {outcome:?}");
    }
}

#[test]
fn a_certificate_nobody_vouches_for_is_refused() {
    let Some(sample) = Sample::shared() else {
        return;
    };
    let tls = Kind { tls: true, ..LOGIN };
    let Some(registry) = Registry::start(tls) else {
        return;
    };
    let Some(name) = registry.push(sample, "app:1", &["--dest-creds", "user:secret"]) else {
        return;
    };
    let cache = Cache::new();
    let file = json!({ "auths": { registry.host.clone(): { "auth": "dXNlcjpzZWNyZXQ=" } } });
    std::fs::write(cache.path().join("none.json"), file.to_string()).expect("a file");
    cache.bad(&["pull", &name], 1, "cannot be reached");
    // The system's roots, as every program that asks OpenSSL's variable sees them.
    let mut pull = cache.command(&["pull", &name]);
    let outcome = finish(pull.env("SSL_CERT_FILE", registry.certificate()));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(cache.blobs().len(), 4);
}

#[test]
fn a_blob_the_disk_did_not_keep_comes_again() {
    let Some((_registry, name)) = Registry::serving(Kind::default(), "app:1", &[]) else {
        return;
    };
    let cache = Cache::new();
    cache.good(&["pull", &name]);
    for blob in cache.blobs() {
        let mut bytes = std::fs::read(&blob).expect("a blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&blob, bytes).expect("a blob");
    }
    // Kernels are looked for in the cache; any will do to see the image made.
    let run = ["run", "--kernel", "/etc/passwd", &name, "true"];
    let outcome = cache.husk(&run);
    assert!(outcome.stderr.contains("/etc/passwd"), "{outcome:?}");
    assert_eq!(cache.good(&["images", "-q"]), format!("{name}\n"));
    let sizes = cache.json(&["images", "--format", "json"]);
    assert!(sizes[0]["size"].is_u64(), "{sizes}");
}
