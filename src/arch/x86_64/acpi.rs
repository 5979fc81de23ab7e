// SPDX-License-Identifier: Apache-2.0
//! ACPI tables for kernels that look for nothing else: distributions build theirs without
//! MP tables and without `virtio_mmio.device=`. Hardware-reduced (ACPI 6.5, section 4.1):
//! processors and the I/O APIC in a MADT, devices in a DSDT, one register to sleep with.
//!
//! Written while the machine is built. Our own kernel has no ACPI and never reads them.

use super::layout;
use crate::memory::GuestRam;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

const OEM: [u8; 6] = *b"HUSK  ";
const OEM_TABLE: [u8; 8] = *b"MICROVM ";
const REVISION: u32 = 1;
/// Bytes of a table's header (ACPI 6.5, section 5.2.6).
const HEADER: u32 = 36;
/// 1 writes the DSDT's integers as 32 bits, 2 as 64.
const DSDT_REVISION: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    #[error("the ACPI tables do not fit below 1 MiB")]
    TooLarge,
    #[error("the ACPI tables cannot be written")]
    Memory(#[from] GuestMemoryError),
}

/// A virtio device behind MMIO registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub base: u32,
    pub gsi: u8,
}

/// Writes all tables; the RSDP, which leads to the others, at `layout::RSDP`.
pub fn write(ram: &GuestRam, cpus: u8, slots: &[Slot]) -> Result<(), AcpiError> {
    let mut next = Cursor {
        ram,
        at: layout::RSDP + 64,
    };
    let dsdt = next.put(dsdt(slots).as_slice())?;
    let fadt = next.put_aml(&fadt(dsdt))?;
    let madt = next.put_aml(&madt(cpus))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = next.put_aml(&xsdt)?;
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    ram.write_slice(&rsdp, GuestAddress(layout::RSDP))?;
    Ok(())
}

struct Cursor<'a> {
    ram: &'a GuestRam,
    at: u64,
}

impl Cursor<'_> {
    /// Returns where the table lies.
    fn put(&mut self, table: &[u8]) -> Result<u64, AcpiError> {
        let at = self.at;
        let end = at + table.len() as u64;
        if end > layout::HIGH_MEMORY {
            return Err(AcpiError::TooLarge);
        }
        self.ram.write_slice(table, GuestAddress(at))?;
        self.at = end.next_multiple_of(16);
        Ok(at)
    }

    fn put_aml(&mut self, table: &dyn Aml) -> Result<u64, AcpiError> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        self.put(&bytes)
    }
}

fn byte_port(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        port.into(),
    )
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    /// VGA is absent, and so is everything else that flag does not speak of.
    const NO_VGA: u16 = 1 << 2;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = NO_VGA.into();
    fadt.reset_reg = byte_port(layout::RESET_COMMAND_PORT);
    fadt.reset_value = layout::RESET_COMMAND;
    fadt.sleep_control_reg = byte_port(layout::SLEEP_PORT);
    fadt.sleep_status_reg = byte_port(layout::SLEEP_PORT + 1);
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, REVISION, local);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(cpus, layout::IO_APIC, 0));
    madt
}

fn dsdt(slots: &[Slot]) -> Sdt {
    let mut code = Vec::new();
    serial(&mut code);
    for (index, slot) in (0u8..).zip(slots) {
        virtio(index, *slot, &mut code);
    }
    // The only sleep is S5, off; its type is what the sleep register will be given.
    let off = aml::Package::new(vec![&layout::SLEEP_TYPE_OFF]);
    aml::Name::new("_S5_".into(), &off).to_aml_bytes(&mut code);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, DSDT_REVISION, OEM, OEM_TABLE, REVISION);
    dsdt.append_slice(&code);
    dsdt
}

/// Edge-triggered and active high, as an eventfd bound to the line drives it.
fn interrupt(gsi: u8) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi.into())
}

fn serial(code: &mut Vec<u8>) {
    let hid = aml::EISAName::new("PNP0501");
    let ports = aml::IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 0, 8);
    let line = interrupt(layout::SERIAL_GSI);
    let resources = aml::ResourceTemplate::new(vec![&line, &ports]);
    aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &hid),
            &aml::Name::new("_UID".into(), &0u8),
            &aml::Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(code);
}

/// LNRO0005 is what Linux's virtio_mmio driver matches (drivers/virtio/virtio_mmio.c).
fn virtio(index: u8, slot: Slot, code: &mut Vec<u8>) {
    const LENGTH: u32 = 0x1000;
    let registers = aml::Memory32Fixed::new(true, slot.base, LENGTH);
    let line = interrupt(slot.gsi);
    let resources = aml::ResourceTemplate::new(vec![&registers, &line]);
    aml::Device::new(
        format!("_SB_.V{index:03}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &index),
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new("_CRS".into(), &resources),
        ],
    )
    .to_aml_bytes(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(ram: &GuestRam, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        ram.read_slice(&mut bytes, GuestAddress(at)).expect("RAM");
        bytes
    }

    fn number(bytes: &[u8]) -> u64 {
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn sums_to_zero(bytes: &[u8]) -> bool {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
    }

    /// The table at `at`, whole, its signature and sum checked.
    fn table(ram: &GuestRam, at: u64, signature: &[u8; 4]) -> Vec<u8> {
        let length = usize::try_from(number(&bytes(ram, at + 4, 4))).expect("small");
        let table = bytes(ram, at, length);
        assert_eq!(&table[..4], signature);
        assert!(sums_to_zero(&table), "{signature:?}");
        table
    }

    #[test]
    fn every_table_is_found_from_the_pointer_and_sums_to_zero() {
        let ram = crate::memory::anonymous(2 << 20, &layout::HOLE).expect("2 MiB");
        let slots = [5, 6, 7].map(|gsi| Slot {
            base: 0xd000_0000 + u32::from(gsi) * 0x1000,
            gsi,
        });
        write(&ram, 3, &slots).expect("room");

        let rsdp = bytes(&ram, layout::RSDP, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert!(sums_to_zero(&rsdp[..20]) && sums_to_zero(&rsdp));
        let xsdt = table(&ram, number(&rsdp[24..32]), b"XSDT");
        let fadt = table(&ram, number(&xsdt[36..44]), b"FACP");
        let madt = table(&ram, number(&xsdt[44..52]), b"APIC");
        assert_eq!(xsdt.len(), 52);
        let dsdt = table(&ram, number(&fadt[140..148]), b"DSDT");

        // Three processors of eight bytes and an I/O APIC of twelve.
        assert_eq!(madt.len(), 44 + 3 * 8 + 12);
        assert_ne!(number(&fadt[112..116]) & (1 << 20), 0, "hardware-reduced");
        let text = String::from_utf8_lossy(&dsdt);
        assert_eq!(text.matches("LNRO0005").count(), slots.len());
        assert!(text.contains("_S5_") && text.contains("COM1"));
    }

    #[test]
    fn the_largest_machine_still_fits() {
        let ram = crate::memory::anonymous(2 << 20, &layout::HOLE).expect("2 MiB");
        let slot = Slot {
            base: 0xd000_0000,
            gsi: 23,
        };
        write(&ram, 254, &[slot; 19]).expect("room");
    }
}
