// SPDX-License-Identifier: Apache-2.0
//! The store under SIGKILL, and beside the tools of others.

use super::{Cache, Sample, done, tool};
use crate::support::finish;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn digest(path: &Path) -> String {
    let bytes = std::fs::read(path).expect("a blob");
    Sha256::digest(&bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Every blob is whole, and every image that has a name can be made.
fn intact(cache: &Cache) {
    for blob in cache.blobs() {
        let name = blob
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert_eq!(digest(&blob), name);
    }
    for image in cache
        .json(&["images", "--format", "json"])
        .as_array()
        .expect("a list")
    {
        assert!(image["size"].is_u64(), "damaged: {image}");
    }
}

#[test]
fn a_kill_at_any_instant_leaves_a_store_that_is_whole() {
    let Some(sample) = Sample::shared() else {
        return;
    };
    let whole = {
        let cache = Cache::new();
        let started = std::time::Instant::now();
        cache.good(&["import", &sample.reference(), "app"]);
        started.elapsed()
    };
    let cache = Cache::new();
    const KILLS: u32 = 24;
    let mut finished = 0;
    for kill in 0..KILLS {
        let mut import = cache.command(&["import", "-q", &sample.reference(), "app"]);
        import.stdout(Stdio::null()).stderr(Stdio::null());
        let mut import = import.spawn().expect("husk starts");
        // Instants spread over one whole import; a condition would be always the same one.
        std::thread::sleep(whole * kill / KILLS + Duration::from_micros(u64::from(kill) * 37));
        import.kill().expect("killed, or ended");
        finished += u32::from(import.wait().expect("its end").success());
        if cache.path().join("store/oci-layout").exists() {
            intact(&cache);
        }
        if finished > 0 {
            cache.good(&["rmi", "-f", "app"]);
        }
    }
    cache.good(&["import", &sample.reference(), "app"]);
    intact(&cache);
    assert_eq!(cache.blobs().len(), 4);
    cache.good(&["image", "gc"]);
    let left = std::fs::read_dir(cache.path().join("store/partial")).expect("a folder");
    assert_eq!(left.count(), 0);
    assert_eq!(cache.blobs().len(), 4);
}

#[test]
fn many_imports_at_once_are_one() {
    let Some(sample) = Sample::shared() else {
        return;
    };
    let cache = Cache::new();
    let start = |number: u32| {
        let name = format!("app:{number}");
        let mut import = cache.command(&["import", "-q", &sample.reference(), &name]);
        import.stdout(Stdio::piped()).stderr(Stdio::piped());
        import.spawn().expect("husk starts")
    };
    let imports: Vec<_> = (0..6).map(start).collect();
    for import in imports {
        let output = import.wait_with_output().expect("its end");
        assert!(output.status.success(), "{output:?}");
    }
    intact(&cache);
    let listed = cache.json(&["images", "--format", "json"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(6));
    assert_eq!(cache.blobs().len(), 4);
}

#[test]
fn other_tools_read_the_store_as_a_layout() {
    let Some(sample) = Sample::shared() else {
        return;
    };
    let cache = Cache::new();
    cache.good(&["import", &sample.reference(), "app"]);
    let Some(mut skopeo) = tool("skopeo") else {
        return;
    };
    let store = format!("oci:{}", cache.path().join("store").display());
    let found = done(skopeo.args(["inspect", "--config", &store]));
    assert!(found.contains("SIGQUIT"), "{found}");
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(sample) = Sample::shared() else {
        return;
    };
    let cache = Cache::new();
    // One file-size limit for all: the same as a full disk to who writes.
    let mut shell = std::process::Command::new("sh");
    let husk = cache.command(&["import", &sample.reference(), "app"]);
    shell.args(["-c", "ulimit -f 64; trap '' XFSZ; exec \"$0\" \"$@\""]);
    shell.arg(husk.get_program()).args(husk.get_args());
    shell.envs(
        husk.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let outcome = finish(shell.stdin(Stdio::null()));
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("cannot write"), "{outcome:?}");
    intact(&cache);
    cache.good(&["import", &sample.reference(), "app"]);
    intact(&cache);
}
