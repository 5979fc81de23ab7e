// SPDX-License-Identifier: Apache-2.0
//! Those who are installed here: husk, runc and podman, measured as people would.

use super::{absent, outcome, read, samples};
use crate::support::husk::Host;
use crate::support::{finish, husk, skipped};
use serde_json::Value;

const METRICS: [&str; 4] = [
    "first byte of output",
    "process exit",
    "command returned",
    "first HTTP 200 from the service",
];

/// Measures starts of husk and `name`, and checks that all end points are in order.
fn against(name: &str) {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out.json");
    let mut command = husk();
    command.args(["bench", "start", "--rounds", "2", "--against", name]);
    command.arg("--out").arg(&out);
    command.arg("--report").arg(folder.path().join("out.html"));
    command.env("HUSK_CACHE_DIR", host.root.cache());
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
    let work = host.root.cache().join("bench");
    assert_eq!(std::fs::read_dir(work).expect("it was there").count(), 0);
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
