// SPDX-License-Identifier: Apache-2.0
//! A machine that stands still for a snapshot: every process of the image is stopped before it
//! is taken, and still is when one goes on from it, so that nothing of the image runs before
//! the agent has seen to who the machine is now. Part of the loop: starts and looks, and never
//! waits.

use super::entry;
use crate::freezer::{Freezer, Stop};
use crate::rebirth::{self, hooks::Hooks};
use crate::session::{Order, Place, Session, exit_of};
use crate::sys;
use alloc::string::String;
use alloc::vec::Vec;
use husk_protocol::{Failure, Message, Rebirth, Step};
use libc::{POLLPRI, c_int, pollfd};

/// Milliseconds after which a look is taken even if no group says anything.
const LOOK: c_int = 20;

/// Whether what the image wrote is to be on the disks before it is told to stand still.
type Settle = bool;

enum State {
    Going,
    /// Told to stop, not all did yet.
    Stopping(Stop, Settle),
    Still(Stop),
    /// The machine was restored and is somebody else from here on; `Hooks` are being run.
    Changing(Stop, Hooks),
    /// All steps are done: it may go on.
    Changed(Stop),
}

pub struct Still {
    pub freezer: Freezer,
    state: State,
}

impl Still {
    pub fn new(freezer: Freezer) -> Self {
        Self {
            freezer,
            state: State::Going,
        }
    }

    /// Whether nothing of the image may be started, or heard.
    pub fn is_going(&self) -> bool {
        matches!(self.state, State::Going)
    }

    /// Whether a link that is lost is the end of a life, and not of the machine.
    pub fn may_be_reborn(&self) -> bool {
        matches!(self.state, State::Still(_))
    }

    pub fn obey(&mut self, order: Order, main: &mut Session) {
        match order {
            Order::Freeze { settle } => self.stop(settle, main),
            Order::Thaw => self.thaw(main),
            Order::Reborn(rebirth) => self.change(&rebirth, main),
        }
    }

    fn stop(&mut self, settle: Settle, main: &mut Session) {
        let refuse = |main: &mut Session, reason: &str| {
            main.tell(&Message::Unfrozen {
                reason: reason.into(),
            });
        };
        let State::Going = self.state else {
            return refuse(main, "it stands still already");
        };
        let Some(pid) = main.running() else {
            return refuse(main, "its command does not run");
        };
        match self.freezer.stop(pid) {
            Ok(stop) => self.state = State::Stopping(stop, settle),
            Err(reason) => refuse(main, &reason),
        }
    }

    fn thaw(&mut self, main: &mut Session) {
        match core::mem::replace(&mut self.state, State::Going) {
            State::Going => {}
            State::Stopping(stop, _) => {
                stop.release();
                let reason = String::from("it took too long");
                main.tell(&Message::Unfrozen { reason });
            }
            State::Still(stop) if !main.is_awaiting() => stop.release(),
            State::Changed(stop) => {
                stop.release();
                main.go_on();
            }
            // Who it is is not settled: nothing of it may run.
            other => self.state = other,
        }
    }

    fn change(&mut self, rebirth: &Rebirth, main: &mut Session) {
        let State::Still(stop) = core::mem::replace(&mut self.state, State::Going) else {
            return;
        };
        let changed = steps(rebirth, main).and_then(|()| {
            // Else the machine is that of whoever runs these tests.
            if main.place() == Place::Process {
                return Ok(Hooks::none());
            }
            let group = self.freezer.aside(main.who.lives);
            Hooks::gather(&rebirth.generation, &main.who.hostname, group)
                .map_err(|why| (Step::Hooks, why))
        });
        self.state = match changed {
            Ok(hooks) => State::Changing(stop, hooks),
            Err((step, why)) => {
                tell(main, step, Some(why));
                State::Still(stop)
            }
        };
    }

    /// Appends what is to be watched.
    pub fn watch(&self, fds: &mut Vec<pollfd>) {
        if let State::Stopping(stop, _) = &self.state {
            fds.extend(stop.events().map(|events| entry(events, POLLPRI)));
        }
    }

    /// Milliseconds poll may wait for its sake, or -1.
    pub fn patience(&self) -> c_int {
        match &self.state {
            State::Stopping(..) => LOOK,
            State::Changing(_, hooks) => hooks.patience(),
            State::Going | State::Still(_) | State::Changed(_) => -1,
        }
    }

    /// Looks how far it is.
    pub fn go_on(&mut self, main: &mut Session) {
        match core::mem::replace(&mut self.state, State::Going) {
            State::Stopping(mut stop, settle) => match stop.look(&self.freezer) {
                Ok(true) => {
                    if settle {
                        // Nobody writes any more. It may take long; nobody else is served
                        // by a machine that is about to end.
                        sys::sync();
                    }
                    main.tell(&Message::Frozen);
                    self.state = State::Still(stop);
                }
                Ok(false) => self.state = State::Stopping(stop, settle),
                Err(reason) => {
                    stop.release();
                    main.tell(&Message::Unfrozen { reason });
                }
            },
            State::Changing(stop, mut hooks) => match hooks.go_on() {
                Ok(false) => self.state = State::Changing(stop, hooks),
                Ok(true) => {
                    tell(main, Step::Hooks, None);
                    self.state = State::Changed(stop);
                }
                Err(why) => self.fail(stop, why, main),
            },
            other => self.state = other,
        }
    }

    /// Takes the end of a child. False: it is none of these.
    pub fn ended(&mut self, pid: u32, status: c_int, main: &mut Session) -> bool {
        let State::Changing(_, hooks) = &mut self.state else {
            return false;
        };
        let Some(outcome) = hooks.ended(pid, exit_of(status)) else {
            return false;
        };
        if let Err(why) = outcome
            && let State::Changing(stop, _) = core::mem::replace(&mut self.state, State::Going)
        {
            self.fail(stop, why, main);
        }
        true
    }

    /// Stays still until its host ends it.
    fn fail(&mut self, stop: Stop, why: Failure, main: &mut Session) {
        tell(main, Step::Hooks, Some(why));
        self.state = State::Still(stop);
    }
}

/// All but the last, which takes its time.
fn steps(rebirth: &Rebirth, main: &mut Session) -> Result<(), (Step, Failure)> {
    for step in Step::OF_REBORN {
        if step == Step::Hooks {
            break;
        }
        if main.place() == Place::Machine {
            rebirth::take(step, rebirth, &mut main.who).map_err(|why| (step, why))?;
        }
        tell(main, step, None);
    }
    Ok(())
}

fn tell(main: &mut Session, which: Step, problem: Option<Failure>) {
    main.tell(&Message::Step { which, problem });
}
