// SPDX-License-Identifier: Apache-2.0
//! The disk from the driver's side.

use super::*;
use crate::virtio::testing::Driver;
use std::io::{Read as _, Seek as _, Write as _};

const SECTORS: u64 = 64;

struct Disk {
    driver: Driver,
    file: File,
}

impl Disk {
    fn new(length: u64, read_only: bool, features: u64) -> Self {
        let mut file = tempfile::tempfile().expect("file");
        let bytes: Vec<u8> = (0..length).map(pattern).collect();
        file.write_all(&bytes).expect("room");
        let other = file.try_clone().expect("dup");
        let blk = Blk::new(other, read_only, "root-disk").expect("a file has a length");
        Self {
            driver: Driver::started(Box::new(blk), features),
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
    let mut disk = Disk::new(SECTORS * SECTOR, false, F_FLUSH);
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
    // The same buffer over and over describes more than a request may hold.
    let big = driver.allocate(4 << 20);
    let status = driver.place(&[0xff]);
    let parts = [(big, 4 << 20), (big, 4 << 20), (status, 1)];
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
    let mut disk = Disk::new(SECTORS * SECTOR, false, 0);
    disk.file.set_len(SECTOR).expect("file");
    let (status, used, _) = disk.run(T_IN, 0, &[], 1024);
    assert_eq!((status, used), (S_IOERR, 513), "what was read is counted");
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
