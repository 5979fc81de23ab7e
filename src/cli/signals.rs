// SPDX-License-Identifier: Apache-2.0
//! The signals of a session as a descriptor to poll.
//!
//! Made on the main thread before any other thread exists, so that every thread inherits
//! the blocked mask; read by the session's loop. So would a child, which is why whoever
//! starts one calls `give_back_to`.

use crate::sys::child::with_signal_mask;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::str::FromStr as _;

/// Those a session forwards to its command or acts upon.
pub const CAUGHT: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The real-time signals as programs know them (signal(7)): the C library keeps two.
const FIRST_REAL_TIME: i32 = 34;
const LAST: u8 = 64;

/// A signal by name, with or without SIG, or by number.
pub fn parse(text: &str) -> Result<u8, String> {
    let upper = text.to_ascii_uppercase();
    let long = format!("SIG{}", upper.trim_start_matches("SIG"));
    let named = || Signal::from_str(&long).ok().map(|signal| signal as i32);
    let number = text
        .parse()
        .ok()
        .or_else(named)
        .or_else(|| real_time(&long));
    number
        .and_then(|number| u8::try_from(number).ok())
        .filter(|number| (1..=LAST).contains(number))
        .ok_or_else(|| format!("{text}: no such signal; they look like TERM, SIGHUP or 9"))
}

/// `SIGRTMIN+3`, by which service managers are asked to end, and the like.
fn real_time(name: &str) -> Option<i32> {
    let rest = name.strip_prefix("SIGRT")?;
    let (start, offset) = match (rest.strip_prefix("MIN"), rest.strip_prefix("MAX")) {
        (Some(offset), _) if offset.is_empty() || offset.starts_with('+') => {
            (FIRST_REAL_TIME, offset)
        }
        (_, Some(offset)) if offset.is_empty() || offset.starts_with('-') => {
            (i32::from(LAST), offset)
        }
        _ => return None,
    };
    let offset = match offset {
        "" => 0,
        offset => offset.parse().ok()?,
    };
    let number = i32::checked_add(start, offset)?;
    (FIRST_REAL_TIME..=LAST.into())
        .contains(&number)
        .then_some(number)
}

/// While this lives the caught signals are blocked and arrive at its descriptor.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    pub fn catch() -> io::Result<Self> {
        let mask: SigSet = CAUGHT.into_iter().collect();
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), Some(&mut before))?;
        Ok(Self { fd, before })
    }

    /// Has `command` start with the mask from before.
    pub fn give_back_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        with_signal_mask(command, self.before)
    }

    /// The next signal that has arrived, if one has.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        let Some(info) = self.fd.read_signal()? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        Ok(Signal::try_from(number).ok())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Whatever arrived too late for the session has been answered by its end: a signal
        // left pending would kill the process between here and its exit code.
        while let Ok(Some(_)) = self.next() {}
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [("TERM", 15), ("sigkill", 9), ("SIGHUP", 1), ("64", 64)] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for (text, number) in [("SIGRTMIN+3", 37), ("rtmax-1", 63), ("RTMIN", 34)] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["RTMIN-1", "RTMIN3", "RTMAX+1", "RTMIN+31", "RTMAX-31", "RT"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["", "0", "65", "-1", "NOPE", "SIG", "999999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals_arrive_at_the_descriptor_and_the_mask_comes_back() {
        let mask = || SigSet::thread_get_mask().expect("a mask");
        let before = mask();
        let signals = Signals::catch().expect("signalfd");
        assert_eq!(signals.next().expect("read"), None);
        // raise() reaches this thread, not the test harness beside it.
        raise(Signal::SIGUSR1).expect("raise");
        assert_eq!(signals.next().expect("read"), Some(Signal::SIGUSR1));
        assert_eq!(signals.next().expect("read"), None);

        let blocked = |command: &mut Command| {
            let child = command.args(["SigBlk", "/proc/self/status"]).output();
            String::from_utf8_lossy(&child.expect("grep").stdout).into_owned()
        };
        let inherited = blocked(&mut Command::new("grep"));
        let given_back = blocked(signals.give_back_to(&mut Command::new("grep")));
        assert_eq!(given_back.trim(), "SigBlk:\t0000000000000000");
        assert_ne!(inherited, given_back);

        raise(Signal::SIGTERM).expect("raise");
        drop(signals);
        assert_eq!(mask(), before, "and SIGTERM did not end this test");
    }
}
