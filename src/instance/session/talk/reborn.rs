// SPDX-License-Identifier: Apache-2.0
//! A restored machine's way to an identity of its own: each step is acknowledged in its order
//! and its time, or the machine is ended. Nothing of the image runs before the last one, and
//! nothing leaves the machine.

use super::{Stage, Talk};
use crate::control::Request;
use crate::instance::session::streams::Output;
use crate::instance::session::{Opening, SessionError};
use husk_protocol::{Failure, HOOKS_SECONDS, Malformed, Message, Running, Step, Stream};
use std::time::Duration;

/// What a step may take that waits for nothing but the guest's kernel: a busy host whose guests
/// are interpreted needs a second for the longest.
const STEP: Duration = Duration::from_secs(10);

/// What is to be acknowledged.
pub(super) fn steps(opening: &Opening) -> &'static [Step] {
    match opening {
        Opening::Reborn(_) => &Step::OF_REBORN,
        Opening::Start(start) if start.rebirth.is_some() => &Step::OF_START,
        Opening::Start(_) => &[],
    }
}

impl Talk<'_> {
    /// What the agent said of itself first is what the machine was made for, or it is ended.
    pub(super) fn meet(&mut self, running: Option<Running>) -> Result<(), SessionError> {
        match running {
            None if self.reborn => Err(SessionError::Otherwise(
                "no process, and was saved with one",
            )),
            Some(_) if !self.reborn => Err(SessionError::Otherwise("a process already")),
            Some(Running {
                terminal, stdin, ..
            }) => {
                if let Some(streams) = self.streams.take() {
                    self.join(streams, terminal, stdin);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The agent was greeted.
    pub(super) fn begin(&mut self) {
        if self.stage != Stage::Boot {
            return;
        }
        if self.reborn {
            return self.enter(Stage::Reborn, Some(self.limit()));
        }
        if !self.steps.is_empty() {
            // A machine that begins from a template has no network interface yet, and finds one
            // when it has random numbers of its own.
            self.ask(&Request::Release);
        }
        self.enter(Stage::Run, None);
    }

    pub(super) fn stepped(
        &mut self,
        which: Step,
        problem: Option<Failure>,
    ) -> Result<(), SessionError> {
        let Some((step, rest)) = self.steps.split_first().filter(|(step, _)| **step == which)
        else {
            return Err(SessionError::Protocol(Malformed::Order));
        };
        if let Some(failure) = problem {
            return Err(SessionError::Identity {
                step: *step,
                failure,
            });
        }
        self.steps = rest;
        if self.stage != Stage::Reborn {
            return Ok(());
        }
        self.enter(Stage::Reborn, Some(self.limit()));
        if rest.is_empty() {
            // In this order: what it sends from here on is sent by who it is now.
            self.ask(&Request::Release);
            // Its terminal has the size it had; the one that looks at it now may have another.
            let terminal = |output: &Output| output.stream == Stream::Terminal;
            if self.outputs.iter().any(terminal)
                && let Some(size) = (self.window_size)()
            {
                self.tell(&Message::Resize(size));
            }
            self.tell(&Message::Thaw);
        }
        Ok(())
    }

    /// No longer than the agent may take to be there at all.
    fn limit(&self) -> Duration {
        let one = STEP.min(self.limits.agent);
        match self.steps.first() {
            Some(Step::Hooks) => one + Duration::from_secs(HOOKS_SECONDS),
            _ => one,
        }
    }

    pub(super) fn lose_rebirth(&mut self) {
        let step = self.steps.first().copied();
        self.fail(SessionError::Unacknowledged {
            step: step.unwrap_or(Step::Hooks),
            limit: self.limit(),
        });
    }
}
