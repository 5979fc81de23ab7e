// SPDX-License-Identifier: Apache-2.0
//! Operands: effective address, the RAM behind it, and reads and writes of either kind. Runs on
//! the vCPU's thread; a memory operand is translated whole before a byte of it changes, so a
//! fault leaves nothing half done.

use super::bits::{low16, mask};
use super::fault::{Exception, Reason, Stop};
use super::paging::Access;
use super::stopped::Stopped;
use crate::kvm::failure::{InstructionBytes, MAX_INSTRUCTION};
use crate::memory::{GuestRam, atomic};
use iced_x86::{Instruction, OpKind, Register};
use vm_memory::{Bytes, GuestAddress};

const PAGE: u64 = 4096;

/// No operand reaches over more pages: the largest XSAVE area known (AMX) has 11 KiB. It keeps
/// a guest from naming an operand that takes the host long to translate.
const MAX_PAGES: usize = 5;

/// A translated memory operand: the guest-physical pages it lies in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Where each page's part begins: the first inside its page, the others at theirs.
    pieces: [u64; MAX_PAGES],
    len: usize,
}

impl Span {
    /// The parts of `offset..offset + len` as (guest-physical, offset in operand, length).
    fn parts(&self, offset: usize, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
        let first = usize::from(low16(PAGE - (self.pieces[0] & (PAGE - 1))));
        let (from, to) = (offset, (offset + len).min(self.len));
        let page = usize::from(low16(PAGE));
        self.pieces
            .into_iter()
            .enumerate()
            .filter_map(move |(i, address)| {
                let start = if i == 0 { 0 } else { first + (i - 1) * page };
                let end = first + i * page;
                let (a, b) = (start.max(from), end.min(to));
                (a < b).then(|| (address + (a as u64 - start as u64), a, b - a))
            })
    }

    pub fn read(&self, ram: &GuestRam, offset: usize, into: &mut [u8]) -> Result<(), Stop> {
        for (address, at, len) in self.parts(offset, into.len()) {
            ram.read_slice(
                &mut into[at - offset..at - offset + len],
                GuestAddress(address),
            )
            .map_err(|_| Stop::Refused(Reason::NotRam(address)))?;
        }
        Ok(())
    }

    pub fn write(&self, ram: &GuestRam, offset: usize, from: &[u8]) -> Result<(), Stop> {
        for (address, at, len) in self.parts(offset, from.len()) {
            ram.write_slice(&from[at - offset..at - offset + len], GuestAddress(address))
                .map_err(|_| Stop::Refused(Reason::NotRam(address)))?;
        }
        Ok(())
    }

    /// The first `len` (up to 8) bytes as an integer.
    pub fn read_int(&self, ram: &GuestRam, offset: usize, len: usize) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        self.read(ram, offset, &mut bytes[..len.min(8)])?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn write_int(&self, ram: &GuestRam, value: u64, len: usize) -> Result<(), Stop> {
        self.write(ram, 0, &value.to_le_bytes()[..len.min(8)])
    }

    /// A locked compare-and-exchange of the whole operand; gives what was there.
    pub fn exchange(&self, ram: &GuestRam, current: u128, new: u128) -> Result<u128, Stop> {
        atomic::compare_exchange(ram, self.pieces[0], self.len, current, new).map_err(|error| {
            Stop::Refused(match error {
                atomic::AtomicError::Unbacked(address) => Reason::NotRam(address),
                atomic::AtomicError::Misaligned(_) => Reason::SplitLock,
                atomic::AtomicError::Width(_) => Reason::Form,
            })
        })
    }
}

/// Where an operand lives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Register(Register),
    Memory(Span),
    Immediate(u64),
}

impl Stopped<'_> {
    /// The linear address of memory operand `op`, not yet checked against anything.
    pub fn linear(&self, known: &Instruction, op: u32) -> Result<u64, Stop> {
        let address = known.virtual_address(op, 0, |register, _, _| {
            Some(if register.is_segment_register() {
                self.segment_base(register)
            } else {
                self.gpr(register)
            })
        });
        let address = address.ok_or(Stop::Refused(Reason::Form))?;
        Ok(if self.long_mode() {
            address
        } else {
            address & mask(4)
        })
    }

    /// In 64-bit mode only FS and GS have one.
    fn segment_base(&self, register: Register) -> u64 {
        if self.long_mode() && !matches!(register, Register::FS | Register::GS) {
            0
        } else {
            self.segment(register).base
        }
    }

    /// Translates the `len` bytes of memory operand `op`.
    pub fn span(
        &mut self,
        known: &Instruction,
        op: u32,
        len: usize,
        access: Access,
    ) -> Result<Span, Stop> {
        let linear = self.linear(known, op)?;
        self.span_at(linear, known.memory_segment(), len, access)
    }

    /// The same for an address already computed.
    pub fn span_at(
        &mut self,
        linear: u64,
        segment: Register,
        len: usize,
        access: Access,
    ) -> Result<Span, Stop> {
        let last = linear.wrapping_add(len.max(1) as u64 - 1);
        self.check_segment(linear, last, segment)?;
        let inside = linear & (PAGE - 1);
        let pages = (inside + len.max(1) as u64).div_ceil(PAGE);
        let mut pieces = [0; MAX_PAGES];
        if pages > pieces.len() as u64 {
            return Err(Stop::Refused(Reason::Form));
        }
        for (i, piece) in (0..pages).zip(&mut pieces) {
            let back = if i == 0 { 0 } else { inside };
            let at = linear.wrapping_add(i * PAGE - back);
            let at = if self.long_mode() { at } else { at & mask(4) };
            *piece = self.translate(at, access)?;
            self.require_ram(*piece)?;
        }
        Ok(Span { pieces, len })
    }

    fn require_ram(&self, address: u64) -> Result<(), Stop> {
        let page = GuestAddress(address);
        match vm_memory::GuestMemoryBackend::check_address(self.ram, page) {
            Some(_) => Ok(()),
            None => Err(Stop::Refused(Reason::NotRam(address))),
        }
    }

    /// Canonical in 64-bit mode, within the limit elsewhere (expand-down segments are not known
    /// to any kernel that boots here, and are refused).
    fn check_segment(&self, first: u64, last: u64, segment: Register) -> Result<(), Stop> {
        let fault = if segment == Register::SS {
            Exception::STACK
        } else {
            Exception::PROTECTION
        };
        let fits = if self.long_mode() {
            self.is_canonical(first) && self.is_canonical(last)
        } else {
            let of = self.segment(segment);
            let offset = last.wrapping_sub(of.base) & mask(4);
            let start = first.wrapping_sub(of.base) & mask(4);
            start <= offset && offset <= u64::from(of.limit)
        };
        if fits {
            Ok(())
        } else {
            Err(Stop::Fault(fault))
        }
    }

    pub fn place(&mut self, known: &Instruction, op: u32, access: Access) -> Result<Place, Stop> {
        match known.op_kind(op) {
            OpKind::Register => Ok(Place::Register(known.op_register(op))),
            OpKind::Memory => {
                let len = known.memory_size().size();
                Ok(Place::Memory(self.span(known, op, len, access)?))
            }
            _ => match known.try_immediate(op) {
                Ok(value) => Ok(Place::Immediate(value)),
                Err(_) => Err(Stop::Refused(Reason::Form)),
            },
        }
    }

    /// The value of an integer operand, zero-extended.
    pub fn get(&self, place: &Place) -> Result<u64, Stop> {
        match place {
            Place::Register(register) => Ok(self.gpr(*register)),
            Place::Memory(span) => span.read_int(self.ram, 0, span.len),
            Place::Immediate(value) => Ok(*value),
        }
    }

    pub fn put(&mut self, place: &Place, value: u64) -> Result<(), Stop> {
        match place {
            Place::Register(register) => self.set_gpr(*register, value),
            Place::Memory(span) => span.write_int(self.ram, value, span.len)?,
            Place::Immediate(_) => return Err(Stop::Refused(Reason::Form)),
        }
        Ok(())
    }

    /// The value of operand `op`, for an instruction that only reads it.
    pub fn read(&mut self, known: &Instruction, op: u32) -> Result<u64, Stop> {
        let place = self.place(known, op, Access::Read)?;
        self.get(&place)
    }

    /// Writes operand `op`, for an instruction that only writes it.
    pub fn write(&mut self, known: &Instruction, op: u32, value: u64) -> Result<(), Stop> {
        let place = self.place(known, op, Access::Write)?;
        self.put(&place, value)
    }

    /// The bytes at RIP up to fifteen. Fewer where the next page is not there; then also why.
    pub fn fetch(&mut self) -> Result<(InstructionBytes, Option<Stop>), Stop> {
        let long = self.long_mode();
        let base = if long { 0 } else { self.sregs.cs.base };
        let start = self.regs.rip.wrapping_add(base);
        let start = if long { start } else { start & mask(4) };
        let mut bytes = InstructionBytes::default();
        let mut page = None;
        for i in 0..MAX_INSTRUCTION as u64 {
            let linear = start.wrapping_add(i);
            let fetched = match page {
                Some(address) if linear & (PAGE - 1) != 0 => Ok(address),
                _ => self.fetch_page(linear),
            };
            match fetched {
                Ok(address) => page = Some(address),
                // What is there may be a whole instruction.
                Err(stop) if i > 0 => return Ok((bytes, Some(stop))),
                Err(stop) => return Err(stop),
            }
            let Some(address) = page else { break };
            let byte: u8 = self
                .ram
                .read_obj(GuestAddress(address | linear & (PAGE - 1)))
                .map_err(|_| Stop::Refused(Reason::NotRam(address)))?;
            bytes.push(byte);
        }
        Ok((bytes, None))
    }

    fn fetch_page(&mut self, linear: u64) -> Result<u64, Stop> {
        if self.long_mode() && !self.is_canonical(linear) {
            return Err(Stop::Fault(Exception::PROTECTION));
        }
        Ok(self.translate(linear, Access::Fetch)? & !(PAGE - 1))
    }

    /// #GP unless operand `op` lies on a multiple of `to`.
    pub fn require_aligned(&self, known: &Instruction, op: u32, to: u64) -> Result<(), Stop> {
        if self.linear(known, op)? & (to - 1) == 0 {
            Ok(())
        } else {
            Err(Stop::Fault(Exception::PROTECTION))
        }
    }
}

/// The width in bytes of operand `op`.
pub(super) fn width(known: &Instruction, op: u32) -> usize {
    match known.op_kind(op) {
        OpKind::Register => known.op_register(op).size(),
        OpKind::Memory => known.memory_size().size(),
        _ => 0,
    }
}
