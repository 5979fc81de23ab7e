// SPDX-License-Identifier: Apache-2.0
//! Machines come, are found, and go; owners that vanish are cleared up after.

use super::*;

fn place() -> (tempfile::TempDir, Place) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::open(&folder.path().join("husk")).expect("a place");
    (folder, place)
}

fn named(name: &str) -> Record {
    Record {
        name: Some(name.into()),
        ..Record::default()
    }
}

#[test]
fn a_machine_lives_as_long_as_its_claim() {
    let (_folder, place) = place();
    let claim = place.claim(named("web")).expect("a claim");
    let _desk = claim.desk().expect("a socket");
    let found = place.find("web").expect("found");
    assert!(found.is_running());
    assert!(!place.remove(&found).expect("no error"), "it runs");
    assert!(found.owner().expect("a look").is_some());
    // What SIGKILL does: the lock goes, everything else stays.
    drop(claim);
    let found = place.find("web").expect("found");
    let State::Exited(ended) = &found.state else {
        panic!("{found:?}")
    };
    assert_eq!(ended.code, 137);
    assert!(!found.dir.join(DESK).exists());
    assert!(found.owner().expect("a look").is_none());
    let text = journal::reader(place.path()).read().expect("a journal");
    let last = journal::entries(&text).last().map(|entry| entry.what);
    assert_eq!(last.as_deref(), Some("die"));
    assert!(place.remove(&found).expect("removed"));
    assert!(place.list().expect("a list").is_empty());
}

#[test]
fn a_name_is_given_once() {
    let (_folder, place) = place();
    let first = place.claim(named("web")).expect("a claim");
    let error = place.claim(named("web")).expect_err("taken");
    assert_eq!(
        error.to_string(),
        format!("the name 'web' is taken by machine {}", first.record.id)
    );
    first.forget().expect("gone");
    place.claim(named("web")).expect("free again");
}

#[test]
fn no_image_makes_its_machine_one_that_nobody_sees() {
    let (_folder, place) = place();
    // The longest environment a guest takes, of bytes that are six letters each as JSON.
    let record = Record {
        env: vec!["\u{1}".repeat(1 << 20)],
        ..named("big")
    };
    let claim = place.claim(record).expect("a claim");
    assert!(place.find("big").expect("found").is_running());
    drop(claim);
    let labels = [("l".into(), "x".repeat(40 << 20))].into();
    let record = Record {
        labels,
        ..Record::default()
    };
    let refused = place.claim(record);
    assert!(matches!(refused, Err(PlaceError::Long)), "{refused:?}");
    assert_eq!(place.list().expect("a list").len(), 1);
}

#[test]
fn ids_may_be_cut_short_as_long_as_they_are_one_machines() {
    let (_folder, place) = place();
    let claims: Vec<Claim> = (0..17)
        .map(|_| place.claim(Record::default()).expect("a claim"))
        .collect();
    // Of 17 ids two begin with the same digit.
    let ids: Vec<&str> = claims.iter().map(|c| c.record.id.as_str()).collect();
    for id in &ids {
        assert_eq!(place.find(id).expect("whole").record.id, *id);
        let digit = &id[..1];
        let alike = ids.iter().filter(|id| id.starts_with(digit)).count();
        match place.find(digit) {
            Ok(found) => assert_eq!((alike, found.record.id.as_str()), (1, *id)),
            Err(PlaceError::Ambiguous { ids, .. }) => assert_eq!(ids.len(), alike),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(matches!(place.find("nobody"), Err(PlaceError::Unknown(_))));
    assert!(matches!(place.find(""), Err(PlaceError::Unknown(_))));
}

#[test]
fn what_is_not_kept_goes_with_its_owner() {
    let (_folder, place) = place();
    let record = Record {
        remove: true,
        ..Record::default()
    };
    drop(place.claim(record).expect("a claim"));
    assert!(place.list().expect("a list").is_empty());
    let left: Vec<_> = fs::read_dir(place.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name != LOCK && name != "events")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn half_made_and_half_removed_folders_and_damaged_records_are_cleared() {
    let (_folder, place) = place();
    for name in [".new-0123456789ab", ".gone-0123456789ab", "0123456789ab"] {
        fs::create_dir(place.path().join(name)).expect("a folder");
        fs::write(place.path().join(name).join(RECORD), "{").expect("a file");
    }
    assert!(place.list().expect("a list").is_empty());
    assert!(place.list().expect("a list").is_empty());
    let left = fs::read_dir(place.path()).expect("a folder").count();
    assert_eq!(left, 1, "the lock");
}

#[test]
fn a_folder_deep_down_still_has_sockets() {
    let folder = tempfile::tempdir().expect("a folder");
    let deep = folder.path().join("d".repeat(200)).join("e".repeat(200));
    let place = Place::open(&deep).expect("a place");
    let claim = place.claim(Record::default()).expect("a claim");
    let desk = claim.desk().expect("a socket");
    let found = place.find(&claim.record.id).expect("found");
    let _call = found.call().expect("a connection");
    desk.accept().expect("a client");
}

#[test]
fn a_place_of_another_kind_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).expect("a link");
    assert!(matches!(Place::open(&link), Err(PlaceError::Stranger(_))));
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file");
    assert!(Place::open(&file).is_err());
}
