// SPDX-License-Identifier: Apache-2.0
//! Vector registers across context switches. Where ring 0 is interpreted, programs use the
//! real processor's registers and the kernel saves them with instructions husk completes:
//! one that saves too little corrupts programs silently.

use crate::support::husk::Host;

#[test]
fn two_processes_keep_their_vector_registers_over_ten_thousand_switches() {
    let Some(host) = Host::find() else { return };
    let ended = host.run(&["husk-probe", "vectors", "2", "10000"]).end();
    let text = ended.text();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    assert!(
        text.ends_with(" state of 2 processes survived 10000 switches\n"),
        "{ended:?}"
    );
    // Registers that are not there prove nothing.
    assert!(!text.starts_with("Sse "), "{ended:?}");
}
