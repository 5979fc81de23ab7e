// SPDX-License-Identifier: Apache-2.0
//! Datagrams: who they came from, so that answers find back. The thread of `husk net`.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Flows of each kind: each outgoing one is a socket. Stops a guest that scans ports from
/// taking all descriptors; the longest silent flow makes room for a new one.
pub const MAX_FLOWS: usize = 512;
/// A flow silent for this long is forgotten (RFC 4787, REQ-5, asks for 2 minutes).
const SILENCE: Duration = Duration::from_secs(120);

/// Flows by what they are found by, each with when it last spoke.
pub struct Table<K, V> {
    flows: HashMap<K, (V, Instant)>,
}

impl<K: Hash + Eq + Clone, V> Table<K, V> {
    pub fn new() -> Self {
        Self {
            flows: HashMap::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    pub fn contains(&self, key: &K) -> bool {
        self.flows.contains_key(key)
    }

    /// Finds a flow, which is heard of by this.
    pub fn touch(&mut self, key: &K) -> Option<&mut V> {
        let (value, heard) = self.flows.get_mut(key)?;
        *heard = Instant::now();
        Some(value)
    }

    /// Adds a flow, and returns the one that had to go for it.
    pub fn add(&mut self, key: K, value: V) -> Option<V> {
        let full = self.flows.len() >= MAX_FLOWS;
        let oldest = full.then(|| self.flows.iter().min_by_key(|(_, (_, heard))| *heard));
        let oldest = oldest.flatten().map(|(key, _)| key.clone());
        let gone = oldest.and_then(|key| self.flows.remove(&key));
        self.flows.insert(key, (value, Instant::now()));
        gone.map(|(value, _)| value)
    }

    /// Forgets flows that are silent, and returns them.
    pub fn sweep(&mut self) -> Vec<(K, V)> {
        let now = Instant::now();
        let old = self
            .flows
            .extract_if(|_, (_, heard)| now.duration_since(*heard) > SILENCE);
        old.map(|(key, (value, _))| (key, value)).collect()
    }
}
