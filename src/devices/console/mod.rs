// SPDX-License-Identifier: Apache-2.0
//! virtio-console, section 5.3, with its one port.
//!
//! Event thread. Nothing is buffered: output the host does not take stays in the guest's
//! buffers, input the guest has no buffers for stays in the host's descriptor.

use super::console_log::{ConsoleLog, Tap};
use super::stdio::{CHUNK, Got, Input, Output};
use crate::events::{EventSet, Interest, Token, Watch};
use crate::virtio::device::{Io, Kind, Verdict, VirtioDevice, read_config};
use crate::virtio::fault::GuestFault;
use crate::virtio::queue::Chain;
use crate::virtio::state::{DeviceState, StateFault, TransportState};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::EventFd;

const F_SIZE: u64 = 1;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

const INPUT: Token = 0;
const OUTPUT: Token = 1;
const RESIZED: Token = 2;

/// The size of the terminal, which may change while the guest runs.
pub struct Window {
    columns_rows: Mutex<(u16, u16)>,
    resized: EventFd,
}

impl Window {
    /// Tells the guest of a new size. Any thread.
    pub fn resize(&self, columns: u16, rows: u16) {
        *self
            .columns_rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = (columns, rows);
        let _ = self.resized.write(1);
    }

    fn size(&self) -> (u16, u16) {
        *self
            .columns_rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn interest(&self) -> Interest {
        Interest {
            fd: self.resized.as_raw_fd(),
            token: RESIZED,
            events: EventSet::IN,
        }
    }
}

/// A console.
pub struct Console {
    input: Input,
    output: Output,
    tap: Tap,
    /// Bytes of the chain at the head of the transmit queue that are written already.
    sent: usize,
    window: Arc<Window>,
    features: u64,
}

impl Console {
    /// Each descriptor is watched by this device alone: give a duplicate if others use it.
    /// `size` is columns and rows.
    pub fn new(
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
        log: Arc<ConsoleLog>,
        size: (u16, u16),
    ) -> io::Result<(Self, Arc<Window>)> {
        let window = Arc::new(Window {
            columns_rows: Mutex::new(size),
            resized: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        });
        let console = Self {
            input: Input::new(input, INPUT),
            output: Output::new(output, OUTPUT),
            tap: Tap::new(log),
            sent: 0,
            window: window.clone(),
            features: 0,
        };
        Ok((console, window))
    }

    /// Host to guest, while both have something to give.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<(), GuestFault> {
        let input = &mut self.input;
        let mut dry = false;
        let outcome = io.serve(RECEIVE, |chain| {
            let mut data = [0; CHUNK];
            let room = chain.writable.len().min(data.len());
            if room == 0 {
                return Err(GuestFault::TooShort);
            }
            let Got::Bytes(count) = input.read(&mut data[..room]) else {
                dry = true;
                return Ok(Verdict::Stop);
            };
            chain.writable.write(&data[..count])?;
            Ok(Verdict::Done(u32::try_from(count).unwrap_or(0)))
        });
        // If it was the guest's buffers that ran out, its next kick brings us back here.
        self.input.listen(dry, io.watch);
        outcome
    }

    /// Guest to host, until the host takes no more.
    fn transmit(&mut self, io: &mut Io<'_>) -> Result<(), GuestFault> {
        let mut full = false;
        let outcome = io.serve(TRANSMIT, |chain| {
            let verdict = self.transmit_chain(chain)?;
            full = verdict == Verdict::Stop;
            Ok(verdict)
        });
        self.output.listen(full, io.watch);
        outcome
    }

    fn transmit_chain(&mut self, chain: &mut Chain<'_>) -> Result<Verdict, GuestFault> {
        let text = &mut chain.readable;
        text.advance(self.sent.min(text.len()))?;
        while !text.is_empty() {
            let mut data = [0; CHUNK];
            let data = &mut data[..text.len().min(CHUNK)];
            text.read(data)?;
            let count = self.output.write(data);
            self.tap.push(&data[..count]);
            self.sent += count;
            if count < data.len() {
                return Ok(Verdict::Stop);
            }
        }
        self.sent = 0;
        Ok(Verdict::Done(0))
    }
}

impl VirtioDevice for Console {
    fn kind(&self) -> Kind {
        Kind {
            id: 3,
            name: "virtio-console",
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64, 64]
    }

    fn features(&self) -> u64 {
        F_SIZE
    }

    fn config(&self, offset: u64, data: &mut [u8]) {
        let (columns, rows) = self.window.size();
        let ([c0, c1], [r0, r1]) = (columns.to_le_bytes(), rows.to_le_bytes());
        // Then max_nr_ports, for drivers that look at it without having negotiated it.
        read_config(&[c0, c1, r0, r1, 1, 0, 0, 0], offset, data);
    }

    fn activate(&mut self, features: u64, io: &mut Io<'_>) {
        self.features = features;
        // Fails only if the host is out of memory: the size then stays as it is.
        let _ = io.watch.add(self.window.interest());
    }

    fn process_queue(&mut self, index: usize, io: &mut Io<'_>) -> Result<(), GuestFault> {
        match index {
            RECEIVE => self.receive(io),
            _ => self.transmit(io),
        }
    }

    fn process_source(
        &mut self,
        token: Token,
        _events: EventSet,
        io: &mut Io<'_>,
    ) -> Result<(), GuestFault> {
        match token {
            INPUT => self.receive(io),
            OUTPUT => self.transmit(io),
            _ => {
                let _ = self.window.resized.read();
                if self.features & F_SIZE != 0 {
                    io.irq.config();
                }
                Ok(())
            }
        }
    }

    /// A chain may be printed in part; another machine does not print that part again.
    fn save(&self) -> DeviceState {
        DeviceState::Console {
            sent: self.sent as u64,
        }
    }

    fn restore(&mut self, state: &TransportState) -> Result<(), StateFault> {
        match state.own {
            DeviceState::None | DeviceState::Console { .. } => Ok(()),
            _ => Err(StateFault::Own),
        }
    }

    fn resume(&mut self, features: u64, state: &DeviceState, io: &mut Io<'_>) {
        self.activate(features, io);
        if let DeviceState::Console { sent } = *state {
            // More than the chain has is all of it.
            self.sent = usize::try_from(sent).unwrap_or(usize::MAX);
        }
        // The terminal is another one, and may have another size.
        if features & F_SIZE != 0 {
            io.irq.config();
        }
    }

    fn deactivate(&mut self, watch: &mut dyn Watch) {
        self.sent = 0;
        self.input.listen(false, watch);
        self.output.listen(false, watch);
        let _ = watch.remove(self.window.interest());
    }
}

#[cfg(test)]
mod tests;
