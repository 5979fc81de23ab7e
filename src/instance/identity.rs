// SPDX-License-Identifier: Apache-2.0
//! What a machine gets that no other one has: made anew for every start, restore and fork.

use husk_protocol::Rebirth;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a seed for the guest's random generator.
const SEED: usize = 64;

/// An identity of its own, with the host's time; who and where it is on its network is for the
/// caller to say.
pub fn fresh() -> io::Result<Rebirth> {
    let mut source = File::open("/dev/urandom")?;
    let mut seed = vec![0; SEED];
    source.read_exact(&mut seed)?;
    Ok(Rebirth {
        seed,
        machine_id: uuid(&mut source)?.replace('-', ""),
        boot_id: uuid(&mut source)?,
        generation: uuid(&mut source)?,
        wall_clock: now(),
        ..Rebirth::default()
    })
}

/// Nanoseconds since 1970; zero on a host that is before.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

/// A random one (RFC 9562, 5.4).
fn uuid(source: &mut File) -> io::Result<String> {
    let mut bytes = [0; 16];
    source.read_exact(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike_and_each_has_its_form() {
        let (a, b) = (fresh().unwrap(), fresh().unwrap());
        assert!(a.seed != b.seed && a.seed.len() == SEED);
        assert!(a.machine_id != b.machine_id && a.boot_id != b.boot_id);
        assert!(a.generation != b.generation && a.generation != a.boot_id);
        assert!(a.machine_id.len() == 32 && !a.machine_id.contains('-'));
        let dashes: Vec<usize> = a.boot_id.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((a.boot_id.len(), dashes), (36, vec![8, 13, 18, 23]));
        assert_eq!(a.boot_id.as_bytes()[14], b'4');
    }
}
