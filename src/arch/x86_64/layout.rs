// SPDX-License-Identifier: Apache-2.0
//! Guest-physical addresses, ports and interrupt lines. Everything below 1 MiB is laid
//! out here so that no two tables meet.

use std::ops::Range;

/// The MP floating pointer: the first place a kernel looks (MP specification 1.4, chapter 4:
/// the extended BIOS data area or the first kilobyte), so the search ends at once.
pub const MP_FLOATING: u64 = 0;
/// The boot GDT: null, unused, code, data.
pub const BOOT_GDT: u64 = 0x500;
/// An empty IDT: a fault before the kernel has its own is a triple fault.
pub const BOOT_IDT: u64 = 0x520;
/// `struct boot_params`, one page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Identity mapping of the first 4 GiB with 2 MiB pages: one PML4, one PDPT, four PDs.
pub const PML4: u64 = 0x9000;
pub const PDPT: u64 = 0xa000;
pub const PAGE_DIRECTORIES: u64 = 0xb000;
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line any x86 kernel reads, its terminator included (COMMAND_LINE_SIZE).
pub const CMDLINE_SIZE: usize = 2048;
/// End of conventional memory in the e820 map; the MP table lies behind it.
pub const EBDA: u64 = 0x9_fc00;
pub const MP_TABLE: u32 = 0xe_0000;
/// Room for the MP table: 254 processors take 5,080 bytes.
pub const MP_TABLE_SIZE: usize = 0x4000;
/// Where a kernel that is not told looks for the ACPI tables' root (ACPI 6.5, section 5.2.5.1);
/// the others follow it.
pub const RSDP: u64 = 0xf_0000;
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// No RAM here: device registers, then the interrupt controllers' and KVM's own pages.
pub const HOLE: Range<u64> = 0xd000_0000..0x1_0000_0000;
/// Device registers, one page each.
pub const MMIO_BASE: u32 = 0xd000_0000;
pub const MMIO_STRIDE: u32 = 0x1000;

pub const LOCAL_APIC: u32 = 0xfee0_0000;
pub const IO_APIC: u32 = 0xfec0_0000;
/// Lines of KVM's I/O APIC.
pub const GSI_COUNT: u8 = 24;
/// The first line no legacy device of ours uses.
pub const FIRST_DEVICE_GSI: u8 = 5;

pub const SERIAL_PORT: u16 = 0x3f8;
pub const SERIAL_PORTS: Range<u64> = 0x3f8..0x400;
pub const SERIAL_GSI: u8 = 4;
pub const RESET_PORTS: Range<u64> = 0x60..0x65;
/// Resets the machine when it is given `RESET_COMMAND`.
pub const RESET_COMMAND_PORT: u16 = 0x64;
pub const RESET_COMMAND: u8 = 0xfe;
/// ACPI's sleep control register, and behind it the sleep status register.
pub const SLEEP_PORT: u16 = 0x600;
pub const SLEEP_PORTS: Range<u64> = 0x600..0x602;
/// The sleep type of S5, off.
pub const SLEEP_TYPE_OFF: u8 = 5;
