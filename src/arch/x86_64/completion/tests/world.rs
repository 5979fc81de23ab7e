// SPDX-License-Identifier: Apache-2.0
//! A fake vCPU and a small guest memory whose data pages the guest sees at the very address
//! where the host has them: one register file serves the handler and the real processor.

use super::super::bits::*;
use super::super::{Completed, Cpu, CpuError, Exception, complete};
use super::native::{self, Area};
use crate::memory::GuestRam;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use std::collections::HashMap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

pub(super) const RAM_SIZE: usize = 0x4_0000;
pub(super) const ROOT: u64 = 0x1000;
pub(super) const DATA: u64 = 0x2_0000;
pub(super) const DATA_SIZE: usize = 0x1_0000;
pub(super) const CODE: u64 = 0x1_0000;
/// Present, writable; supervisor.
pub(super) const KERNEL: u64 = 3;

pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Numbers that find edges: zeros, ones, single bits, small numbers, and any.
    pub fn edgy(&mut self) -> u64 {
        let value = self.next();
        match value >> 60 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (value & 63),
            3 => value & 0xff,
            4 => value & 0xffff_ffff,
            5 => (1 << (value & 63)) - 1,
            6 => value & 0xffff,
            _ => value,
        }
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next().to_le_bytes()[3];
        }
    }
}

#[derive(Default)]
pub(super) struct Fake {
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub xcr0: u64,
    pub msrs: HashMap<u32, u64>,
    pub image: Vec<u8>,
    pub raised: Option<Exception>,
    /// How often KVM would have been asked or told.
    pub calls: usize,
}

impl Cpu for Fake {
    fn regs(&mut self) -> Result<kvm_regs, CpuError> {
        self.calls += 1;
        Ok(self.regs)
    }
    fn set_regs(&mut self, regs: &kvm_regs) -> Result<(), CpuError> {
        self.calls += 1;
        self.regs = *regs;
        Ok(())
    }
    fn sregs(&mut self) -> Result<kvm_sregs, CpuError> {
        self.calls += 1;
        Ok(self.sregs)
    }
    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<(), CpuError> {
        self.calls += 1;
        self.sregs = *sregs;
        Ok(())
    }
    fn xcr0(&mut self) -> Result<u64, CpuError> {
        self.calls += 1;
        Ok(self.xcr0)
    }
    fn set_xcr0(&mut self, value: u64) -> Result<bool, CpuError> {
        self.calls += 1;
        let good = value & 1 != 0 && value & !native::xcr0() == 0;
        if good {
            self.xcr0 = value;
        }
        Ok(good)
    }
    fn msr(&mut self, index: u32) -> Result<Option<u64>, CpuError> {
        self.calls += 1;
        Ok(self.msrs.get(&index).copied())
    }
    fn set_msr(&mut self, index: u32, value: u64) -> Result<bool, CpuError> {
        self.calls += 1;
        self.msrs.insert(index, value);
        Ok(true)
    }
    fn load_xsave(&mut self) -> Result<(), CpuError> {
        self.calls += 1;
        Ok(())
    }
    fn image(&mut self) -> &mut [u8] {
        &mut self.image
    }
    fn store_xsave(&mut self) -> Result<(), CpuError> {
        self.calls += 1;
        Ok(())
    }
    fn inject(&mut self, exception: &Exception) -> Result<(), CpuError> {
        self.calls += 1;
        self.raised = Some(*exception);
        Ok(())
    }
}

pub(super) struct World {
    pub ram: GuestRam,
    pub cpu: Fake,
    /// Where the guest, and the host, has its data.
    pub data: u64,
    next_table: u64,
}

impl World {
    pub fn new() -> Self {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM_SIZE)]).unwrap();
        let data = ram.get_host_address(GuestAddress(DATA)).unwrap() as u64;
        let mut sregs = kvm_sregs {
            cr0: CR0_PE | CR0_MP | CR0_NE | CR0_WP | CR0_PG,
            cr3: ROOT,
            cr4: CR4_OSFXSR | CR4_FSGSBASE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP | 1 << 5,
            efer: EFER_SCE | EFER_LMA | EFER_NXE | 1 << 8,
            ..Default::default()
        };
        sregs.cs = kvm_segment {
            selector: 0x10,
            type_: 11,
            present: 1,
            l: 1,
            s: 1,
            ..sregs.cs
        };
        let cpu = Fake {
            sregs,
            xcr0: native::xcr0(),
            image: vec![0; 4096],
            regs: kvm_regs {
                rflags: 2,
                ..Default::default()
            },
            ..Default::default()
        };
        let mut world = Self {
            ram,
            cpu,
            data,
            next_table: ROOT + 0x1000,
        };
        for page in (0..DATA_SIZE as u64).step_by(4096) {
            world.map(data + page, DATA + page, KERNEL);
        }
        world
    }

    pub fn entry(&self, address: u64) -> u64 {
        self.ram.read_obj(GuestAddress(address)).unwrap()
    }

    pub fn set_entry(&self, address: u64, entry: u64) {
        self.ram.write_obj(entry, GuestAddress(address)).unwrap();
    }

    /// Maps a 4 KiB page; gives where its entry lies.
    pub fn map(&mut self, linear: u64, physical: u64, flags: u64) -> u64 {
        self.map_at(linear, physical, flags, 0)
    }

    /// Maps a page of `level` 0, 1 or 2 (4 KiB, 2 MiB, 1 GiB).
    pub fn map_at(&mut self, linear: u64, physical: u64, flags: u64, level: u64) -> u64 {
        let top = if self.cpu.sregs.cr4 & CR4_LA57 != 0 {
            4
        } else {
            3
        };
        let mut table = self.cpu.sregs.cr3 & !0xfff;
        for upper in (level + 1..=top).rev() {
            let at = table + (linear >> (12 + 9 * upper) & 0x1ff) * 8;
            if self.entry(at) & 1 == 0 {
                assert!(self.next_table < CODE, "out of room for tables");
                self.set_entry(at, self.next_table | 7);
                self.next_table += 0x1000;
            }
            table = self.entry(at) & 0x000f_ffff_ffff_f000;
        }
        let at = table + (linear >> (12 + 9 * level) & 0x1ff) * 8;
        let large = if level > 0 { 1 << 7 } else { 0 };
        self.set_entry(at, physical | flags | large);
        at
    }

    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        self.ram
            .write_slice(bytes, GuestAddress(DATA + offset))
            .unwrap();
    }

    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram
            .read_slice(&mut bytes, GuestAddress(DATA + offset))
            .unwrap();
        bytes
    }

    /// Completes the instruction at `code`.
    pub fn complete(&mut self, code: u64) -> Completed {
        self.cpu.regs.rip = code;
        self.complete_bytes(&native::bytes(code))
    }

    pub fn complete_bytes(&mut self, bytes: &[u8]) -> Completed {
        complete(&mut self.cpu, &self.ram, bytes).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn set_gprs(&mut self, gpr: &[u64; 16]) {
        let r = &mut self.cpu.regs;
        [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi] = gpr[..8].try_into().unwrap();
        [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15] = gpr[8..].try_into().unwrap();
    }

    pub fn gprs(&self) -> [u64; 16] {
        let r = &self.cpu.regs;
        [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15,
        ]
    }
}

/// How often two runs may differ before it is our fault.
const ATTEMPTS: usize = 5;

/// One comparison's inputs.
pub(super) struct Trial<'a> {
    pub world: &'a mut World,
    pub code: u64,
    pub gpr: [u64; 16],
    pub rflags: u64,
    /// Loaded before the instruction, both ways.
    pub state: &'a Area,
    /// Flags the architecture defines after the instruction.
    pub defined: u64,
    /// How many bytes of data may change.
    pub memory: usize,
}

impl Trial<'_> {
    /// Runs it both ways from the same data; panics if they differ.
    ///
    /// Whether a component counts as in use may change when the host interrupts this thread
    /// (SDM vol. 1, 13.6 leaves it to the processor), and XSAVE shows it: a difference counts
    /// when it comes every time.
    pub fn agree(mut self) {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            match self.difference() {
                None => return,
                Some(text) => last = text,
            }
        }
        panic!("{}: {last}, from {:x?}", describe(self.code), self.gpr);
    }

    fn difference(&mut self) -> Option<String> {
        let Self {
            world,
            code,
            gpr,
            rflags,
            state,
            defined,
            memory,
        } = self;
        let before = world.peek(0, *memory);
        let mut image = (*state).clone();
        native::settle(&mut image);
        world.cpu.image = image.0[..4096].to_vec();
        world.set_gprs(gpr);
        world.cpu.regs.rflags = *rflags;
        let completed = world.complete(*code);
        if completed != Completed::Done {
            return Some(format!("{completed:?}"));
        }
        let after = world.peek(0, *memory);

        world.poke(0, &before);
        let (mut real, mut flags, mut real_state) = (*gpr, *rflags, (*state).clone());
        native::run(*code, &mut real, &mut flags, &mut real_state);
        let real_after = world.peek(0, *memory);
        world.poke(0, &before);

        // What the processor makes of our image: KVM will load it.
        let mut ours = Area::zeroed();
        ours.0[..4096].copy_from_slice(&world.cpu.image);
        native::settle(&mut ours);
        let states = (settled(&ours.0[..4096]), settled(&real_state.0[..4096]));
        if world.gprs() != real {
            return Some(format!(
                "registers: ours {:x?}, its {real:x?}",
                world.gprs()
            ));
        }
        if (world.cpu.regs.rflags ^ flags) & *defined != 0 {
            return Some(format!(
                "flags: ours {:#x}, its {flags:#x}",
                world.cpu.regs.rflags
            ));
        }
        if native::bytes(world.cpu.regs.rip)[0] != 0xc3 {
            return Some("RIP is not behind the instruction".into());
        }
        first_difference("memory", &after, &real_after)
            .or_else(|| first_difference("state", &states.0, &states.1))
    }
}

fn first_difference(what: &str, ours: &[u8], its: &[u8]) -> Option<String> {
    let at = ours.iter().zip(its).position(|(a, b)| a != b)?;
    let end = ours.len().min(at + 16);
    Some(format!(
        "{what} at {at:#x}: ours {:x?}, its {:x?}",
        &ours[at..end],
        &its[at..end]
    ))
}

pub(super) fn describe(code: u64) -> String {
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};
    let bytes = native::bytes(code);
    let known = Decoder::with_ip(64, &bytes, code, DecoderOptions::NONE).decode();
    let mut text = String::new();
    FastFormatter::new().format(&known, &mut text);
    text
}

/// The image with what is in its initial configuration written out, and the header gone: two
/// images that mean the same state compare equal.
pub(super) fn settled(image: &[u8]) -> Vec<u8> {
    use super::super::xstate;
    let mut image = image.to_vec();
    for i in 0..63 {
        if xstate::in_use(&image) >> i & 1 == 0 {
            xstate::init(&mut image, i);
        }
    }
    image[416..576].fill(0);
    image
}

/// A state to load: any components, or none, in use.
pub(super) fn random_state(random: &mut Random) -> Box<Area> {
    use super::super::xstate::components;
    let mut area = Area::zeroed();
    let present = native::xcr0()
        & if random.next() & 7 == 0 {
            u64::MAX
        } else {
            random.next()
        };
    for i in (2..63).filter(|i| present >> i & 1 != 0 && *i != 9) {
        random.fill(&mut area.0[components()[i].range()]);
    }
    let put = |area: &mut Area, at: usize, bytes: &[u8]| {
        area.0[at..at + bytes.len()].copy_from_slice(bytes);
    };
    // All exceptions masked: nothing may trap in the test itself.
    let control = 0x37f ^ (random.next() & 0xf00);
    put(&mut area, 0, &control.to_le_bytes()[..2]);
    put(&mut area, 2, &(random.next() & 0x7f7f).to_le_bytes()[..2]);
    put(&mut area, 4, &random.next().to_le_bytes()[..1]);
    put(&mut area, 6, &(random.next() & 0x7ff).to_le_bytes()[..2]);
    put(&mut area, 8, &(random.next() >> 17).to_le_bytes());
    put(&mut area, 16, &(random.next() >> 17).to_le_bytes());
    let status = if random.next() & 1 == 0 {
        0
    } else {
        random.next() & 0xe03f
    };
    put(&mut area, 24, &(0x1f80 | status).to_le_bytes()[..4]);
    for i in 0..8 {
        random.fill(&mut area.0[32 + 16 * i..42 + 16 * i]);
    }
    random.fill(&mut area.0[160..416]);
    put(&mut area, 512, &(present & !(1 << 9)).to_le_bytes());
    area
}

/// Compares `rounds` times with random registers; RSI points at random data.
pub(super) fn rounds(world: &mut World, code: u64, defined: u64, rounds: usize, vectors: bool) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ code);
    let plain = {
        let mut area = Area::zeroed();
        area.0[0..2].copy_from_slice(&[0x7f, 3]);
        area.0[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        area
    };
    for _ in 0..rounds {
        let mut gpr = [0; 16].map(|_: u64| random.edgy());
        gpr[4] = 0;
        gpr[6] = world.data + 256;
        let mut data = [0; 512];
        for chunk in data.chunks_exact_mut(8) {
            chunk.copy_from_slice(&random.edgy().to_le_bytes());
        }
        world.poke(0, &data);
        let state = if vectors {
            random_state(&mut random)
        } else {
            plain.clone()
        };
        let rflags = 2 | random.next() & STATUS;
        Trial {
            world,
            code,
            gpr,
            rflags,
            state: &state,
            defined,
            memory: 512,
        }
        .agree();
    }
}
