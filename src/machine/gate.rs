// SPDX-License-Identifier: Apache-2.0
//! Holds the vCPUs of a machine between two instructions, hands over their state, and lets
//! them go on. The `vmm` thread closes and opens it; vCPU threads wait in it.
//!
//! A vCPU is called out of KVM_RUN by a signal that its thread blocks everywhere else
//! (KVM_SET_SIGNAL_MASK): a call that comes just before it enters the guest is not lost.

use crate::arch::state::{CpuState, StateError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// After so long those that did not come are called again: they were in the middle of
/// something.
const AGAIN: Duration = Duration::from_millis(1);

/// What a vCPU says when it stands still.
pub type Stopped = Result<Box<CpuState>, StateError>;

#[derive(Default)]
struct Inside {
    closed: bool,
    /// By index, once the vCPU waits; taken by whoever closed the gate.
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

    /// On a vCPU's thread: waits until the gate opens. `state` is what it stopped with.
    pub fn stop(&self, index: usize, state: Stopped) {
        let mut inside = self.inside();
        if !inside.closed {
            return;
        }
        if let Some(place) = inside.stopped.get_mut(index) {
            *place = Some(state);
        }
        inside.waiting += 1;
        self.changed.notify_all();
        while inside.closed {
            inside = self.wait(inside);
        }
        inside.waiting -= 1;
        self.changed.notify_all();
    }

    /// Closes the gate; `call` is to make every vCPU come out of the guest.
    pub fn close(&self, call: impl FnOnce()) {
        let mut inside = self.inside();
        inside.stopped.iter_mut().for_each(|place| *place = None);
        inside.closed = true;
        self.closed.store(true, Ordering::Release);
        drop(inside);
        call();
    }

    /// Waits until every vCPU stands still, or `over` says that they never will: one that
    /// ended its machine does not come. Returns their states, by index.
    pub fn collect(&self, over: impl Fn() -> bool, call: impl Fn()) -> Option<Vec<Stopped>> {
        let mut inside = self.inside();
        while inside.waiting < inside.stopped.len() {
            if over() {
                return None;
            }
            let waited = self.changed.wait_timeout(inside, AGAIN);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
            call();
        }
        let stopped = inside.stopped.iter_mut().map(Option::take);
        stopped.collect()
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
