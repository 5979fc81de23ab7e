// SPDX-License-Identifier: Apache-2.0
//! The fields of one header of an archive, checked.
//!
//! Pure. A number that does not fit what Linux has for it refuses the archive.

use super::extension::Extension;
use crate::image::error::Malformed;
use crate::image::tree::{Kind, Meta};
use tar::Header;

pub fn special(entry_type: u8, header: &Header) -> Result<Kind, Malformed> {
    // 'D' is GNU's directory with a list of its files; "name/" of a file is how the oldest
    // archives say directory.
    Ok(match entry_type {
        b'3' | b'4' => {
            let (major, minor) = device(header)?;
            match entry_type {
                b'3' => Kind::CharDevice { major, minor },
                _ => Kind::BlockDevice { major, minor },
            }
        }
        b'5' | b'D' | b'0' | b'7' | 0 => Kind::directory(),
        b'6' => Kind::Fifo,
        _ => return Err(Malformed::Type),
    })
}

/// Twelve bits of major and twenty of minor are all Linux has.
fn device(header: &Header) -> Result<(u32, u32), Malformed> {
    let field =
        |number: std::io::Result<Option<u32>>| number.ok().flatten().ok_or(Malformed::Number);
    let (major, minor) = (field(header.device_major())?, field(header.device_minor())?);
    if major > 0xfff || minor > 0xfffff {
        return Err(Malformed::Device);
    }
    Ok((major, minor))
}

pub fn meta(header: &Header, extension: &Extension) -> Result<Meta, Malformed> {
    let narrow = |id: std::io::Result<u64>| {
        let id = id.map_err(|_| Malformed::Number)?;
        u32::try_from(id).map_err(|_| Malformed::Number)
    };
    let mode = header.mode().map_err(|_| Malformed::Number)?;
    let (mtime, mtime_nsec) = match extension.mtime {
        Some(time) => time,
        // A time before 1970 stands there in two's complement.
        None => {
            let seconds = header.mtime().map_err(|_| Malformed::Number)?;
            (seconds.cast_signed(), 0)
        }
    };
    Ok(Meta {
        mode: u16::try_from(mode & 0o7777).expect("twelve bits"),
        uid: match extension.uid {
            Some(uid) => uid,
            None => narrow(header.uid())?,
        },
        gid: match extension.gid {
            Some(gid) => gid,
            None => narrow(header.gid())?,
        },
        mtime,
        mtime_nsec,
    })
}

pub fn link_name(header: &Header, long: Option<&[u8]>) -> Vec<u8> {
    match long {
        Some(long) => long.to_vec(),
        None => header.link_name_bytes().unwrap_or_default().into_owned(),
    }
}

pub fn size(header: &Header) -> Result<u64, Malformed> {
    header.entry_size().map_err(|_| Malformed::Number)
}

pub fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// The sum of the header's bytes, its own field taken as spaces.
pub fn check_sum(header: &Header) -> Result<(), Malformed> {
    let bytes = header.as_bytes();
    let sum = |range: &[u8]| range.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    match header.cksum() {
        Ok(stated) if stated == expected => Ok(()),
        _ => Err(Malformed::Checksum),
    }
}
