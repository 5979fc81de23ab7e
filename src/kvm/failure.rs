// SPDX-License-Identifier: Apache-2.0
//! Reads what KVM says about an instruction it could not emulate. Runs on the vCPU's thread,
//! right after KVM_RUN returned; never trusts a length it finds.
#![expect(unsafe_code, reason = "struct kvm_run is a C union")]

use kvm_bindings::{
    KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, kvm_run,
};

/// The longest instruction the architecture allows (SDM vol. 2, 2.3.11).
pub const MAX_INSTRUCTION: usize = 15;

/// Words of `data` that must be there before the instruction bytes are: flags, then 16 bytes.
const WORDS_WITH_BYTES: u32 = 3;

/// Up to fifteen bytes at the guest's RIP. Empty when KVM did not give any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstructionBytes {
    bytes: [u8; MAX_INSTRUCTION],
    len: usize,
}

impl InstructionBytes {
    /// Keeps the first fifteen of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut kept = Self::default();
        for &byte in bytes.iter().take(MAX_INSTRUCTION) {
            kept.push(byte);
        }
        kept
    }

    /// Adds one byte; ignored once fifteen are there.
    pub fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// `Some` if this exit is KVM_EXIT_INTERNAL_ERROR with suberror 1, "emulation failed"
/// (Documentation/virt/kvm/api.rst, `emulation_failure`). The bytes are empty where KVM
/// reports none: an older KVM, or one that failed before it fetched.
pub fn emulation_failure(run: &kvm_run) -> Option<InstructionBytes> {
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: every member of the union is plain integers, valid for any bit pattern, and the
    // kernel shares the whole page; exit_reason says this member was the one written.
    let report = unsafe { run.__bindgen_anon_1.emulation_failure };
    if report.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return None;
    }
    let with_bytes = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    if report.ndata < WORDS_WITH_BYTES || report.flags & with_bytes == 0 {
        return Some(InstructionBytes::default());
    }
    // SAFETY: the inner union has this one member only, sixteen plain bytes.
    let code = unsafe { report.__bindgen_anon_1.__bindgen_anon_1 };
    let len = usize::from(code.insn_size).min(MAX_INSTRUCTION);
    Some(InstructionBytes::new(&code.insn_bytes[..len]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(suberror: u32, ndata: u32, flags: u64, size: u8) -> kvm_run {
        let mut run = kvm_run {
            exit_reason: KVM_EXIT_INTERNAL_ERROR,
            ..Default::default()
        };
        run.__bindgen_anon_1.emulation_failure.suberror = suberror;
        run.__bindgen_anon_1.emulation_failure.ndata = ndata;
        run.__bindgen_anon_1.emulation_failure.flags = flags;
        // SAFETY: the inner union has one member, written whole.
        let code = unsafe {
            &mut run
                .__bindgen_anon_1
                .emulation_failure
                .__bindgen_anon_1
                .__bindgen_anon_1
        };
        code.insn_size = size;
        code.insn_bytes = [0x90; 15];
        run
    }

    #[test]
    fn bytes_are_given_only_when_kvm_says_so() {
        assert_eq!(emulation_failure(&report(2, 3, 1, 4)), None);
        let none = InstructionBytes::default();
        assert_eq!(emulation_failure(&report(1, 0, 1, 4)), Some(none));
        assert_eq!(emulation_failure(&report(1, 3, 0, 4)), Some(none));
        let four = InstructionBytes::new(&[0x90; 4]);
        assert_eq!(emulation_failure(&report(1, 3, 1, 4)), Some(four));
        let run = kvm_run {
            exit_reason: 2,
            ..report(1, 3, 1, 4)
        };
        assert_eq!(emulation_failure(&run), None);
    }

    #[test]
    fn a_size_beyond_the_array_is_cut() {
        let bytes = emulation_failure(&report(1, 3, 1, 255)).unwrap_or_default();
        assert_eq!(bytes.as_slice().len(), MAX_INSTRUCTION);
    }
}
