// SPDX-License-Identifier: Apache-2.0
//! Datagrams: who they came from, so that answers find back. The thread of `husk net`.

use nix::sys::resource::{Resource, getrlimit};
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Flows of each kind: each outgoing one is a socket. Stops a guest that scans ports from
/// taking all descriptors; the longest silent flow makes room for a new one.
const MAX_FLOWS: usize = 512;
/// And of the descriptors this process may have they take no more than one in so many: where
/// there are none left, a connection that cannot be accepted would wake us for ever.
const SHARE: u64 = 4;
/// A flow silent for this long is forgotten (RFC 4787, REQ-5, asks for 2 minutes).
const SILENCE: Duration = Duration::from_secs(120);

fn share_of(descriptors: u64) -> usize {
    usize::try_from(descriptors / SHARE).map_or(MAX_FLOWS, |share| share.min(MAX_FLOWS))
}

/// Flows by what they are found by, each with when it last spoke.
pub struct Table<K, V> {
    flows: HashMap<K, (V, Instant)>,
    most: usize,
}

impl<K: Hash + Eq + Clone, V> Table<K, V> {
    /// As many flows as this process has descriptors for.
    pub fn new() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Self::of(share_of(limit))
    }

    fn of(most: usize) -> Self {
        Self {
            flows: HashMap::new(),
            most,
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
        let full = self.flows.len() >= self.most;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_its_share_of_the_descriptors_and_the_longest_silent_goes_first() {
        assert_eq!(share_of(64), 16);
        assert_eq!(share_of(u64::MAX), MAX_FLOWS);
        let mut table = Table::of(2);
        assert_eq!((table.add(1, 'a'), table.add(2, 'b')), (None, None));
        table.touch(&1);
        assert_eq!(table.add(3, 'c'), Some('b'));
        assert!(table.contains(&1) && table.contains(&3));
    }
}
