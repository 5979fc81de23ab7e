// SPDX-License-Identifier: Apache-2.0
//! Templates as files: who may remove what, and when.

use super::*;

#[test]
fn what_killed_husks_left_is_swept_whatever_template_it_was_to_be() {
    let place = tempfile::tempdir().expect("a folder");
    for name in [".new-0123456789ab", ".new-ba9876543210", "aaaaaaaaaaaa"] {
        let folder = place.path().join(name);
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join(MEMORY), "x").expect("room");
    }
    sweep(place.path());
    let left = fs::read_dir(place.path()).expect("a folder").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["aaaaaaaaaaaa"]);
}

#[test]
fn what_somebody_is_filling_is_not_swept() {
    let place = tempfile::tempdir().expect("a folder");
    let key = "0123456789ab";
    let folder = place.path().join(format!("{NEW}{key}"));
    fs::create_dir(&folder).expect("a folder");
    let making = Making::wait(place.path(), key).expect("a lock");
    let other = Making::attempt(place.path(), "ba9876543210").expect("a lock");
    assert!(other.is_some(), "another key's has nothing to do with it");
    sweep(place.path());
    assert!(folder.exists());
    drop(making);
    sweep(place.path());
    assert!(!folder.exists());
}

#[test]
fn only_one_has_the_lock_of_a_key_whoever_takes_its_file_away() {
    let place = tempfile::tempdir().expect("a folder");
    let key = "0123456789ab";
    let inside = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let making = Making::wait(place.path(), key).expect("a lock");
                    let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert_eq!(others, 0);
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(making);
                }
            });
        }
    });
    assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 0);
}

#[test]
fn a_template_is_given_up_and_not_the_one_that_has_its_name_now() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("0123456789ab");
    let make = || {
        fs::create_dir(&path).expect("a folder");
        fs::write(path.join(STATE), "x").expect("room");
        // Open, so that its inode is not another's soon.
        let state = File::open(path.join(STATE)).expect("there");
        let template = Template {
            path: path.clone(),
            memory: state.try_clone().expect("a descriptor"),
            state,
            hot: None,
        };
        (template.which().expect("which"), template)
    };
    let (first, _open) = make();
    give_up(&first).expect("gone");
    assert!(!path.exists());
    let (second, _open_too) = make();
    give_up(&first).expect("nothing to do");
    assert!(path.exists());
    give_up(&second).expect("gone");
    assert!(!path.exists());
}
