// SPDX-License-Identifier: Apache-2.0
//! The 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst): page tables, GDT and
//! the zero page. Nothing here looks into the kernel's file; `boot::kernel` has.

use super::layout;
use crate::memory::GuestRam;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use std::ops::Range;
use vm_memory::{
    Address as _, Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryError,
    GuestMemoryRegion as _,
};

/// Where the first processor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub address: u64,
}

/// A loaded kernel, as the boot parameters describe it.
pub struct Image {
    pub entry: Entry,
    /// A bzImage brings the header it wants back.
    pub header: Option<setup_header>,
    pub initrd: Option<Range<u64>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the boot tables do not fit in guest memory")]
pub struct BootTableError(#[from] GuestMemoryError);

/// Highest address the boot page tables map to itself.
pub const IDENTITY_END: u64 = 4 << 30;
/// Where a boot loader of no registered kind names itself.
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// An alignment every kernel accepts.
const KERNEL_ALIGNMENT: u32 = 0x0100_0000;
const E820_RAM: u32 = 1;

/// Writes everything the kernel finds at its first instruction.
pub fn write_tables(ram: &GuestRam, image: &Image, cmdline: &[u8]) -> Result<(), BootTableError> {
    write_gdt(ram)?;
    write_page_tables(ram)?;
    ram.write_slice(cmdline, GuestAddress(layout::CMDLINE))?;
    ram.write_obj(0u8, GuestAddress(layout::CMDLINE + cmdline.len() as u64))?;
    write_zero_page(ram, image, cmdline.len())
}

fn write_gdt(ram: &GuestRam) -> Result<(), GuestMemoryError> {
    const CODE64: u64 = 0x00af_9b00_0000_ffff;
    const DATA: u64 = 0x00cf_9300_0000_ffff;
    for (index, entry) in (0u64..).zip([0, 0, CODE64, DATA]) {
        ram.write_obj(entry, GuestAddress(layout::BOOT_GDT + index * 8))?;
    }
    ram.write_obj(0u64, GuestAddress(layout::BOOT_IDT))
}

/// Only as far as there is RAM, so that a small machine touches few pages.
fn write_page_tables(ram: &GuestRam) -> Result<(), GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const GIB: u64 = 1 << 30;
    const LARGE_PAGE: u64 = 2 << 20;
    let end = ram.last_addr().raw_value().min(IDENTITY_END - 1) + 1;
    let pdpt = layout::PDPT | PRESENT_WRITABLE;
    ram.write_obj(pdpt, GuestAddress(layout::PML4))?;
    for gib in 0..end.div_ceil(GIB) {
        let directory = layout::PAGE_DIRECTORIES + gib * 0x1000;
        ram.write_obj(
            directory | PRESENT_WRITABLE,
            GuestAddress(layout::PDPT + gib * 8),
        )?;
        let mut entries = [0u8; 4096];
        for (index, entry) in (0u64..).zip(entries.chunks_exact_mut(8)) {
            let page = gib * GIB + index * LARGE_PAGE;
            entry.copy_from_slice(&(page | PRESENT_WRITABLE | LARGE).to_le_bytes());
        }
        ram.write_slice(&entries, GuestAddress(directory))?;
    }
    Ok(())
}

fn write_zero_page(ram: &GuestRam, image: &Image, cmdline: usize) -> Result<(), BootTableError> {
    let mut params = boot_params {
        hdr: image.header.unwrap_or_else(|| setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            kernel_alignment: KERNEL_ALIGNMENT,
            ..Default::default()
        }),
        ..Default::default()
    };
    params.acpi_rsdp_addr = layout::RSDP;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = u32::try_from(layout::CMDLINE).unwrap_or(0);
    params.hdr.cmdline_size = u32::try_from(cmdline).unwrap_or(0);
    if let Some(initrd) = &image.initrd {
        params.hdr.ramdisk_image = u32::try_from(initrd.start).unwrap_or(0);
        params.hdr.ramdisk_size = u32::try_from(initrd.end - initrd.start).unwrap_or(0);
    }
    let map = e820(ram);
    for (slot, range) in params.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: range.start,
            size: range.end - range.start,
            r#type: E820_RAM,
        };
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    ram.write_obj(params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(())
}

/// RAM as firmware would list it: without the space between conventional and high memory.
fn e820(ram: &GuestRam) -> Vec<Range<u64>> {
    ram.iter()
        .flat_map(|region| {
            let start = region.start_addr().raw_value();
            let end = start + region.len();
            if start == 0 {
                vec![0..layout::EBDA, layout::HIGH_MEMORY..end]
            } else {
                vec![start..end, 0..0]
            }
        })
        .filter(|range| !range.is_empty())
        .collect()
}
