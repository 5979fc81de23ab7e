// SPDX-License-Identifier: Apache-2.0
//! Figures as people read them: three digits, a unit that fits, and no more certainty than there
//! is. Pure.

use super::model::Unit;
use super::stats::{Interval, Ratio};

/// What figures that stand together are divided by, and their unit's name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub divisor: f64,
    pub suffix: &'static str,
}

const KIB: f64 = 1024.0;
const TIMES: [(f64, &str); 4] = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
const BYTES: [(f64, &str); 5] = [
    (KIB * KIB * KIB * KIB, "TiB"),
    (KIB * KIB * KIB, "GiB"),
    (KIB * KIB, "MiB"),
    (KIB, "KiB"),
    (1.0, "B"),
];
const RATES: [(f64, &str); 4] = [(1e9, "G/s"), (1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")];
const BYTE_RATES: [(f64, &str); 5] = [
    (KIB * KIB * KIB * KIB, "TiB/s"),
    (KIB * KIB * KIB, "GiB/s"),
    (KIB * KIB, "MiB/s"),
    (KIB, "KiB/s"),
    (1.0, "B/s"),
];
const COUNTS: [(f64, &str); 1] = [(1.0, "")];

impl Scale {
    /// In which `value` has one to three digits before the point.
    #[must_use]
    pub fn of(value: f64, unit: Unit) -> Self {
        let steps: &[(f64, &'static str)] = match unit {
            Unit::Nanoseconds => &TIMES,
            Unit::Bytes => &BYTES,
            Unit::PerSecond => &RATES,
            Unit::BytesPerSecond => &BYTE_RATES,
            Unit::Count => &COUNTS,
        };
        let fits = |step: &&(f64, &str)| value.abs() >= step.0 && value.is_finite();
        let (divisor, suffix) = steps
            .iter()
            .find(fits)
            .or(steps.last())
            .copied()
            .unwrap_or((1.0, ""));
        Self { divisor, suffix }
    }

    /// Without the unit.
    #[must_use]
    pub fn bare(self, value: f64) -> String {
        // What is counted is a whole number, unless it is a mean.
        match self.suffix.is_empty() && value.fract() == 0.0 {
            true => format!("{value:.0}"),
            false => digits(value / self.divisor),
        }
    }

    #[must_use]
    pub fn figure(self, value: f64) -> String {
        with_unit(&self.bare(value), self.suffix)
    }

    /// `1.20–1.23 ms`.
    #[must_use]
    pub fn interval(self, interval: &Interval) -> String {
        let (low, high) = (self.bare(interval.low), self.bare(interval.high));
        with_unit(&format!("{low}–{high}"), self.suffix)
    }
}

fn with_unit(number: &str, suffix: &str) -> String {
    match suffix {
        "" => number.to_owned(),
        _ => format!("{number} {suffix}"),
    }
}

/// By itself: `1.23 ms`.
#[must_use]
pub fn figure(value: f64, unit: Unit) -> String {
    Scale::of(value, unit).figure(value)
}

/// Three digits that count; whole numbers from a hundred on.
#[must_use]
pub fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.0995 => format!("{value:.2}"),
        size if size >= 0.00995 => format!("{value:.3}"),
        size if size >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

#[must_use]
pub fn percent(share: f64) -> String {
    let share = share * 100.0;
    match share.abs() {
        size if size >= 9.95 => format!("{share:.0} %"),
        _ => format!("{share:.1} %"),
    }
}

/// Beyond this share of a ratio, or where it is lopsided, a ± would say less than is known.
const CLOSE: f64 = 0.2;

/// `1.43 ± 0.08`: as many digits as the interval leaves, and never narrower than it is; or
/// `1.8 (1.2 to 3.1)`, where the interval is wide. None without one.
#[must_use]
pub fn plus_minus(ratio: &Ratio) -> Option<String> {
    let interval = ratio.interval?;
    let half = (interval.high - ratio.value).max(ratio.value - interval.low);
    let (mut step, mut places) = (1.0, 0);
    while step > half && places < 3 {
        step /= 10.0;
        places += 1;
    }
    let value = (ratio.value / step).round() * step;
    // What is written is a little beside what was found; the interval is written around it.
    let half = (interval.high - value).max(value - interval.low);
    // What a float lacks to a whole step is none.
    let half = ((half / step - 1e-6).ceil() * step).max(step);
    // Nor may rounding take in 1, which the interval leaves out.
    let takes_one = value - half <= 1.0 && interval.low > 1.0;
    Some(match half > CLOSE * value || takes_one {
        true => {
            let (low, high) = (digits(interval.low), digits(interval.high));
            format!("{} ({low} to {high})", digits(ratio.value))
        }
        false => format!("{value:.places$} ± {half:.places$}"),
    })
}

/// `× 1.43 (1.35–1.51)`, or without what is in brackets.
#[must_use]
pub fn times(ratio: &Ratio) -> String {
    let value = digits(ratio.value);
    match ratio.interval {
        Some(of) => format!("{value} ({}–{})", digits(of.low), digits(of.high)),
        None => value,
    }
}

/// Letters of a text of somebody else's that are shown.
const MAX_SHOWN: usize = 240;

/// Words of a contestant, on one line that is not too long.
#[must_use]
pub fn line(text: &str) -> String {
    let mut text = visible(text);
    if let Some((cut, _)) = text.char_indices().nth(MAX_SHOWN) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// On one line: what would move a cursor, hide or turn round text is shown as a sign that
/// something was there.
#[must_use]
pub fn visible(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\n' | '\t' | '\r' => ' ',
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        _ if letter.is_control() => '\u{fffd}',
        _ => letter,
    };
    text.chars().map(shown).collect()
}

/// Nanoseconds since 1970 as `2026-05-04 03:02:01 UTC`, by Howard Hinnant's "days from civil".
#[must_use]
pub fn moment(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, in eras of 400 of them, from the year 0.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, later) = match month {
        0..=9 => (month + 3, 0),
        _ => (month - 9, 1),
    };
    let year = year + era * 400 + later;
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Words as a shell takes them.
#[must_use]
pub fn command(words: &[String]) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter);
    let quoted = words
        .iter()
        .map(|word| match word.is_empty() || !word.chars().all(plain) {
            true => format!("'{}'", word.replace('\'', r"'\''")),
            false => word.clone(),
        });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::stats::Way;

    #[test]
    fn figures_have_three_digits_and_a_unit_that_fits() {
        for (value, unit, text) in [
            (0.0, Unit::Nanoseconds, "0 ns"),
            (999.6, Unit::Nanoseconds, "1000 ns"),
            (1_234.0, Unit::Nanoseconds, "1.23 µs"),
            (99_960_000.0, Unit::Nanoseconds, "100 ms"),
            (61e9, Unit::Nanoseconds, "61.0 s"),
            (1536.0, Unit::Bytes, "1.50 KiB"),
            (0.25, Unit::PerSecond, "0.25 /s"),
            (12_345.0, Unit::PerSecond, "12.3 k/s"),
            (3.0 * KIB * KIB, Unit::BytesPerSecond, "3.00 MiB/s"),
            (12.0, Unit::Count, "12"),
            (2.5, Unit::Count, "2.50"),
        ] {
            assert_eq!(figure(value, unit), text);
        }
        assert_eq!(percent(0.0312), "3.1 %");
    }

    #[test]
    fn a_ratio_claims_no_more_than_its_interval() {
        let ratio = |value, low, high| Ratio {
            value,
            interval: Some(Interval {
                low,
                high,
                confidence: 0.95,
            }),
            range: None,
            count: 20,
            way: Way::Paired,
        };
        for (value, low, high, text) in [
            (1.4, 1.3, 1.5, "1.4 ± 0.1"),
            (1.432, 1.36, 1.50, "1.43 ± 0.07"),
            (1.432, 1.30, 1.46, "1.4 ± 0.1"),
            (12.34, 9.0, 13.0, "12.3 (9.00 to 13.0)"),
            (1.04, 1.004, 1.06, "1.04 (1.00 to 1.06)"),
            (20.4, 18.0, 23.1, "20 ± 4"),
            (2.0, 2.0, 2.0, "2.000 ± 0.001"),
            (1.56, 1.42, 1.69, "1.6 ± 0.2"),
        ] {
            assert_eq!(plus_minus(&ratio(value, low, high)).unwrap(), text);
        }
        let none = Ratio {
            interval: None,
            ..ratio(1.0, 1.0, 1.0)
        };
        assert_eq!(plus_minus(&none), None);
    }

    #[test]
    fn moments_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(moment(seconds * 1_000_000_000), text);
        }
    }

    #[test]
    fn words_of_others_stay_on_their_line() {
        assert_eq!(line("a\nb\x1b[2J\u{202e}c"), "a b\u{fffd}[2J\u{fffd}c");
        assert_eq!(line(&"é".repeat(9999)).chars().count(), MAX_SHOWN + 1);
        let words = ["husk", "bench", "--image", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(command(&words), r"husk bench --image 'a b' 'it'\''s' ''");
    }
}
