// SPDX-License-Identifier: Apache-2.0
//! What a guest on a host that interprets ring 0 asks of us at one port: block operations,
//! and to be told of its counters.
//!
//! A `rep stosq` of one page takes KVM's emulator 0.35 ms; an OUT and a host `memset` take
//! microseconds. The guest kernel (guest/kernel/patches) asks for it with one byte written
//! to `PORT`, its operands in registers, and does the work itself when RAX comes back
//! nonzero. Runs on the vCPU's own thread; nothing is trusted: both operands must lie in
//! the guest's RAM.

use crate::memory::GuestRam;
use kvm_bindings::kvm_regs;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

/// The port of one-byte requests: AL is the operation.
pub const PORT: u16 = 0x5f0;
/// Longest block of one request: bounds the time a vCPU thread spends on the guest's word.
const MAX_LENGTH: u64 = 2 << 20;
/// Longest element of an array, in words: a guest's word for the size of a buffer of ours.
const MAX_ELEMENT_WORDS: usize = 32;
const WORD: usize = 8;
/// Kinds of ring-0 round trips a guest counts, one word each in a row.
pub const KINDS: usize = 16;
const ROW: u64 = 128;
/// Most rows, one a processor: a guest's word for how much of its memory is read at a time.
const MAX_ROWS: u64 = 64;
/// Most groups of rows taken from a saved state: no more than there can be rows.
const MAX_ROW_GROUPS: usize = 64;
/// Where Linux maps all RAM when it does not randomise (Documentation/arch/x86/x86_64/mm.rst).
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// Where Linux maps its own image, from guest-physical zero.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
const KERNEL_MAP_SIZE: u64 = 1 << 29;

mod operation {
    pub const CLEAR: u8 = 1;
    pub const COPY: u8 = 2;
    pub const FILL: u8 = 3;
    pub const REPEAT: u8 = 4;
    pub const COUNTERS: u8 = 5;
}

/// Where a guest whose kernel lives in ring 3 counts its round trips through ring 0: it tells
/// of its rows, which are per-CPU data, in as many requests as it likes.
#[derive(Debug, Default)]
pub struct Counters {
    told: Mutex<Vec<Rows>>,
    /// What stood in them when the machine was saved: counted in another life.
    before: [u64; KINDS],
}

/// All of it guest RAM, and `start` a multiple of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    start: u64,
    count: u64,
}

/// The counters of a machine that was saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersState {
    rows: Vec<Rows>,
    sum: [u64; KINDS],
}

impl Counters {
    /// While no vCPU runs.
    pub fn save(&self, ram: &GuestRam) -> CountersState {
        CountersState {
            sum: self.counted(ram).unwrap_or_default(),
            rows: self.rows().clone(),
        }
    }

    /// Counts from here on, where a machine that was saved had its rows. Rows that no guest
    /// could have told of are left out: figures are all that is lost.
    #[must_use]
    pub fn restored(state: &CountersState, ram: &GuestRam) -> Self {
        let counters = Self {
            told: Mutex::default(),
            before: state.sum,
        };
        for rows in state.rows.iter().take(MAX_ROW_GROUPS) {
            let _ = counters.add(*rows, ram);
        }
        counters
    }

    /// The sum of all rows by kind, as they stand now: the guest may count on, and may count
    /// what it likes. What was counted before a restore is not in it.
    pub fn sum(&self, ram: &GuestRam) -> Option<[u64; KINDS]> {
        let mut sum = self.counted(ram)?;
        for (now, before) in sum.iter_mut().zip(&self.before) {
            *now = now.saturating_sub(*before);
        }
        Some(sum)
    }

    fn counted(&self, ram: &GuestRam) -> Option<[u64; KINDS]> {
        let told = self.rows();
        let mut sum = [0u64; KINDS];
        for rows in told.iter() {
            for row in 0..rows.count {
                for (kind, sum) in (0u64..).zip(&mut sum) {
                    let at = GuestAddress(rows.start + row * ROW + kind * 8);
                    *sum = sum.saturating_add(ram.load(at, Ordering::Relaxed).ok()?);
                }
            }
        }
        (!told.is_empty()).then_some(sum)
    }

    fn register(&self, regs: &kvm_regs, ram: &GuestRam) -> Option<()> {
        let rows = Rows {
            start: physical(regs.rdi)?.0,
            count: regs.rcx / ROW,
        };
        regs.rcx.is_multiple_of(ROW).then_some(())?;
        self.add(rows, ram)
    }

    fn add(&self, rows: Rows, ram: &GuestRam) -> Option<()> {
        if !rows.start.is_multiple_of(8) || !(1..=MAX_ROWS).contains(&rows.count) {
            return None;
        }
        let length = usize::try_from(rows.count * ROW).ok()?;
        ram.get_slice(GuestAddress(rows.start), length).ok()?;
        let mut told = self.rows();
        if told.iter().map(|rows| rows.count).sum::<u64>() + rows.count > MAX_ROWS {
            return None;
        }
        told.push(rows);
        Some(())
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, Vec<Rows>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what the registers ask for and leaves the answer in RAX: 0 done, 1 not done.
pub fn perform(regs: &mut kvm_regs, ram: &GuestRam, counters: &Counters) {
    regs.rax = u64::from(attempt(regs, ram, counters).is_none());
}

fn attempt(regs: &kvm_regs, ram: &GuestRam, counters: &Counters) -> Option<()> {
    let [operation, pattern, ..] = regs.rax.to_le_bytes();
    if operation == operation::COUNTERS {
        return counters.register(regs, ram);
    }
    let length = usize::try_from(regs.rcx).ok()?;
    if regs.rcx > MAX_LENGTH {
        return None;
    }
    let to = ram.get_slice(physical(regs.rdi)?, length).ok()?;
    match operation {
        operation::CLEAR => fill(ram, physical(regs.rdi)?, length, 0),
        operation::FILL => fill(ram, physical(regs.rdi)?, length, pattern),
        operation::COPY => {
            // `memmove`: the guest's memcpy and memmove may both come here.
            let from = ram.get_slice(physical(regs.rsi)?, length).ok()?;
            from.copy_to_volatile_slice(to);
            Some(())
        }
        operation::REPEAT => repeat(ram, physical(regs.rdi)?, length, pattern.into(), regs.rsi),
        _ => None,
    }
}

fn fill(ram: &GuestRam, at: GuestAddress, length: usize, byte: u8) -> Option<()> {
    const PIECE: [u8; 4096] = [0; 4096];
    let mut pattern = PIECE;
    if byte != 0 {
        pattern.fill(byte);
    }
    let mut done = 0;
    while done < length {
        let piece = (length - done).min(pattern.len());
        let offset = u64::try_from(done).ok()?;
        ram.write_slice(&pattern[..piece], GuestAddress(at.0 + offset))
            .ok()?;
        done += piece;
    }
    Some(())
}

/// Writes the array's first element over all others. `own` is the address by which elements
/// know themselves: a word that points into the first one points into each copy alike (an
/// empty list head, say).
fn repeat(ram: &GuestRam, at: GuestAddress, length: usize, words: usize, own: u64) -> Option<()> {
    let size = words * WORD;
    if words == 0 || words > MAX_ELEMENT_WORDS || !length.is_multiple_of(size) {
        return None;
    }
    let mut first = [0; MAX_ELEMENT_WORDS * WORD];
    ram.read_slice(&mut first[..size], at).ok()?;
    let within = u64::try_from(size).ok()?;
    let mut piece = [0; 4096];
    let elements = piece.len() / size;
    let mut index = 1;
    while index < length / size {
        let count = elements.min(length / size - index);
        for (nth, copy) in piece.chunks_exact_mut(size).take(count).enumerate() {
            let moved = u64::try_from((index + nth) * size).ok()?;
            for (to, from) in copy.chunks_exact_mut(WORD).zip(first.chunks_exact(WORD)) {
                let mut word = u64::from_le_bytes(from.try_into().ok()?);
                if word.wrapping_sub(own) < within {
                    word = word.wrapping_add(moved);
                }
                to.copy_from_slice(&word.to_le_bytes());
            }
        }
        let offset = u64::try_from(index * size).ok()?;
        ram.write_slice(&piece[..count * size], GuestAddress(at.0 + offset))
            .ok()?;
        index += count;
    }
    Some(())
}

fn physical(address: u64) -> Option<GuestAddress> {
    if let Some(offset) = address.checked_sub(KERNEL_MAP) {
        return (offset < KERNEL_MAP_SIZE).then_some(GuestAddress(offset));
    }
    address.checked_sub(DIRECT_MAP).map(GuestAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram() -> GuestRam {
        let ram = crate::memory::anonymous(4 << 20, &super::super::layout::HOLE).expect("4 MiB");
        let bytes: Vec<u8> = (0..=255).cycle().take(0x3000).collect();
        ram.write_slice(&bytes, GuestAddress(0x1000)).expect("RAM");
        ram
    }

    fn ask(ram: &GuestRam, rax: u64, rdi: u64, rsi: u64, rcx: u64) -> u64 {
        let mut regs = kvm_regs {
            rax,
            rdi,
            rsi,
            rcx,
            ..Default::default()
        };
        perform(&mut regs, ram, &Counters::default());
        regs.rax
    }

    /// Operation 5.
    fn register(counters: &Counters, ram: &GuestRam, rdi: u64, rcx: u64) -> u64 {
        let mut regs = kvm_regs {
            rax: 5,
            rdi,
            rcx,
            ..Default::default()
        };
        perform(&mut regs, ram, counters);
        regs.rax
    }

    fn count(ram: &GuestRam, at: u64, value: u64) {
        ram.write_obj(value, GuestAddress(at)).expect("RAM");
    }

    fn read(ram: &GuestRam, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        ram.read_slice(&mut bytes, GuestAddress(at)).expect("RAM");
        bytes
    }

    #[test]
    fn pages_are_cleared_copied_and_filled_through_both_windows() {
        let ram = ram();
        assert_eq!(ask(&ram, 1, DIRECT_MAP + 0x1000, 0, 4096), 0);
        assert_eq!(read(&ram, 0x1000, 4096), vec![0; 4096]);
        assert_eq!(
            ask(&ram, 2, KERNEL_MAP + 0x8001, DIRECT_MAP + 0x2000, 5000),
            0
        );
        assert_eq!(read(&ram, 0x8001, 5000), read(&ram, 0x2000, 5000));
        assert_eq!(ask(&ram, 0xab03, DIRECT_MAP + 0x2001, 0, 9000), 0);
        assert_eq!(read(&ram, 0x2001, 9000), vec![0xab; 9000]);
        assert_eq!(read(&ram, 0x2000, 1), [0]);
    }

    #[test]
    fn a_copy_over_itself_moves_the_bytes_unharmed() {
        for (from, to) in [(0x1000, 0x1007), (0x1007, 0x1000), (0x1000, 0x1800)] {
            let ram = ram();
            let before = read(&ram, from, 0x1800);
            assert_eq!(ask(&ram, 2, DIRECT_MAP + to, DIRECT_MAP + from, 0x1800), 0);
            assert_eq!(read(&ram, to, 0x1800), before, "{from:#x} to {to:#x}");
        }
    }

    #[test]
    fn an_element_is_repeated_and_its_pointers_to_itself_move_along() {
        const OWN: u64 = 0xffff_ea00_0000_1000;
        const COUNT: u64 = 200;
        let ram = ram();
        let element = |index: u64| {
            let own = OWN + index * 32;
            [own + 8, own + 31, OWN - 1, OWN + 32]
                .map(u64::to_le_bytes)
                .concat()
        };
        let beyond = read(&ram, 0x1000 + COUNT * 32, 64);
        ram.write_slice(&element(0), GuestAddress(0x1000))
            .expect("RAM");
        assert_eq!(ask(&ram, 0x0404, DIRECT_MAP + 0x1000, OWN, COUNT * 32), 0);
        for index in 0..COUNT {
            assert_eq!(
                read(&ram, 0x1000 + index * 32, 32),
                element(index),
                "{index}"
            );
        }
        assert_eq!(read(&ram, 0x1000 + COUNT * 32, 64), beyond);
    }

    #[test]
    fn counters_survive_a_save_and_count_from_there_on() {
        const AT: u64 = 0x8000;
        let (ram, counters) = (ram(), Counters::default());
        count(&ram, AT, 0);
        ram.write_slice(&[0; 256], GuestAddress(AT)).expect("RAM");
        assert_eq!(register(&counters, &ram, DIRECT_MAP + AT, 128), 0);
        assert_eq!(register(&counters, &ram, DIRECT_MAP + AT + 128, 128), 0);
        count(&ram, AT + 8, 100);
        let state = counters.save(&ram);
        let restored = Counters::restored(&state, &ram);
        assert_eq!(restored.sum(&ram), Some([0; KINDS]), "nothing since");
        count(&ram, AT + 8, 104);
        count(&ram, AT + 128 + 8, 3);
        let mut expected = [0; KINDS];
        expected[1] = 7;
        assert_eq!(restored.sum(&ram), Some(expected));
        assert_eq!(restored.save(&ram).rows, state.rows, "saved once more");
        // What no guest could have told of is not looked at.
        for (start, count) in [(AT + 1, 1), (AT, 0), (AT, MAX_ROWS + 1), (4 << 20, 1)] {
            let mut hostile = state.clone();
            hostile.rows = vec![Rows { start, count }; 100];
            assert_eq!(Counters::restored(&hostile, &ram).sum(&ram), None);
        }
        let mut many = state;
        many.rows = vec![many.rows[0]; 1000];
        assert!(Counters::restored(&many, &ram).sum(&ram).is_some());
    }

    #[test]
    fn counters_are_summed_by_kind_over_all_rows() {
        const AT: u64 = 0x8000;
        let (ram, counters) = (ram(), Counters::default());
        assert_eq!(counters.sum(&ram), None, "nobody said where");
        assert_eq!(register(&counters, &ram, DIRECT_MAP + AT, 3 * 128), 0);
        for row in 0..4 {
            count(&ram, AT + row * 128 + 3 * 8, 10 + row);
        }
        count(&ram, AT, u64::MAX);
        count(&ram, AT + 128, 1);
        count(&ram, AT + 2 * 128 + 15 * 8, 7);
        let mut expected = [0; KINDS];
        (expected[0], expected[3], expected[15]) = (u64::MAX, 33, 7);
        assert_eq!(counters.sum(&ram), Some(expected));
        // More of them, through either window.
        assert_eq!(register(&counters, &ram, KERNEL_MAP + AT + 3 * 128, 128), 0);
        expected[3] += 13;
        assert_eq!(counters.sum(&ram), Some(expected));
    }

    #[test]
    fn counters_that_are_not_whole_rows_of_ram_are_refused() {
        let (ram, counters) = (ram(), Counters::default());
        const END: u64 = DIRECT_MAP + (4 << 20);
        assert_eq!(register(&counters, &ram, END - 64 * 128, 63 * 128), 0);
        assert_eq!(register(&counters, &ram, DIRECT_MAP, 2 * 128), 1);
        assert_eq!(register(&counters, &ram, END - 128, 128), 0);
        let before = counters.sum(&ram);
        for (rdi, rcx) in [
            (DIRECT_MAP, 0),
            (DIRECT_MAP, 127),
            (DIRECT_MAP, 129),
            (DIRECT_MAP, 65 * 128),
            (DIRECT_MAP, !127),
            (DIRECT_MAP + 4, 128),
            (END - 64, 128),
            (END, 128),
            (0x8000, 128),
            (u64::MAX - 7, 128),
            (KERNEL_MAP + KERNEL_MAP_SIZE, 128),
        ] {
            assert_eq!(register(&counters, &ram, rdi, rcx), 1, "{rdi:#x} {rcx:#x}");
        }
        assert_eq!(counters.sum(&ram), before, "the old places stand");
    }

    #[test]
    fn what_is_not_ram_is_refused_untouched() {
        let ram = ram();
        let before = read(&ram, 0, 0x10000);
        for (rax, rdi, rsi, rcx) in [
            (1, 0x1000, 0, 16),
            (1, DIRECT_MAP + (4 << 20) - 8, 0, 16),
            (1, u64::MAX, 0, 16),
            (1, KERNEL_MAP + KERNEL_MAP_SIZE, 0, 16),
            (1, DIRECT_MAP, 0, u64::MAX),
            (1, DIRECT_MAP, 0, MAX_LENGTH + 1),
            (2, DIRECT_MAP, DIRECT_MAP + (8 << 20), 16),
            (0x0004, DIRECT_MAP, 0, 64),
            (0x2104, DIRECT_MAP, 0, 0x2100 * 8),
            (0x0804, DIRECT_MAP, 0, 100),
            (0x0804, DIRECT_MAP + (4 << 20) - 64, 0, 128),
            (9, DIRECT_MAP, DIRECT_MAP, 16),
        ] {
            assert_eq!(ask(&ram, rax, rdi, rsi, rcx), 1, "{rax} {rdi:#x} {rcx:#x}");
        }
        assert_eq!(read(&ram, 0, 0x10000), before);
    }
}
