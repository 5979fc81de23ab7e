// SPDX-License-Identifier: Apache-2.0
//! Kernels that go wrong while they run: each ends with one line that says how, and with
//! what the console last said where that tells more.

use crate::support::husk::{Host, Husk, kernel};
use crate::support::kernels::{self, HALTS, MEETS_NOBODY, TRIPLE_FAULTS, says};
use crate::support::kvm;
use crate::support::process::Ended;

/// husk's own lines of a standard error that has nothing else.
#[track_caller]
fn complaint(ended: &Ended) -> &str {
    let mut complaints = ended
        .stderr
        .lines()
        .filter(|line| line.starts_with("husk: "));
    match (complaints.next(), complaints.next()) {
        (Some(one), None) => one,
        _ => panic!("one line of husk's: {ended:?}"),
    }
}

#[test]
fn a_kernel_that_panics_is_told_with_its_words() {
    let Some(host) = Host::find() else { return };
    // husk's kernel has no other early console; and nothing to mount as a root.
    let cmdline = "earlyprintk=serial,ttyS0,115200,keep panic=-1 reboot=k";
    let boot = Husk::boot(&host.root, kernel()).options(&["--cmdline", cmdline]);
    let ended = boot.end();
    assert_eq!(ended.code, 1, "{ended:?}");
    let said = complaint(&ended);
    assert!(said.contains("the guest's kernel panicked: "), "{said}");
    assert!(said.contains("Unable to mount root fs"), "{said}");
    // The console is the operator's own here, and holds the panic as it came.
    assert!(
        ended.text().contains("Kernel panic - not syncing: "),
        "{ended:?}"
    );
}

#[test]
fn a_triple_fault_is_told() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("kernel");
    let mut code = says("on my way\n");
    code.extend(TRIPLE_FAULTS);
    kernels::write(&kernel, &code);
    // At the int3 or just behind it. KVM resets an AMD processor before it tells, and the
    // address is gone.
    let fault = match kvm::flag("svm") {
        true => "triple fault".to_owned(),
        false => format!("triple fault at {:#x}", kernels::CODE / 0x100),
    };

    let ended = Husk::boot(&host.root, &kernel)
        .options(&["-m", "64m"])
        .end();
    assert_eq!(
        (ended.code, ended.text().as_str()),
        (1, "on my way\n"),
        "{ended:?}"
    );
    assert!(complaint(&ended).contains(&fault), "{ended:?}");

    let ended = host.run(&["true"]).kernel(&kernel).end();
    assert_eq!((ended.code, ended.text().as_str()), (125, ""), "{ended:?}");
    assert!(ended.stderr.contains(&fault), "{ended:?}");
    assert!(ended.stderr.contains("on my way"), "{ended:?}");
}

#[test]
fn a_kernel_that_never_reaches_the_agent_meets_its_deadline() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("kernel");
    // A hostile guest's words go to a terminal: without the escape sequence.
    let mut code = says("first line\nlast \x1b[31mline\n");
    code.extend(HALTS);
    kernels::write(&kernel, &code);

    let ended = host.run(&["true"]).kernel(&kernel).timeout("2s").end();
    assert_eq!((ended.code, ended.text().as_str()), (125, ""), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("husk: the guest's agent did not answer within 2 s\n"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("first line\n"), "{ended:?}");
    assert!(
        ended.stderr.contains("last \u{fffd}[31mline\n"),
        "{ended:?}"
    );
}

#[test]
fn an_instruction_nobody_completes_is_named() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("kernel");
    kernels::write(&kernel, &MEETS_NOBODY);

    let ended = Husk::boot(&host.root, &kernel)
        .options(&["-m", "64m"])
        .end();
    assert_eq!((ended.code, ended.text().as_str()), (1, ""), "{ended:?}");
    let said = complaint(&ended);
    for part in ["fiadd dword ptr [rax]", "da 00", "0x200005"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }

    let ended = host
        .run(&["true"])
        .kernel(&kernel)
        .options(&["-m", "64m"])
        .end();
    assert_eq!((ended.code, ended.text().as_str()), (125, ""), "{ended:?}");
    assert!(complaint(&ended).contains("fiadd"), "{ended:?}");
}
