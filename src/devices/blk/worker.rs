// SPDX-License-Identifier: Apache-2.0
//! A disk's requests on a thread of its own, `disk`, one after another: for hosts without
//! io_uring. The order they come in is the order they are done in, which makes a flush a
//! barrier.

use super::backend::{Backend, DEPTH};
use crate::memory::Transfer;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::EventFd;

struct Done {
    tag: u32,
    left: usize,
    result: io::Result<()>,
}

#[derive(Default)]
struct Desk {
    waiting: VecDeque<(u32, Transfer)>,
    done: Vec<Done>,
    /// Taken by the thread and not yet in `done`.
    busy: bool,
    over: bool,
}

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    ready: EventFd,
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, desk: MutexGuard<'a, Desk>) -> MutexGuard<'a, Desk> {
        let waited = self.changed.wait(desk);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(file: File) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            desk: Mutex::default(),
            changed: Condvar::new(),
            ready: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || work(&theirs, &file))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

fn work(shared: &Shared, file: &File) {
    let mut desk = shared.desk();
    loop {
        if desk.over {
            return;
        }
        let Some((tag, mut transfer)) = desk.waiting.pop_front() else {
            desk = shared.wait(desk);
            continue;
        };
        desk.busy = true;
        drop(desk);
        let result = transfer.perform(file);
        let left = transfer.left();
        // Guest memory is let go of before anybody hears that we are done with it.
        drop(transfer);
        desk = shared.desk();
        desk.busy = false;
        desk.done.push(Done { tag, left, result });
        shared.changed.notify_all();
        let _ = shared.ready.write(1);
    }
}

impl Backend for Worker {
    fn submit(&mut self, tag: u32, work: Transfer) -> Result<(), Transfer> {
        let mut desk = self.shared.desk();
        let under_way = desk.waiting.len() + desk.done.len() + usize::from(desk.busy);
        if under_way >= usize::from(DEPTH) {
            return Err(work);
        }
        desk.waiting.push_back((tag, work));
        Ok(())
    }

    fn kick(&mut self) {
        self.shared.changed.notify_all();
    }

    fn completions(&mut self, done: &mut dyn FnMut(u32, usize, io::Result<()>)) {
        let _ = self.shared.ready.read();
        let list = std::mem::take(&mut self.shared.desk().done);
        for Done { tag, left, result } in list {
            done(tag, left, result);
        }
    }

    fn fd(&self) -> RawFd {
        self.shared.ready.as_raw_fd()
    }

    fn wait(&mut self) {
        let mut desk = self.shared.desk();
        while desk.done.is_empty() && (desk.busy || !desk.waiting.is_empty()) {
            desk = self.shared.wait(desk);
        }
    }

    fn drain(&mut self) {
        let mut desk = self.shared.desk();
        // What was not begun never happens: the guest that asked is gone.
        desk.waiting.clear();
        while desk.busy {
            desk = self.shared.wait(desk);
        }
        desk.done.clear();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.desk().over = true;
        self.shared.changed.notify_all();
        // It has no way to panic; if it did, there is nobody left to tell.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
