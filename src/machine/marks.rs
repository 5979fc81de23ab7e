// SPDX-License-Identifier: Apache-2.0
//! Moments of a start, kept for the trace. Any thread may mark; a machine that is not
//! traced pays one comparison.

use crate::sys::clock;
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub struct Marks {
    kept: Option<Mutex<Vec<(String, u64)>>>,
}

/// A guest can cause marks (a driver that starts over and over): this many are kept.
const MAX_MARKS: usize = 256;

impl Marks {
    pub fn new(enabled: bool) -> Self {
        Self {
            kept: enabled.then(|| Mutex::new(Vec::new())),
        }
    }

    pub fn mark(&self, name: impl Into<String>) {
        let Some(kept) = &self.kept else { return };
        let now = clock::monotonic_ns();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_MARKS {
            kept.push((name.into(), now));
        }
    }

    /// The marks since the last call, oldest first, in nanoseconds of CLOCK_MONOTONIC.
    pub fn take(&self) -> Vec<(String, u64)> {
        self.kept.as_ref().map_or_else(Vec::new, |kept| {
            std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}
