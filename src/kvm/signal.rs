// SPDX-License-Identifier: Apache-2.0
//! How a vCPU is called out of the guest: by a signal its thread blocks but while KVM runs it
//! (KVM_SET_SIGNAL_MASK, Documentation/virt/kvm/api.rst, 4.17), so that no call is lost
//! between the look at a flag and the entry.
#![expect(
    unsafe_code,
    reason = "an ioctl that kvm-ioctls lacks; signals of threads"
)]

use kvm_ioctls::VcpuFd;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ptr;
use std::sync::Once;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

/// Bytes of the kernel's own signal set.
const KERNEL_SET: usize = 8;

#[repr(C)]
struct SignalMask {
    len: u32,
    set: [u8; KERNEL_SET],
}

/// `struct kvm_signal_mask` ends in an array of no length, which the number is made of.
#[repr(C)]
struct Head {
    len: u32,
}

ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, kvm_bindings::KVMIO, 0x8b, Head);

fn number() -> libc::c_int {
    libc::SIGRTMIN()
}

/// A handler that does nothing, so that the signal ends a call and not the process. Before any
/// vCPU has a thread.
pub fn install() {
    static ONCE: Once = Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    ONCE.call_once(|| {
        // SAFETY: all-zero is a valid sigaction; the handler does nothing, which is safe in any
        // place a thread may be in.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = nothing as *const () as libc::sighandler_t;
            libc::sigaction(number(), &raw const action, ptr::null_mut());
        }
    });
}

/// On the vCPU's own thread, before it runs: from now on the call is heard in the guest only.
/// After `install`: one that is called before it listens is called again.
pub fn listen(vcpu: &VcpuFd) -> io::Result<()> {
    // SAFETY: `blocked` and `old` are signal sets of this frame, filled by these very calls.
    let old = unsafe {
        let mut blocked: libc::sigset_t = MaybeUninit::zeroed().assume_init();
        let mut old: libc::sigset_t = MaybeUninit::zeroed().assume_init();
        libc::sigemptyset(&raw mut blocked);
        libc::sigaddset(&raw mut blocked, number());
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut old) {
            0 => old,
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    };
    let mut mask = SignalMask {
        len: 8,
        set: [0; KERNEL_SET],
    };
    // SAFETY: the kernel's set is the first eight bytes of the C library's (sigset_t is 128).
    unsafe {
        ptr::copy_nonoverlapping((&raw const old).cast(), mask.set.as_mut_ptr(), KERNEL_SET);
    }
    const { assert!(size_of::<libc::sigset_t>() >= KERNEL_SET) }
    // SAFETY: the kernel reads `len` and as many bytes behind it, all of them in `mask`.
    let done = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// On the vCPU's own thread: the calls that came are heard.
pub fn heard() {
    // SAFETY: a set of this frame; the call looks for a pending signal and waits for none.
    unsafe {
        let mut set: libc::sigset_t = MaybeUninit::zeroed().assume_init();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, number());
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        while libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const now) > 0 {}
    }
}

/// Calls the vCPU of this thread, which must not have ended unjoined.
pub fn call<T>(thread: &std::thread::JoinHandle<T>) {
    use std::os::unix::thread::JoinHandleExt as _;
    // SAFETY: the handle was not joined, so the thread's id is still its own.
    unsafe {
        libc::pthread_kill(thread.as_pthread_t(), number());
    }
}
