// SPDX-License-Identifier: Apache-2.0
//! Standard streams: apart, byte for byte, and with their ends.

use crate::support::husk::Host;
use crate::support::process::{Ended, Input};

/// The probe's sequence: byte `index` of either stream.
fn byte(index: usize) -> u8 {
    (index ^ (index >> 8) ^ (index >> 16)).to_le_bytes()[0]
}

#[track_caller]
fn same(found: &[u8], wanted: &[u8], ended: &Ended) {
    let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first byte that differs; {ended:?}");
    assert_eq!(found.len(), wanted.len(), "{ended:?}");
}

#[test]
fn output_and_error_arrive_apart_and_whole() {
    const OUT: usize = 1_000_001;
    const ERR: usize = 300_007;
    let Some(host) = Host::find() else { return };
    let (out, err) = (OUT.to_string(), ERR.to_string());
    let (mut command, _scratch) = host.run(&["husk-probe", "flood", &out, &err]).command();
    // Bytes, not text: nothing of `Ended`'s lossy standard error here.
    let output = command.output().expect("husk starts");
    assert_eq!(output.status.code(), Some(0));
    for (found, length) in [(&output.stdout, OUT), (&output.stderr, ERR)] {
        let wanted: Vec<u8> = (0..length).map(byte).collect();
        assert!(*found == wanted, "{} bytes of {length}", found.len());
    }
}

#[test]
fn ten_mebibytes_go_in_and_come_out_the_same() {
    let Some(host) = Host::find() else { return };
    let bytes: Vec<u8> = (0..10 << 20).map(byte).collect();
    let husk = host.run(&["cat"]).options(&["-i"]);
    let ended = husk.input(Input::Bytes(bytes.clone())).end();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    same(&ended.stdout, &bytes, &ended);
}

/// Every line is answered before the next is written: nothing waits for a full buffer or
/// for the end; and the end of file arrives.
#[test]
fn input_arrives_as_it_is_written_and_ends() {
    let Some(host) = Host::find() else { return };
    let script = "echo ready; while read -r line; do echo \"<$line>\"; done; echo over";
    let husk = host.sh(script).options(&["-i"]).input(Input::Open);
    let mut started = husk.start();
    started.running.wait_for("ready\n");
    started.running.write(b"one\n");
    started.running.wait_for("<one>\n");
    started.running.write(b"two\n");
    started.running.wait_for("<two>\n");
    started.running.close_stdin();
    started.end().is(0, "ready\n<one>\n<two>\nover\n", "");
}

#[test]
fn without_i_the_command_reads_the_end_of_file_at_once() {
    let Some(host) = Host::find() else { return };
    let husk = host.sh("cat; echo over");
    let husk = husk.input(Input::Bytes(b"not for the guest\n".to_vec()));
    husk.end().is(0, "over\n", "");
}
