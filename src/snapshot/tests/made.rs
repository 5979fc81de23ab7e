// SPDX-License-Identifier: Apache-2.0
//! Snapshots as tests make them: of a machine that never was, through the store's own API.

use crate::arch::state::{BoardState, CpuState};
use crate::machine::MachineState;
use crate::snapshot::{About, MEMORY, PAGE, Run, STATE, Snapshot, Store, disk};
use crate::units::Variant;
use crate::virtio::state::{CoreState, DeviceState, TransportState};
use kvm_bindings::{kvm_cpuid_entry2, kvm_irqchip, kvm_msr_entry};
use serde_json::json;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use tempfile::TempDir;

/// Pages of the machine's memory.
pub const PAGES_OF_MEMORY: u64 = 4096;

/// A store in a folder of its own.
pub struct Kept {
    pub data: TempDir,
    pub store: Store,
}

impl Kept {
    pub fn new() -> Self {
        let data = TempDir::new().unwrap();
        let store = Store::open(data.path());
        Self { data, store }
    }

    pub fn root(&self) -> PathBuf {
        self.data.path().join("snapshots")
    }

    pub fn path(&self, name: &str, file: &str) -> PathBuf {
        self.root().join(name).join(file)
    }

    /// A whole one, whose memory and disk hold `fill` here and there.
    pub fn whole(&self, name: &str, fill: u8) -> Snapshot {
        let draft = self.store.draft(name).unwrap();
        state(Variant::Ring0)
            .write(&draft.create(STATE).unwrap())
            .unwrap();
        let memory = draft.create(MEMORY).unwrap();
        memory.set_len(PAGES_OF_MEMORY * PAGE).unwrap();
        for page in [0, 7, 8, 9, PAGES_OF_MEMORY - 1] {
            memory.write_all_at(&[fill; 4096], page * PAGE).unwrap();
        }
        let drive = draft.create(&disk(0)).unwrap();
        drive.set_len(8 << 20).unwrap();
        drive.write_all_at(&[fill; 5000], 1 << 20).unwrap();
        draft.commit(about(), None, json!({"argv": ["x"]})).unwrap()
    }

    /// One that holds what changed since `parent`: these pages, `fill` or zeros.
    pub fn since(&self, name: &str, parent: &Snapshot, pages: &[(Run, u8)]) -> Snapshot {
        let draft = self.store.draft(name).unwrap();
        state(Variant::Ring0)
            .write(&draft.create(STATE).unwrap())
            .unwrap();
        let memory = draft.create(MEMORY).unwrap();
        memory.set_len(PAGES_OF_MEMORY * PAGE).unwrap();
        for (run, fill) in pages.iter().filter(|(_, fill)| *fill != 0) {
            let bytes = vec![*fill; usize::try_from(run.count * PAGE).unwrap()];
            memory.write_all_at(&bytes, run.start * PAGE).unwrap();
        }
        let runs: Vec<Run> = pages.iter().map(|(run, _)| *run).collect();
        draft.pages(&runs).unwrap();
        draft.create(&disk(0)).unwrap().set_len(1 << 20).unwrap();
        draft.commit(about(), Some(parent), json!({})).unwrap()
    }
}

pub fn about() -> About {
    About {
        machine: "web".into(),
        image: Some("docker.io/library/nginx:1".into()),
        kernel: "linux".into(),
    }
}

pub fn run(start: u64, count: u64) -> Run {
    Run { start, count }
}

pub fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

pub fn cpuid() -> Vec<kvm_cpuid_entry2> {
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let vendor = [0xd, word(b"Genu"), word(b"ntel"), word(b"ineI")];
    vec![
        leaf(0, 0, vendor),
        leaf(1, 0, [0x806f8, 0, 0xfffa_3203, 0x1f8b_fbff]),
        leaf(7, 0, [2, 0xf1bf_07ab, 0x1b41_5f6e, 0xbc81_4410]),
        leaf(7, 1, [0x1c30, 0, 0, 0]),
        leaf(0xd, 0, [0x602e7, 0, 0, 0]),
        leaf(0xd, 1, [0x1f, 0, 0, 0]),
        leaf(0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
        leaf(0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800]),
    ]
}

/// What its state would be.
pub fn state(variant: Variant) -> MachineState {
    let cpu = CpuState {
        cpuid: cpuid(),
        tsc_khz: 2_000_000,
        mp_state: Default::default(),
        regs: Default::default(),
        sregs: Default::default(),
        xcrs: Default::default(),
        xsave: vec![0; 4096],
        debug: Default::default(),
        lapic: Default::default(),
        msrs: [0x10, 0x6e0, 0xc000_0080]
            .map(|index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .to_vec(),
        events: Default::default(),
    };
    MachineState {
        memory: PAGES_OF_MEMORY * PAGE,
        counters: Default::default(),
        serial: Default::default(),
        variant,
        cpus: vec![cpu.clone(), cpu],
        board: BoardState {
            chips: vec![kvm_irqchip::default(); 3],
            pit: None,
            clock: Default::default(),
        },
        devices: vec![TransportState {
            device: 19,
            core: CoreState {
                accepted: 0,
                status: 0,
                device_features_select: 0,
                driver_features_select: 0,
                queue_select: 0,
                queues: Vec::new(),
            },
            interrupt: 0,
            generation: 0,
            own: DeviceState::None,
        }],
    }
}

/// One with little in it.
pub fn small(kept: &Kept, name: &str) -> Snapshot {
    let draft = kept.store.draft(name).unwrap();
    state(Variant::Ring0)
        .write(&draft.create(STATE).unwrap())
        .unwrap();
    let memory = draft.create(MEMORY).unwrap();
    memory.set_len(PAGES_OF_MEMORY * PAGE).unwrap();
    memory.write_all_at(b"page 3", 3 * PAGE).unwrap();
    draft.commit(about(), None, json!({})).unwrap()
}
