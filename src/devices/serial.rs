// SPDX-License-Identifier: Apache-2.0
//! A 16550A serial port, for what a guest prints before it knows better devices.
//!
//! Registers on vCPU threads, host descriptors on the event thread. Each character is an
//! exit of the guest, but not a write(2) of the host: characters gather until the next
//! tick. A host that does not read holds the guest up only once a buffer is full.

use super::console_log::{ConsoleLog, Tap};
use super::stdio::{CHUNK, Got, Input, Output, wait_writable};
use crate::bus;
use crate::events::{EventSet, Interest, Source, Token, Watch};
use crate::irq::IrqLine;
use crate::telemetry::Faults;
use crate::virtio::state::{SerialState, StateFault};
use nix::poll::PollTimeout;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vm_superio::Trigger;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

/// How long characters gather before they are written: below what a person notices, above
/// the time a guest takes to print a line.
const TICK: Duration = Duration::from_millis(4);
/// A guest may be this far ahead of a host that does not read; then it waits.
const PENDING: usize = 64 << 10;
/// A reader that takes nothing for so long does not get the rest at `flush`.
const PATIENCE_MS: u16 = 1000;

const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const MODEM_CONTROL: u8 = 4;
const RECEIVE_ENABLED: u8 = 1;
const LOOPBACK: u8 = 0x10;

const BELL: Token = 0;
const TIMER: Token = 1;
const INPUT: Token = 2;
const OUTPUT: Token = 3;

/// A serial port.
pub struct Serial {
    irq: Arc<IrqLine>,
    /// Wakes the event thread: there is room for input, or much output.
    bell: EventFd,
    timer: TimerFd,
    faults: Faults,
    inner: Mutex<Inner>,
}

struct Inner {
    uart: vm_superio::Serial<Line, NoEvents, VecDeque<u8>>,
    tap: Tap,
    input: Input,
    /// Input waits for room in the FIFO, or for a guest that listens.
    parked: bool,
    output: Output,
}

struct Line(Arc<IrqLine>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.trigger();
        Ok(())
    }
}

impl Serial {
    /// Each descriptor is watched by this device alone: give a duplicate if others use it.
    pub fn new(
        irq: IrqLine,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
        log: Arc<ConsoleLog>,
    ) -> io::Result<Arc<Self>> {
        let irq = Arc::new(irq);
        let bell = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        bell.write(1)?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let uart = vm_superio::Serial::new(Line(irq.clone()), VecDeque::new());
        Ok(Arc::new(Self {
            irq,
            bell,
            timer,
            faults: Faults::new("serial port"),
            inner: Mutex::new(Inner {
                uart,
                tap: Tap::new(log),
                input: Input::new(input, INPUT),
                parked: true,
                output: Output::new(output, OUTPUT),
            }),
        }))
    }

    /// The interrupt line, to bind with KVM_IRQFD.
    pub fn irq(&self) -> &IrqLine {
        &self.irq
    }

    /// Writes out what gathered, waiting for the host's reader a little: for the end of the
    /// machine, on any thread.
    pub fn flush(&self) {
        while let Some(fd) = self.drain() {
            if !wait_writable(fd.as_fd(), PollTimeout::from(PATIENCE_MS)) {
                self.faults.report(&"nobody reads the last output");
                return;
            }
        }
    }

    /// Its registers, and what was typed and not read. What gathered for the host is written
    /// out as far as the host takes it: it is this machine's to say, and no other's. While no
    /// vCPU runs.
    pub fn save(&self) -> SerialState {
        let mut inner = self.lock();
        inner.drain();
        let uart = inner.uart.state();
        SerialState {
            divisor: [uart.baud_divisor_low, uart.baud_divisor_high],
            interrupt_enable: uart.interrupt_enable,
            interrupt_identification: uart.interrupt_identification,
            line_control: uart.line_control,
            line_status: uart.line_status,
            modem_control: uart.modem_control,
            modem_status: uart.modem_status,
            scratch: uart.scratch,
            typed: uart.in_buffer,
        }
    }

    /// Before any vCPU runs. An interrupt that may have been lost on its way is raised again.
    pub fn restore(&self, state: &SerialState) -> Result<(), StateFault> {
        let [low, high] = state.divisor;
        let uart = vm_superio::SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.typed.clone(),
        };
        let line = Line(Arc::clone(&self.irq));
        let uart = vm_superio::Serial::from_state(&uart, line, NoEvents, VecDeque::new());
        self.lock().uart = uart.map_err(|_| StateFault::Own)?;
        self.ring();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let _ = self.bell.write(1);
    }

    /// Writes what the host takes; returns the descriptor to wait for if that is not all.
    fn drain(&self) -> Option<Arc<OwnedFd>> {
        let mut inner = self.lock();
        if inner.drain() {
            return None;
        }
        inner.output.descriptor()
    }

    fn transmitted(&self, mut inner: MutexGuard<'_, Inner>, byte: u8) {
        inner.tap.push(&[byte]);
        let pending = inner.uart.writer().len();
        drop(inner);
        if pending == 1 {
            let tick = Expiration::OneShot(TimeSpec::from_duration(TICK));
            let _ = self.timer.set(tick, TimerSetTimeFlags::empty());
        } else if pending.is_multiple_of(CHUNK) {
            self.ring();
        }
        if pending < PENDING {
            return;
        }
        // A signal is the machine's wish to stop this vCPU: the buffer then grows by a byte.
        if let Some(fd) = self.drain()
            && wait_writable(fd.as_fd(), PollTimeout::NONE)
        {
            self.drain();
        }
    }
}

impl Inner {
    /// Writes what the host takes now. True if that was all.
    fn drain(&mut self) -> bool {
        let pending = self.uart.writer_mut();
        while !pending.is_empty() {
            let count = self.output.write(pending.as_slices().0);
            if count == 0 {
                return false;
            }
            pending.drain(..count);
        }
        pending.shrink_to(CHUNK);
        true
    }

    /// A driver clears the FIFO and probes the port before it listens: input given to it
    /// earlier would be lost.
    fn listens(&self) -> bool {
        let state = self.uart.state();
        state.interrupt_enable & RECEIVE_ENABLED != 0 && state.modem_control & LOOPBACK == 0
    }

    fn feed(&mut self, watch: &mut dyn Watch) {
        loop {
            let room = self.uart.fifo_capacity();
            self.parked = room == 0 || !self.listens();
            if self.parked {
                self.input.listen(false, watch);
                return;
            }
            let mut data = [0; 64];
            let room = room.min(data.len());
            match self.input.read(&mut data[..room]) {
                Got::Bytes(count) => {
                    // There is room, and no loop: everything is taken.
                    let _ = self.uart.enqueue_raw_bytes(&data[..count]);
                }
                Got::Later | Got::End => {
                    self.input.listen(true, watch);
                    return;
                }
            }
        }
    }
}

impl bus::Device for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (Ok(offset), [byte]) = (u8::try_from(offset), data) else {
            self.faults.report(&"a register was read with a bad width");
            return;
        };
        let mut inner = self.lock();
        *byte = inner.uart.read(offset);
        if offset == DATA && inner.parked && inner.uart.fifo_capacity() > 0 {
            self.ring();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (Ok(offset), &[byte]) = (u8::try_from(offset), data) else {
            self.faults
                .report(&"a register was written with a bad width");
            return;
        };
        let mut inner = self.lock();
        let before = inner.uart.writer().len();
        // Cannot fail: the line is infallible and the writer is memory.
        let _ = inner.uart.write(offset, byte);
        if inner.uart.writer().len() > before {
            self.transmitted(inner, byte);
        } else if matches!(offset, INTERRUPT_ENABLE | MODEM_CONTROL)
            && inner.parked
            && inner.listens()
        {
            self.ring();
        }
    }
}

impl Source for Serial {
    fn fds(&self) -> Vec<Interest> {
        let interest = |fd, token| Interest {
            fd,
            token,
            events: EventSet::IN,
        };
        vec![
            interest(self.bell.as_raw_fd(), BELL),
            interest(self.timer.as_fd().as_raw_fd(), TIMER),
        ]
    }

    fn ready(&self, token: Token, _events: EventSet, watch: &mut dyn Watch) {
        match token {
            BELL => drop(self.bell.read()),
            TIMER => drop(self.timer.wait()),
            _ => {}
        }
        let mut inner = self.lock();
        let all = inner.drain();
        inner.output.listen(!all, watch);
        inner.feed(watch);
    }
}

#[cfg(test)]
mod tests;
