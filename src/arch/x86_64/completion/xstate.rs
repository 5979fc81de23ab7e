// SPDX-License-Identifier: Apache-2.0
//! The XSAVE area's layout (SDM vol. 1, 13.4) and single fields of an image in the standard
//! format. Pure functions over bytes; a short image reads as zeros and is not written.

use std::arch::x86_64::__cpuid_count;
use std::ops::Range;
use std::sync::OnceLock;

pub(super) const X87: u64 = 1 << 0;
pub(super) const SSE: u64 = 1 << 1;
pub(super) const AVX: u64 = 1 << 2;
pub(super) const ZMM_HI256: u64 = 1 << 6;
pub(super) const HI16_ZMM: u64 = 1 << 7;
pub(super) const PKRU: u64 = 1 << 9;

/// XCOMP_BV's top bit: the area is compacted.
pub(super) const COMPACTED: u64 = 1 << 63;

pub(super) const FCW: usize = 0;
pub(super) const FSW: usize = 2;
pub(super) const FTW: usize = 4;
pub(super) const FOP: usize = 6;
pub(super) const FIP: usize = 8;
pub(super) const FDP: usize = 16;
pub(super) const MXCSR: usize = 24;
pub(super) const MXCSR_MASK: usize = 28;
pub(super) const ST: Range<usize> = 32..160;
pub(super) const XMM: Range<usize> = 160..416;
pub(super) const LEGACY_END: usize = 512;
pub(super) const XSTATE_BV: usize = 512;
pub(super) const XCOMP_BV: usize = 520;
pub(super) const HEADER_END: usize = 576;

pub(super) const INIT_FCW: u16 = 0x37f;
pub(super) const INIT_MXCSR: u32 = 0x1f80;
/// What the mask means where a processor says zero (SDM vol. 1, 11.6.6).
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;

/// One component above the legacy two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Component {
    /// In the standard format; zero for supervisor components, which it does not hold.
    pub offset: usize,
    pub size: usize,
    /// In the compacted format this one starts at a multiple of 64.
    aligned: bool,
}

impl Component {
    /// Its bytes in the standard format; none for a supervisor component.
    pub fn range(&self) -> Range<usize> {
        if self.offset == 0 {
            0..0
        } else {
            self.offset..self.offset + self.size
        }
    }
}

/// The host's layout, which user code in the guest sees in CPUID too.
pub(super) fn components() -> &'static [Component; 63] {
    static ALL: OnceLock<[Component; 63]> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = [Component::default(); 63];
        for (i, component) in (0u32..).zip(&mut all).skip(2) {
            let leaf = __cpuid_count(0xd, i);
            let supervisor = leaf.ecx & 1 != 0;
            *component = Component {
                offset: if supervisor {
                    0
                } else {
                    usize::try_from(leaf.ebx).unwrap_or(0)
                },
                size: usize::try_from(leaf.eax).unwrap_or(0),
                aligned: leaf.ecx & 2 != 0,
            };
        }
        all
    })
}

/// Every component an image can hold.
pub(super) fn supported() -> u64 {
    static MASK: OnceLock<u64> = OnceLock::new();
    *MASK.get_or_init(|| {
        let leaf = __cpuid_count(0xd, 0);
        u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
    })
}

/// The numbers of the components above SSE in `mask`.
pub(super) fn extended(mask: u64) -> impl Iterator<Item = usize> {
    (2..63usize).filter(move |i| mask >> i & 1 != 0)
}

/// Where each component of `present` lies in a compacted area (SDM vol. 1, 13.4.3), and where
/// the area ends.
pub(super) fn compacted(present: u64) -> ([usize; 63], usize) {
    packed(present, components())
}

fn packed(present: u64, components: &[Component; 63]) -> ([usize; 63], usize) {
    let mut places = [0; 63];
    let mut end = HEADER_END;
    for i in extended(present) {
        if components[i].aligned {
            end = end.next_multiple_of(64);
        }
        places[i] = end;
        end += components[i].size;
    }
    (places, end)
}

pub(super) fn get_u64(image: &[u8], at: usize) -> u64 {
    image.get(at..at + 8).map_or(0, |bytes| {
        bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    })
}

pub(super) fn get_u32(image: &[u8], at: usize) -> u32 {
    image.get(at..at + 4).map_or(0, |bytes| {
        bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u32::from(byte))
    })
}

pub(super) fn get_u16(image: &[u8], at: usize) -> u16 {
    super::bits::low16(get_u32(image, at).into())
}

pub(super) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = image.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The components not in their initial configuration, as the image tells (XINUSE).
pub(super) fn in_use(image: &[u8]) -> u64 {
    get_u64(image, XSTATE_BV)
}

pub(super) fn mxcsr(image: &[u8]) -> u32 {
    get_u32(image, MXCSR)
}

/// The MXCSR bits that exist.
pub(super) fn mxcsr_mask(image: &[u8]) -> u32 {
    match get_u32(image, MXCSR_MASK) {
        0 => DEFAULT_MXCSR_MASK,
        mask => mask,
    }
}

/// Protection-key rights; without the component, all rights.
pub(super) fn pkru(image: &[u8]) -> u32 {
    let place = &components()[9];
    if in_use(image) & PKRU == 0 || place.size < 4 {
        0
    } else {
        get_u32(image, place.offset)
    }
}

fn zero(image: &mut [u8], range: Range<usize>) {
    if let Some(place) = image.get_mut(range) {
        place.fill(0);
    }
}

/// Brings component `i` into its initial configuration. MXCSR is nobody's part: see `set_mxcsr`.
pub(super) fn init(image: &mut [u8], i: usize) {
    match i {
        0 => {
            zero(image, 0..MXCSR);
            zero(image, ST);
            put(image, FCW, &INIT_FCW.to_le_bytes());
        }
        1 => zero(image, XMM),
        _ => zero(image, components().get(i).map_or(0..0, Component::range)),
    }
    let in_use = in_use(image) & !(1 << i);
    put(image, XSTATE_BV, &in_use.to_le_bytes());
}

/// Makes component `i` one that may be written: what it held is kept, or its initial values.
pub(super) fn touch(image: &mut [u8], i: usize) {
    let before = in_use(image);
    if before >> i & 1 == 0 {
        init(image, i);
        put(image, XSTATE_BV, &(before | 1 << i).to_le_bytes());
    }
}

/// MXCSR travels with SSE state: a value that is not the initial one puts that in use.
pub(super) fn set_mxcsr(image: &mut [u8], value: u32) {
    if value != INIT_MXCSR {
        touch(image, 1);
    }
    put(image, MXCSR, &value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No user component of common processors has a size that makes the alignment matter.
    #[test]
    fn aligned_components_start_at_a_multiple_of_64() {
        let mut components = [Component::default(); 63];
        components[2] = Component {
            offset: 576,
            size: 8,
            aligned: false,
        };
        components[3] = Component {
            offset: 640,
            size: 4,
            aligned: true,
        };
        components[4] = Component {
            offset: 704,
            size: 4,
            aligned: false,
        };
        let (places, end) = packed(0b1_1111, &components);
        assert_eq!((places[2], places[3], places[4], end), (576, 640, 644, 648));
        let (places, end) = packed(0b1_0100, &components);
        assert_eq!((places[2], places[4], end), (576, 584, 588));
    }
}
