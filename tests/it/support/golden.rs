// SPDX-License-Identifier: Apache-2.0
//! Texts that are kept: a change of one has to be meant.

use std::path::Path;

/// `text` must be what `tests/golden/NAME` holds. With UPDATE_GOLDEN=1 in the environment
/// the file is written instead, for the author to look at in the diff.
pub fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, text).expect("the golden file is written");
        return;
    }
    let kept = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert!(
        kept == text,
        "tests/golden/{name} differs; if it should, UPDATE_GOLDEN=1 rewrites it.\n--- kept\n{kept}\n--- now\n{text}"
    );
}
