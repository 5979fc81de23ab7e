// SPDX-License-Identifier: Apache-2.0
//! Flow control of one stream in one direction: credit as HTTP/2 and SSH have it.

use crate::WINDOW;
use crate::wire::Malformed;

/// The sender's side: what it may still send.
#[derive(Clone, Debug)]
pub struct SendWindow(u32);

impl SendWindow {
    pub fn new() -> Self {
        Self(WINDOW)
    }

    /// Bytes that may be sent now.
    pub fn left(&self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Says that `n` bytes were sent, at most `left`.
    pub fn spend(&mut self, n: usize) {
        self.0 = self.0.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Takes credit; more than was spent is a lie.
    pub fn grant(&mut self, n: u32) -> Result<(), Malformed> {
        match self.0.checked_add(n) {
            Some(left) if left <= WINDOW && n > 0 => {
                self.0 = left;
                Ok(())
            }
            _ => Err(Malformed::Window),
        }
    }
}

impl Default for SendWindow {
    fn default() -> Self {
        Self::new()
    }
}

/// The receiver's side: what may still come, and what is owed for what was used up.
#[derive(Clone, Debug)]
pub struct ReceiveWindow {
    left: u32,
    owed: u32,
}

impl ReceiveWindow {
    pub fn new() -> Self {
        Self {
            left: WINDOW,
            owed: 0,
        }
    }

    /// Accounts for `n` bytes that arrived.
    pub fn accept(&mut self, n: usize) -> Result<(), Malformed> {
        self.left = u32::try_from(n)
            .ok()
            .and_then(|n| self.left.checked_sub(n))
            .ok_or(Malformed::Window)?;
        Ok(())
    }

    /// Says that `n` of the accepted bytes no longer take room here. Returns credit to
    /// send, if it is worth a message: a sender at the end of its window always gets some.
    #[must_use]
    pub fn release(&mut self, n: usize) -> Option<u32> {
        let used = WINDOW - self.left - self.owed;
        self.owed += u32::try_from(n).unwrap_or(u32::MAX).min(used);
        if self.owed < WINDOW / 4 {
            return None;
        }
        self.left += self.owed;
        Some(core::mem::take(&mut self.owed))
    }
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_that_waits_for_credit_gets_it_before_the_receiver_runs_dry() {
        let (mut send, mut receive) = (SendWindow::new(), ReceiveWindow::new());
        for _ in 0..100 {
            let n = send.left();
            assert!(n > 0);
            receive.accept(n).unwrap();
            send.spend(n);
            let mut freed = 0;
            while freed < n {
                let step = 1000.min(n - freed);
                freed += step;
                if let Some(credit) = receive.release(step) {
                    send.grant(credit).unwrap();
                }
            }
        }
    }

    #[test]
    fn neither_side_may_overrun() {
        let mut receive = ReceiveWindow::new();
        receive.accept(WINDOW as usize).unwrap();
        assert_eq!(receive.accept(1), Err(Malformed::Window));
        let mut send = SendWindow::new();
        assert_eq!(send.grant(1), Err(Malformed::Window));
        send.spend(10);
        assert_eq!(send.grant(11), Err(Malformed::Window));
        assert_eq!(send.grant(u32::MAX), Err(Malformed::Window));
        assert_eq!(send.grant(0), Err(Malformed::Window));
        send.grant(10).unwrap();
    }

    #[test]
    fn releasing_more_than_arrived_mints_no_credit() {
        let mut receive = ReceiveWindow::new();
        assert_eq!(receive.release(usize::MAX), None);
        receive.accept(WINDOW as usize).unwrap();
        assert_eq!(receive.release(usize::MAX), Some(WINDOW));
    }
}
