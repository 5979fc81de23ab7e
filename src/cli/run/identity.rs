// SPDX-License-Identifier: Apache-2.0
//! Who a machine is that goes on from a snapshot: nothing here may be another machine's.
//! `docs/identity.md` has the reasons.

use husk_protocol::{Network, Rebirth};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a seed for the guest's random generator.
const SEED: usize = 64;

/// A new one, with this name and this place on the network.
pub fn of(hostname: &str, network: Option<Network>) -> io::Result<Rebirth> {
    let mut random = File::open("/dev/urandom")?;
    let mut seed = vec![0; SEED];
    random.read_exact(&mut seed)?;
    let mut bytes = || {
        let mut bytes = [0; 16];
        random.read_exact(&mut bytes).map(|()| bytes)
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Rebirth {
        seed,
        devices: Vec::new(),
        later: Vec::new(),
        machine_id: hex(bytes()?),
        boot_id: uuid(bytes()?),
        generation: uuid(bytes()?),
        wall_clock: since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0)),
        hostname: hostname.to_owned(),
        network: network.map(Box::new),
    })
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Of version 4 (RFC 9562, 5.4).
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = hex(bytes);
    for place in [20, 16, 12, 8] {
        text.insert(place, '-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_machines_share_nothing() {
        let one = of("one", None).expect("random numbers");
        let two = of("two", None).expect("random numbers");
        assert_ne!(one.seed, two.seed);
        assert_ne!(one.machine_id, two.machine_id);
        assert_ne!(one.boot_id, two.boot_id);
        assert_ne!(one.generation, two.generation);
        assert!(one.wall_clock > 0);
    }

    #[test]
    fn ids_look_as_linux_has_them() {
        assert_eq!(hex([0xab; 16]), "ab".repeat(16));
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
