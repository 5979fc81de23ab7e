// SPDX-License-Identifier: Apache-2.0
//! A program for the inside of a guest, static so that it runs in any root file system.
//! `husk-probe QUESTION [ARGUMENT…]` answers on standard output; a wrong state of the
//! machine is exit code 1 with the reason on standard error.

mod streams;
mod vectors;

use std::process::ExitCode;

const USAGE: &str = "questions: vectors PROCESSES SWITCHES | flood STDOUT_BYTES STDERR_BYTES | \
                     spin | touch MIB";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match words[..] {
        ["vectors", processes, switches] => number(processes)
            .and_then(|processes| Ok((processes, number(switches)?)))
            .and_then(|(processes, switches)| vectors::check(processes, switches)),
        ["flood", out, err] => number(out)
            .and_then(|out| Ok((out, number(err)?)))
            .and_then(|(out, err)| streams::flood(out, err)),
        ["touch", mib] => number(mib).and_then(touch),
        ["spin"] => loop {
            std::hint::spin_loop();
        },
        _ => Err(USAGE.to_owned()),
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("husk-probe: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// Writes to and reads back every page of `mib` MiB.
fn touch(mib: usize) -> Result<(), String> {
    const PAGE: usize = 4096;
    let mut memory = vec![0u8; mib << 20];
    for (index, page) in memory.chunks_mut(PAGE).enumerate() {
        page[..8].copy_from_slice(&index.to_le_bytes());
    }
    for (index, page) in memory.chunks(PAGE).enumerate() {
        if page[..8] != index.to_le_bytes() {
            return Err(format!("page {index} lost what was written to it"));
        }
    }
    println!("{mib} MiB hold");
    Ok(())
}
