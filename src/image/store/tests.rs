// SPDX-License-Identifier: Apache-2.0
//! The store: what is in it is whole, whoever else is there and whatever was interrupted.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use super::*;
use crate::image::tests::made::Made;
use crate::image::tests::tar::Tar;
use crate::image::{collect, import, list, remove};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;
use tempfile::TempDir;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn part(bytes: &[u8]) -> Part {
    Part {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
    }
}

fn image(file: &str) -> Made {
    let made = Made::of([
        Tar::default().file("base", b"base"),
        Tar::default().file(file, b"x"),
    ]);
    made.index(|_, _| {});
    made
}

fn take(made: &Made, called: &str, cache: &Path) -> Digest {
    import(&made.reference(), Some(&name(called)), cache, &mut |_| {})
        .unwrap()
        .1
}

fn blobs(cache: &Path) -> BTreeSet<String> {
    let folder = fs::read_dir(cache.join("store/blobs/sha256")).unwrap();
    folder
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn images_share_their_layers_and_go_one_by_one() {
    let cache = TempDir::new().unwrap();
    let (one, two) = (image("one"), image("two"));
    let first = take(&one, "one:1", cache.path());
    take(&one, "also", cache.path());
    take(&two, "two", cache.path());
    // Three layers of four, and twice a configuration and a manifest.
    assert_eq!(blobs(cache.path()).len(), 7);
    let named: Vec<String> = list(cache.path())
        .unwrap()
        .into_iter()
        .map(|(kept, _)| kept.name)
        .collect();
    assert_eq!(
        named,
        ["also:latest", "one:1", "two:latest"].map(|n| format!("docker.io/library/{n}"))
    );

    let gone = remove(&["two".into(), "three".into()], cache.path(), &mut |_| {}).unwrap();
    assert_eq!(
        (gone.names.len(), &gone.missing[..]),
        (1, &["three".to_owned()][..])
    );
    assert_eq!(gone.reclaimed.blobs, 3);
    let store = Store::open(cache.path()).unwrap();
    assert!(store.complete(&first).unwrap());
    // By its digits an image loses all its names.
    let gone = remove(&[first.short()], cache.path(), &mut |_| {}).unwrap();
    assert_eq!((gone.names.len(), blobs(cache.path()).len()), (2, 0));
}

#[test]
fn a_name_moves_and_the_rest_is_collected() {
    let cache = TempDir::new().unwrap();
    take(&image("one"), "app", cache.path());
    let second = take(&image("two"), "app", cache.path());
    assert_eq!(blobs(cache.path()).len(), 7);
    let reclaimed = collect(cache.path(), &mut |_| {}).unwrap();
    assert_eq!((reclaimed.blobs, blobs(cache.path()).len()), (3, 4));
    let store = Store::open(cache.path()).unwrap();
    let found = store.find(&name("app")).unwrap().unwrap();
    assert_eq!(found.manifest.digest, second);
    let pinned = name(&format!("other@{second}"));
    assert_eq!(
        store.find(&pinned).unwrap().unwrap().manifest.digest,
        second
    );
}

#[test]
fn what_was_interrupted_is_taken_up() {
    let cache = TempDir::new().unwrap();
    let store = Store::open(cache.path()).unwrap();
    let part = part(b"hello, world");
    let mut incoming = store.incoming(&part, &mut || {}).unwrap().unwrap();
    incoming.write(b"hello").unwrap();
    // As a killed process leaves it.
    drop(incoming);
    assert!(!store.has(&part));
    let mut incoming = store.incoming(&part, &mut || {}).unwrap().unwrap();
    assert_eq!(incoming.have(), 5);
    incoming.write(b", world").unwrap();
    incoming.finish().unwrap();
    assert!(store.has(&part) && store.incoming(&part, &mut || {}).unwrap().is_none());
    assert_eq!(
        fs::read_dir(cache.path().join("store/partial"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn nothing_enters_without_its_digest() {
    let cache = TempDir::new().unwrap();
    let store = Store::open(cache.path()).unwrap();
    let part = part(b"hello");
    let open = || store.incoming(&part, &mut || {}).unwrap().unwrap();
    let mut wrong = open();
    wrong.write(b"jello").unwrap();
    let problem = |error| match error {
        ImageError::Blob { problem, .. } => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(wrong.finish().unwrap_err()), BlobFault::Digest);
    let mut long = open();
    assert_eq!(long.have(), 0);
    assert_eq!(
        problem(long.write(b"hello!").unwrap_err()),
        BlobFault::Size(6, 5)
    );
    drop(long);
    let mut short = open();
    short.write(b"hell").unwrap();
    assert_eq!(problem(short.finish().unwrap_err()), BlobFault::Size(4, 5));
    assert!(blobs(cache.path()).is_empty());
}

#[test]
fn one_brings_a_blob_and_the_others_wait_for_it() {
    let cache = TempDir::new().unwrap();
    let store = Store::open(cache.path()).unwrap();
    let part = part(b"hello");
    let mut incoming = store.incoming(&part, &mut || {}).unwrap().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let (store, part) = (&store, &part);
        let other = scope.spawn(move || {
            let other = store.incoming(part, &mut || tell.send(()).unwrap());
            other.unwrap().is_none()
        });
        told.recv().unwrap();
        incoming.write(b"hello").unwrap();
        incoming.finish().unwrap();
        assert!(other.join().unwrap());
    });
}

#[test]
fn nothing_goes_while_somebody_uses_the_store() {
    let cache = TempDir::new().unwrap();
    let store = Store::open(cache.path()).unwrap();
    let using = store.using(&mut || {}).unwrap();
    let orphan = store.put(b"not named yet").unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let path = cache.path();
        let sweep = scope.spawn(move || {
            Store::open(path)
                .unwrap()
                .sweep(&mut || tell.send(()).unwrap())
                .unwrap()
        });
        told.recv().unwrap();
        assert!(store.has(&orphan));
        drop(using);
        assert_eq!(sweep.join().unwrap().blobs, 1);
    });
    assert!(!store.has(&orphan));
}

#[test]
fn a_damaged_image_is_seen_and_can_come_again() {
    let cache = TempDir::new().unwrap();
    let made = image("one");
    let digest = take(&made, "one", cache.path());
    let store = Store::open(cache.path()).unwrap();
    let file = File::options()
        .write(true)
        .open(store.blob_path(&digest))
        .unwrap();
    file.write_all_at(b"X", 3).unwrap();
    assert_eq!(list(cache.path()).unwrap()[0].1, None);
    assert!(!store.complete(&digest).unwrap());
    take(&made, "one", cache.path());
    assert!(store.complete(&digest).unwrap());
}

#[test]
fn names_are_not_lost_when_many_give_some_at_once() {
    let cache = TempDir::new().unwrap();
    let store = Store::open(cache.path()).unwrap();
    let manifest = store.put(b"{}").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, manifest) = (&store, &manifest);
            scope.spawn(move || {
                for number in 0..8 {
                    store
                        .name(&name(&format!("app-{thread}:{number}")), manifest)
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(store.images().unwrap().len(), 32);
}
