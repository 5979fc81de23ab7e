// SPDX-License-Identifier: Apache-2.0
//! A snapshot of the machine as it runs: the agent stops the image's processes, the machine is
//! saved, and they go on. Whatever fails on the way, they go on, and the company hears why.

use super::{Stage, Talk};
use crate::control::Request;
use crate::instance::session::{Event, SaveOrder, Saved};
use husk_protocol::Message;
use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// From `Freeze` to `Frozen`: what cannot stop in that time waits for a device that does not
/// answer, and would be saved in the middle of it.
const FREEZE: Duration = Duration::from_secs(5);
/// The same, where what was written is to reach the disks as well: as at a machine's end.
const SETTLE: Duration = Duration::from_secs(120);
/// From the request to `Saved`: as many gibibytes of disks and memory as a slow disk of the
/// host takes in an hour. Beyond it the machine's process is broken, not slow.
const SAVE: Duration = Duration::from_secs(3600);
/// Letters of a reason the guest gives.
const MAX_REASON: usize = 200;

#[derive(Debug)]
enum Stand {
    /// The agent was asked to freeze.
    Freezing(SaveOrder),
    /// The machine was asked to save.
    Saving { hold: bool },
    /// The guest goes on; its memory is being written.
    Writing { hold: bool, paused: u64 },
}

/// What is being saved, and what is to be.
#[derive(Debug, Default)]
pub(super) struct Saves {
    current: Option<(Stand, Option<Instant>)>,
    next: VecDeque<SaveOrder>,
    /// The agent was asked to freeze, and did not answer yet.
    owed: bool,
    /// The machine never answered: what it says of a save may be of that one.
    lost: bool,
    /// It was saved, and stands still until it is told otherwise.
    held: bool,
}

impl Saves {
    pub(super) fn until(&self) -> Option<Instant> {
        self.current.as_ref().and_then(|(_, until)| *until)
    }

    fn enter(&mut self, stand: Stand, limit: Duration) {
        self.current = Some((stand, Instant::now().checked_add(limit)));
    }
}

impl Talk<'_> {
    pub(super) fn save(&mut self, order: SaveOrder) {
        if self.saves.current.is_some() {
            return self.saves.next.push_back(order);
        }
        let why = if self.machine.is_none() || !self.started || self.stage != Stage::Run {
            "its command does not run"
        } else if self.saves.lost {
            "an earlier snapshot of it never came to an end"
        } else if self.saves.held {
            "it stands still since its last snapshot"
        } else if self.saves.owed {
            "its guest has not answered for the last snapshot yet"
        } else {
            self.saves.owed = true;
            let settle = order.hold;
            let limit = self.patience(settle);
            self.saves.enter(Stand::Freezing(order), limit);
            return self.tell(&Message::Freeze { settle });
        };
        self.note(Event::Saved(Err(why.into())));
    }

    /// One that goes on only in another machine, or never, has its volumes as a stop leaves them.
    fn patience(&self, settle: bool) -> Duration {
        match settle {
            true => SETTLE,
            false => FREEZE.min(self.limits.agent),
        }
    }

    /// Whether the agent may say how a freeze went. It does once, however late.
    pub(super) fn is_asked_to_freeze(&self) -> bool {
        self.saves.owed
    }

    pub(super) fn frozen(&mut self) {
        self.saves.owed = false;
        // One that was given up on was told to go on.
        let Some((Stand::Freezing(order), _)) = self.saves.current.take() else {
            return;
        };
        let files: Vec<_> = order.files.iter().map(|file| file.as_fd()).collect();
        let SaveOrder { hold, changes, .. } = order;
        let request = Request::Save { hold, changes };
        match self.machine.map(|machine| machine.save(&request, &files)) {
            Some(Ok(())) => self.saves.enter(Stand::Saving { hold }, SAVE),
            Some(Err(error)) => {
                self.tell(&Message::Thaw);
                self.conclude_save(Err(format!("the machine cannot be asked: {error}")));
            }
            None => {}
        }
    }

    pub(super) fn unfrozen(&mut self, reason: &str) {
        self.saves.owed = false;
        if let Some((Stand::Freezing(_), _)) = &self.saves.current {
            // The guest's words go to a terminal.
            let printed = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
            let reason = printed.take(MAX_REASON).collect();
            self.conclude_save(Err(reason));
        }
    }

    pub(super) fn captured(&mut self, paused: u64) {
        if let Some((stand @ Stand::Saving { .. }, _)) = &mut self.saves.current
            && let Stand::Saving { hold } = *stand
        {
            *stand = Stand::Writing { hold, paused };
            if !hold {
                self.tell(&Message::Thaw);
            }
        }
    }

    pub(super) fn saved(&mut self, problem: Option<String>) {
        let (hold, paused, stopped) = match self.saves.current {
            Some((Stand::Saving { hold }, _)) => (hold, 0, true),
            Some((Stand::Writing { hold, paused }, _)) => (hold, paused, hold),
            Some((Stand::Freezing(_), _)) | None => return,
        };
        match problem {
            Some(problem) => {
                if stopped {
                    self.tell(&Message::Thaw);
                }
                self.conclude_save(Err(problem));
            }
            None => {
                if stopped && !hold {
                    self.tell(&Message::Thaw);
                }
                self.saves.held = hold;
                self.conclude_save(Ok(Saved { paused }));
            }
        }
    }

    /// One that stands still since it was saved goes on.
    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.saves.held) {
            self.ask(&Request::Resume);
            self.tell(&Message::Thaw);
        }
    }

    pub(super) fn give_up_saving(&mut self) {
        let Some((stand, _)) = &self.saves.current else {
            return;
        };
        let (what, limit) = match stand {
            Stand::Freezing(order) => (
                "the guest's processes did not stand still",
                self.patience(order.hold),
            ),
            Stand::Saving { .. } | Stand::Writing { .. } => {
                self.saves.lost = true;
                ("the machine was not saved", SAVE)
            }
        };
        self.tell(&Message::Thaw);
        self.conclude_save(Err(format!("{what} within {} s", limit.as_secs_f32())));
    }

    /// The machine's end is that of what was to be saved of it.
    pub(super) fn end_saving(&mut self) {
        let orders = usize::from(self.saves.current.take().is_some()) + self.saves.next.len();
        self.saves.next.clear();
        for _ in 0..orders {
            self.note(Event::Saved(Err("the machine came to its end".into())));
        }
    }

    fn conclude_save(&mut self, outcome: Result<Saved, String>) {
        self.saves.current = None;
        self.note(Event::Saved(outcome));
        while self.saves.current.is_none()
            && let Some(order) = self.saves.next.pop_front()
        {
            self.save(order);
        }
    }
}
