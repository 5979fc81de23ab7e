// SPDX-License-Identifier: Apache-2.0
//! The MP table: how a kernel without ACPI finds its processors and interrupt lines
//! (MultiProcessor Specification 1.4).

use super::layout;
use crate::memory::GuestRam;
use vm_memory::{Bytes as _, GuestAddress};

#[derive(Debug, thiserror::Error)]
#[error("the MP table does not fit in guest memory")]
pub struct MpTableError(#[from] vm_memory::GuestMemoryError);

const VERSION_1_4: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
/// Family 6, as every processor since the Pentium Pro answers.
const CPU_SIGNATURE: u32 = 0x600;
/// FPU and APIC on chip.
const CPU_FEATURES: u32 = 0x201;

mod entry {
    pub const PROCESSOR: u8 = 0;
    pub const BUS: u8 = 1;
    pub const IO_APIC: u8 = 2;
    pub const IO_INTERRUPT: u8 = 3;
    pub const LOCAL_INTERRUPT: u8 = 4;
}

mod interrupt {
    pub const INT: u8 = 0;
    pub const NMI: u8 = 1;
    pub const EXT_INT: u8 = 3;
}

/// Writes the table for `cpus` processors, whose APIC ids are their indices.
pub fn write(ram: &GuestRam, cpus: u8) -> Result<(), MpTableError> {
    let table = table(cpus);
    debug_assert!(table.len() <= layout::MP_TABLE_SIZE);
    ram.write_slice(&table, GuestAddress(layout::MP_TABLE.into()))?;
    ram.write_slice(&floating_pointer(), GuestAddress(layout::MP_FLOATING))?;
    Ok(())
}

/// Section 4.1: sixteen bytes that sum to zero.
fn floating_pointer() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(b"_MP_");
    bytes[4..8].copy_from_slice(&layout::MP_TABLE.to_le_bytes());
    bytes[8] = 1; // length in paragraphs
    bytes[9] = VERSION_1_4;
    bytes[10] = checksum(&bytes);
    bytes
}

/// Sections 4.2 and 4.3. Processors come first, as the specification orders entries by type.
fn table(cpus: u8) -> Vec<u8> {
    // The id after the last processor's is free: at most 254 processors are allowed.
    let io_apic = cpus;
    let mut body = Vec::with_capacity(usize::from(cpus) * 20 + 256);
    for cpu in 0..cpus {
        let flags = CPU_ENABLED | if cpu == 0 { CPU_BOOT } else { 0 };
        body.extend([entry::PROCESSOR, cpu, APIC_VERSION, flags]);
        body.extend(CPU_SIGNATURE.to_le_bytes());
        body.extend(CPU_FEATURES.to_le_bytes());
        body.extend([0; 8]);
    }
    body.extend([entry::BUS, 0]);
    body.extend(b"ISA   ");
    body.extend([entry::IO_APIC, io_apic, APIC_VERSION, 1]);
    body.extend(layout::IO_APIC.to_le_bytes());
    for gsi in 0..layout::GSI_COUNT {
        // Flags zero: polarity and trigger as the bus has them, for ISA edge and high.
        body.extend([
            entry::IO_INTERRUPT,
            interrupt::INT,
            0,
            0,
            0,
            gsi,
            io_apic,
            gsi,
        ]);
    }
    body.extend([entry::LOCAL_INTERRUPT, interrupt::EXT_INT, 0, 0, 0, 0, 0, 0]);
    body.extend([entry::LOCAL_INTERRUPT, interrupt::NMI, 0, 0, 0, 0, 0xff, 1]);

    // processors, one bus, one I/O APIC, its lines, two local interrupts
    let entries = u16::from(cpus) + 1 + 1 + u16::from(layout::GSI_COUNT) + 2;
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    let mut table = Vec::with_capacity(HEADER + body.len());
    table.extend(b"PCMP");
    table.extend(length.to_le_bytes());
    table.extend([VERSION_1_4, 0]);
    table.extend(b"HUSK    ");
    table.extend(b"MICROVM     ");
    table.extend([0; 6]); // no OEM table
    table.extend(entries.to_le_bytes());
    table.extend(layout::LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]); // no extended table
    table.extend(body);
    table[7] = checksum(&table);
    table
}

/// Bytes of the table's header.
const HEADER: usize = 44;

fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn both_structures_sum_to_zero_and_count_what_they_hold() {
        for cpus in [1, 2, 16, 254] {
            let table = table(cpus);
            assert_eq!(sum(&table), 0);
            assert_eq!(
                usize::from(u16::from_le_bytes([table[4], table[5]])),
                table.len()
            );
            assert!(table.len() <= layout::MP_TABLE_SIZE);

            let mut at = HEADER;
            let mut kinds = [0u16; 5];
            while at < table.len() {
                kinds[usize::from(table[at])] += 1;
                at += if table[at] == entry::PROCESSOR { 20 } else { 8 };
            }
            assert_eq!(at, table.len());
            assert_eq!(kinds, [u16::from(cpus), 1, 1, 24, 2]);
            assert_eq!(
                u16::from_le_bytes([table[34], table[35]]),
                kinds.iter().sum::<u16>()
            );
        }
        assert_eq!(sum(&floating_pointer()), 0);
    }

    #[test]
    fn the_pointer_lies_where_a_kernel_looks_first() {
        let ram = crate::memory::anonymous(2 << 20, &layout::HOLE).expect("2 MiB");
        write(&ram, 4).expect("room");
        let mut found = [0; 16];
        ram.read_slice(&mut found, GuestAddress(0)).expect("RAM");
        assert_eq!(&found[..4], b"_MP_");
        let table = u32::from_le_bytes([found[4], found[5], found[6], found[7]]);
        let mut signature = [0; 4];
        ram.read_slice(&mut signature, GuestAddress(table.into()))
            .expect("RAM");
        assert_eq!(&signature, b"PCMP");
    }
}
