// SPDX-License-Identifier: Apache-2.0
//! A program for the inside of a guest, static so that it runs in any root file system.
//! `husk-probe QUESTION [ARGUMENT…]` answers on standard output; a wrong state of the
//! machine is exit code 1 with the reason on standard error.

mod bench;
mod disk;
mod events;
mod frames;
mod load;
mod mappings;
mod storms;
mod streams;
mod sys;
mod talk;
mod torture;
mod traced;
mod vectors;

use std::process::ExitCode;

const USAGE: &str = "questions:
  vectors PROCESSES SWITCHES       vector registers across context switches
  flood STDOUT_BYTES STDERR_BYTES  known bytes
  spin                             never ends
  touch MIB                        memory, page by page
  nothing                          ends at once
  traced [watch]                   ptrace: steps, breakpoints, system calls (debug registers)
  forks COUNT                      children and what they see
  signals COUNT                    a storm of signals into running code
  threads COUNT ROUNDS             threads at one futex
  torture MILLISECONDS             locks of several kinds and clocks on every processor
  mappings                         mmap in all its forms
  epoll                            readiness of files of every kind
  uring ROUNDS                     io_uring
  bench MILLISECONDS [ROW]...      what the kernel's work costs, a JSON object a row
  disk PATH MIB MILLISECONDS [cached]
                                   how fast a disk is; what was on it is lost
  http ADDRESS PATH CLIENTS SECONDS [keep]
                                   requests to a web server, as many as it answers
  frames INTERFACE HEX...          frames as they are, on the wire
  serve ADDRESS                    the other end of talk, without end
  talk ADDRESS MILLISECONDS        what a connection carries, a JSON object a row";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match answer(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("husk-probe: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn answer(words: &[&str]) -> Result<(), String> {
    match *words {
        ["vectors", processes, switches] => vectors::check(number(processes)?, number(switches)?),
        ["flood", out, err] => streams::flood(number(out)?, number(err)?),
        ["touch", mib] => touch(number(mib)?),
        ["spin"] => loop {
            std::hint::spin_loop();
        },
        ["nothing"] => Ok(()),
        ["traced"] => traced::check_all(false),
        ["traced", "watch"] => traced::check_all(true),
        ["forks", count] => storms::forks(number(count)?),
        ["signals", count] => storms::signals(number(count)?),
        ["threads", count, rounds] => storms::threads(number(count)?, number(rounds)?),
        ["torture", milliseconds] => torture::run(number(milliseconds)?),
        ["mappings"] => mappings::check_all(),
        ["epoll"] => events::epoll(),
        ["uring", rounds] => events::uring(number(rounds)?),
        ["bench", milliseconds, ref rows @ ..] => bench::measure(number(milliseconds)?, rows),
        ["disk", path, mib, milliseconds, ref cached @ ..] if matches!(cached, [] | ["cached"]) => {
            let (mib, milliseconds) = (number(mib)?, number(milliseconds)?);
            disk::measure(path, mib, milliseconds, !cached.is_empty())
        }
        ["http", address, path, clients, seconds, ref keep @ ..]
            if matches!(keep, [] | ["keep"]) =>
        {
            let (clients, seconds) = (number(clients)?, number(seconds)?);
            load::http(address, path, clients, seconds, !keep.is_empty())
        }
        ["frames", interface, ref frames @ ..] => frames::send(interface, frames),
        ["serve", address] => talk::serve(address),
        ["talk", address, milliseconds] => talk::measure(address, number(milliseconds)?),
        _ => Err(USAGE.to_owned()),
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
