// SPDX-License-Identifier: Apache-2.0
//! What hostile layers may cost the host, in memory, time and disk.

use super::made::Made;
use super::tar::Tar;
use crate::image::{ImageError, Malformed, RootFs};

/// As the only layer of an image.
fn read(tar: Tar) -> Result<RootFs, ImageError> {
    Made::of([tar]).open()
}

#[test]
fn headers_that_add_up_before_one_entry_are_bounded() {
    let record = |name: &str, value: &[u8]| {
        let rest = [
            format!("SCHILY.xattr.user.{name}=").as_bytes(),
            value,
            b"\n",
        ]
        .concat();
        // A length of seven digits and a space, whatever it is.
        [format!("{:07} ", rest.len() + 8).as_bytes(), &rest].concat()
    };
    let many = |count: usize, len: usize| {
        let all =
            (0..count).map(|n| Tar::default().long(b'x', &record(&n.to_string(), &vec![0; len])));
        let bytes = all.flat_map(|tar| tar.0).collect();
        Tar(bytes)
    };
    // Legal, one by one: what an entry has is judged when it comes.
    let entry = |tar: Tar| tar.file("f", b"");
    read(entry(many(3, 10))).unwrap();
    let error = read(entry(many(40, 60_000))).unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Archive {
                problem: Malformed::LongExtension,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_header_of_many_attributes_costs_no_more_than_its_bytes() {
    let record = |n: usize| format!("{:02} SCHILY.xattr.user.{n:06}=\n", 29).into_bytes();
    assert_eq!(record(0).len(), 29);
    let most: Vec<u8> = (0..36_000).flat_map(record).collect();
    let began = std::time::Instant::now();
    let mut tar = Tar::default();
    for _ in 0..40 {
        // What hides nothing is in no tree, where attributes are counted.
        tar = tar.long(b'x', &most).file(".wh.nothing", b"");
    }
    read(tar).unwrap();
    // With a look at every one for every other, more than a minute.
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
