// SPDX-License-Identifier: Apache-2.0
//! What a C library would bring: the entry point, the memory functions the compiler calls,
//! an allocator, and what happens on a panic.

use super::{call, log, own_pid, reset};
use alloc::ffi::CString;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::panic::PanicInfo;
use core::ptr;

// The string instructions run natively in ring 3 on every host, interpreted guest kernels
// included, and are as small as such code can be.
global_asm!(
    ".globl _start, memcpy, memmove, memset, memcmp, bcmp, strlen",
    ".globl rust_eh_personality, _Unwind_Resume",
    "_start:",
    "    xor ebp, ebp",
    "    mov rdi, rsp",
    "    and rsp, -16",
    "    call {boot}",
    // Nothing unwinds here; the precompiled core only mentions these.
    "rust_eh_personality:",
    "_Unwind_Resume:",
    "    ud2",
    "memcpy:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    "memmove:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    mov r8, rdi",
    "    sub r8, rsi",
    "    cmp r8, rdx",
    "    jb 2f",
    "    rep movsb",
    "    ret",
    "2:  lea rdi, [rdi + rdx - 1]",
    "    lea rsi, [rsi + rdx - 1]",
    "    std",
    "    rep movsb",
    "    cld",
    "    ret",
    "memset:",
    "    mov r8, rdi",
    "    mov eax, esi",
    "    mov rcx, rdx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    "memcmp:",
    "bcmp:",
    "    xor eax, eax",
    "    mov rcx, rdx",
    // Equal if there is nothing to compare: repe leaves the flags alone then.
    "    cmp rcx, rcx",
    "    repe cmpsb",
    "    je 2f",
    "    movzx eax, byte ptr [rdi - 1]",
    "    movzx ecx, byte ptr [rsi - 1]",
    "    sub eax, ecx",
    "2:  ret",
    "strlen:",
    "    xor eax, eax",
    "    mov rcx, -1",
    "    repne scasb",
    "    not rcx",
    "    lea rax, [rcx - 1]",
    "    ret",
    boot = sym boot,
);

/// `stack` as the kernel leaves it (System V ABI for x86-64, 3.4.1): the count of arguments,
/// then pointers to them.
extern "C" fn boot(stack: *const usize) -> ! {
    /// More than the agent's own programs take.
    const MOST: usize = 16;
    // SAFETY: the kernel put the count there.
    let count = unsafe { stack.read() }.min(MOST);
    let arguments: Vec<CString> = (1..=count)
        .map(|i| {
            // SAFETY: so many pointers follow the count.
            let text = unsafe { stack.add(i).read() };
            // SAFETY: each is a string that ends with NUL and stays for the process's life.
            unsafe { CStr::from_ptr(ptr::with_exposed_provenance(text)) }.into()
        })
        .collect();
    crate::boot(&arguments)
}

/// Sizes are rounded to powers of two from 16 bytes up; freed blocks wait in a list per
/// size. From `LARGE` on a block is a mapping of its own, given back when freed, and zeroed
/// without being touched.
struct Allocator(UnsafeCell<Arena>);

struct Arena {
    /// Heads of the free lists; a free block's first word is the next one's address.
    free: [*mut u8; CLASSES],
    next: *mut u8,
    left: usize,
}

const SMALLEST: u32 = 4;
const LARGE: usize = 1 << 15;
const CLASSES: usize = 12;
const CHUNK: usize = 1 << 16;

// SAFETY: the agent has one thread, and the child of `spawn` allocates nothing.
unsafe impl Sync for Allocator {}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(UnsafeCell::new(Arena {
    free: [ptr::null_mut(); CLASSES],
    next: ptr::null_mut(),
    left: 0,
}));

/// The size a request is served with, and its list. Alignment of a block is its size, up
/// to the page a chunk is aligned to: none asks for more.
fn class(layout: Layout) -> (usize, usize) {
    let size = layout
        .size()
        .max(layout.align())
        .max(1 << SMALLEST)
        .next_power_of_two();
    (size, (size.trailing_zeros() - SMALLEST) as usize)
}

/// Fresh, zeroed memory, or null.
fn map(size: usize) -> *mut u8 {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let args = [0, size, protection, flags, usize::MAX, 0];
    // SAFETY: an anonymous mapping at an address of the kernel's choice disturbs nothing.
    match unsafe { call(libc::SYS_mmap, args) } {
        Ok(address) => ptr::with_exposed_provenance_mut(address),
        Err(_) => ptr::null_mut(),
    }
}

impl Arena {
    fn small(&mut self, size: usize, class: usize) -> *mut u8 {
        let head = self.free[class];
        if !head.is_null() {
            // SAFETY: a block in the list is free, and its first word was written by `dealloc`.
            self.free[class] = unsafe { head.cast::<*mut u8>().read() };
            return head;
        }
        // Blocks are cut at multiples of their size: alignment for the asking.
        let padding = self.next.addr().wrapping_neg() & (size - 1);
        if self.left < padding + size {
            let chunk = map(CHUNK);
            if chunk.is_null() {
                return chunk;
            }
            // What is left of the old chunk is given up: at most half of one block's size
            // class, a few times in the life of the agent.
            self.next = chunk;
            self.left = CHUNK;
            return self.small(size, class);
        }
        // SAFETY: `padding + size` bytes are left behind `next`.
        let block = unsafe { self.next.add(padding) };
        // SAFETY: as above; one past the end is allowed.
        self.next = unsafe { block.add(size) };
        self.left -= padding + size;
        block
    }
}

// SAFETY: blocks come from mappings of our own, never overlap while allocated, and are as
// large and aligned as `class` says.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, class) = class(layout);
        if size >= LARGE {
            return map(size);
        }
        // SAFETY: one thread, and no reference is kept between calls.
        unsafe { &mut *self.0.get() }.small(size, class)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() && class(layout).0 < LARGE {
            // SAFETY: the block is at least that long.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (size, class) = class(layout);
        if size >= LARGE {
            // SAFETY: a mapping of exactly this size, made by `alloc`.
            let _ = unsafe {
                call(
                    libc::SYS_munmap,
                    [block.expose_provenance(), size, 0, 0, 0, 0],
                )
            };
            return;
        }
        // SAFETY: one thread, and no reference is kept between calls.
        let arena = unsafe { &mut *self.0.get() };
        // SAFETY: the block is ours again and holds at least one word.
        unsafe { block.cast::<*mut u8>().write(arena.free[class]) };
        arena.free[class] = block;
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises a size that makes a valid layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if class(layout).0 == class(wanted).0 {
            return block;
        }
        // SAFETY: a layout from a valid size and alignment.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both blocks are at least as long as the shorter of the sizes.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            // SAFETY: the caller gives the old block up.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    log(format_args!("{info}"));
    if own_pid() == 1 {
        reset();
    }
    super::exit(101)
}
