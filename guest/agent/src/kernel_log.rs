// SPDX-License-Identifier: Apache-2.0
//! The kernel's log with its own times, for the host's trace.
//! Format: Documentation/ABI/testing/dev-kmsg.

use crate::sys;
use alloc::string::String;
use alloc::vec::Vec;
use husk_protocol::{LogRecord, MAX_KERNEL_LOG};

/// Longest text of one record that is passed on.
const MAX_TEXT: usize = 1024;

/// Everything in the log now, oldest first, up to `MAX_KERNEL_LOG` bytes of text.
pub fn read() -> Vec<LogRecord> {
    let mut records = Vec::new();
    let Ok(log) = sys::open(c"/dev/kmsg", libc::O_RDONLY | libc::O_NONBLOCK, 0) else {
        return records;
    };
    // A read that the buffer is too short for fails; records are at most this long.
    let mut buffer = alloc::vec![0; 8192];
    let mut total = 0;
    loop {
        match sys::read(&log, &mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                let Some(record) = parse(buffer.get(..n).unwrap_or_default()) else {
                    continue;
                };
                total += record.text.len() + 16;
                if total > MAX_KERNEL_LOG {
                    break;
                }
                records.push(record);
            }
            // The record was overwritten before we came: the next read is the oldest left.
            Err(errno) if errno.is(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    records
}

/// One record: `priority,sequence,microseconds,flags[,…];text`, and lines of properties.
fn parse(record: &[u8]) -> Option<LogRecord> {
    let line = record.split(|&b| b == b'\n').next()?;
    let end = line.iter().position(|&b| b == b';')?;
    let (head, text) = (line.get(..end)?, line.get(end + 1..)?);
    let mut fields = head.split(|&b| b == b',');
    let number = |field: &[u8]| core::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let priority = number(fields.next()?)?;
    let time = number(fields.nth(1)?)?;
    let text = text.get(..MAX_TEXT).unwrap_or(text);
    Some(LogRecord {
        time,
        // The low three bits; the rest is the facility.
        level: u8::try_from(priority & 7).unwrap_or(0),
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_the_kernel_writes_them() {
        let record = parse(b"30,339,5140900,-;NET: Registered\n SUBSYSTEM=x\n").unwrap();
        assert_eq!(record.time, 5_140_900);
        assert_eq!(record.level, 6);
        assert_eq!(record.text, "NET: Registered");
        assert_eq!(parse(b"6,1,2,-,caller=T1;a;b").unwrap().text, "a;b");
        for bad in [
            &b""[..],
            b";",
            b"6;x",
            b"6,1;x",
            b"x,1,2,-;t",
            b"6,1,-2,-;t",
            b"no text",
        ] {
            assert_eq!(parse(bad), None);
        }
        assert!(parse(&[&b"6,1,2,-;"[..], &[0xff; 5000]].concat()).is_some());
    }
}
