// SPDX-License-Identifier: Apache-2.0
//! Transfers by io_uring(7): submitted and reaped on one thread, which never waits but in
//! `drain`. The ring can do nothing but read, write, flush and punch the one file it was
//! made for: whoever takes this process over gets no more out of it.
#![expect(
    unsafe_code,
    reason = "the kernel works on guest memory while this process goes on"
)]

use super::transfer::{MAX_VECTORS, Transfer};
use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, Probe, opcode};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use vmm_sys_util::eventfd::EventFd;

/// The file, as the ring knows it.
const FILE: Fixed = Fixed(0);
const OPERATIONS: [u8; 4] = [
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

struct Slot {
    tag: u32,
    work: Transfer,
}

/// A ring for one file.
pub struct Uring {
    ring: IoUring,
    /// Readable when something is to be reaped.
    ready: EventFd,
    /// What the kernel works on; an entry's user data is its place here.
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl Uring {
    /// A ring for at most `depth` transfers at a time. Fails where io_uring is not allowed,
    /// or too old to be restricted (before Linux 5.10).
    pub fn new(file: &File, depth: u16) -> io::Result<Self> {
        // Of a file that is not to be waited for a ring reads only what is in memory, on
        // older kernels; the rest is "later" for ever.
        fcntl_setfl(file, fcntl_getfl(file)?.difference(OFlags::NONBLOCK))?;
        let ring: IoUring = IoUring::builder()
            .setup_r_disabled()
            .build(u32::from(depth))?;
        let submitter = ring.submitter();
        let mut probe = Probe::new();
        submitter.register_probe(&mut probe)?;
        if !OPERATIONS.iter().all(|&code| probe.is_supported(code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ready = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        submitter.register_eventfd(ready.as_raw_fd())?;
        submitter.register_files(&[file.as_raw_fd()])?;
        let flags = Flags::FIXED_FILE | Flags::IO_DRAIN;
        let mut rules = vec![
            Restriction::sqe_flags_allowed(flags.bits()),
            Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
        ];
        rules.extend(OPERATIONS.map(Restriction::sqe_op));
        submitter.register_restrictions(&mut rules)?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring,
            ready,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..usize::from(depth)).rev().collect(),
        })
    }

    pub fn fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }

    /// Takes a transfer in, or gives it back if there are too many. The kernel begins with
    /// it at the next `kick`.
    pub fn submit(&mut self, tag: u32, work: Transfer) -> Result<(), Transfer> {
        let Some(index) = self.free.pop() else {
            return Err(work);
        };
        self.slots[index] = Some(Slot { tag, work });
        self.push(index);
        Ok(())
    }

    /// Tells the kernel of what was submitted.
    pub fn kick(&mut self) {
        if self.ring.submission().is_empty() {
            return;
        }
        if self.ring.submit().is_err() {
            // Interrupted, or out of memory for now: once more, when others had their turn.
            let _ = self.ready.write(1);
        }
    }

    /// Passes on what is done: its tag, how many bytes were left undone, and how it went.
    pub fn reap(&mut self, done: &mut dyn FnMut(u32, usize, io::Result<()>)) {
        let _ = self.ready.read();
        self.collect(done);
        self.kick();
    }

    /// Waits until something can be reaped, if the kernel works on anything.
    pub fn wait(&mut self) {
        while self.free.len() < self.slots.len() && self.ring.completion().is_empty() {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
                _ => {}
            }
        }
    }

    /// Waits until the kernel works on nothing any more, and forgets how it went.
    pub fn drain(&mut self) {
        while self.free.len() < self.slots.len() {
            match self.ring.submit_and_wait(1) {
                Ok(_) => self.collect(&mut |_, _, _| {}),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Completions do not fit: make room, and wait again.
                Err(_) => self.collect(&mut |_, _, _| {}),
            }
        }
    }

    fn collect(&mut self, done: &mut dyn FnMut(u32, usize, io::Result<()>)) {
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return;
            };
            let Ok(index) = usize::try_from(entry.user_data()) else {
                continue;
            };
            let Some(mut slot) = self.slots.get_mut(index).and_then(Option::take) else {
                continue;
            };
            match judge(&mut slot.work, entry.result()) {
                Some(result) => {
                    self.free.push(index);
                    done(slot.tag, slot.work.left(), result);
                }
                None => {
                    self.slots[index] = Some(slot);
                    self.push(index);
                }
            }
        }
    }

    fn push(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else {
            return;
        };
        let entry = entry(&slot.work).user_data(index as u64);
        // SAFETY: the vectors and the guest memory they name belong to the slot, which stays
        // as it is until the kernel is done with it: `collect` takes it out then, and `drop`
        // waits for that.
        let full = unsafe { self.ring.submission().push(&entry) }.is_err();
        // The ring has as many entries as there are slots, so this is never the case.
        debug_assert!(!full, "one entry for each slot");
    }
}

/// None: not all of it is done yet.
fn judge(work: &mut Transfer, result: i32) -> Option<io::Result<()>> {
    match usize::try_from(result) {
        Ok(count) if work.left() > 0 => match count {
            // Someone shortened the file under us.
            0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            count => work.moved(count).then_some(Ok(())),
        },
        Ok(_) => Some(Ok(())),
        Err(_) => match -result {
            libc::EINTR | libc::EAGAIN => None,
            errno => Some(Err(io::Error::from_raw_os_error(errno))),
        },
    }
}

fn entry(work: &Transfer) -> Entry {
    let count =
        |vectors: &[libc::iovec]| u32::try_from(vectors.len().min(MAX_VECTORS)).unwrap_or(u32::MAX);
    if let Some((flags, at, length)) = work.hole() {
        return opcode::Fallocate::new(FILE, length)
            .offset(at)
            .mode(flags.bits().cast_signed())
            .build();
    }
    match work {
        Transfer::Read { into, at } => {
            let vectors = into.vectors();
            opcode::Readv::new(FILE, vectors.as_ptr(), count(vectors))
                .offset(*at)
                .build()
        }
        Transfer::Write { from, at } => {
            let vectors = from.vectors();
            opcode::Writev::new(FILE, vectors.as_ptr(), count(vectors))
                .offset(*at)
                .build()
        }
        // A barrier: after all that came before, before all that comes after.
        _ => opcode::Fsync::new(FILE)
            .flags(FsyncFlags::DATASYNC)
            .build()
            .flags(Flags::IO_DRAIN),
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Older kernels answer EAGAIN for such a file, for as long as they are asked.
    #[test]
    fn a_file_that_was_opened_not_to_wait_is_waited_for() {
        let file = tempfile::tempfile().expect("file");
        let flags = fcntl_getfl(&file).expect("flags");
        fcntl_setfl(&file, flags | OFlags::NONBLOCK).expect("flags");
        let _ring = Uring::new(&file, 4).expect("a ring");
        assert_eq!(fcntl_getfl(&file).expect("flags"), flags);
    }
}
