// SPDX-License-Identifier: Apache-2.0
//! Saves the machine: it stands still while its state is taken and its disks are copied; its
//! memory is written by a copy of this process, while it goes on. On the event thread.

use crate::machine::Running;
use crate::memory::aside;
use crate::memory::saved::{self, Against, Pagemap};
use crate::sys::duplicate::duplicate;
use crate::sys::twin::Twin;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

type Problem = Box<dyn Error>;

/// What is saved how.
#[derive(Debug)]
pub struct Order {
    pub hold: bool,
    pub changes: bool,
    pub files: Vec<OwnedFd>,
}

/// What saves machines.
pub struct Saver {
    /// The disks that can be written.
    disks: Vec<File>,
    pagemap: Pagemap,
    /// Readable once the copy that writes is done.
    done: Epoll,
    writing: Option<Twin>,
}

impl Saver {
    /// Before the jail is entered: there is no /proc in it.
    pub fn new(disks: Vec<File>) -> io::Result<Self> {
        Ok(Self {
            disks,
            pagemap: Pagemap::open()?,
            done: Epoll::new()?,
            writing: None,
        })
    }

    /// Readable when `finished` has something to say.
    pub fn fd(&self) -> RawFd {
        self.done.as_raw_fd()
    }

    /// For how long the machine stood still. What is written is whole only when `finished` says
    /// so, at once where the machine is held.
    pub fn save(&mut self, running: &Running, order: Order) -> Result<Duration, Problem> {
        if self.writing.is_some() {
            return Err("the last snapshot of it is still being written".into());
        }
        let mut files = order.files.into_iter().map(File::from);
        let mut next = || files.next().ok_or("there are too few files to save to");
        let (state, memory) = (next()?, next()?);
        let pages = order.changes.then(&mut next).transpose()?;
        let copies: Vec<File> = files.collect();
        if copies.len() != self.disks.len() {
            return Err(format!(
                "it has {} disks that can be written, and {} files were given for them",
                self.disks.len(),
                copies.len()
            )
            .into());
        }
        let began = Instant::now();
        let held = running.hold()?;
        held.save()?.write(&state)?;
        for (disk, copy) in self.disks.iter().zip(&copies) {
            duplicate(disk, copy, disk.metadata()?.len())?;
        }
        let against = match order.changes {
            true => Against::Mapped,
            false => Against::Zero,
        };
        let runs = saved::held(held.memory(), &self.pagemap, against)?;
        // Before there is a copy at work: a save that failed says so once.
        if let Some(mut pages) = pages {
            pages.write_all(&saved::encode_runs(&runs))?;
        }
        if order.hold {
            saved::write(held.memory(), &memory, &runs)?;
            held.keep();
        } else {
            let twin = aside::write(held.memory(), &memory, &runs)?;
            self.watch(&twin)?;
            self.writing = Some(twin);
            drop(held);
        }
        Ok(began.elapsed())
    }

    /// The pages the guest of a restored machine wrote to first, for those after it.
    pub fn learn(&self, running: &Running, mut file: &File) -> io::Result<()> {
        let runs = saved::working_set(running.memory(), &self.pagemap)?;
        file.write_all(&saved::encode_runs(&runs))
    }

    fn watch(&self, twin: &Twin) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, 0);
        self.done.ctl(ControlOperation::Add, twin.fd(), event)
    }

    /// What became of the memory, once: none while it is being written, or when nothing is.
    pub fn finished(&mut self) -> Option<io::Result<()>> {
        if !self.writing.as_ref()?.is_over() {
            return None;
        }
        let twin = self.writing.take()?;
        let _ = self
            .done
            .ctl(ControlOperation::Delete, twin.fd(), EpollEvent::default());
        Some(twin.finish())
    }
}
