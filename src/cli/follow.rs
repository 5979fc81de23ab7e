// SPDX-License-Identifier: Apache-2.0
//! Waits for something to change in a folder of machines, or for their owners to end.

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// A folder under watch. Changes are noticed from when this is made.
pub struct Watched(Inotify);

impl Watched {
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .context("cannot watch folders")?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE;
        match inotify.add_watch(folder, flags) {
            // A folder that is gone changes no more.
            Ok(_) | Err(Errno::ENOENT) => Ok(Self(inotify)),
            Err(errno) => Err(errno).context("cannot watch a folder"),
        }
    }

    /// Waits for a change, or for one of `owners` to end; true if one did.
    pub fn wait(&self, owners: &[OwnedFd]) -> anyhow::Result<bool> {
        self.wait_until(owners, PollTimeout::NONE)
    }

    /// The same, for no longer than this.
    pub fn wait_for(&self, owners: &[OwnedFd], limit: Duration) -> anyhow::Result<bool> {
        let limit = limit + Duration::from_millis(1);
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        self.wait_until(owners, limit)
    }

    fn wait_until(&self, owners: &[OwnedFd], limit: PollTimeout) -> anyhow::Result<bool> {
        let reading = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut list = vec![reading(self.0.as_fd())];
        list.extend(owners.iter().map(|owner| reading(owner.as_fd())));
        match poll(&mut list, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ended = list
            .iter()
            .skip(1)
            .any(|fd| fd.revents().is_some_and(|revents| !revents.is_empty()));
        drop(list);
        // What happened is looked for, not read of.
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {}
        Ok(ended)
    }
}

/// A moment: how long ago, or a time as RFC 3339 has it. In nanoseconds since 1970.
pub fn moment(text: &str) -> Result<u64, String> {
    let now = crate::instance::record::now();
    if let Ok(span) = crate::units::parse_span(text) {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        return Ok(now.saturating_sub(span));
    }
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| format!("{text}: not a time; they look like 10m or 2026-01-31T12:00:00Z"))?;
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spans_before_now_or_times() {
        let now = crate::instance::record::now();
        let ago = moment("1m").expect("a span");
        assert!(now.abs_diff(ago).abs_diff(60_000_000_000) < 30_000_000_000);
        assert_eq!(moment("1970-01-01T00:00:02Z"), Ok(2_000_000_000));
        assert_eq!(moment("1970-01-01 00:00:02"), Ok(2_000_000_000));
        assert!(moment("soon").is_err());
    }
}
