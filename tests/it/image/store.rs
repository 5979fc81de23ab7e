// SPDX-License-Identifier: Apache-2.0
//! The store under SIGKILL, and beside the tools of others.

use super::server::{Kind, Registry};
use super::{Cache, Sample, done, tool};
use crate::support::finish;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

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

/// Kills `words` at instants spread over one whole run of them, and looks each time.
fn killed(words: &[&str], name: &str) {
    const KILLS: u32 = 24;
    let whole = {
        let started = Instant::now();
        Cache::new().good(words);
        started.elapsed()
    };
    let cache = Cache::new();
    for kill in 0..KILLS {
        let mut husk = cache.command(words);
        husk.stdout(Stdio::null()).stderr(Stdio::null());
        let mut husk = husk.spawn().expect("husk starts");
        // Instants, not a condition: that would be the same one each time.
        std::thread::sleep(whole * kill / KILLS + Duration::from_micros(u64::from(kill) * 37));
        husk.kill().expect("killed, or ended");
        let finished = husk.wait().expect("its end").success();
        if cache.path().join("store/oci-layout").exists() {
            intact(&cache);
        }
        if finished {
            cache.good(&["rmi", "-f", name]);
        }
    }
    cache.good(words);
    intact(&cache);
    assert_eq!(cache.good(&["images", "-q"]), format!("{name}\n"));
    cache.good(&["image", "gc"]);
    let left = std::fs::read_dir(cache.path().join("store/partial")).expect("a folder");
    assert_eq!((left.count(), cache.blobs().len()), (0, 4));
}

#[test]
fn an_import_killed_at_any_instant_leaves_a_store_that_is_whole() {
    let Some(sample) = Sample::shared() else {
        return;
    };
    killed(
        &["import", "-q", &sample.reference(), "x.io/app:1"],
        "x.io/app:1",
    );
}

#[test]
fn a_pull_killed_at_any_instant_leaves_a_store_that_is_whole() {
    let Some((_registry, name)) = Registry::serving(Kind::default(), "app:1", &[]) else {
        return;
    };
    killed(&["pull", "-q", &name], &name);
}

/// Two images with a layer in common, of which one goes, again and again.
fn removed(words: &[&str]) {
    const KILLS: u32 = 16;
    let Some(sample) = Sample::shared() else {
        return;
    };
    let base = sample.reference().replace(":app", ":base");
    let fill = |cache: &Cache| {
        cache.good(&["import", "-q", &base, "x.io/base:1"]);
        cache.good(&["import", "-q", &sample.reference(), "x.io/app:1"]);
        if words[0] == "image" {
            // A name that moved on leaves blobs behind for the collection.
            cache.good(&["import", "-q", &base, "x.io/app:1"]);
        }
    };
    let whole = {
        let cache = Cache::new();
        fill(&cache);
        let started = Instant::now();
        cache.good(words);
        started.elapsed()
    };
    let cache = Cache::new();
    for kill in 0..KILLS {
        fill(&cache);
        let mut husk = cache.command(words);
        husk.stdout(Stdio::null()).stderr(Stdio::null());
        let mut husk = husk.spawn().expect("husk starts");
        // Instants, not a condition: that would be the same one each time.
        std::thread::sleep(whole * kill / KILLS + Duration::from_micros(u64::from(kill) * 41));
        husk.kill().expect("killed, or ended");
        husk.wait().expect("its end");
        intact(&cache);
        let names = cache.good(&["images", "-q"]);
        assert!(names.contains("x.io/base:1\n"), "{names}");
        // What was kept can be made into a root.
        cache.good(&["image", "inspect", "x.io/base:1"]);
    }
    cache.good(&["rmi", "-f", "x.io/app:1"]);
    cache.good(&["image", "gc"]);
    assert_eq!(
        cache.blobs().len(),
        3,
        "a manifest, a configuration, a layer"
    );
    intact(&cache);
}

#[test]
fn a_removal_killed_at_any_instant_leaves_a_store_that_is_whole() {
    removed(&["rmi", "-f", "x.io/app:1"]);
}

#[test]
fn a_collection_killed_at_any_instant_leaves_a_store_that_is_whole() {
    removed(&["image", "gc"]);
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
