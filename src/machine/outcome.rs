// SPDX-License-Identifier: Apache-2.0
//! How the machine ended: told once, by whichever thread sees it first, and heard on the
//! event thread through a descriptor.

use crate::control::End;
use std::io;
use std::sync::{Mutex, PoisonError};
use vmm_sys_util::eventfd::EventFd;

#[derive(Debug)]
pub struct Outcome {
    end: Mutex<Option<End>>,
    told: EventFd,
}

impl Outcome {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            end: Mutex::new(None),
            told: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })
    }

    /// The first end is the end; what comes later is its consequence.
    pub fn tell(&self, end: End) {
        let mut slot = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(end);
            // Fails only at a count of 2^64 - 2; this is the first and last.
            let _ = self.told.write(1);
        }
    }

    pub fn end(&self) -> Option<End> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Becomes readable, and stays so, when there is an end.
    pub fn eventfd(&self) -> &EventFd {
        &self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_stands() {
        let outcome = Outcome::new().expect("an eventfd");
        assert_eq!(outcome.end(), None);
        outcome.tell(End::Reset);
        outcome.tell(End::Stopped);
        assert_eq!(outcome.end(), Some(End::Reset));
        assert_eq!(outcome.eventfd().read().expect("told"), 1);
    }
}
