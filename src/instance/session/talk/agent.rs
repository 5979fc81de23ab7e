// SPDX-License-Identifier: Apache-2.0
//! The agent's side of a session: what it says is taken in order or not at all.

use super::{PATIENCE, Stage, Talk};
use crate::instance::session::streams::Output;
use crate::instance::session::{Event, How, SessionError};
use husk_protocol::{Decoder, MAX_KERNEL_LOG, Malformed, Message, Stream, VERSION};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::AsRawFd as _;

impl Talk<'_> {
    pub(super) fn flush(&mut self) {
        while self.agent_alive && !self.out.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.agent.as_raw_fd(), self.out.peek(), flags) {
                Ok(n) => self.out.consume(n),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => {
                    // Its last words may still be there to be read.
                    self.hear_last_words();
                    self.lose_agent();
                }
            }
        }
    }

    pub(super) fn hear_agent(&mut self) {
        self.receive();
    }

    fn lose_agent(&mut self) {
        self.agent_alive = false;
        self.out.clear();
        if self.machine.is_none() {
            let console = String::new();
            let lost = match self.started {
                true => SessionError::EndedUnder,
                false => SessionError::AgentLost { console },
            };
            self.verdict.get_or_insert(Err(lost));
            return self.enter(Stage::Over, None);
        }
        if self.verdict.is_none() && matches!(self.stage, Stage::Boot | Stage::Reborn | Stage::Run)
        {
            self.enter(Stage::Lost, Some(PATIENCE));
        }
    }

    /// Reads the connection once and acts on each whole message. False if nothing came.
    pub(super) fn receive(&mut self) -> bool {
        let mut decoder = std::mem::take(&mut self.decoder);
        let more = match recv(
            self.agent.as_raw_fd(),
            decoder.space(),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(0) => {
                self.lose_agent();
                false
            }
            Ok(n) => {
                decoder.filled(n);
                if let Err(error) = self.obey_all(&mut decoder) {
                    self.agent_alive = false;
                    self.fail(error);
                }
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(_) => {
                self.lose_agent();
                false
            }
        };
        self.decoder = decoder;
        more
    }

    fn obey_all(&mut self, decoder: &mut Decoder) -> Result<(), SessionError> {
        while let Some(message) = decoder.take().map_err(SessionError::Protocol)? {
            self.obey(message)?;
        }
        Ok(())
    }

    fn obey(&mut self, message: Message<'_>) -> Result<(), SessionError> {
        let broken = SessionError::Protocol;
        match message {
            Message::Hello(hello) if !self.greeted => {
                if hello.version != VERSION {
                    return Err(SessionError::Version(hello.version));
                }
                self.meet(hello.running)?;
                self.note(Event::AgentUp(hello));
                self.greeted = true;
                self.begin();
                self.out.push(&std::mem::take(&mut self.greeting));
            }
            // Anything before the greeting is out of order.
            _ if !self.greeted => return Err(broken(Malformed::Order)),
            Message::Step { which, problem } if !self.started => self.stepped(which, problem)?,
            Message::Started { pid } if !self.started && self.steps.is_empty() => {
                self.started = true;
                if self.stage == Stage::Reborn {
                    self.enter(Stage::Run, None);
                }
                self.note(Event::Started { pid });
            }
            // Nothing of it may run.
            Message::Data { .. } if self.stage == Stage::Reborn => {
                return Err(broken(Malformed::Order));
            }
            Message::Frozen if self.is_asked_to_freeze() => self.frozen(),
            Message::Unfrozen { reason } if self.is_asked_to_freeze() => self.unfrozen(&reason),
            Message::Failed(failure) if !self.started && !self.reborn => {
                self.conclude(Err(SessionError::Command(failure)));
                self.shut_down();
            }
            Message::Data { stream, bytes } => {
                let credit = self.output(stream)?.accept(bytes).map_err(broken)?;
                if let Some(company) = &mut self.company {
                    company.heard(stream, bytes);
                }
                if let Some(bytes) = credit {
                    self.tell(&Message::Credit { stream, bytes });
                }
            }
            Message::Eof { stream } => self.output(stream)?.end(),
            Message::Credit { stream, bytes } => {
                if let Some(input) = self.input.as_mut().filter(|i| i.stream == stream) {
                    input.window.grant(bytes).map_err(broken)?;
                } else if let Some((_, window)) = self.aside.as_mut().filter(|a| a.0 == stream) {
                    window.grant(bytes).map_err(broken)?;
                }
            }
            Message::Broken { stream } => {
                self.input = self.input.take().filter(|input| input.stream != stream);
                self.aside = self.aside.take().filter(|aside| aside.0 != stream);
            }
            Message::Exited(exit) if self.started => {
                self.note(Event::Exited(exit));
                self.input = None;
                self.aside = None;
                self.conclude(Ok(How::Exited(exit)));
                if self.wants_kernel_log {
                    self.enter(Stage::Shutdown, Some(self.limits.shutdown.max(PATIENCE)));
                } else {
                    self.shut_down();
                }
            }
            Message::KernelLog { records, last } if self.wants_kernel_log => {
                self.kernel_log += records.iter().map(|r| r.text.len() + 16).sum::<usize>();
                if self.kernel_log <= MAX_KERNEL_LOG {
                    self.note(Event::KernelLog(records));
                }
                if last || self.kernel_log > MAX_KERNEL_LOG {
                    self.wants_kernel_log = false;
                    self.shut_down();
                }
            }
            _ => return Err(broken(Malformed::Order)),
        }
        Ok(())
    }

    fn output(&mut self, stream: Stream) -> Result<&mut Output, SessionError> {
        self.outputs
            .iter_mut()
            .find(|output| output.stream == stream)
            .ok_or(SessionError::Protocol(Malformed::Order))
    }

    fn conclude(&mut self, verdict: Result<How, SessionError>) {
        self.verdict.get_or_insert(verdict);
    }

    fn shut_down(&mut self) {
        if self.machine.is_none() {
            return self.enter(Stage::Over, None);
        }
        // Nothing of it is to be made consistent.
        if self.limits.shutdown.is_zero() {
            return self.stop();
        }
        self.tell(&Message::Shutdown);
        if matches!(self.stage, Stage::Run | Stage::Shutdown) {
            self.enter(Stage::Shutdown, Some(self.limits.shutdown));
        }
    }
}
