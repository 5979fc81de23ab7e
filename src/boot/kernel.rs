// SPDX-License-Identifier: Apache-2.0
//! Recognises a kernel's file, refuses what cannot boot with the reason, and loads the rest: a
//! bzImage with `linux-loader`, the segments of an ELF file by mapping them.

use super::note;
use crate::arch::boot::Entry;
use crate::arch::layout;
use crate::memory::{self, GuestRam};
use crate::units::Variant;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader as _, KernelLoaderResult};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use vm_memory::{Address as _, GuestAddress, GuestMemoryBackend as _};

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is empty")]
    Empty,
    #[error("is neither an ELF vmlinux nor a bzImage")]
    Unknown,
    #[error("is cut short: its headers speak of {wanted} bytes, it has {found}")]
    Truncated { wanted: u64, found: u64 },
    #[error("is for another machine: {0}, and an x86-64 kernel is needed")]
    Foreign(&'static str),
    #[error(
        "takes guest memory up to {end:#x}, and the guest has it up to {have:#x}: give it more memory"
    )]
    TooLarge { end: u64, have: u64 },
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    #[error("wants to live in ring {0}, of which this husk knows nothing")]
    Ring(u32),
    #[error("cannot be loaded")]
    Load(#[source] linux_loader::loader::Error),
}

/// A kernel in guest memory.
#[derive(Debug)]
pub struct Kernel {
    pub entry: Entry,
    /// First address behind everything the kernel occupies before it reads its memory map.
    pub end: u64,
    /// First address an initrd must not reach.
    pub initrd_limit: u64,
    pub header: Option<setup_header>,
    /// As its note says; without one it is an ordinary kernel.
    pub variant: Variant,
}

/// Most program headers looked at: a kernel has about five, a hostile file 65,535.
const MAX_SEGMENTS: u16 = 64;
/// Most bytes of a segment's notes looked at: a kernel has 500, a hostile file what it likes.
const MAX_NOTES: u64 = 64 * 1024;
const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// The header of the x86 boot protocol lies at 0x1f1 and ends before 0x290.
const BZIMAGE_HEADER: usize = 0x290;

pub fn load(ram: &GuestRam, mut file: File) -> Result<Kernel, KernelError> {
    let metadata = file.metadata().map_err(KernelError::Read)?;
    if !metadata.is_file() {
        return Err(KernelError::NotAFile);
    }
    if metadata.len() == 0 {
        return Err(KernelError::Empty);
    }
    let mut head = [0; BZIMAGE_HEADER];
    let got = read_up_to(&file, &mut head, 0)?;
    if head.starts_with(b"\x7fELF") {
        let size = Size {
            file: metadata.len(),
            ram,
        };
        elf(&file, &head[..got], &size)
    } else if got == BZIMAGE_HEADER && &head[0x202..0x206] == b"HdrS" {
        let size = Size {
            file: metadata.len(),
            ram,
        };
        check_bzimage(&head, &size)?;
        let at = Some(GuestAddress(layout::HIGH_MEMORY));
        let loaded = BzImage::load(ram, None, &mut file, at).map_err(KernelError::Load)?;
        bzimage(&loaded)
    } else {
        Err(KernelError::Unknown)
    }
}

fn bzimage(loaded: &KernelLoaderResult) -> Result<Kernel, KernelError> {
    /// The 64-bit entry lies this far behind the load address (boot.rst, "64-bit boot protocol").
    const ENTRY_64: u64 = 0x200;
    let header = loaded
        .setup_header
        .ok_or(KernelError::Damaged("it has no setup header"))?;
    let load = loaded.kernel_load.raw_value();
    Ok(Kernel {
        entry: Entry {
            address: load + ENTRY_64,
        },
        end: loaded
            .kernel_end
            .max(load + u64::from(header.init_size))
            .max(header.pref_address.saturating_add(header.init_size.into())),
        initrd_limit: u64::from(header.initrd_addr_max) + 1,
        header: Some(header),
        variant: Variant::default(),
    })
}

/// What a header's claims are held against.
struct Size<'a> {
    file: u64,
    ram: &'a GuestRam,
}

impl Size<'_> {
    fn check_file(&self, wanted: u64) -> Result<(), KernelError> {
        if wanted > self.file {
            return Err(KernelError::Truncated {
                wanted,
                found: self.file,
            });
        }
        Ok(())
    }

    /// A kernel is loaded below the devices' hole, in one piece.
    fn check_memory(&self, end: u64) -> Result<(), KernelError> {
        let have = (self.ram.last_addr().raw_value() + 1).min(layout::HOLE.start);
        if end > have {
            return Err(KernelError::TooLarge { end, have });
        }
        Ok(())
    }
}

/// A segment the file says is to be loaded, after every check.
struct Segment {
    offset: u64,
    physical: u64,
    in_file: u64,
    in_memory: u64,
}

fn elf(file: &File, head: &[u8], size: &Size) -> Result<Kernel, KernelError> {
    let headers = program_headers(file, head, size)?;
    let segments = segments(&headers, size)?;
    let variant = variant(file, &headers, size)?;
    let entry = le(head, 24, 8);
    if !segments
        .iter()
        .any(|segment| (segment.physical..segment.physical + segment.in_file).contains(&entry))
    {
        return Err(KernelError::Damaged(
            "its entry point lies in none of its segments",
        ));
    }
    let mut end = 0;
    for segment in &segments {
        let at = GuestAddress(segment.physical);
        memory::place(size.ram, file, segment.offset, at, segment.in_file)
            .map_err(KernelError::Read)?;
        end = end.max(segment.physical + segment.in_memory);
    }
    Ok(Kernel {
        entry: Entry { address: entry },
        end,
        initrd_limit: u64::from(u32::MAX),
        header: None,
        variant,
    })
}

fn segments(headers: &[u8], size: &Size) -> Result<Vec<Segment>, KernelError> {
    const LOAD: u64 = 1;
    headers
        .chunks_exact(PROGRAM_HEADER)
        .filter(|header| le(header, 0, 4) == LOAD)
        .map(|header| segment(header, size))
        .collect()
}

/// The first note about it counts.
fn variant(file: &File, headers: &[u8], size: &Size) -> Result<Variant, KernelError> {
    const NOTE: u64 = 4;
    let headers = headers.chunks_exact(PROGRAM_HEADER);
    for header in headers.filter(|header| le(header, 0, 4) == NOTE) {
        let (offset, length) = (le(header, 8, 8), le(header, 32, 8));
        let end = offset.checked_add(length);
        size.check_file(end.ok_or(KernelError::Damaged("its notes lie beyond any file"))?)?;
        let length = usize::try_from(length.min(MAX_NOTES)).unwrap_or(0);
        let mut notes = vec![0; length];
        read_up_to(file, &mut notes, offset)?;
        match note::variant(&notes, le(header, 48, 8)) {
            Ok(None) => {}
            Ok(Some(variant)) => return Ok(variant),
            Err(note::UnknownRing(ring)) => return Err(KernelError::Ring(ring)),
        }
    }
    Ok(Variant::default())
}

/// The program headers of a 64-bit x86 ELF file.
fn program_headers(file: &File, head: &[u8], size: &Size) -> Result<Vec<u8>, KernelError> {
    size.check_file(ELF_HEADER as u64)?;
    match (head[4], head[5], le(head, 18, 2)) {
        (1, _, _) => return Err(KernelError::Foreign("it is 32-bit")),
        (_, 2, _) => return Err(KernelError::Foreign("it is big-endian")),
        (2, 1, 62) => {}
        (2, 1, _) => return Err(KernelError::Foreign("it is for another architecture")),
        _ => {
            return Err(KernelError::Damaged("its ELF identification is unknown"));
        }
    }
    let table = le(head, 32, 8);
    let count = u16::try_from(le(head, 56, 2)).unwrap_or(u16::MAX);
    if le(head, 54, 2) != PROGRAM_HEADER as u64 || count == 0 || count > MAX_SEGMENTS {
        return Err(KernelError::Damaged(
            "its program headers are not those of a kernel",
        ));
    }
    let length = u64::from(count) * PROGRAM_HEADER as u64;
    let end = table.checked_add(length).ok_or(KernelError::Damaged(
        "its program headers lie beyond any file",
    ))?;
    size.check_file(end)?;
    let mut headers = vec![0; usize::from(count) * PROGRAM_HEADER];
    read_up_to(file, &mut headers, table)?;
    Ok(headers)
}

fn segment(header: &[u8], size: &Size) -> Result<Segment, KernelError> {
    const OVERFLOW: KernelError = KernelError::Damaged("a segment lies beyond any memory");
    let segment = Segment {
        offset: le(header, 8, 8),
        physical: le(header, 24, 8),
        in_file: le(header, 32, 8),
        in_memory: le(header, 40, 8),
    };
    let file_end = segment.offset.checked_add(segment.in_file);
    size.check_file(file_end.ok_or(OVERFLOW)?)?;
    if segment.in_memory < segment.in_file {
        return Err(KernelError::Damaged(
            "a segment is larger in the file than in memory",
        ));
    }
    let end = segment.physical.checked_add(segment.in_memory);
    size.check_memory(end.ok_or(OVERFLOW)?)?;
    if segment.in_memory > 0 && segment.physical < layout::HIGH_MEMORY {
        return Err(KernelError::Damaged("a segment lies below 1 MiB"));
    }
    Ok(segment)
}

fn check_bzimage(head: &[u8], size: &Size) -> Result<(), KernelError> {
    /// Protocol 2.12 (Linux 3.8) brought the 64-bit entry and its flag.
    const OLDEST: u64 = 0x020c;
    const XLF_KERNEL_64: u64 = 1;
    if le(head, 0x206, 2) < OLDEST || le(head, 0x236, 2) & XLF_KERNEL_64 == 0 {
        return Err(KernelError::Foreign("it has no 64-bit entry"));
    }
    let sectors = match le(head, 0x1f1, 1) {
        0 => 4,
        sectors => sectors,
    };
    let setup = (sectors + 1) * 512;
    // `syssize` counts 16-byte paragraphs of the protected-mode code.
    size.check_file(setup + le(head, 0x1f4, 4) * 16)?;
    if le(head, 0x214, 4) < layout::HIGH_MEMORY {
        return Err(KernelError::Damaged("it wants to be loaded below 1 MiB"));
    }
    let init_size = le(head, 0x260, 4);
    size.check_memory(le(head, 0x214, 4) + init_size.max(size.file - setup))?;
    // A kernel that cannot move decompresses itself to the address it prefers.
    size.check_memory(le(head, 0x258, 8).saturating_add(init_size))
}

/// A little-endian integer of `width` bytes; the caller has checked that it lies inside.
fn le(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..at + width]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize, KernelError> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KernelError::Read(error)),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use vm_memory::Bytes as _;

    const CODE: u64 = 0x20_0000;

    fn put(image: &mut [u8], at: usize, value: u64, width: usize) {
        image[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }

    /// A kernel of one segment: 4 KiB of code at 2 MiB, 64 KiB with its bss.
    fn vmlinux() -> Vec<u8> {
        let mut image = vec![0; 0x2000];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        put(&mut image, 16, 2, 2);
        put(&mut image, 18, 62, 2);
        put(&mut image, 24, CODE, 8);
        put(&mut image, 32, 64, 8);
        put(&mut image, 54, 56, 2);
        put(&mut image, 56, 1, 2);
        for (at, value, width) in [
            (0, 1, 4),
            (8, 0x1000, 8),
            (24, CODE, 8),
            (32, 0x1000, 8),
            (40, 0x1_0000, 8),
        ] {
            put(&mut image, 64 + at, value, width);
        }
        image[0x1000..].fill(0xf4);
        image
    }

    /// The same with a second program header, for the notes at the file's end.
    fn with_notes(notes: &[u8]) -> Vec<u8> {
        let mut image = vmlinux();
        put(&mut image, 56, 2, 2);
        let fields = [4, image.len() as u64, 0, 0, notes.len() as u64, 0, 4];
        for (index, value) in (0..).zip(fields) {
            put(&mut image, 120 + 8 * index, value, 8);
        }
        image.extend_from_slice(notes);
        image
    }

    fn ring_note(ring: u8) -> Vec<u8> {
        let mut note = vec![5, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0];
        note.extend_from_slice(b"Husk\0\0\0\0");
        note.extend_from_slice(&[ring, 0, 0, 0]);
        note
    }

    fn bzimage() -> Vec<u8> {
        let mut image = vec![0x90; 512 * 5 + 0x1000];
        put(&mut image, 0x1f1, 4, 1);
        put(&mut image, 0x1f4, 0x100, 4);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        put(&mut image, 0x206, 0x020f, 2);
        put(&mut image, 0x211, 1, 1);
        put(&mut image, 0x214, 0x10_0000, 4);
        put(&mut image, 0x22c, 0x7fff_ffff, 4);
        put(&mut image, 0x236, 1, 2);
        put(&mut image, 0x258, 0x10_0000, 8);
        put(&mut image, 0x260, 0x10_0000, 4);
        image
    }

    fn attempt(image: &[u8]) -> Result<Kernel, KernelError> {
        let ram = crate::memory::anonymous(8 << 20, &layout::HOLE).expect("8 MiB");
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(image).expect("room");
        let kernel = load(&ram, file)?;
        let first: u8 = ram
            .read_obj(GuestAddress(kernel.entry.address))
            .expect("RAM");
        assert!([0xf4, 0x90].contains(&first), "the code is where it starts");
        Ok(kernel)
    }

    #[test]
    fn an_elf_kernel_is_loaded_where_its_segments_say() {
        let kernel = attempt(&vmlinux()).expect("a good kernel");
        assert_eq!(kernel.entry.address, CODE);
        assert_eq!(kernel.end, CODE + 0x1_0000);
        assert!(kernel.header.is_none());
    }

    #[test]
    fn a_bzimage_is_entered_at_its_64_bit_entry() {
        let kernel = attempt(&bzimage()).expect("a good kernel");
        assert_eq!(kernel.entry.address, 0x10_0200);
        assert_eq!(kernel.end, 0x20_0000);
        assert_eq!(kernel.initrd_limit, 0x8000_0000);
    }

    #[test]
    fn a_kernels_note_says_which_ring_it_lives_in() {
        let variant = |image: &[u8]| attempt(image).expect("a good kernel").variant;
        assert_eq!(variant(&vmlinux()), Variant::Ring0);
        assert_eq!(variant(&bzimage()), Variant::Ring0);
        assert_eq!(variant(&with_notes(&ring_note(0))), Variant::Ring0);
        assert_eq!(variant(&with_notes(&ring_note(3))), Variant::Ring3);
        // No more is read than any kernel has: 64 KiB of empty notes come first.
        let far = [vec![0; 12 * 5462], ring_note(3)].concat();
        assert_eq!(variant(&with_notes(&far)), Variant::Ring0);
    }

    fn changed(mut image: Vec<u8>, at: usize, value: u64, width: usize) -> Vec<u8> {
        put(&mut image, at, value, width);
        image
    }

    #[test]
    fn what_cannot_boot_is_refused_with_the_reason() {
        let segment = |at: usize, value, width| changed(vmlinux(), 64 + at, value, width);
        for (image, reason) in [
            (vec![], "is empty"),
            (b"#!/bin/sh\n".to_vec(), "neither an ELF"),
            (b"\x7fELF".to_vec(), "cut short"),
            (vmlinux()[..0x1800].to_vec(), "cut short"),
            (vmlinux()[..80].to_vec(), "cut short"),
            (changed(vmlinux(), 4, 1, 1), "32-bit"),
            (changed(vmlinux(), 5, 2, 1), "big-endian"),
            (changed(vmlinux(), 18, 183, 2), "another architecture"),
            (changed(vmlinux(), 24, 0x100, 8), "entry point"),
            (changed(vmlinux(), 32, u64::MAX - 8, 8), "program headers"),
            (changed(vmlinux(), 56, 0, 2), "program headers"),
            (changed(vmlinux(), 56, 0xffff, 2), "program headers"),
            (segment(8, u64::MAX, 8), "beyond any memory"),
            (segment(24, u64::MAX - 0xfff, 8), "beyond any memory"),
            (segment(24, 0x1000, 8), "below 1 MiB"),
            (segment(40, 0x10, 8), "larger in the file"),
            (segment(40, 1 << 30, 8), "give it more memory"),
            (with_notes(&ring_note(2)), "wants to live in ring 2"),
            (
                changed(with_notes(&ring_note(3)), 120 + 32, 1 << 20, 8),
                "cut short",
            ),
            (
                changed(with_notes(&ring_note(3)), 120 + 8, u64::MAX, 8),
                "beyond any file",
            ),
            (bzimage()[..0x300].to_vec(), "cut short"),
            (bzimage()[..2600].to_vec(), "cut short"),
            (changed(bzimage(), 0x206, 0x0204, 2), "no 64-bit entry"),
            (changed(bzimage(), 0x236, 0, 2), "no 64-bit entry"),
            (
                changed(bzimage(), 0x260, 0xffff_ffff, 4),
                "give it more memory",
            ),
            (
                changed(bzimage(), 0x258, u64::MAX, 8),
                "give it more memory",
            ),
            (changed(bzimage(), 0x214, 0x1000, 4), "below 1 MiB"),
        ] {
            let error = attempt(&image).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
    }
}
