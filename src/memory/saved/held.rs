// SPDX-License-Identifier: Apache-2.0
//! Which pages of guest memory hold anything, as the kernel's tables say: memory that was
//! never touched is not looked at. On the event thread, while the machine stands still.
#![expect(unsafe_code, reason = "an ioctl that takes a structure")]

use super::{PAGE, Run, push};
use crate::memory::GuestRam;
use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress};

/// Runs of one layer: each may be a mapping of the machine that is restored, of which a
/// process has 65530 (vm.max_map_count), and a chain has several layers.
const MAX_RUNS: usize = 4096;
/// Pages between two runs of a layer that are written with them: as cheap as another mapping.
const GAP: u64 = 4;
/// Bytes of /proc/self/maps: more than as many mappings as a process can have.
const MAX_MAPS: usize = 16 << 20;

/// What a page is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Nothing: the runs have all that is not zero, and are a snapshot that is whole.
    Zero,
    /// The files it was mapped from: the runs have all that was written since, and are a layer
    /// over them. Everything that was touched of a machine that was not restored.
    Mapped,
}

/// The kernel's word on this process's memory. Opened before the jail, which has no /proc.
#[derive(Debug)]
pub struct Pagemap {
    pagemap: File,
    maps: File,
}

impl Pagemap {
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            pagemap: File::open("/proc/self/pagemap")?,
            maps: File::open("/proc/self/maps")?,
        })
    }
}

/// The pages that must be written, in order. Pages swapped out count.
pub fn held(ram: &GuestRam, pagemap: &Pagemap, against: Against) -> io::Result<Vec<Run>> {
    let maps = read_whole(&pagemap.maps)?;
    let mut all = Vec::new();
    let mut base = 0;
    for region in ram.iter() {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(io::Error::other)?
            .addr() as u64;
        // In pages of the file, as all below.
        let shift = (host / PAGE).wrapping_sub(base);
        let whole = host..host + region.len();
        all.extend(private(&pagemap.pagemap, &whole, shift)?);
        if against == Against::Zero {
            let file = region.file_offset();
            let file = file.map(|from| Ok::<_, io::Error>((from.file(), inode(from.file())?)));
            let file = file.transpose()?;
            for area in areas(&maps, &whole) {
                let pages = Run {
                    start: (area.range.start / PAGE).wrapping_sub(shift),
                    count: (area.range.end - area.range.start) / PAGE,
                };
                match file {
                    // The file itself says where it holds anything.
                    Some((file, inode))
                        if area.inode == inode && area.offset == pages.start * PAGE =>
                    {
                        data(file, pages, &mut all)?;
                    }
                    // A layer over it, or the kernel's own file.
                    _ => all.push(pages),
                }
            }
        }
        base += region.len() / PAGE;
    }
    let gap = match against {
        Against::Zero => 0,
        Against::Mapped => GAP,
    };
    Ok(joined(all, gap))
}

/// The pages that were written since they were mapped, and no others, in order.
pub(super) fn written(ram: &GuestRam, pagemap: &Pagemap) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut base = 0;
    for region in ram.iter() {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(io::Error::other)?
            .addr() as u64;
        let shift = (host / PAGE).wrapping_sub(base);
        runs.extend(private(
            &pagemap.pagemap,
            &(host..host + region.len()),
            shift,
        )?);
        base += region.len() / PAGE;
    }
    Ok(runs)
}

/// In order, and not so many that they could not be mapped.
fn joined(mut all: Vec<Run>, mut gap: u64) -> Vec<Run> {
    all.sort_unstable_by_key(|run| run.start);
    loop {
        let mut runs = Vec::new();
        for run in &all {
            push(&mut runs, *run, gap);
        }
        if gap == 0 || runs.len() <= MAX_RUNS {
            return runs;
        }
        gap *= 2;
        all = runs;
    }
}

fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let mut text = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        match file.read_at(&mut text[length..], length as u64)? {
            0 => break,
            count => length += count,
        }
        if length == text.len() {
            if length >= MAX_MAPS {
                return Err(io::Error::other("this process has too many mappings"));
            }
            text.resize(length * 2, 0);
        }
    }
    text.truncate(length);
    Ok(text)
}

/// A mapping of a file.
#[derive(Debug, PartialEq, Eq)]
struct Area {
    range: Range<u64>,
    offset: u64,
    inode: (u64, u64, u64),
}

/// Device and number, as /proc/self/maps shows them. Some file systems show another device
/// than they tell; then the file is taken for any other, and read where it is not written.
fn inode(file: &File) -> io::Result<(u64, u64, u64)> {
    let meta = file.metadata()?;
    let dev = meta.dev();
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    Ok((major.into(), minor.into(), meta.ino()))
}

/// The mappings of files within a range (proc_pid_maps(5)).
fn areas<'a>(maps: &'a [u8], within: &'a Range<u64>) -> impl Iterator<Item = Area> + 'a {
    let lines = maps.split(|byte| *byte == b'\n');
    lines.filter_map(|line| {
        let mut words = line.split(|byte| *byte == b' ').filter(|w| !w.is_empty());
        let mut next = || std::str::from_utf8(words.next()?).ok();
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = next()?.split_once('-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let _protection = next()?;
        let offset = hex(next()?)?;
        let (major, minor) = next()?.split_once(':')?;
        let inode = (hex(major)?, hex(minor)?, next()?.parse().ok()?);
        let skip = within.start.saturating_sub(start);
        let range = start.max(within.start)..end.min(within.end);
        (inode.2 != 0 && range.start < range.end).then(|| Area {
            range,
            offset: offset + skip,
            inode,
        })
    })
}

/// Where the file holds anything, of these pages.
fn data(file: &File, pages: Run, into: &mut Vec<Run>) -> io::Result<()> {
    let (mut at, end) = (pages.start * PAGE, pages.end() * PAGE);
    while at < end {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        if start >= end {
            break;
        }
        let stop = seek(file, SeekFrom::Hole(start))?.min(end);
        let first = start / PAGE;
        into.push(Run {
            start: first,
            count: stop.div_ceil(PAGE) - first,
        });
        at = stop;
    }
    Ok(())
}

/// Pages that are this process's own, in memory or swapped out.
fn private(pagemap: &File, range: &Range<u64>, shift: u64) -> io::Result<Vec<Run>> {
    match scan(pagemap, range, shift) {
        // Linux 6.6 and older.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
            look(pagemap, range, shift)
        }
        scanned => scanned,
    }
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;

/// Asks for the runs (Documentation/admin-guide/mm/pagemap.rst, PAGEMAP_SCAN).
fn scan(pagemap: &File, range: &Range<u64>, shift: u64) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut found = [PageRegion::default(); 512];
    let mut at = range.start;
    while at < range.end {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start: at,
            end: range.end,
            vec: found.as_mut_ptr().expose_provenance() as u64,
            vec_len: found.len() as u64,
            category_inverted: PAGE_IS_FILE | PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_FILE | PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArg::default()
        };
        // SAFETY: the structure is the one this request takes, of the size it says; `found` is
        // room for `vec_len` regions, and outlives the call.
        let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for region in found.iter().take(count) {
            let run = Run {
                start: (region.start / PAGE).wrapping_sub(shift),
                count: (region.end - region.start) / PAGE,
            };
            push(&mut runs, run, 0);
        }
        if arg.walk_end <= at {
            return Err(io::Error::other("the kernel does not go on in its tables"));
        }
        at = arg.walk_end;
    }
    Ok(runs)
}

/// The same of the table itself, one word a page. It counts the kernel's page of zeros.
fn look(pagemap: &File, range: &Range<u64>, shift: u64) -> io::Result<Vec<Run>> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    let mut runs = Vec::new();
    let mut piece = vec![0; 256 << 10];
    let (mut page, last) = (range.start / PAGE, range.end / PAGE);
    while page < last {
        let most = usize::try_from((last - page) * 8).unwrap_or(usize::MAX);
        let room = most.min(piece.len());
        let count = pagemap.read_at(&mut piece[..room], page * 8)?;
        let (words, _) = piece[..count].as_chunks::<8>();
        if words.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for word in words {
            let word = u64::from_ne_bytes(*word);
            if word & (PRESENT | SWAPPED) != 0 && word & FILE == 0 {
                let start = page.wrapping_sub(shift);
                push(&mut runs, Run { start, count: 1 }, 0);
            }
            page += 1;
        }
    }
    Ok(runs)
}

#[cfg(test)]
pub(super) mod both {
    //! The two ways the kernel is asked, to be compared.
    use super::*;

    pub fn ask(range: &Range<u64>, shift: u64) -> (Vec<Run>, Vec<Run>) {
        let pagemap = Pagemap::open().expect("a pagemap").pagemap;
        let scanned = scan(&pagemap, range, shift).expect("Linux 6.7");
        (scanned, look(&pagemap, range, shift).expect("a pagemap"))
    }
}
