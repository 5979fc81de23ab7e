// SPDX-License-Identifier: Apache-2.0
//! Which ring a guest's kernel lives in: told by its note, asked for by `--guest-ring`, refused
//! where the two or the host disagree, and shown by the trace with what it cost.

use super::refusals::{refused, refuses_kernel};
use crate::support::husk::{Host, Husk};
use crate::support::kernels::{self, HALTS};
use crate::support::kvm;
use serde_json::Value;
use std::path::PathBuf;

struct Kernels {
    folder: tempfile::TempDir,
}

impl Kernels {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder }
    }

    fn write(&self, name: &str, image: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, image).expect("a file");
        path
    }

    fn of_ring(&self, ring: u32) -> PathBuf {
        let image = kernels::elf_of_ring(&HALTS, 0x1000, ring);
        self.write(&format!("ring{ring}"), &image)
    }
}

/// What `husk boot --trace=json` tells of a kernel that resets.
fn trace(host: &Host, kernel: PathBuf) -> Value {
    let boot = Husk::boot(&host.root, kernel).options(&["-m", "64m", "--trace=json"]);
    let ended = boot.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.stderr).expect("JSON")
}

#[test]
fn a_kernel_in_ring_3_is_traced_with_its_round_trips() {
    let Some(host) = Host::find() else { return };
    let kernels = Kernels::new();
    let code = kernels::counts();
    let three = kernels.write("three", &kernels::elf_of_ring(&code, 0x1000, 3));
    if kvm::runs_any_kernel() {
        return refuses_kernel(&host, &three, &["lives in ring 3", "KVM interprets ring 0"]);
    }
    let told = trace(&host, three.clone());
    assert_eq!(told["variant"], "ring3", "{told}");
    let trips = told["round_trips"].as_object().expect("an object");
    for (kind, count) in trips {
        let expected = if kind == "page_faults" { 12 } else { 0 };
        assert_eq!(count, &Value::from(expected), "{kind} in {told}");
    }
    assert_eq!(trips.len(), 16);

    let text = Husk::boot(&host.root, three).options(&["-m", "64m", "--trace"]);
    let text = text.end().stderr;
    let lines: Vec<&str> = text.lines().collect();
    let table = [
        "guest kernel: ring 3",
        "ring-0 round trips:",
        "                  12  page faults",
    ];
    assert!(lines.ends_with(&table), "{text}");
}

#[test]
fn a_kernel_that_counts_nothing_is_traced_without_counts() {
    let Some(host) = Host::find() else { return };
    let kernels = Kernels::new();
    // mov al, 0xfe; out 0x64, al; jmp to itself
    let resets = kernels::elf(&[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe], 0x1000);
    let told = trace(&host, kernels.write("zero", &resets));
    assert_eq!(told["variant"], "ring0", "{told}");
    assert_eq!(told.get("round_trips"), None, "{told}");
}

#[test]
fn a_ring_the_kernel_or_the_host_does_not_have_is_refused() {
    let Some(host) = Host::find() else { return };
    let kernels = Kernels::new();
    refuses_kernel(&host, &kernels.of_ring(2), &["wants to live in ring 2"]);
    let run = |ring: u32, asked: &str| {
        let run = host.run(&["true"]).kernel(kernels.of_ring(ring));
        run.options(&["-m", "64m", "--guest-ring", asked]).end()
    };
    let other = ["lives in ring 3, and one for ring 0 was wanted"];
    refused(&run(3, "0"), 125, &other);
    let other = match kvm::runs_any_kernel() {
        true => ["--guest-ring 3", "in ring 0 itself"],
        false => ["lives in ring 0", "one for ring 3 was wanted"],
    };
    refused(&run(0, "3"), 125, &other);
}

/// With nothing in the cache, the error names the command that builds what is missing.
#[test]
fn a_kernel_that_is_not_built_is_told_with_its_ring() {
    let Some(host) = Host::find() else { return };
    let empty = tempfile::tempdir().expect("a folder");
    let run = |options: &[&str]| {
        let run = host.run(&["true"]).own_kernel().options(options);
        run.cache(empty.path().to_owned()).end()
    };
    let built = "hint: build it once: husk kernel build --guest-ring 0";
    refused(&run(&["--guest-ring", "0"]), 125, &["ring 0 is not", built]);
    if kvm::runs_any_kernel() {
        refused(&run(&[]), 125, &["ring 0 is not", built]);
        refused(&run(&["--guest-ring", "3"]), 125, &["in ring 0 itself"]);
    } else {
        let built = "hint: build it once: husk kernel build --guest-ring 3";
        refused(&run(&["--guest-ring", "3"]), 125, &["ring 3 is not", built]);
    }
}
