// SPDX-License-Identifier: Apache-2.0
//! How this process keeps memory it asked for and gave back. Before other threads are started.
#![expect(unsafe_code, reason = "the allocator's own settings")]

/// Bytes from which a buffer is a mapping of its own: none that many machines would each keep,
/// or have cleared in vain, lies in the heap then.
const APART: i32 = 16 << 10;

/// Has large buffers cost what is written to them and no longer than they live (mallopt(3),
/// M_MMAP_THRESHOLD). For processes there is one of for each machine.
pub fn keep_little() {
    // SAFETY: mallopt changes settings of the allocator and touches no memory of ours; no
    // other thread allocates yet.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, APART) };
}
