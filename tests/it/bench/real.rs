// SPDX-License-Identifier: Apache-2.0
//! Those who are installed here: husk, runc and podman, measured as people would.

use super::{absent, outcome, read, samples};
use crate::support::husk::kernel;
use crate::support::{finish, husk, kvm, left_to_the_host, skipped};
use serde_json::Value;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

const METRICS: [&str; 4] = [
    "first byte of output",
    "process exit",
    "command returned",
    "first HTTP 200 from the service",
];

/// A cache of a test's own, with the kernels of this host's; none, said aloud, where they are
/// elsewhere.
pub fn cache() -> Option<TempDir> {
    let kernels = kernel().ancestors().nth(2).map(ToOwned::to_owned);
    let Some(kernels) = kernels.filter(|it| it.ends_with("kernels")) else {
        left_to_the_host("it needs husk's own kernel where husk keeps it");
        return None;
    };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("cache")).expect("a folder");
    symlink(kernels, folder.path().join("cache/kernels")).expect("a link");
    Some(folder)
}

/// Measures starts of husk and `name`, and checks that all end points are in order.
fn against(name: &str) {
    let Some(_turn) = kvm::turn() else { return };
    let Some(folder) = cache() else { return };
    let cache = folder.path().join("cache");
    let out = folder.path().join("out.json");
    let mut command = husk();
    command.args(["bench", "start", "--rounds", "2", "--against", name]);
    command.arg("--out").arg(&out);
    command.arg("--report").arg(folder.path().join("out.html"));
    command.env("HUSK_CACHE_DIR", &cache);
    command.env("XDG_RUNTIME_DIR", folder.path());
    let outcome = finish(&mut command);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let results = read(&out);
    for player in ["husk", "husk-cold"] {
        assert_eq!(absent(&results, player), "", "{outcome:?}");
        in_order(&results, player);
    }
    let page = std::fs::read_to_string(folder.path().join("out.html")).expect("a page");
    assert!(
        page.contains(name) && page.starts_with("<!"),
        "it is no page"
    );
    match absent(&results, name) {
        "" => in_order(&results, name),
        why => skipped(&format!("{name} takes no part here: {why}")),
    }
    let work = std::fs::read_dir(cache.join("bench"));
    assert_eq!(work.expect("it was there").count(), 0);
}

fn in_order(results: &Value, player: &str) {
    for metric in METRICS {
        let failures = &outcome(results, player, metric)["measured"]["failures"];
        assert_eq!(failures, &Value::Array(Vec::new()), "{player}, {metric}");
        assert_eq!(
            samples(results, player, metric).len(),
            2,
            "{player}, {metric}"
        );
    }
    let first = samples(results, player, METRICS[0]);
    let exit = samples(results, player, METRICS[1]);
    assert!(
        first.iter().zip(&exit).all(|(a, b)| a <= b),
        "{first:?} {exit:?}"
    );
}

#[test]
fn husk_and_runc() {
    against("runc");
}

#[test]
fn husk_and_podman() {
    against("podman");
}
