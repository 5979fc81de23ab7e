// SPDX-License-Identifier: Apache-2.0
//! The disk from the driver's side.

use super::request::MAX_REQUEST;
use super::*;
use crate::virtio::testing::Driver;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_memory::{Bytes as _, GuestAddress};

const SECTORS: u64 = 64;
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;
const EACH: [Choice; 2] = [Choice::Best, Choice::Thread];

struct Disk {
    driver: Driver,
    file: File,
}

impl Disk {
    fn new(length: u64, read_only: bool, features: u64) -> Self {
        Self::by(Choice::Best, length, read_only, features)
    }

    fn by(choice: Choice, length: u64, read_only: bool, features: u64) -> Self {
        let mut file = tempfile::tempfile().expect("file");
        let bytes: Vec<u8> = (0..length.min(1 << 20)).map(pattern).collect();
        file.write_all(&bytes).expect("room");
        file.set_len(length).expect("a hole");
        let other = file.try_clone().expect("dup");
        Self::of(other, file, choice, read_only, features)
    }

    fn of(other: File, file: File, choice: Choice, read_only: bool, features: u64) -> Self {
        let limits = Limits::default();
        let blk = Blk::new(other, read_only, "root-disk", limits, choice);
        Self {
            driver: Driver::started(Box::new(blk.expect("a file has a length")), features),
            file,
        }
    }

    /// Returns status, used length and the data the device wrote.
    fn run(&mut self, kind: u32, sector: u64, out: &[u8], room: u32) -> (u8, u32, Vec<u8>) {
        let driver = &mut self.driver;
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let header = driver.place(&header);
        let status = driver.place(&[0xff]);
        let mut readable = vec![(header, 16)];
        if !out.is_empty() {
            readable.push((driver.place(out), u32::try_from(out.len()).expect("small")));
        }
        let size = usize::try_from(room).expect("small");
        let data = driver.allocate(size);
        let mut writable = vec![(status, 1)];
        if room > 0 {
            writable.insert(0, (data, room));
        }
        let used = driver.request(0, &readable, &writable);
        (driver.fetch(status, 1)[0], used, driver.fetch(data, size))
    }

    fn contents(&mut self) -> Vec<u8> {
        self.file.rewind().expect("file");
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).expect("file");
        bytes
    }
}

fn pattern(at: u64) -> u8 {
    u8::try_from(at * 7 % 251).expect("below 256")
}

#[test]
fn what_is_written_can_be_read_and_lies_in_the_file() {
    for choice in EACH {
        what_is_written_can_be_read(Disk::by(choice, SECTORS * SECTOR, false, F_FLUSH));
    }
}

fn what_is_written_can_be_read(mut disk: Disk) {
    let (status, used, data) = disk.run(T_IN, 3, &[], 1024);
    assert_eq!((status, used), (S_OK, 1025));
    assert!(
        data.iter()
            .zip(3 * SECTOR..)
            .all(|(&b, at)| b == pattern(at))
    );

    let (status, used, _) = disk.run(T_OUT, SECTORS - 1, &[0xab; 512], 0);
    assert_eq!((status, used), (S_OK, 1));
    assert_eq!(disk.run(T_FLUSH, 0, &[], 0).0, S_OK);
    assert_eq!(disk.run(T_IN, SECTORS - 1, &[], 512).2, [0xab; 512]);
    let contents = disk.contents();
    assert_eq!(contents.len() as u64, SECTORS * SECTOR);
    assert!(contents.ends_with(&[0xab; 512]));
    assert_eq!(disk.driver.mmio.fault_count(), 0);
}

#[test]
fn the_disk_says_what_it_is() {
    let mut disk = Disk::new(SECTORS * SECTOR, true, F_RO);
    let offered = F_RO | F_FLUSH | F_SEG_MAX | F_SIZE_MAX | F_BLK_SIZE;
    assert_eq!(disk.driver.offered() & 0xff_ffff, offered);
    assert_eq!(u64::from_le_bytes(disk.driver.config(0)), SECTORS);
    assert_eq!(u32::from_le_bytes(disk.driver.config(12)), SEGMENTS);
    assert_eq!(u32::from_le_bytes(disk.driver.config(20)), 512);
    let (status, used, id) = disk.run(T_GET_ID, 0, &[], 20);
    assert_eq!((status, used), (S_OK, 21));
    assert_eq!(&id, b"root-disk\0\0\0\0\0\0\0\0\0\0\0");
    let (status, used, id) = disk.run(T_GET_ID, 0, &[], 4);
    assert_eq!((status, used, &id[..]), (S_OK, 5, &b"root"[..]));
}

#[test]
fn a_read_only_disk_is_never_written_whatever_the_driver_negotiated() {
    let mut disk = Disk::new(SECTORS * SECTOR, true, 0);
    let before = disk.contents();
    assert_eq!(disk.run(T_OUT, 0, &[1; 512], 0).0, S_IOERR);
    assert_eq!(disk.contents(), before);
}

#[test]
fn nothing_outside_the_disk_is_reached() {
    let mut disk = Disk::new(SECTORS * SECTOR, false, 0);
    let before = disk.contents();
    let last = u64::MAX / SECTOR;
    for sector in [SECTORS, SECTORS - 1, last, last + 1, u64::MAX] {
        assert_eq!(disk.run(T_IN, sector, &[], 1024).0, S_IOERR, "{sector}");
        assert_eq!(disk.run(T_OUT, sector, &[1; 1024], 0).0, S_IOERR);
    }
    assert_eq!(disk.run(T_IN, 0, &[], 511).0, S_IOERR, "half a sector");
    assert_eq!(disk.run(T_OUT, 0, &[1; 513], 0).0, S_IOERR);
    assert_eq!(disk.contents(), before);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut disk = Disk::new(SECTORS * SECTOR, false, 0);
    assert_eq!(disk.run(99, 0, &[], 512).0, S_UNSUPP);
    // No place for a status, no whole header: nothing can be answered.
    let driver = &mut disk.driver;
    let header = driver.place(&[0; 16]);
    assert_eq!(driver.request(0, &[(header, 16)], &[]), 0);
    assert_eq!(driver.request(0, &[(header, 15)], &[(header, 1)]), 0);
    assert_eq!(driver.mmio.fault_count(), 2);
}

#[test]
fn a_request_has_a_greatest_size() {
    let mut disk = Disk::new(64 << 20, false, F_FLUSH);
    let driver = &mut disk.driver;
    let header = driver.place(&[0; 16]);
    let big = driver.allocate(1 << 20);
    let status = driver.place(&[0xff]);
    // The same memory over and over: 126 segments of 64 KiB, then one sector more.
    let mut parts = vec![(big, 1 << 20); 7];
    parts.push((big, (1 << 20) - (128 << 10)));
    parts.push((status, 1));
    let full = u32::try_from(MAX_REQUEST).expect("fits");
    assert_eq!(driver.request(0, &[(header, 16)], &parts), full + 1);
    assert_eq!(driver.fetch(status, 1), [S_OK]);
    parts.insert(0, (big, 512));
    assert_eq!(driver.request(0, &[(header, 16)], &parts), 1);
    assert_eq!(driver.fetch(status, 1), [S_IOERR]);
}

#[test]
fn a_tail_that_fills_no_sector_is_not_on_the_disk() {
    let mut disk = Disk::new(SECTORS * SECTOR + 100, false, 0);
    assert_eq!(u64::from_le_bytes(disk.driver.config(0)), SECTORS);
    assert_eq!(disk.run(T_IN, SECTORS, &[], 512).0, S_IOERR);
}

#[test]
fn a_file_that_was_shortened_is_an_error_not_a_hang() {
    for choice in EACH {
        let mut disk = Disk::by(choice, SECTORS * SECTOR, false, 0);
        disk.file.set_len(SECTOR).expect("file");
        let (status, used, _) = disk.run(T_IN, 0, &[], 1024);
        assert_eq!((status, used), (S_IOERR, 513), "what was read is counted");
        // It is as long as it was again: so is the disk.
        disk.file.set_len(SECTORS * SECTOR).expect("file");
        assert_eq!(disk.run(T_IN, 8, &[], 512).0, S_OK);
    }
}

#[test]
fn a_file_that_takes_no_more_is_an_error_and_the_disk_lives_on() {
    for choice in EACH {
        let path = std::ffi::CString::new("full").expect("a name");
        let flags = nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING;
        let full = File::from(nix::sys::memfd::memfd_create(&*path, flags).expect("a file"));
        full.set_len(SECTORS * SECTOR).expect("a hole");
        let seals = nix::fcntl::SealFlag::F_SEAL_FUTURE_WRITE;
        nix::fcntl::fcntl(&full, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)).expect("a seal");
        let mut disk = Disk::of(full.try_clone().expect("dup"), full, choice, false, F_FLUSH);
        assert_eq!(disk.run(T_OUT, 0, &[1; 512], 0).0, S_IOERR);
        let (status, _, data) = disk.run(T_IN, 0, &[], 512);
        assert_eq!((status, &data[..]), (S_OK, &[0; 512][..]));
        assert_eq!(disk.driver.mmio.fault_count(), 0, "no fault of the guest's");
    }
}

fn segment(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

#[test]
fn discard_and_zeroes_reach_the_range_and_nothing_else() {
    let features = F_FLUSH | F_DISCARD | F_WRITE_ZEROES;
    for choice in EACH {
        let mut disk = Disk::by(choice, SECTORS * SECTOR, false, features);
        let mut expected = disk.contents();
        assert_eq!(disk.run(T_DISCARD, 0, &segment(8, 8, 0), 0).0, S_OK);
        expected[8 * 512..16 * 512].fill(0);
        assert_eq!(disk.contents(), expected);
        assert_eq!(disk.run(T_WRITE_ZEROES, 0, &segment(20, 1, 1), 0).0, S_OK);
        expected[20 * 512..21 * 512].fill(0);
        assert_eq!(disk.contents(), expected);
        // Not every file system of a host has ZERO_RANGE; then nothing changes.
        match disk.run(T_WRITE_ZEROES, 0, &segment(30, 2, 0), 0).0 {
            S_OK => expected[30 * 512..32 * 512].fill(0),
            status => assert_eq!(status, S_UNSUPP),
        }
        for (kind, segment, status) in [
            (T_DISCARD, segment(SECTORS - 1, 2, 0), S_IOERR),
            (T_DISCARD, segment(u64::MAX, 1, 0), S_IOERR),
            (T_DISCARD, segment(0, u32::MAX, 0), S_IOERR),
            (T_DISCARD, segment(0, 0, 0), S_IOERR),
            (T_DISCARD, segment(0, 1, 1), S_UNSUPP),
            (T_WRITE_ZEROES, segment(SECTORS, 1, 0), S_IOERR),
            (T_WRITE_ZEROES, segment(0, 1, 2), S_UNSUPP),
        ] {
            assert_eq!(disk.run(kind, 0, &segment, 0).0, status);
        }
        assert_eq!(
            disk.run(T_DISCARD, 0, &[0; 32], 0).0,
            S_IOERR,
            "two segments"
        );
        assert_eq!(disk.run(T_DISCARD, 0, &[0; 15], 0).0, S_IOERR);
        assert_eq!(disk.contents(), expected);
    }
    let mut disk = Disk::new(SECTORS * SECTOR, true, 0);
    let before = disk.contents();
    assert_eq!(disk.run(T_DISCARD, 0, &segment(0, 1, 0), 0).0, S_UNSUPP);
    assert_eq!(
        disk.run(T_WRITE_ZEROES, 0, &segment(0, 1, 0), 0).0,
        S_UNSUPP
    );
    assert_eq!(disk.contents(), before);
}

/// A write and its answer's place, offered and not waited for.
fn offer_write(driver: &mut Driver, sector: u64, data: &[u8]) -> (u16, u64) {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&T_OUT.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    let (header, status) = (driver.place(&header), driver.place(&[0xff]));
    let length = u32::try_from(data.len()).expect("small");
    let data = driver.place(data);
    let head = driver.offer(0, &[(header, 16), (data, length)], &[(status, 1)]);
    (head, status)
}

#[test]
fn many_requests_at_once_are_each_answered_once() {
    for (choice, features) in [
        (Choice::Best, F_FLUSH),
        (Choice::Thread, F_FLUSH),
        (Choice::Best, 0),
        (Choice::Thread, 0),
    ] {
        let mut disk = Disk::by(choice, 256 * SECTOR, false, features);
        let mut waiting = Vec::new();
        for index in 0..40u8 {
            let sector = u64::from(index);
            waiting.push(offer_write(&mut disk.driver, sector, &[index; 512]));
        }
        disk.driver.kick(0);
        for _ in 0..40 {
            let (head, length) = disk.driver.until(|driver| driver.used(0));
            let place = waiting.iter().position(|(other, _)| *other == head);
            let (_, status) = waiting.remove(place.expect("offered, and answered once"));
            assert_eq!((length, disk.driver.fetch(status, 1)), (1, vec![S_OK]));
        }
        let contents = disk.contents();
        for index in 0..40usize {
            let sector = &contents[index * 512..][..512];
            assert!(sector.iter().all(|&byte| usize::from(byte) == index));
        }
    }
}

#[test]
fn after_a_reset_guest_memory_is_left_alone() {
    for choice in EACH {
        let mut disk = Disk::by(choice, 64 << 20, false, F_FLUSH);
        let driver = &mut disk.driver;
        let header = driver.place(&[0; 16]);
        let (data, status) = (driver.allocate(1 << 20), driver.place(&[0xff]));
        for _ in 0..20 {
            driver.offer(0, &[(header, 16)], &[(data, 1 << 20), (status, 1)]);
        }
        driver.kick(0);
        driver.events.turn(0).expect("event loop");
        // From here on the memory is the guest's own.
        driver.write(0x70, 0);
        let blank = vec![0x55; 1 << 20];
        driver
            .memory
            .write_slice(&blank, GuestAddress(data))
            .expect("memory");
        driver
            .memory
            .write_slice(&[0x55], GuestAddress(status))
            .expect("memory");
        driver.settle();
        assert_eq!(driver.fetch(data, 1 << 20), blank);
        assert_eq!(driver.fetch(status, 1), [0x55]);
        driver.start(F_FLUSH);
        assert_eq!(
            disk.run(T_OUT, 0, &[7; 512], 0).0,
            S_OK,
            "and it works again"
        );
    }
}

#[test]
fn a_limit_holds_requests_back_and_loses_none() {
    let file = tempfile::tempfile().expect("file");
    file.set_len(1 << 20).expect("a hole");
    let limits = Limits {
        bytes: None,
        operations: Some(100),
    };
    let blk = Blk::new(file, false, "slow", limits, Choice::Best).expect("a disk");
    let mut driver = Driver::started(Box::new(blk), F_FLUSH);
    let start = std::time::Instant::now();
    for index in 0..30u8 {
        offer_write(&mut driver, u64::from(index), &[index; 512]);
    }
    driver.kick(0);
    for _ in 0..30 {
        driver.until(|driver| driver.used(0));
    }
    // Ten at once, then one each 10 ms.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(180), "{took:?}");
}

#[test]
fn scattered_data_stays_in_order() {
    let mut disk = Disk::new(SECTORS * SECTOR, false, 0);
    let driver = &mut disk.driver;
    let header = driver.place(&[0; 16]);
    let parts: Vec<_> = (0..100)
        .map(|index| (driver.allocate(64), if index == 99 { 61 } else { 5 }))
        .collect();
    let length: u32 = parts.iter().map(|part| part.1).sum();
    let pad = driver.allocate(2048);
    let status = driver.place(&[0xff]);
    let mut writable = parts.clone();
    writable.push((pad, 1024 - length));
    writable.push((status, 1));
    assert_eq!(driver.request(0, &[(header, 16)], &writable), 1025);
    let mut at = 0;
    for (address, length) in parts {
        for byte in driver.fetch(address, usize::try_from(length).expect("small")) {
            assert_eq!(byte, pattern(at));
            at += 1;
        }
    }
    assert_eq!(driver.fetch(status, 1), [S_OK]);
}

/// A backend that does nothing but take notes, and ends what the test says.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    asked: Vec<(u32, &'static str)>,
    /// Asked for and not ended.
    open: Vec<u32>,
    ended: Vec<u32>,
    ready: Option<vmm_sys_util::eventfd::EventFd>,
}

impl Notes {
    fn lock(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.0.lock().expect("no panic")
    }

    fn asked(&self) -> Vec<&'static str> {
        self.lock().asked.iter().map(|(_, what)| *what).collect()
    }

    /// The `index`-th of all that was ever asked has ended.
    fn end(&self, index: usize) {
        let mut noted = self.lock();
        let (tag, _) = noted.asked[index];
        noted.open.retain(|open| *open != tag);
        noted.ended.push(tag);
        let ready = noted.ready.as_ref().expect("it is in use");
        ready.write(1).expect("room");
    }
}

impl Backend for Notes {
    fn submit(&mut self, tag: u32, work: Transfer) -> Result<(), Transfer> {
        let what = match work {
            Transfer::Read { .. } => "read",
            Transfer::Write { .. } => "write",
            Transfer::Flush => "flush",
            Transfer::Discard { .. } | Transfer::Zero { .. } => "hole",
        };
        self.lock().asked.push((tag, what));
        self.lock().open.push(tag);
        Ok(())
    }

    fn kick(&mut self) {}

    fn completions(&mut self, done: &mut dyn FnMut(u32, usize, io::Result<()>)) {
        let ended = std::mem::take(&mut self.lock().ended);
        let _ = self.lock().ready.as_ref().map(|ready| ready.read());
        for tag in ended {
            done(tag, 0, Ok(()));
        }
    }

    fn wait(&mut self) {
        let mut noted = self.lock();
        let open = std::mem::take(&mut noted.open);
        noted.ended.extend(open);
    }

    fn fd(&self) -> std::os::fd::RawFd {
        let mut noted = self.lock();
        let ready = noted.ready.get_or_insert_with(|| {
            vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd")
        });
        ready.as_raw_fd()
    }

    fn drain(&mut self) {
        self.lock().ended.clear();
    }
}

fn noted(features: u64) -> (Driver, Notes) {
    let notes = Notes::default();
    let backend = Box::new(notes.clone());
    let blk = Blk::over(backend, 1 << 20, false, "noted", Limits::default());
    (
        Driver::started(Box::new(blk.expect("a disk")), features),
        notes,
    )
}

#[test]
fn a_write_of_a_driver_without_flush_is_answered_when_it_is_durable() {
    let (mut driver, notes) = noted(0);
    let (head, status) = offer_write(&mut driver, 0, &[1; 512]);
    driver.kick(0);
    driver.settle();
    assert_eq!(notes.asked(), ["write"]);
    notes.end(0);
    driver.settle();
    assert_eq!(notes.asked(), ["write", "flush"]);
    assert_eq!(driver.used(0), None, "not durable yet");
    notes.end(1);
    driver.settle();
    assert_eq!(driver.used(0), Some((head, 1)));
    assert_eq!(driver.fetch(status, 1), [S_OK]);

    let (mut driver, notes) = noted(F_FLUSH);
    let (head, _) = offer_write(&mut driver, 0, &[1; 512]);
    driver.kick(0);
    driver.settle();
    notes.end(0);
    driver.settle();
    assert_eq!(
        (notes.asked(), driver.used(0)),
        (vec!["write"], Some((head, 1)))
    );
}

#[test]
fn requests_are_answered_in_whatever_order_they_end() {
    let (mut driver, notes) = noted(F_FLUSH);
    let heads: Vec<u16> = (0..3)
        .map(|sector| offer_write(&mut driver, sector, &[1; 512]).0)
        .collect();
    driver.kick(0);
    driver.settle();
    for index in [2, 0, 1] {
        notes.end(index);
        driver.settle();
        assert_eq!(driver.used(0), Some((heads[index], 1)));
    }
}

#[test]
fn a_guest_that_offers_without_end_is_remembered_up_to_a_bound() {
    let (mut driver, notes) = noted(F_FLUSH);
    let (header, status) = (driver.place(&[0; 16]), driver.place(&[0xff]));
    let data = driver.allocate(512);
    let head = driver.offer(0, &[(header, 16)], &[(data, 512), (status, 1)]);
    // The same chain over and over, more often than the queue has entries.
    for _ in 0..2 {
        for _ in 0..100 {
            driver.make_available(0, head);
        }
        driver.kick(0);
        driver.settle();
    }
    assert_eq!(notes.asked().len(), usize::from(DEPTH));
    notes.end(0);
    driver.settle();
    assert_eq!(
        notes.asked().len(),
        usize::from(DEPTH) + 1,
        "one more for one less"
    );
}

/// The disk's copy, for the machine's.
fn copied(disk: &mut Disk) -> (Box<Blk>, File) {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(&disk.contents()).expect("room");
    let other = file.try_clone().expect("dup");
    let limits = Limits::default();
    let blk = Blk::new(other, false, "root-disk", limits, Choice::Best).expect("a disk");
    (Box::new(blk), file)
}

#[test]
fn requests_under_way_are_answered_before_a_save_and_both_machines_go_on() {
    for (choice, features) in [
        (Choice::Best, F_FLUSH),
        (Choice::Thread, F_FLUSH),
        (Choice::Best, 0),
        (Choice::Thread, 0),
    ] {
        let mut disk = Disk::by(choice, 256 * SECTOR, false, features);
        let mut waiting = Vec::new();
        for index in 0..40u8 {
            let sector = u64::from(index);
            waiting.push(offer_write(&mut disk.driver, sector, &[index; 512]));
        }
        disk.driver.kick(0);
        disk.driver.events.turn(0).expect("event loop");
        let state = disk.driver.saved();
        let progress = state.core.queues[0].progress.expect("in use");
        assert_eq!(progress.next_avail, progress.next_used, "nothing under way");
        let (blk, file) = copied(&mut disk);
        let mut copy = Disk {
            driver: disk.driver.restored(blk),
            file,
        };
        for machine in [&mut disk, &mut copy] {
            let mut waiting = waiting.clone();
            for _ in 0..40 {
                let (head, length) = machine.driver.until(|driver| driver.used(0));
                let place = waiting.iter().position(|(other, _)| *other == head);
                let (_, status) = waiting.remove(place.expect("offered, and answered once"));
                assert_eq!((length, machine.driver.fetch(status, 1)), (1, vec![S_OK]));
            }
            let contents = machine.contents();
            for index in 0..40usize {
                let sector = &contents[index * 512..][..512];
                assert!(sector.iter().all(|&byte| usize::from(byte) == index));
            }
            assert_eq!(machine.run(T_OUT, 100, &[0xee; 512], 0).0, S_OK);
            assert_eq!(machine.run(T_FLUSH, 0, &[], 0).0, S_OK);
            assert_eq!(machine.run(T_IN, 100, &[], 512).2, [0xee; 512]);
        }
        assert_eq!(copy.run(T_OUT, 101, &[1; 512], 0).0, S_OK);
        assert_eq!(disk.run(T_IN, 101, &[], 512).2[0], pattern(101 * SECTOR));
    }
}

#[test]
fn a_disk_that_takes_no_more_when_it_is_saved_takes_more_afterwards() {
    let (mut driver, notes) = noted(F_FLUSH);
    let (header, status) = (driver.place(&[0; 16]), driver.place(&[0xff]));
    let data = driver.allocate(512);
    let head = driver.offer(0, &[(header, 16)], &[(data, 512), (status, 1)]);
    for _ in 0..2 {
        for _ in 0..100 {
            driver.make_available(0, head);
        }
        driver.kick(0);
        driver.settle();
    }
    assert_eq!(notes.asked().len(), usize::from(DEPTH));
    driver.saved();
    driver.settle();
    assert_eq!(
        notes.asked().len(),
        201,
        "the rest, with no kick of the driver's"
    );
}

#[test]
fn a_write_that_was_saved_unflushed_is_covered_by_the_copys_flush() {
    let (mut driver, _) = noted(F_FLUSH);
    offer_write(&mut driver, 0, &[1; 512]);
    driver.kick(0);
    driver.settle();
    let notes = Notes::default();
    let backend = Box::new(notes.clone());
    let blk = Blk::over(backend, 1 << 20, false, "noted", Limits::default());
    let mut copy = driver.restored(Box::new(blk.expect("a disk")));
    assert_eq!(notes.asked().len(), 0, "the write is done");
    let mut header = [0; 16];
    header[..4].copy_from_slice(&T_FLUSH.to_le_bytes());
    let (header, status) = (copy.place(&header), copy.place(&[0xff]));
    copy.offer(0, &[(header, 16)], &[(status, 1)]);
    copy.kick(0);
    copy.settle();
    assert_eq!(notes.asked(), ["flush"]);
}

#[test]
fn the_state_of_another_disk_is_refused() {
    let disk = Disk::new(SECTORS * SECTOR, false, F_FLUSH);
    let state = disk.driver.saved();
    for (sectors, read_only) in [(SECTORS - 1, false), (SECTORS + 1, false), (SECTORS, true)] {
        let other = Disk::new(sectors * SECTOR, read_only, 0);
        let limits = Limits::default();
        let file = other.file.try_clone().expect("dup");
        let blk = Blk::new(file, read_only, "root-disk", limits, Choice::Best);
        let copy = disk.driver.copied(Box::new(blk.expect("a disk")));
        assert_eq!(copy.mmio.restore(&state), Err(StateFault::Disk(SECTORS)));
    }
    for own in [
        DeviceState::Console { sent: 1 },
        DeviceState::Share { table: vec![1] },
    ] {
        let mut state = state.clone();
        state.own = own;
        let file = disk.file.try_clone().expect("dup");
        let blk = Blk::new(file, false, "x", Limits::default(), Choice::Best);
        let copy = disk.driver.copied(Box::new(blk.expect("a disk")));
        assert_eq!(copy.mmio.restore(&state), Err(StateFault::Own));
    }
}

#[test]
fn a_disk_takes_the_place_of_the_one_that_stood_for_it_and_its_driver_learns_its_length() {
    let stood = Disk::new(1000 * SECTOR, true, 0);
    let mut state = stood.driver.saved();
    state.own = DeviceState::StandIn;
    let with = |read_only| {
        let other = Disk::new(SECTORS * SECTOR, read_only, 0);
        let file = other.file.try_clone().expect("dup");
        let blk = Blk::new(file, read_only, "root", Limits::default(), Choice::Best);
        let mut copy = stood.driver.copied(Box::new(blk.expect("a disk")));
        let taken = copy.mmio.restore(&state);
        copy.settle();
        (taken, copy.saved())
    };
    let (taken, now) = with(true);
    assert_eq!(taken, Ok(()));
    assert_eq!(now.generation, state.generation + 1, "the driver is told");
    let sectors = SECTORS;
    let read_only = true;
    assert_eq!(now.own, DeviceState::Disk { sectors, read_only });
    assert_eq!(
        with(false).0,
        Err(StateFault::Own),
        "it never stood for that"
    );
}
