// SPDX-License-Identifier: Apache-2.0
//! `processes`: one line for each process of the guest, in fields with tabs between them: id,
//! parent, user, state, hundredths of a second of CPU time, KiB of memory, command.

use super::{Trouble, write_all};
use crate::sys::{self, c_string};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use libc::{O_DIRECTORY, O_RDONLY};

/// Longest piece of a command line that is told.
const MAX_COMMAND: usize = 4096;
/// /proc/PID/stat has one line.
const MAX_STAT: usize = 1024;

pub fn run() -> Result<bool, Trouble> {
    let directory = sys::open(c"/proc", O_RDONLY | O_DIRECTORY, 0)
        .and_then(|proc| sys::names(&proc))
        .map_err(|errno| Trouble::at(b"/proc", errno))?;
    let mut pids: Vec<u32> = directory
        .iter()
        .filter_map(|name| core::str::from_utf8(name).ok()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let own = sys::own_pid();
    for pid in pids {
        // One that ended since is left out, as is this one.
        if let Some(line) = line(pid).filter(|_| usize::try_from(pid) != Ok(own)) {
            write_all(line.as_bytes())?;
        }
    }
    Ok(true)
}

fn line(pid: u32) -> Option<String> {
    let file = |name: &str, most| {
        sys::read_file(&c_string(format!("/proc/{pid}/{name}").as_bytes()), most).ok()
    };
    let stat = file("stat", MAX_STAT)?;
    let stat = String::from_utf8_lossy(&stat);
    let uid = sys::facts(&c_string(format!("/proc/{pid}").as_bytes()))
        .ok()?
        .uid;
    let command = file("cmdline", MAX_COMMAND).unwrap_or_default();
    compose(pid, uid, &stat, &command)
}

fn compose(pid: u32, uid: u32, stat: &str, command: &[u8]) -> Option<String> {
    // The name, in parentheses, may hold anything (proc_pid_stat(5)).
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let (state, parent) = (fields.first()?, number(1)?);
    let time = number(11)?.saturating_add(number(12)?);
    let memory = number(21)?.saturating_mul(4);
    // A process of the kernel, or one that ended, has no command line.
    let shown = match command.is_empty() {
        true => format!("[{name}]"),
        false => String::from_utf8_lossy(command)
            .trim_end_matches('\0')
            .to_string(),
    };
    let shown: String = shown
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    Some(format!(
        "{pid}\t{parent}\t{uid}\t{state}\t{time}\t{memory}\t{shown}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_a_line() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 3 4 0 0 20 0 1 0 50 4096 25 18446744073709551615";
        assert_eq!(
            compose(7, 0, stat, b"sh\0-c\0a\nb\0").as_deref(),
            Some("7\t1\t0\tS\t7\t100\tsh -c a b\n")
        );
        assert_eq!(
            compose(7, 0, stat, b"").as_deref(),
            Some("7\t1\t0\tS\t7\t100\t[a) b]\n")
        );
        assert_eq!(compose(7, 0, "nonsense", b""), None);
    }
}
