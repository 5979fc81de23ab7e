// SPDX-License-Identifier: Apache-2.0
//! Bytes waiting to be written somewhere that may not take them all at once.

use alloc::vec::Vec;

#[derive(Default)]
pub struct ByteQueue {
    bytes: Vec<u8>,
    head: usize,
}

impl ByteQueue {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.tail().extend_from_slice(bytes);
    }

    /// The vector whose end is the queue's end, for encoding in place. Only append to it.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        // Moving at most as much as was consumed keeps the cost linear.
        if self.head > 0 && self.head >= self.len() {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        &mut self.bytes
    }

    /// What comes next, all of it.
    pub fn peek(&self) -> &[u8] {
        self.bytes.get(self.head..).unwrap_or_default()
    }

    pub fn consume(&mut self, n: usize) {
        self.head = self.head.saturating_add(n).min(self.bytes.len());
        if self.head == self.bytes.len() {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.head = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_across_partial_writes() {
        let mut queue = ByteQueue::new();
        let (mut pushed, mut taken) = (Vec::new(), Vec::new());
        for round in 0..200u8 {
            let chunk = [round; 7];
            queue.push(&chunk);
            pushed.extend_from_slice(&chunk);
            let n = usize::from(round % 9).min(queue.len());
            taken.extend_from_slice(&queue.peek()[..n]);
            queue.consume(n);
        }
        taken.extend_from_slice(queue.peek());
        queue.consume(usize::MAX);
        assert!(queue.is_empty());
        assert_eq!(pushed, taken);
    }
}
