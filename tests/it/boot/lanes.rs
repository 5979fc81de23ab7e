// SPDX-License-Identifier: Apache-2.0
//! The two lanes of a PVM host: the kernel in ring 3 where the host carries it, and the
//! interpreted one for whoever asks.

use crate::support::husk::{Host, kernel};
use crate::support::{left_to_the_host, run};
use serde_json::Value;
use std::path::Path;

/// The ring `husk run` gives a service of its own kernels, and why, in `--trace=json`.
fn traced(host: &Host, options: &[&str]) -> Option<(Value, String)> {
    if std::env::var_os("HUSK_TEST_KERNEL").is_some() {
        left_to_the_host("it is about the choice of a kernel, and HUSK_TEST_KERNEL names one");
        return None;
    }
    // Beside husk's kernels nothing of the user's cache is wanted.
    let cache = tempfile::tempdir().expect("a folder");
    let kernels = kernel().parent().and_then(Path::parent).map(Path::to_owned);
    std::os::unix::fs::symlink(kernels.expect("a cache"), cache.path().join("kernels"))
        .expect("a link");
    let husk = host.sh("uname -r; nproc; husk-probe vectors 2 60; exit 3");
    let husk = husk.own_kernel().cache(cache.path().to_owned());
    let husk = husk.options(&["-c", "2", "-m", "128m", "--trace=json"]);
    let ended = husk.options(options).end();
    assert_eq!(ended.code, 3, "{ended:?}");
    let line = ended.stderr.lines().last().expect("a trace");
    let trace = serde_json::from_str(line).expect("JSON");
    Some((trace, ended.text()))
}

fn same_service(said: &str) {
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        matches!(lines[..], [release, "2", vectors]
            if release.ends_with("-husk") && vectors.contains("survived 60 switches")),
        "{said}"
    );
}

#[test]
fn a_service_runs_in_the_lane_that_doctor_names() {
    let Some(host) = Host::find() else { return };
    let doctor: Value = serde_json::from_str(&run(&["doctor", "--json"]).stdout).expect("JSON");
    let expected = match doctor["fast_lane"]["state"].as_str() {
        Some("open") => "ring3",
        _ => "ring0",
    };
    let Some((trace, said)) = traced(&host, &[]) else {
        return;
    };
    assert_eq!(trace["variant"], expected, "{trace} after {doctor}");
    same_service(&said);
    if expected == "ring3" {
        let calls = trace["round_trips"]["cr3_loads"].as_u64();
        assert!(calls.is_some_and(|calls| calls > 0), "{trace}");
    }
}

/// On a PVM host the ordinary kernel is interpreted, and does the same.
#[test]
fn the_ordinary_kernel_runs_wherever_it_is_asked_for() {
    let Some(host) = Host::find() else { return };
    let Some((trace, said)) = traced(&host, &["--guest-ring", "0"]) else {
        return;
    };
    assert_eq!(trace["variant"], "ring0", "{trace}");
    assert_eq!(trace.get("round_trips"), None, "{trace}");
    same_service(&said);
    assert_eq!(trace.get("fallback"), None, "it was asked for: {trace}");
}
