// SPDX-License-Identifier: Apache-2.0
//! A token bucket: how much a device may do in a second. Any thread; never sleeps. A bucket
//! knows no clock of its own; a `Throttle` joins buckets to one, and to a timer that says
//! when to go on.
//!
//! Work is let through while the balance is above zero and may bring it below: so no piece
//! of work is too large, and over time the rate is exact.

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

/// What gathers while nothing happens, as a part of a second's worth.
const BURST: f64 = 0.1;

#[derive(Debug)]
pub struct TokenBucket {
    /// Tokens a second.
    rate: f64,
    balance: f64,
    filled: Instant,
}

impl TokenBucket {
    /// `rate` tokens a second; zero is taken for one.
    #[must_use]
    pub fn new(rate: u64, now: Instant) -> Self {
        let rate = u32::try_from(rate.max(1)).map_or(rate as f64, f64::from);
        Self {
            rate,
            balance: (rate * BURST).max(1.0),
            filled: now,
        }
    }

    /// Nothing if work may begin, else how long to wait before asking again.
    #[must_use]
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let past = now.saturating_duration_since(self.filled);
        self.filled = now;
        let most = (self.rate * BURST).max(1.0);
        self.balance = (self.balance + past.as_secs_f64() * self.rate).min(most);
        if self.balance > 0.0 {
            return None;
        }
        // To a whole token, so that nobody asks again for a fraction of one.
        let missing = (1.0 - self.balance) / self.rate;
        Some(Duration::from_secs_f64(missing.min(3600.0)).max(Duration::from_micros(100)))
    }

    /// Work begins that costs so much.
    pub fn spend(&mut self, tokens: u64) {
        self.balance -= tokens as f64;
    }
}

/// Work that several buckets must let through, and what wakes its device when they did not.
#[derive(Debug)]
pub struct Throttle {
    buckets: Vec<TokenBucket>,
    timer: TimerFd,
}

impl Throttle {
    /// Buckets of these rates; `None` if there are none, and so no limit.
    pub fn new(rates: &[u64]) -> io::Result<Option<Self>> {
        if rates.is_empty() {
            return Ok(None);
        }
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let now = Instant::now();
        let bucket = |rate: &u64| TokenBucket::new(*rate, now);
        Ok(Some(Self {
            buckets: rates.iter().map(bucket).collect(),
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
        }))
    }

    /// Whether work may begin; if not, the timer says when to ask again.
    #[must_use]
    pub fn admits(&mut self) -> bool {
        let now = Instant::now();
        let waits = self
            .buckets
            .iter_mut()
            .filter_map(|bucket| bucket.wait(now));
        let Some(wait) = waits.max() else {
            return true;
        };
        let once = Expiration::OneShot(TimeSpec::from_duration(wait));
        // If the timer cannot be set nobody is held up, who could not be woken again.
        self.timer.set(once, TimerSetTimeFlags::empty()).is_err()
    }

    /// Work begins that costs each bucket so much, in the order of their rates.
    pub fn spend(&mut self, tokens: impl IntoIterator<Item = u64>) {
        for (bucket, tokens) in self.buckets.iter_mut().zip(tokens) {
            bucket.spend(tokens);
        }
    }

    /// Readable when it is time to ask again.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.timer.as_fd().as_raw_fd()
    }

    /// Takes note that the timer has expired.
    pub fn acknowledge(&self) {
        // It has, so this does not wait; else there is nothing to take, and it does not either.
        let _ = self.timer.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_the_rate_is_exact_whatever_the_size_of_the_pieces() {
        for piece in [1, 1000, 4096, 500_000] {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(100_000, start);
            let (mut now, mut done) = (start, 0);
            while done < 2_000_000 {
                match bucket.wait(now) {
                    None => {
                        bucket.spend(piece);
                        done += piece;
                    }
                    Some(wait) => now += wait,
                }
            }
            let seconds = (now - start).as_secs_f64();
            let owed = 500_000.0f64.min(piece as f64) / 100_000.0;
            let expected = done as f64 / 100_000.0;
            assert!(
                seconds <= expected + 0.1 && seconds >= expected - 0.2 - owed,
                "{piece}: {seconds} s for {expected}"
            );
        }
    }

    #[test]
    fn an_idle_bucket_does_not_save_up() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1000, start);
        let later = start + Duration::from_secs(1000);
        let mut spent = 0;
        while bucket.wait(later).is_none() {
            bucket.spend(10);
            spent += 10;
        }
        assert_eq!(spent, 100, "a tenth of a second's worth");
        assert!(
            bucket.wait(start).is_some(),
            "a clock that goes back is none"
        );
    }
}
