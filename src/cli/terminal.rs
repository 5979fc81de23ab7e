// SPDX-License-Identifier: Apache-2.0
//! The operator's terminal: raw while a guest has it, and always given back.
//!
//! Made and dropped on the main thread; `sys::tty` covers fatal signals.

use crate::sys::tty::{self, RawMode};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

/// Puts standard input in raw mode until the guard is dropped; nothing to do where it is
/// no terminal.
pub fn raw_stdin() -> io::Result<Option<RawMode>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    RawMode::enter(stdin.as_fd()).map(Some)
}

/// Rows and columns of the terminal on standard output, or else on standard input.
#[must_use]
pub fn window_size() -> Option<(u16, u16)> {
    tty::window_size(io::stdout().as_fd()).or_else(|| tty::window_size(io::stdin().as_fd()))
}

/// `panic = "abort"` runs no destructor, so the panic hook gives the terminal back, and
/// does so before the message: a raw terminal would print it as a staircase.
pub fn restore_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tty::restore();
        default(info);
    }));
}
