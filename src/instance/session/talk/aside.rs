// SPDX-License-Identifier: Apache-2.0
//! The company's side of a session: its input and its wishes.

use super::{MAX_BACKLOG, PATIENCE, Patience, Stage, Talk};
use crate::control::Request;
use crate::instance::session::{How, Wish};
use husk_protocol::{MAX_CHUNK, Message};
use std::time::{Duration, Instant};

/// Ctrl-P, Ctrl-Q: as container tools have it.
const DETACH: [u8; 2] = [0x10, 0x11];

impl Talk<'_> {
    pub(super) fn serve_company(&mut self, ready: &[usize]) {
        let Some(company) = self.company.as_mut() else {
            return;
        };
        company.ready(ready);
        let mut wishes = Vec::new();
        while let Some(wish) = company.next_wish() {
            wishes.push(wish);
        }
        for wish in wishes {
            self.grant(wish);
        }
        self.pass_input();
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Count => self.ask(&Request::Count),
            Wish::Save(order) => self.save(order),
            Wish::Resume => self.resume(),
            Wish::End => self.kill(9),
            Wish::Resize(size) => self.tell(&Message::Resize(size)),
            // A signal before there is a process has nobody to go to; one that would end it
            // ends the machine.
            Wish::Signal(number @ (2 | 3 | 9 | 15)) if !self.started => self.kill(number),
            Wish::Signal(number) => {
                self.tell(&Message::Signal { number });
                if number == 9 {
                    self.wait_for_end(PATIENCE, number, true);
                }
            }
            Wish::Stop { signal, .. } if !self.started => self.kill(signal),
            Wish::Stop { signal, grace } => {
                self.tell(&Message::Signal { number: signal });
                self.wait_for_end(grace, signal, false);
            }
        }
    }

    fn wait_for_end(&mut self, limit: Duration, signal: u8, killed: bool) {
        let until = Instant::now()
            .checked_add(limit)
            .filter(|_| self.verdict.is_none());
        self.patience = until.map(|until| Patience {
            until,
            signal,
            killed,
        });
    }

    /// The process did not end in time: it is killed; if that is not obeyed, the machine is.
    pub(super) fn lose_patience(&mut self) {
        let Some(patience) = self.patience.take() else {
            return;
        };
        if self.verdict.is_some() || self.stage == Stage::Over {
            return;
        }
        if patience.killed {
            return self.kill(9);
        }
        self.tell(&Message::Signal { number: 9 });
        self.wait_for_end(PATIENCE, patience.signal, true);
    }

    pub(super) fn kill(&mut self, signal: u8) {
        self.verdict.get_or_insert(Ok(How::Killed { signal }));
        if self.stage != Stage::Over && self.stage != Stage::Stop {
            self.stop();
        }
    }

    /// What the company typed, as far as the window allows.
    fn pass_input(&mut self) {
        loop {
            let room = self.agent_alive && self.started && self.out.len() < MAX_BACKLOG;
            let (Some(company), Some((stream, window)), true) =
                (&mut self.company, &mut self.aside, room)
            else {
                return;
            };
            let stream = *stream;
            if let Some(bytes) = company.input(MAX_CHUNK.min(window.left())) {
                window.spend(bytes.len());
                let bytes = &bytes;
                let _ = Message::Data { stream, bytes }.encode(self.out.tail());
            } else if company.input_ended() {
                self.aside = None;
                self.tell(&Message::Eof { stream });
            } else {
                return;
            }
        }
    }

    /// Whether the first `n` bytes of what was read hold the word to leave.
    pub(super) fn detaches(&mut self, n: usize) -> bool {
        if !self.detachable {
            return false;
        }
        let bytes = self.scratch.get(..n).unwrap_or_default();
        let split = self.half_detached && bytes.first() == Some(&DETACH[1]);
        self.half_detached = bytes.last() == Some(&DETACH[0]);
        split || bytes.windows(2).any(|pair| *pair == DETACH)
    }
}
