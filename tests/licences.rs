// SPDX-License-Identifier: Apache-2.0
//! What other people's code comes in: every crate's licence may be shipped with ours, and
//! every crate comes from the public index, by the version and checksum in Cargo.lock.
//!
//! Advisories are not checked here: their database is not part of the tree and is not to be
//! had offline. `cargo deny check advisories` does it where there is a network.

use serde_json::Value;
use std::process::Command;

/// Licences that ask for no more than to be named. CDLA-Permissive-2.0 is of that kind: it is
/// the licence of data, here of the list of root certificates a TLS client may need, and asks
/// that its text go with the data and nothing of what is made with it.
const ALLOWED: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let document: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    document["packages"]
        .as_array()
        .expect("metadata lists packages")
        .clone()
}

/// An SPDX expression as crates write them: alternatives of conjunctions, `/` for OR.
/// Parentheses occur only around alternatives that are then joined by AND.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    if let Some((group, rest)) = expression
        .strip_prefix('(')
        .and_then(|inner| inner.split_once(')'))
    {
        let rest = rest.trim().strip_prefix("AND ").unwrap_or(rest.trim());
        return allowed(group) && (rest.is_empty() || allowed(rest));
    }
    expression.split(" OR ").any(|choice| {
        choice
            .split(" AND ")
            .all(|licence| ALLOWED.contains(&licence.trim()))
    })
}

#[test]
fn expressions_are_understood() {
    assert!(allowed("MIT OR Apache-2.0"));
    assert!(allowed("GPL-3.0-only OR MIT"));
    assert!(allowed("Apache-2.0 AND BSD-3-Clause"));
    assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(allowed("MIT/Apache-2.0"));
    assert!(!allowed("GPL-3.0-only"));
    assert!(!allowed("MIT AND GPL-3.0-only"));
    assert!(!allowed("(MIT OR Apache-2.0) AND GPL-3.0-only"));
    assert!(!allowed(""));
}

#[test]
fn every_licence_may_be_shipped_with_ours() {
    let faults: Vec<String> = packages()
        .iter()
        .filter(|package| !allowed(package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{}: {}", package["name"], package["license"]))
        .collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_crate_is_ours_or_of_the_public_index() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"))
        .expect("Cargo.lock is kept");
    let packages = packages();
    assert!(packages.len() > 20, "this test looks in the wrong place");
    for package in packages {
        let (name, version) = (&package["name"], &package["version"]);
        match package["source"].as_str() {
            None => assert!(
                name.as_str().is_some_and(|name| name.starts_with("husk")),
                "{name} is a path dependency and not of this tree"
            ),
            Some(source) => {
                assert!(
                    source.starts_with("registry+"),
                    "{name} comes from {source}"
                );
                let name = name.as_str().unwrap_or_default();
                let version = version.as_str().unwrap_or_default();
                let entry = format!("name = \"{name}\"\nversion = \"{version}\"\nsource =");
                assert!(lock.contains(&entry), "{name} {version} is not locked");
            }
        }
    }
}
