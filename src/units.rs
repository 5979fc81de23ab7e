// SPDX-License-Identifier: Apache-2.0
//! Values parsed once at the edge and then known to be good: sizes, spans of time, and
//! which of the guest kernels is meant.
//!
//! Pure and thread-free. Integer arithmetic only: a size is never rounded through a
//! float, and what does not fit is an error, never a wrapped number.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Which guest kernel. Its ring is the one all of it but a page of stubs runs in: ring 0 on
/// hardware, ring 3 where KVM interprets ring 0 and runs ring 3 natively.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    #[default]
    Ring0,
    Ring3,
}

impl Variant {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring0 => "ring0",
            Self::Ring3 => "ring3",
        }
    }

    #[must_use]
    pub const fn ring(self) -> u8 {
        match self {
            Self::Ring0 => 0,
            Self::Ring3 => 3,
        }
    }
}

/// Digits accepted after a decimal point; more would not change a byte of a size anyone
/// writes, and an unbounded run of them is how a number gets to overflow.
const MAX_FRACTION_DIGITS: usize = 9;

const UNITS: [(&str, u32); 7] = [
    ("EiB", 60),
    ("PiB", 50),
    ("TiB", 40),
    ("GiB", 30),
    ("MiB", 20),
    ("KiB", 10),
    ("B", 0),
];

/// A number of bytes.
///
/// Written as people write memory: a number, maybe with a fraction, and a unit. All units
/// are powers of 1024 whichever way they are spelt (`1g`, `1GB` and `1GiB` are one size),
/// because that is how memory is sold. `Display` is exact and parses back to itself.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct ByteSize(u64);

impl ByteSize {
    pub const MIB: Self = Self(1 << 20);

    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Parses a size whose bare numbers count `default_unit`: `512` of MiB is 512 MiB.
    pub fn parse_in(text: &str, default_unit: Self) -> Result<Self, SizeError> {
        let text = text.trim();
        let split = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = match unit.trim_start() {
            "" => default_unit.0,
            suffix => unit_bytes(suffix).ok_or_else(|| SizeError::Unit(suffix.to_owned()))?,
        };
        times(number, unit).map(Self)
    }

    /// The next multiple of `step`, or nothing if that does not fit.
    #[must_use]
    pub fn round_up(self, step: Self) -> Option<Self> {
        self.0.checked_next_multiple_of(step.0).map(Self)
    }

    /// For people: at most one decimal, rounded down, so that what is announced as
    /// available is.
    #[must_use]
    pub fn rounded(self) -> String {
        let (name, shift) = self.unit();
        let whole = self.0 >> shift;
        let rest = u128::from(self.0 - (whole << shift));
        match (rest * 10) >> shift {
            0 => format!("{whole} {name}"),
            tenth => format!("{whole}.{tenth} {name}"),
        }
    }

    /// The largest unit this size has at least one of.
    fn unit(self) -> (&'static str, u32) {
        UNITS
            .into_iter()
            .find(|&(_, shift)| self.0 >> shift > 0)
            .unwrap_or(("B", 0))
    }
}

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("not a number")]
    Number,
    #[error("unknown unit '{0}'")]
    Unit(String),
    #[error("larger than any computer's memory")]
    Overflow,
}

impl FromStr for ByteSize {
    type Err = SizeError;

    /// Bare numbers are bytes.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        Self::parse_in(text, Self(1))
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, shift) = UNITS
            .into_iter()
            .find(|&(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= shift)
            .unwrap_or(("B", 0));
        write!(f, "{} {name}", self.0 >> shift)
    }
}

fn unit_bytes(suffix: &str) -> Option<u64> {
    let suffix = suffix.to_ascii_lowercase();
    let shift = match suffix
        .strip_suffix("ib")
        .or(suffix.strip_suffix('b'))
        .unwrap_or(&suffix)
    {
        // "ib" alone is no unit; "b" alone is bytes.
        "" if suffix == "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    Some(1 << shift)
}

/// A decimal number times `unit`, rounded down to a whole.
fn times(number: &str, unit: u64) -> Result<u64, SizeError> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(SizeError::Number),
        None => (number, ""),
    };
    if whole.is_empty() || fraction.contains('.') || fraction.len() > MAX_FRACTION_DIGITS {
        return Err(SizeError::Number);
    }
    // Only digits are left, so a failure to parse is a number too long for its type.
    let whole: u64 = whole.parse().map_err(|_| SizeError::Overflow)?;
    let part = match fraction {
        "" => 0,
        digits => {
            let scale = 10u128.pow(u32::try_from(digits.len()).unwrap_or(u32::MAX));
            let digits: u128 = digits.parse().map_err(|_| SizeError::Number)?;
            u64::try_from(digits * u128::from(unit) / scale).map_err(|_| SizeError::Overflow)?
        }
    };
    whole
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or(SizeError::Overflow)
}

/// Why a text is no span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    #[error("not a number")]
    Number,
    #[error("unknown unit '{0}'")]
    Unit(String),
    #[error("longer than a year")]
    TooLong,
}

/// A longer deadline than this is a typing mistake, and could overflow a timer.
pub const LONGEST_SPAN: Duration = Duration::from_secs(366 * 24 * 3600);

/// A span of time as people write one: `30`, `30s`, `1.5s`, `500ms`, `2m`, `1h`.
/// A bare number is seconds.
pub fn parse_span(text: &str) -> Result<Duration, SpanError> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let nanos = match unit.trim_start() {
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        other => return Err(SpanError::Unit(other.to_owned())),
    };
    let span = times(number, nanos).map_err(|error| match error {
        SizeError::Overflow => SpanError::TooLong,
        SizeError::Number | SizeError::Unit(_) => SpanError::Number,
    })?;
    let span = Duration::from_nanos(span);
    if span > LONGEST_SPAN {
        return Err(SpanError::TooLong);
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mib(text: &str) -> Result<u64, SizeError> {
        ByteSize::parse_in(text, ByteSize::MIB).map(ByteSize::bytes)
    }

    #[test]
    fn sizes_are_read_the_way_people_write_them() {
        for (text, bytes) in [
            ("512", 512 << 20),
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("256MB", 256 << 20),
            ("256 MiB", 256 << 20),
            ("1g", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("1.5", 3 << 19),
            ("0.25k", 256),
            ("4096b", 4096),
            ("0", 0),
            ("15E", 15 << 60),
        ] {
            assert_eq!(mib(text), Ok(bytes), "{text}");
        }
        assert_eq!("512".parse(), Ok(ByteSize::from_bytes(512)));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for (text, error) in [
            ("", SizeError::Number),
            ("m", SizeError::Number),
            (".5g", SizeError::Number),
            ("1.g", SizeError::Number),
            ("1.2.3g", SizeError::Number),
            ("0.1234567890g", SizeError::Number),
            ("-1", SizeError::Unit("-1".into())),
            ("1x", SizeError::Unit("x".into())),
            ("1ib", SizeError::Unit("ib".into())),
            ("1e9", SizeError::Unit("e9".into())),
            ("16E", SizeError::Overflow),
            ("15.999999999999E", SizeError::Number),
            ("99999999999999999999", SizeError::Overflow),
            ("18446744073709551615", SizeError::Overflow),
        ] {
            assert_eq!(mib(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_rounded_size_never_promises_more_than_there_is() {
        let size = |bytes| ByteSize::from_bytes(bytes).rounded();
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size((24 << 30) - 1), "23.9 GiB");
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn spans_are_read_and_bounded() {
        assert_eq!(parse_span("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_span("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_span("2 m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_span("soon"), Err(SpanError::Unit("soon".into())));
        assert_eq!(parse_span(""), Err(SpanError::Number));
        assert_eq!(parse_span("999999999h"), Err(SpanError::TooLong));
        assert_eq!(parse_span("10000h"), Err(SpanError::TooLong));
    }

    proptest! {
        #[test]
        fn a_displayed_size_parses_back_to_itself(bytes: u64, shift in 0u32..64) {
            for bytes in [bytes, bytes >> shift << shift, bytes >> shift] {
                let size = ByteSize::from_bytes(bytes);
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }

        #[test]
        fn any_text_is_answered_without_panic(text in "\\PC*|[0-9.]{0,40}[a-zA-Z ]{0,4}") {
            let _ = mib(&text);
            let _ = parse_span(&text);
        }

        #[test]
        fn a_fraction_is_exact(whole in 0u64..1000, tenths in 0u64..10) {
            let expected = (whole * 10 + tenths) * (1 << 30) / 10;
            prop_assert_eq!(mib(&format!("{whole}.{tenths}g")), Ok(expected));
        }

        #[test]
        fn rounding_up_never_shrinks(bytes: u64) {
            match ByteSize::from_bytes(bytes).round_up(ByteSize::MIB) {
                Some(up) => prop_assert!(up.bytes() >= bytes && up.bytes() - bytes < 1 << 20),
                None => prop_assert!(bytes > u64::MAX - (1 << 20)),
            }
        }
    }
}
