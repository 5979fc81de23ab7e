// SPDX-License-Identifier: Apache-2.0
//! A terminal with a husk on it, as a person has one: keys in, screen out, a size.

use super::husk::Husk;
use super::process::Running;
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use rustix::termios::tcsetwinsize;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

pub struct Pty {
    keys: File,
    terminal: OwnedFd,
}

impl Pty {
    pub fn new(rows: u16, columns: u16) -> Self {
        let pair = openpty(&size(rows, columns), None).expect("a pseudo-terminal");
        Self {
            keys: pair.master.into(),
            terminal: pair.slave,
        }
    }

    /// Starts it with this as its controlling terminal and all its streams.
    pub fn start(&self, husk: Husk) -> (Running, tempfile::TempDir) {
        let (command, scratch) = husk.command();
        (self.start_command(&command), scratch)
    }

    /// The same for any command, of which program, arguments and environment count.
    pub fn start_command(&self, what: &Command) -> Running {
        let mut command = Command::new("/bin/busybox");
        command.args(["setsid", "-c"]).arg(what.get_program());
        command.args(what.get_args());
        for (name, value) in what.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let side = || Stdio::from(self.terminal.try_clone().expect("a descriptor"));
        command.stdin(side()).stdout(side()).stderr(side());
        let screen = self.keys.try_clone().expect("a descriptor");
        Running::start_on(&mut command, screen)
    }

    pub fn types(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("the terminal takes keys");
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.terminal, size).expect("the terminal takes a size");
    }

    pub fn modes(&self) -> Termios {
        tcgetattr(&self.terminal).expect("the terminal has modes")
    }

    /// Whether keys pass one by one, with no meaning to the terminal.
    pub fn is_raw(&self) -> bool {
        let cooked = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        !self.modes().local_flags.intersects(cooked)
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
