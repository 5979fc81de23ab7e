// SPDX-License-Identifier: Apache-2.0
//! What was made once is found again, and nothing half made ever is.

use super::{Place, bytes, entries};
use crate::image::cache::Cache;
use crate::image::{ImageError, Progress, RootFs, open, open_directory};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

#[test]
fn an_unchanged_directory_is_not_written_again() {
    let place = Place::new();
    place.write("a", "one");
    let first = place.directory().unwrap();
    let second = place.directory().unwrap();
    assert!(!first.cached && second.cached);
    assert_eq!(first.path, second.path);
    assert_eq!(place.cached("").len(), 1, "nothing else is left");
}

#[test]
fn every_change_is_seen() {
    let place = Place::new();
    let root = place.source.path().to_owned();
    place.write("a", "one");
    symlink("a", root.join("link")).unwrap();
    let old = fs::metadata(root.join("a")).unwrap().modified().unwrap();
    let mut seen = vec![place.directory().unwrap().path];
    let changes: [&dyn Fn(); 7] = [
        // Same length, and the time of the last change put back.
        &|| {
            place.write("a", "two");
            let file = fs::File::options()
                .write(true)
                .open(root.join("a"))
                .unwrap();
            file.set_modified(old).unwrap();
        },
        &|| fs::set_permissions(root.join("a"), PermissionsExt::from_mode(0o600)).unwrap(),
        &|| {
            fs::remove_file(root.join("link")).unwrap();
            symlink("b", root.join("link")).unwrap();
        },
        &|| fs::rename(root.join("a"), root.join("b")).unwrap(),
        &|| place.write("c", ""),
        &|| fs::hard_link(root.join("c"), root.join("d")).unwrap(),
        &|| fs::remove_file(root.join("c")).unwrap(),
    ];
    for (n, change) in changes.iter().enumerate() {
        change();
        let image = place.directory().unwrap();
        assert!(!image.cached && !seen.contains(&image.path), "change {n}");
        seen.push(image.path);
    }
    let last = entries(&place.directory().unwrap());
    assert_eq!(bytes(&last, "b"), b"two");
}

#[test]
fn a_change_within_the_same_tick_is_seen() {
    // Each round writes right after the look of the round before: without waiting for the
    // clock both would have the same stamp now and then.
    let place = Place::new();
    for round in 0..50u8 {
        place.write("a", [round; 10]);
        let image = place.directory().unwrap();
        assert_eq!(bytes(&entries(&image), "a"), [round; 10]);
    }
}

fn while_writing(place: &Place, touch: &mut dyn FnMut()) -> Result<RootFs, ImageError> {
    let reference = format!("dir:{}", place.source.path().display());
    open(&reference, place.cache.path(), &mut |progress| {
        if matches!(progress, Progress::Writing { .. }) {
            touch();
        }
    })
}

#[test]
fn a_directory_that_changes_meanwhile_is_read_again() {
    let place = Place::new();
    place.write("a", "one");
    let mut times = 0;
    let image = while_writing(&place, &mut || {
        times += 1;
        if times == 1 {
            place.write("a", "two");
        }
    });
    assert_eq!(bytes(&entries(&image.unwrap()), "a"), b"two");
}

#[test]
fn a_directory_that_never_rests_is_refused() {
    let place = Place::new();
    place.write("a", "one");
    let mut times = 0;
    let refused = while_writing(&place, &mut || {
        times += 1;
        place.write("a", format!("{times}"));
    });
    let error = refused.unwrap_err();
    assert!(matches!(error, ImageError::Changing { .. }), "{error}");
    assert!(error.hint().is_some());
    assert!(place.cached("").is_empty(), "nothing is kept of it");
}

#[test]
fn many_at_once_write_one_image() {
    let place = Place::new();
    for n in 0..200 {
        place.write(&format!("f{n}"), vec![1; n * 50]);
    }
    let written: usize = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| usize::from(!place.directory().unwrap().cached)))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    assert_eq!(written, 1);
    assert_eq!(place.cached("").len(), 1);
}

#[test]
fn what_a_killed_run_left_is_removed_and_what_is_being_written_is_not() {
    let place = Place::new();
    let images = place.cache.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("dead.part"), "half").unwrap();
    fs::write(images.join("live.part"), "half").unwrap();
    let live = fs::File::open(images.join("live.part")).unwrap();
    rustix::fs::flock(&live, rustix::fs::FlockOperation::LockExclusive).unwrap();
    place.write("a", "one");
    place.directory().unwrap();
    assert_eq!(place.cached(".part"), ["live.part"]);
}

#[test]
fn a_part_of_an_earlier_run_does_not_shine_through() {
    let place = Place::new();
    place.write("a", "one");
    let image = place.directory().unwrap();
    let whole = fs::read(&image.path).unwrap();
    fs::rename(&image.path, image.path.with_extension("part")).unwrap();
    let part = fs::File::options()
        .write(true)
        .open(image.path.with_extension("part"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&part, &[0xff; 100_000], 0).unwrap();
    drop(part);
    let again = place.directory().unwrap();
    assert!(!again.cached);
    assert!(fs::read(&again.path).unwrap() == whole);
}

#[test]
fn an_image_cut_short_is_made_again() {
    let place = Place::new();
    place.write("a", vec![7; 10_000]);
    let image = place.directory().unwrap();
    fs::set_permissions(&image.path, PermissionsExt::from_mode(0o600)).unwrap();
    let file = fs::File::options().write(true).open(&image.path).unwrap();
    file.set_len(8192).unwrap();
    let again = place.directory().unwrap();
    assert!(!again.cached);
    assert_eq!(bytes(&entries(&again), "a"), [7; 10_000]);
}

#[test]
fn the_longest_unused_go_first_and_an_open_one_stays_readable() {
    let place = Place::new();
    let image = |content: u8| {
        place.write("a", vec![content; 100_000]);
        // Room for two images of 104 KiB, not for three.
        let cache = Cache::open(place.cache.path(), 250 << 10).unwrap();
        open_directory(place.source.path(), &cache, &mut |_| {}).unwrap()
    };
    let age = |image: &RootFs, seconds| {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        fs::File::open(&image.path)
            .unwrap()
            .set_modified(then)
            .unwrap();
    };
    let (first, second) = (image(1), image(2));
    age(&first, 100);
    age(&second, 200);
    let third = image(3);
    assert!(first.path.exists() && !second.path.exists() && third.path.exists());
    let mut all = Vec::new();
    (&second.file).read_to_end(&mut all).unwrap();
    assert_eq!(bytes(&entries(&second), "a"), vec![2; 100_000]);
}

#[test]
fn an_image_is_open_for_reading_only() {
    use std::io::Write as _;
    let place = Place::new();
    let mut image = place.directory().unwrap();
    assert!(image.file.write_all(b"x").is_err());
}
