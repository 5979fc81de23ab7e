// SPDX-License-Identifier: Apache-2.0
//! Registries that lie, break off, and lead elsewhere. A real one is in `tests/it`.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use super::serving::{Asked, Server, ok, status};
use super::*;
use crate::image::manifest::{OCI_INDEX, OCI_MANIFEST};
use crate::image::pull;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// An image of one layer: what its documents are, and the layer.
struct Sample {
    config: Vec<u8>,
    layer: Vec<u8>,
    manifest: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        let layer: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let config = json!({ "os": "linux", "architecture": manifest::arch(), "config": {},
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] } });
        let config = config.to_string().into_bytes();
        let part = |kind: &str, bytes: &[u8]| {
            json!({ "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": Digest::of(bytes), "size": bytes.len() })
        };
        let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": part("config.v1+json", &config), "layers": [part("layer.v1.tar", &layer)] });
        Self {
            config,
            layer,
            manifest: manifest.to_string().into_bytes(),
        }
    }

    fn answer(&self, asked: &Asked) -> Vec<u8> {
        let of = |bytes: &[u8]| Digest::of(bytes).to_string();
        match asked.path.rsplit_once('/').unwrap() {
            (before, _) if before.ends_with("manifests") => ok(&self.manifest),
            (_, digest) if digest == of(&self.config) => ok(&self.config),
            (_, digest) if digest == of(&self.layer) => ok(&self.layer),
            _ => status("404 Not Found", &[], b""),
        }
    }

    fn is_layer(&self, asked: &Asked) -> bool {
        asked.path.ends_with(&Digest::of(&self.layer).to_string())
    }
}

#[test]
fn a_connection_that_breaks_goes_on_where_it_broke() {
    let sample = Sample::new();
    let whole = sample.layer.len();
    let server = Server::start(Box::new(move |asked, _| {
        if !sample.is_layer(asked) {
            return sample.answer(asked);
        }
        let from = asked.header("range").map_or(0, |range| {
            let range = range
                .strip_prefix("bytes=")
                .unwrap()
                .strip_suffix('-')
                .unwrap();
            range.parse().unwrap()
        });
        let rest = &sample.layer[from..];
        let range = format!("Content-Range: bytes {from}-{}/{whole}", whole - 1);
        let mut answer = status("206 Partial Content", &[&range], rest);
        // A third of the whole at a time.
        answer.truncate(answer.len().min(150_000));
        answer
    }));
    let cache = TempDir::new().unwrap();
    server.pull_into("app", cache.path()).unwrap();
    let layers = server
        .asked()
        .iter()
        .filter(|asked| asked.header("range").is_some())
        .count();
    assert_eq!(layers, 2);
    // And what is here does not come again.
    let before = server.asked().len();
    server.pull_into("app", cache.path()).unwrap();
    assert_eq!(server.asked().len(), before);
}

#[test]
fn a_server_that_knows_no_ranges_begins_again() {
    let sample = Sample::new();
    let broken = AtomicBool::new(false);
    let server = Server::start(Box::new(move |asked, _| {
        let mut answer = sample.answer(asked);
        if sample.is_layer(asked) && !broken.swap(true, Ordering::Relaxed) {
            answer.truncate(1000);
        }
        answer
    }));
    server.pull("app").unwrap();
}

#[test]
fn a_busy_server_is_asked_again_and_one_that_never_answers_is_not_for_ever() {
    let sample = Sample::new();
    let busy = AtomicBool::new(false);
    let server = Server::start(Box::new(move |asked, _| {
        match busy.swap(true, Ordering::Relaxed) {
            false => status("503 Service Unavailable", &[], b"later"),
            true => sample.answer(asked),
        }
    }));
    server.pull("app").unwrap();
    let server = Server::start(Box::new(|_, _| status("500 Oh", &[], b"\x1b[2Jno")));
    match server.pull_error() {
        PullError::Status { status: 500, .. } => assert_eq!(server.asked().len(), 5),
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_bytes_are_never_an_image() {
    for wrong in ["config", "layer", "pinned", "long"] {
        let sample = Sample::new();
        let server = Server::start(Box::new(move |asked, _| {
            let mut answer = sample.answer(asked);
            let layer = sample.is_layer(asked);
            let manifest = asked.path.contains("/manifests/");
            match wrong {
                "config" if !layer && !manifest => *answer.last_mut().unwrap() ^= 1,
                "layer" if layer => *answer.last_mut().unwrap() ^= 1,
                "pinned" if manifest => answer = ok(b"{}"),
                "long" if layer => answer = ok(&[&sample.layer[..], b"more"].concat()),
                _ => {}
            }
            answer
        }));
        let pinned = format!("app@{}", Digest::of(b"another"));
        let what = if wrong == "pinned" { &pinned } else { "app" };
        match server.pull(what) {
            Err(ImageError::Blob { problem, .. }) => {
                let long = matches!(problem, BlobFault::Size(..));
                assert!(
                    problem == BlobFault::Digest || (wrong == "long" && long),
                    "{problem}"
                );
            }
            other => panic!("{wrong}: {other:?}"),
        }
    }
}

#[test]
fn the_image_of_this_platform_is_chosen() {
    let sample = Sample::new();
    let here = Digest::of(&sample.manifest);
    let index = move |arch: &str| {
        let entry = |arch: &str, digest| {
            json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": 1,
                "platform": { "os": "linux", "architecture": arch } })
        };
        let other = entry("s390x", Digest::of(b"other"));
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [other, entry(arch, here)] })
        .to_string()
        .into_bytes()
    };
    let server = Server::start(Box::new(move |asked, _| {
        match asked.path.rsplit_once('/').unwrap().1 {
            "many" => ok(&index(manifest::arch())),
            "none" => ok(&index("mips")),
            _ => sample.answer(asked),
        }
    }));
    assert_eq!(server.pull("app:many").unwrap(), here);
    match server.pull("app:none") {
        Err(error @ ImageError::Unfit { .. }) => {
            assert!(
                error.to_string().contains("linux/s390x, linux/mips"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_is_fetched_and_never_shown_elsewhere() {
    let sample = Sample::new();
    let elsewhere = Sample::new();
    let store = Server::start(Box::new(move |asked, _| elsewhere.answer(asked)));
    let blobs = format!("http://localhost:{}", store.port);
    let server = Server::start(Box::new(move |asked, own| {
        if asked.path.starts_with("/token") {
            assert!(
                asked.path.contains("scope=repository%3Aapp%3Apull"),
                "{}",
                asked.path
            );
            return ok(br#"{"token":"secret"}"#);
        }
        if asked.header("authorization") != Some("Bearer secret") {
            let ask = format!("WWW-Authenticate: Bearer realm=\"{own}/token\",service=\"s\"");
            return status("401 Unauthorized", &[&ask], b"");
        }
        match sample.is_layer(asked) {
            true => {
                let to = format!("Location: {blobs}{}", asked.path);
                status("307 Temporary Redirect", &[&to], b"")
            }
            false => sample.answer(asked),
        }
    }));
    server.pull("app").unwrap();
    let asked = store.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn only_the_registry_says_where_a_login_goes() {
    let thief = Server::start(Box::new(|asked, own| match asked.path.as_str() {
        "/token" => ok(br#"{"token":"stolen"}"#),
        _ => {
            let ask = format!("WWW-Authenticate: Bearer realm=\"{own}/token\"");
            status("401 Unauthorized", &[&ask], b"")
        }
    }));
    let blobs = format!("http://localhost:{}", thief.port);
    let sample = Sample::new();
    let server = Server::start(Box::new(move |asked, _| match sample.is_layer(asked) {
        true => {
            let to = format!("Location: {blobs}{}", asked.path);
            status("307 Temporary Redirect", &[&to], b"")
        }
        false => sample.answer(asked),
    }));
    let error = server.pull_error();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    let asked: Vec<String> = thief.asked().into_iter().map(|asked| asked.path).collect();
    assert!(
        asked.iter().all(|path| path.starts_with("/v2/")),
        "{asked:?}"
    );
}

#[test]
fn a_part_that_is_longer_than_the_whole_is_asked_for_again_from_the_start() {
    let sample = Sample::new();
    let broken = AtomicBool::new(false);
    let server = Server::start(Box::new(move |asked, _| {
        if !sample.is_layer(asked) {
            return sample.answer(asked);
        }
        if asked.header("range").is_some() {
            return status("416 Range Not Satisfiable", &[], b"");
        }
        let mut answer = sample.answer(asked);
        match broken.swap(true, Ordering::Relaxed) {
            false => {
                answer.truncate(1000);
                answer
            }
            true => answer,
        }
    }));
    server.pull("app").unwrap();
    // And one that says so whatever it is asked has an end.
    let server = Server::start(Box::new(|_, _| status("416 No", &[], b"")));
    let error = server.pull_error();
    assert!(
        matches!(error, PullError::Status { status: 416, .. }),
        "{error}"
    );
}

#[test]
fn nobody_is_led_to_plain_http_or_in_circles() {
    let to = |to: &'static str| {
        Server::start(Box::new(move |_, _| {
            status("302 Found", &[&format!("Location: {to}")], b"")
        }))
        .pull_error()
    };
    for bad in [
        "http://example.com/x",
        "http://localhost@example.com/x",
        "http://127.0.0.1.example.com/x",
        "file:///etc/passwd",
        "//example.com/x",
        "",
    ] {
        let error = to(bad);
        assert!(
            matches!(error, PullError::Insecure { .. }),
            "{bad}: {error}"
        );
    }
    assert!(matches!(to("/round"), PullError::Circle { .. }));
    let token = Server::start(Box::new(|_, _| {
        let ask = "WWW-Authenticate: Bearer realm=\"http://169.254.169.254/token\"";
        status("401 Unauthorized", &[ask], b"")
    }));
    assert!(matches!(token.pull_error(), PullError::Insecure { .. }));
}

#[test]
fn refusals_say_what_to_do() {
    let answers = |line: &'static str, header: &'static str| {
        Server::start(Box::new(move |_, _| status(line, &[header], b""))).pull_error()
    };
    let error = answers("404 Not Found", "X: y");
    assert!(matches!(error, PullError::Absent { .. }) && error.hint().is_some());
    let error = answers("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"");
    assert!(
        matches!(
            error,
            PullError::Denied {
                logged_in: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("login 127.0.0.1:"));
    let error = answers("401 Unauthorized", "WWW-Authenticate: Negotiate");
    assert!(matches!(error, PullError::Challenge { .. }), "{error}");
    let server = Server::start(Box::new(|_, _| ok(&vec![b' '; (4 << 20) + 1])));
    assert!(matches!(server.pull_error(), PullError::Long { .. }));
}

#[test]
fn never_asks_nobody() {
    let server = Server::start(Box::new(|_, _| ok(b"")));
    let name = Name::parse(&format!("127.0.0.1:{}/app", server.port)).unwrap();
    let cache = TempDir::new().unwrap();
    let error = pull(&name, cache.path(), PullPolicy::Never, &mut |_| {}).unwrap_err();
    assert!(matches!(error, ImageError::NotKept { .. }), "{error}");
    assert!(server.asked().is_empty());
}
