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
    let mut image = vec![0; ELF_HEADER + PROGRAM_HEADER];
    let mut put = |at: usize, value: u64, width: usize| {
        image[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    };
    put(0, u64::from_le_bytes(*b"\x7fELF\x02\x01\x01\x00"), 8);
    let executable_x86_64 = 0x003e_0002;
    put(16, executable_x86_64, 4);
    put(24, CODE, 8);
    put(32, ELF_HEADER as u64, 8);
    put(54, PROGRAM_HEADER as u64, 2);
    put(56, 1, 2);
    let offset = (ELF_HEADER + PROGRAM_HEADER) as u64;
    let loadable = 1;
    let fields = [loadable, offset, CODE, CODE, code.len() as u64, memory];
    for (index, value) in fields.into_iter().enumerate() {
        put(ELF_HEADER + 8 * index, value, 8);
    }
    image.extend_from_slice(code);
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
