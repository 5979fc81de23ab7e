// SPDX-License-Identifier: Apache-2.0
//! Holds the vCPUs of a machine between two instructions, hands over their states once all of
//! them stand still, and lets them go on. The `vmm` thread closes and opens it; vCPU threads wait in it.
//!
//! A vCPU is called out of KVM_RUN by a signal that its thread blocks everywhere else
//! (KVM_SET_SIGNAL_MASK): a call that comes just before it enters the guest is not lost.

use crate::arch::state::{CpuState, StateError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After so long those that did not come are called again: they were in the middle of
/// something.
const AGAIN: Duration = Duration::from_millis(1);
/// How long they may take. Stops a guest that stays where no vCPU is at rest, an endless loop
/// behind an INT3 say, from keeping the event thread: nobody could even end its machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a vCPU says when it stands still.
pub type Stopped = Result<Box<CpuState>, StateError>;

/// Why the vCPUs do not stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Restless {
    #[error("the machine came to its end")]
    Over,
    #[error("its processors do not stand still within {} s", PATIENCE.as_secs())]
    Late,
}

#[derive(Default)]
struct Inside {
    closed: bool,
    /// How often those that wait were asked for their states.
    asked: u64,
    /// By index, once the vCPU has answered; taken by whoever asked.
    stopped: Vec<Option<Stopped>>,
    /// How many wait now.
    waiting: usize,
}

/// The gate of one machine.
pub struct Gate {
    /// What a vCPU looks at after every exit.
    closed: AtomicBool,
    inside: Mutex<Inside>,
    changed: Condvar,
}

impl Gate {
    pub fn new(vcpus: usize) -> Self {
        Self {
            closed: AtomicBool::new(false),
            inside: Mutex::new(Inside {
                stopped: (0..vcpus).map(|_| None).collect(),
                ..Inside::default()
            }),
            changed: Condvar::new(),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inside: MutexGuard<'a, Inside>) -> MutexGuard<'a, Inside> {
        let waited = self.changed.wait(inside);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a vCPU that has answered its last exit is to come in.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// On a vCPU's thread: waits until the gate opens. `state` is asked for when every vCPU
    /// waits and not before: those that still ran could send this one an interrupt.
    pub fn stop(&self, index: usize, mut state: impl FnMut() -> Stopped) {
        let mut inside = self.inside();
        if !inside.closed {
            return;
        }
        let mut answered = inside.asked;
        inside.waiting += 1;
        self.changed.notify_all();
        while inside.closed {
            if inside.asked == answered {
                inside = self.wait(inside);
                continue;
            }
            answered = inside.asked;
            drop(inside);
            let answer = state();
            inside = self.inside();
            if let Some(place) = inside.stopped.get_mut(index) {
                *place = Some(answer);
            }
            self.changed.notify_all();
        }
        inside.waiting -= 1;
        self.changed.notify_all();
    }

    /// Closes the gate; `call` is to make every vCPU come out of the guest. False: it was
    /// closed already.
    pub fn close(&self, call: impl FnOnce()) -> bool {
        let was_open = !std::mem::replace(&mut self.inside().closed, true);
        self.closed.store(true, Ordering::Release);
        call();
        was_open
    }

    /// Waits until every vCPU stands still, for as long, or `over` says that they never will:
    /// one that ended its machine does not come.
    pub fn gather(
        &self,
        patience: Duration,
        over: impl Fn() -> bool,
        call: impl Fn(),
    ) -> Result<(), Restless> {
        let until = Instant::now() + patience;
        let mut inside = self.inside();
        while inside.waiting < inside.stopped.len() {
            if over() {
                return Err(Restless::Over);
            }
            if Instant::now() >= until {
                return Err(Restless::Late);
            }
            let waited = self.changed.wait_timeout(inside, AGAIN);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
            call();
        }
        Ok(())
    }

    /// The states of all vCPUs, by index, which were gathered.
    pub fn states(&self) -> Vec<Stopped> {
        let mut inside = self.inside();
        inside.stopped.iter_mut().for_each(|place| *place = None);
        inside.asked += 1;
        self.changed.notify_all();
        while inside.stopped.iter().any(Option::is_none) {
            inside = self.wait(inside);
        }
        inside.stopped.iter_mut().filter_map(Option::take).collect()
    }

    /// Lets every vCPU go on, and waits until the last one has heard.
    pub fn open(&self) {
        let mut inside = self.inside();
        inside.closed = false;
        self.closed.store(false, Ordering::Release);
        self.changed.notify_all();
        while inside.waiting > 0 {
            inside = self.wait(inside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::thread;

    /// A state of a test's: a number that comes back.
    fn number(value: u32) -> Stopped {
        Err(StateError::Register(value))
    }

    fn numbers(states: Vec<Stopped>) -> Vec<u32> {
        let number = |state: Stopped| match state {
            Err(StateError::Register(value)) => value,
            _ => panic!("not a number"),
        };
        states.into_iter().map(number).collect()
    }

    /// A processor that still runs interrupts one that stands still already.
    #[test]
    fn what_reaches_one_that_waits_is_in_its_state() {
        let (gate, interrupts) = (&Gate::new(2), &AtomicU32::new(0));
        assert!(gate.close(|| ()));
        let (gathered, answers) = thread::scope(|scope| {
            let state = || number(interrupts.load(Ordering::SeqCst));
            scope.spawn(move || gate.stop(0, state));
            scope.spawn(|| {
                while gate.inside().waiting == 0 {
                    thread::yield_now();
                }
                interrupts.store(1, Ordering::SeqCst);
                gate.stop(1, || number(7));
            });
            let gathered = gate.gather(PATIENCE, || false, || ());
            // What the devices do, while they are saved, counts as well.
            interrupts.store(2, Ordering::SeqCst);
            let answers = [gate.states(), gate.states()];
            gate.open();
            (gathered, answers)
        });
        assert_eq!(gathered, Ok(()));
        // As often as they are asked.
        assert_eq!(answers.map(numbers), [[2, 7], [2, 7]]);
    }

    #[test]
    fn one_that_never_comes_is_not_waited_for() {
        let gate = Gate::new(1);
        gate.close(|| ());
        let short = Duration::from_millis(20);
        assert_eq!(gate.gather(short, || true, || ()), Err(Restless::Over));
        assert_eq!(gate.gather(short, || false, || ()), Err(Restless::Late));
        assert!(!gate.close(|| ()), "it was closed");
        gate.open();
        assert!(gate.close(|| ()));
    }
}
