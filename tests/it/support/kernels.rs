// SPDX-License-Identifier: Apache-2.0
//! Kernels of a few instructions, and an initial file system for real ones.

use std::io::Write as _;
use std::path::Path;

/// Where the code is loaded and entered, in 64-bit mode.
pub const CODE: u64 = 0x20_0000;
const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// COM1.
const SERIAL: u16 = 0x3f8;

/// An ELF kernel that is `code` and zeros behind it, `memory` bytes in all.
pub fn elf(code: &[u8], memory: u64) -> Vec<u8> {
    elf_with_notes(code, memory, &[])
}

/// The same, with a note that it lives in `ring`.
pub fn elf_of_ring(code: &[u8], memory: u64, ring: u32) -> Vec<u8> {
    // Sizes of name and descriptor, and type 1, the ring; the name is padded to 4 bytes.
    let mut note: Vec<u8> = [5u32, 4, 1]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    note.extend_from_slice(b"Husk\0\0\0\0");
    note.extend_from_slice(&ring.to_le_bytes());
    elf_with_notes(code, memory, &note)
}

fn elf_with_notes(code: &[u8], memory: u64, notes: &[u8]) -> Vec<u8> {
    let headers = 1 + usize::from(!notes.is_empty());
    let start = ELF_HEADER + headers * PROGRAM_HEADER;
    let mut image = vec![0; start];
    let mut put = |at: usize, value: u64, width: usize| {
        image[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    };
    put(0, u64::from_le_bytes(*b"\x7fELF\x02\x01\x01\x00"), 8);
    let executable_x86_64 = 0x003e_0002;
    put(16, executable_x86_64, 4);
    put(24, CODE, 8);
    put(32, ELF_HEADER as u64, 8);
    put(54, PROGRAM_HEADER as u64, 2);
    put(56, headers as u64, 2);
    let loadable = [1, start as u64, CODE, CODE, code.len() as u64, memory, 0];
    let note = [
        4,
        (start + code.len()) as u64,
        0,
        0,
        notes.len() as u64,
        0,
        4,
    ];
    let fields = [loadable, note].concat();
    for (index, value) in fields.into_iter().take(headers * 7).enumerate() {
        put(ELF_HEADER + 8 * index, value, 8);
    }
    image.extend_from_slice(code);
    image.extend_from_slice(notes);
    image
}

/// Writes `code` as a kernel to `path`.
pub fn write(path: &Path, code: &[u8]) {
    std::fs::write(path, elf(code, 0x1000)).expect("a file");
}

/// Code that writes `text` to the serial port.
pub fn says(text: &str) -> Vec<u8> {
    let port = SERIAL.to_le_bytes();
    // mov dx, SERIAL
    let mut code = vec![0x66, 0xba, port[0], port[1]];
    for byte in text.bytes() {
        // mov al, byte; out dx, al
        code.extend([0xb0, byte, 0xee]);
    }
    code
}

/// Code that waits for ever: cli; hlt; jmp to the hlt.
pub const HALTS: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

/// Code that loses its way: lidt [CODE + 0x800], which is zeros; int3. The exception finds
/// no gate, nor does the fault that raises, nor the double fault.
pub const TRIPLE_FAULTS: [u8; 9] = [0x0f, 0x01, 0x1c, 0x25, 0x00, 0x08, 0x20, 0x00, 0xcc];

/// Code KVM must interpret and knows not, nor anyone: mov eax, 0x10000000, where a machine
/// of 64 MiB has nothing; fiadd dword ptr [rax].
pub const MEETS_NOBODY: [u8; 7] = [0xb8, 0x00, 0x00, 0x00, 0x10, 0xda, 0x00];

/// Where `COUNTS` counts: two rows of sixteen words, zeros at first.
const COUNTERS: u32 = 0x20_0800;

/// Code that names its counters to the VMM, counts seven page faults on one processor and five
/// on another, puts the VMM's answer under "other", and resets the machine.
pub fn counts() -> Vec<u8> {
    let word = |index: u32| (COUNTERS + 8 * index).to_le_bytes();
    // mov rdi, the counters through the direct map; mov ecx, two rows; mov dx, the port
    let mut code = vec![0x48, 0xbf];
    code.extend((0xffff_8880_0000_0000 + u64::from(COUNTERS)).to_le_bytes());
    code.extend([0xb9, 0x00, 0x01, 0x00, 0x00, 0x66, 0xba, 0xf0, 0x05]);
    // mov eax, 5; out dx, al; mov [other], rax
    code.extend([0xb8, 0x05, 0x00, 0x00, 0x00, 0xee, 0x48, 0x89, 0x04, 0x25]);
    code.extend(word(15));
    for (index, count) in [(3, 7), (16 + 3, 5)] {
        // mov qword [index], count
        code.extend([0x48, 0xc7, 0x04, 0x25]);
        code.extend(word(index));
        code.extend([count, 0, 0, 0]);
    }
    // mov al, 0xfe; out 0x64, al; jmp to itself
    code.extend([0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe]);
    code
}

/// An initramfs (Documentation/driver-api/early-userspace/buffer-format.rst, "newc") of
/// these files, executable, and folders, where there are no bytes.
pub fn initramfs(entries: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    let end = [("TRAILER!!!", None)];
    for (inode, (name, bytes)) in entries.iter().chain(&end).enumerate() {
        let mode = match bytes {
            Some(_) => 0o100_755,
            None => 0o040_755,
        };
        let bytes = bytes.unwrap_or_default();
        let (size, name_size) = (bytes.len(), name.len() + 1);
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        archive.extend_from_slice(b"070701");
        for field in fields {
            write!(archive, "{field:08x}").expect("memory");
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        pad(&mut archive);
        archive.extend_from_slice(bytes);
        pad(&mut archive);
    }
    archive
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
