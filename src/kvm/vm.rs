// SPDX-License-Identifier: Apache-2.0
//! A virtual machine: its memory, interrupt controllers and vCPUs. Built on the `vmm`
//! thread before any vCPU runs.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes an address")]

use super::vcpu::Vcpu;
use super::xsave::{XsaveBuffer, XsaveError};
use super::{KvmError, Naming as _};
use crate::memory::GuestRam;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_clock_data, kvm_irqchip,
    kvm_pit_config, kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};
use vmm_sys_util::eventfd::EventFd;

/// The version of the API every kernel since 2.6.22 has.
const API_VERSION: i32 = 12;
/// Three pages KVM may use in the guest's address space on old Intel processors; below
/// 4 GiB and above every device.
const TSS_ADDRESS: usize = 0xfffb_d000;

#[derive(Debug, thiserror::Error)]
pub enum CreateVm {
    #[error("/dev/kvm speaks version {0} of KVM's interface, not {API_VERSION}")]
    Version(i32),
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// The memory is unmapped only after the machine is gone: the order of the fields.
pub struct Vm {
    fd: VmFd,
    kvm: Kvm,
    ram: Arc<GuestRam>,
}

impl Vm {
    /// Creates a machine on an open /dev/kvm and gives it its memory.
    pub fn new(kvm: OwnedFd, ram: Arc<GuestRam>) -> Result<Self, CreateVm> {
        // SAFETY: the descriptor is open, owned, and handed over here.
        let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(CreateVm::Version(version));
        }
        let fd = kvm.create_vm().named("KVM_CREATE_VM")?;
        let vm = Self { fd, kvm, ram };
        vm.map_memory()?;
        Ok(vm)
    }

    fn map_memory(&self) -> Result<(), KvmError> {
        for (slot, region) in (0..).zip(self.ram.iter()) {
            let host = region
                .get_host_address(vm_memory::MemoryRegionAddress(0))
                .map_or(0, |address| address.addr() as u64);
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: host,
            };
            // SAFETY: the region is a live mapping of `memory_size` bytes that `self.ram` keeps
            // until after the VM's descriptor is closed, and regions do not overlap.
            unsafe { self.fd.set_user_memory_region(region) }
                .named("KVM_SET_USER_MEMORY_REGION")?;
        }
        Ok(())
    }

    /// The interrupt controllers inside KVM: local APICs, I/O APIC, two PICs; and the PIT.
    pub fn create_irqchip(&self) -> Result<(), KvmError> {
        self.fd
            .set_tss_address(TSS_ADDRESS)
            .named("KVM_SET_TSS_ADDR")?;
        self.fd.create_irq_chip().named("KVM_CREATE_IRQCHIP")
    }

    /// The interval timer, for kernels that calibrate a clock with it.
    pub fn create_pit(&self) -> Result<(), KvmError> {
        let config = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.fd.create_pit2(config).named("KVM_CREATE_PIT2")
    }

    pub fn create_vcpu(&self, index: u32) -> Result<Vcpu, KvmError> {
        let fd = self
            .fd
            .create_vcpu(u64::from(index))
            .named("KVM_CREATE_VCPU")?;
        Ok(Vcpu::new(index, fd))
    }

    /// Room for one vCPU's extended state, as large as this machine's processors have it.
    pub fn xsave_buffer(&self) -> Result<XsaveBuffer, XsaveError> {
        XsaveBuffer::new(&self.fd)
    }

    /// What this host's KVM can show a guest.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .named("KVM_GET_SUPPORTED_CPUID")
    }

    /// The machine-specific registers that hold state of a guest.
    pub fn saved_msrs(&self) -> Result<Vec<u32>, KvmError> {
        let list = self.kvm.get_msr_index_list();
        Ok(list.named("KVM_GET_MSR_INDEX_LIST")?.as_slice().to_vec())
    }

    pub fn irqchip(&self, chip: u32) -> Result<kvm_irqchip, KvmError> {
        let mut state = kvm_irqchip {
            chip_id: chip,
            ..Default::default()
        };
        self.fd.get_irqchip(&mut state).named("KVM_GET_IRQCHIP")?;
        Ok(state)
    }

    pub fn set_irqchip(&self, state: &kvm_irqchip) -> Result<(), KvmError> {
        self.fd.set_irqchip(state).named("KVM_SET_IRQCHIP")
    }

    pub fn pit(&self) -> Result<kvm_pit_state2, KvmError> {
        self.fd.get_pit2().named("KVM_GET_PIT2")
    }

    pub fn set_pit(&self, state: &kvm_pit_state2) -> Result<(), KvmError> {
        self.fd.set_pit2(state).named("KVM_SET_PIT2")
    }

    pub fn clock(&self) -> Result<kvm_clock_data, KvmError> {
        self.fd.get_clock().named("KVM_GET_CLOCK")
    }

    pub fn set_clock(&self, clock: &kvm_clock_data) -> Result<(), KvmError> {
        self.fd.set_clock(clock).named("KVM_SET_CLOCK")
    }

    /// For what asks KVM about its capabilities.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Each trigger of `line` becomes an edge on `gsi`.
    pub fn bind_irq(&self, line: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd.register_irqfd(line, gsi).named("KVM_IRQFD")
    }

    /// A four-byte write of `value` at `address` becomes a count on `notifier`, without
    /// leaving the kernel.
    pub fn bind_notifier(
        &self,
        notifier: &EventFd,
        address: GuestAddress,
        value: u32,
    ) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(notifier, &IoEventAddress::Mmio(address.0), value)
            .named("KVM_IOEVENTFD")
    }
}
