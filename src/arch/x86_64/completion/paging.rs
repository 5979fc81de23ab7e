// SPDX-License-Identifier: Apache-2.0
//! The guest's page tables, walked as the processor would (SDM vol. 3, 4.5 to 4.8): 4 and 5
//! levels, all page sizes, protection, reserved bits, accessed and dirty bits. Runs on the
//! vCPU's thread while other vCPUs run: an entry is re-checked when its bits are set.

use super::bits::{
    AC, CR0_PG, CR0_WP, CR4_LA57, CR4_PKE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NXE, low32,
};
use super::fault::{Exception, Reason, Stop};
use super::stopped::Stopped;
use super::xstate;
use crate::memory::atomic;
use std::arch::x86_64::__cpuid;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, GuestAddress};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Page-fault error code (SDM vol. 3, 4.7).
const CODE_PRESENT: u32 = 1 << 0;
const CODE_WRITE: u32 = 1 << 1;
const CODE_USER: u32 = 1 << 2;
const CODE_RESERVED: u32 = 1 << 3;
const CODE_FETCH: u32 = 1 << 4;
const CODE_KEY: u32 = 1 << 5;

/// A guest that keeps changing an entry under the walk would hold the vCPU thread for ever.
const MAX_WALKS: usize = 64;

const MAX_LEVELS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Fetch,
}

/// One entry that the walk used.
#[derive(Clone, Copy, Default)]
struct Used {
    address: u64,
    entry: u64,
}

enum Walk {
    Found(u64),
    Again,
}

impl Stopped<'_> {
    /// The guest-physical address behind `linear`. The caller has checked that the address is
    /// canonical (see `Stopped::check_canonical`).
    pub fn translate(&mut self, linear: u64, access: Access) -> Result<u64, Stop> {
        if self.sregs.cr0 & CR0_PG == 0 {
            return Ok(linear);
        }
        if self.sregs.efer & EFER_LMA == 0 {
            return Err(Stop::Refused(Reason::LegacyPaging));
        }
        for _ in 0..MAX_WALKS {
            if let Walk::Found(address) = self.walk(linear, access)? {
                return Ok(address);
            }
        }
        Err(Stop::Refused(Reason::RestlessTables))
    }

    /// Bits 63 to 47 (56 with 5 levels) must all be equal.
    pub fn is_canonical(&self, linear: u64) -> bool {
        let spare = if self.sregs.cr4 & CR4_LA57 != 0 {
            7
        } else {
            16
        };
        let top = linear >> (63 - spare);
        top == 0 || top == (1 << (spare + 1)) - 1
    }

    fn walk(&mut self, linear: u64, access: Access) -> Result<Walk, Stop> {
        let levels = if self.sregs.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
        let mut used = [Used::default(); MAX_LEVELS];
        let mut table = self.sregs.cr3 & FRAME;
        // Rights narrow on the way down: both bits must be set, and NX clear, at every level.
        let (mut granted, mut no_execute) = (WRITABLE | USER, 0);
        for (depth, level) in (0..levels).rev().enumerate() {
            let address = table + (linear >> (12 + 9 * level) & 0x1ff) * 8;
            let entry: u64 = self
                .ram
                .load(GuestAddress(address), Ordering::Acquire)
                .map_err(|_| Stop::Refused(Reason::TableNotRam(address)))?;
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, access, 0));
            }
            if entry & self.reserved(entry, level) != 0 {
                return Err(self.page_fault(linear, access, CODE_PRESENT | CODE_RESERVED));
            }
            granted &= entry;
            no_execute |= entry & NO_EXECUTE;
            used[depth] = Used { address, entry };
            let leaf = level == 0 || (level <= 2 && entry & LARGE != 0);
            if leaf {
                self.check_rights(linear, access, granted, no_execute)?;
                self.check_key(linear, access, granted, entry)?;
                let inside = (1u64 << (12 + 9 * level)) - 1;
                let page = entry & FRAME & !inside;
                let marked = self.mark(&used[..=depth], access)?;
                return Ok(if marked {
                    Walk::Found(page | linear & inside)
                } else {
                    Walk::Again
                });
            }
            table = entry & FRAME;
        }
        // Level 0 is always a leaf.
        Ok(Walk::Again)
    }

    /// The bits that must be clear in this entry.
    fn reserved(&self, entry: u64, level: u32) -> u64 {
        let mut reserved = FRAME & !((1 << physical_bits()) - 1);
        if self.sregs.efer & EFER_NXE == 0 {
            reserved |= NO_EXECUTE;
        }
        match level {
            0 => reserved,
            // Bit 12 of a large page is its PAT bit, those up to its size must be clear.
            1 | 2 if entry & LARGE != 0 => reserved | ((1u64 << (12 + 9 * level)) - 1) & !0x1fff,
            1 | 2 => reserved,
            _ => reserved | LARGE,
        }
    }

    fn check_rights(&self, linear: u64, access: Access, granted: u64, nx: u64) -> Result<(), Stop> {
        let (user_page, user) = (granted & USER != 0, self.cpl() == 3);
        let (cr0, cr4) = (self.sregs.cr0, self.sregs.cr4);
        let allowed = match access {
            _ if user && !user_page => false,
            Access::Fetch => nx == 0 && (user || !user_page || cr4 & CR4_SMEP == 0),
            // SMAP: AC lets explicit supervisor accesses through (SDM vol. 3, 4.6.1).
            _ if !user && user_page && cr4 & CR4_SMAP != 0 && self.regs.rflags & AC == 0 => false,
            Access::Read => true,
            Access::Write => granted & WRITABLE != 0 || (!user && cr0 & CR0_WP == 0),
        };
        if allowed {
            Ok(())
        } else {
            Err(self.page_fault(linear, access, CODE_PRESENT))
        }
    }

    /// Protection keys guard user pages against data accesses of every ring (SDM vol. 3, 4.6.2).
    fn check_key(
        &mut self,
        linear: u64,
        access: Access,
        granted: u64,
        leaf: u64,
    ) -> Result<(), Stop> {
        if self.sregs.cr4 & CR4_PKE == 0 || granted & USER == 0 || access == Access::Fetch {
            return Ok(());
        }
        self.cpu.load_xsave()?;
        let pkru = xstate::pkru(self.cpu.image());
        let key = low32(leaf >> 59 & 0xf);
        let rights = pkru >> (2 * key) & 3;
        let obeys = self.cpl() == 3 || self.sregs.cr0 & CR0_WP != 0;
        let denied = rights & 1 != 0 || (rights & 2 != 0 && access == Access::Write && obeys);
        if denied {
            return Err(self.page_fault(linear, access, CODE_PRESENT | CODE_KEY));
        }
        Ok(())
    }

    /// Sets accessed bits, and dirty in the leaf of a write. False if an entry has changed since
    /// it was read: the walk is then worth nothing.
    fn mark(&self, used: &[Used], access: Access) -> Result<bool, Stop> {
        for (i, &Used { address, entry }) in used.iter().enumerate() {
            let dirty = access == Access::Write && i + 1 == used.len();
            let marked = entry | ACCESSED | if dirty { DIRTY } else { 0 };
            if marked == entry {
                continue;
            }
            let found = atomic::compare_exchange(self.ram, address, 8, entry.into(), marked.into())
                .map_err(|_| Stop::Refused(Reason::TableNotRam(address)))?;
            if found != u128::from(entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn page_fault(&self, linear: u64, access: Access, code: u32) -> Stop {
        let user = if self.cpl() == 3 { CODE_USER } else { 0 };
        let nx_or_smep = self.sregs.efer & EFER_NXE != 0 || self.sregs.cr4 & CR4_SMEP != 0;
        let kind = match access {
            Access::Read => 0,
            Access::Write => CODE_WRITE,
            Access::Fetch if nx_or_smep => CODE_FETCH,
            Access::Fetch => 0,
        };
        Stop::Fault(Exception::page_fault(code | user | kind, linear))
    }
}

/// The width of physical addresses. The guest's CPUID may say less; then the extra bits are
/// reserved to it and it sets none.
fn physical_bits() -> u32 {
    static BITS: OnceLock<u32> = OnceLock::new();
    *BITS.get_or_init(|| match __cpuid(0x8000_0008).eax & 0xff {
        bits @ 32..=52 => bits,
        _ => 52,
    })
}
