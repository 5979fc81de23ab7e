// SPDX-License-Identifier: Apache-2.0
//! Where a value stands. From 0, so that twice as long is twice as much; by powers where the
//! longest would leave the shortest no room, and then it says so.

use super::markup::{Markup, share};
use crate::bench::figure::Scale;
use crate::bench::model::Unit;

/// Beyond this many times the least, an axis goes by powers.
const LINEAR: f64 = 12.0;
/// Marks that have room beside each other on a telephone.
const MARKS: f64 = 5.0;
/// Of the width that an axis has on a telephone: a letter of a mark, and what is left free between
/// two.
const LETTER: f64 = 0.025;
const FREE: f64 = 0.02;
/// Marks that have room in a block of a waterfall, and a letter of one.
const FEW: f64 = 3.0;
const LETTER_OF_FEW: f64 = 0.066;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    powers: bool,
    /// How many marks there is room for.
    room: f64,
    /// How wide a letter is, of all.
    letter: f64,
}

impl Axis {
    /// For all of `values`; those not above 0 have no power.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let values = values.filter(|value| value.is_finite());
        let high = values.clone().fold(0.0, f64::max);
        let low = values.clone().fold(high, f64::min);
        let high = if high > 0.0 { high } else { 1.0 };
        match low > 0.0 && high / low > LINEAR {
            true => Self {
                low: low / 1.15,
                high: high * 1.1,
                powers: true,
                room: MARKS,
                letter: LETTER,
            },
            false => Self {
                low: 0.0,
                high: high * 1.04,
                powers: false,
                room: MARKS,
                letter: LETTER,
            },
        }
    }

    /// From 0 to `high`, however small the least is.
    pub fn linear(high: f64) -> Self {
        Self {
            low: 0.0,
            high: if high > 0.0 { high * 1.02 } else { 1.0 },
            powers: false,
            room: FEW,
            letter: LETTER_OF_FEW,
        }
    }

    /// From 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self.powers {
            true => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        place.clamp(0.0, 1.0)
    }

    pub const fn goes_by_powers(&self) -> bool {
        self.powers
    }

    /// Ascending, of round numbers in the unit in which they are shown.
    pub fn marks(&self, unit: Unit) -> Vec<(f64, String)> {
        let values = match self.powers {
            true if matches!(unit, Unit::Bytes | Unit::BytesPerSecond) => self.doublings(),
            true => self.powers_between(),
            false => {
                let divisor = Scale::of(self.high, unit).divisor;
                let step = round_step(self.high / divisor / self.room) * divisor;
                let marks = (0u32..).map(|number| f64::from(number) * step);
                marks.take_while(|value| *value <= self.high).collect()
            }
        };
        values
            .into_iter()
            .map(|value| (value, mark(value, unit)))
            .collect()
    }

    fn powers_between(&self) -> Vec<f64> {
        let decades: Vec<f64> = (-12i32..=24)
            .map(|power| 10f64.powi(power))
            .filter(|decade| *decade >= self.low / 10.0 && *decade <= self.high)
            .collect();
        let times = |steps: &[f64]| -> Vec<f64> {
            let all = decades
                .iter()
                .flat_map(|decade| steps.iter().map(move |s| decade * s));
            all.filter(|value| (self.low..=self.high).contains(value))
                .collect()
        };
        let fine = [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]];
        let choices = fine.map(times);
        let fits = choices
            .iter()
            .find(|marks| marks.len() as f64 <= MARKS + 1.0);
        match fits {
            Some(marks) => marks.clone(),
            // Every second, third … decade.
            None => {
                let marks = &choices[2];
                let step = (1..).find(|step| marks.len() / step <= 5).unwrap_or(1);
                marks.iter().step_by(step).copied().collect()
            }
        }
    }

    /// Bytes are counted in powers of two: each, or every second, third … of them.
    fn doublings(&self) -> Vec<f64> {
        let all: Vec<i32> = (-10i32..=100)
            .filter(|power| (self.low..=self.high).contains(&2f64.powi(*power)))
            .collect();
        let of = |step: i32| {
            let powers = all.iter().filter(move |power| *power % step == 0);
            powers.map(|power| 2f64.powi(*power)).collect::<Vec<f64>>()
        };
        let mut steps = (1..=100).map(of);
        let fits = steps.find(|marks| marks.len() as f64 <= MARKS + 1.0);
        fits.unwrap_or_default()
    }

    /// A line of marks below what hangs on this axis, as wide as what it stands in.
    pub fn draw(&self, unit: Unit, page: &mut Markup) {
        page.tag("svg", &[("class", "axis"), ("aria-hidden", "true")]);
        let mut taken = f64::NEG_INFINITY;
        for (value, text) in self.marks(unit) {
            let place = self.place(value);
            let width = self.letter * text.chars().count() as f64;
            let (anchor, left) = match place {
                near if near < 0.04 => ("start", near),
                far if far > 0.94 => ("end", far - width),
                middle => ("middle", middle - width / 2.0),
            };
            page.shape(
                "line",
                &[
                    ("x1", &share(place)),
                    ("x2", &share(place)),
                    ("y1", "0"),
                    ("y2", "5"),
                ],
            );
            // By powers marks come closer, and at the ends they are beside their places.
            if left < taken + FREE {
                continue;
            }
            taken = left + width;
            page.tag(
                "text",
                &[("x", &share(place)), ("y", "17"), ("text-anchor", anchor)],
            );
            page.text(&text).close("text");
        }
        page.close("svg");
    }

    /// Faint lines at the marks, through a row as high as it is.
    pub fn grid(&self, unit: Unit, page: &mut Markup) {
        for (value, _) in self.marks(unit) {
            let place = share(self.place(value));
            page.shape(
                "line",
                &[
                    ("class", "grid"),
                    ("x1", &place),
                    ("x2", &place),
                    ("y1", "0"),
                    ("y2", "100%"),
                ],
            );
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least `about`.
fn round_step(about: f64) -> f64 {
    let decade = 10f64.powf(about.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    let fits = steps.into_iter().find(|step| *step >= about * 0.999);
    fits.unwrap_or(decade * 10.0)
}

/// As short as it can be: `20 ms`, not `20.0 ms`.
fn mark(value: f64, unit: Unit) -> String {
    let scale = Scale::of(value * 1.000_000_1, unit);
    let shown = format!("{:.2}", value / scale.divisor);
    let shown = shown.trim_end_matches('0').trim_end_matches('.');
    match (value == 0.0, scale.suffix) {
        (true, _) => "0".into(),
        (_, "") => shown.into(),
        (_, suffix) => format!("{shown} {suffix}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(values: &[f64], unit: Unit) -> Vec<String> {
        let axis = Axis::of(values.iter().copied());
        axis.marks(unit).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn no_mark_is_drawn_over_another() {
        // 100 and 200 µs are both near the end, and of the latter the text is before its place.
        let axis = Axis::of([3.4e3, 2.0e5].into_iter());
        let mut page = Markup::default();
        axis.draw(Unit::Nanoseconds, &mut page);
        let page = page.into_string();
        assert!(page.contains(">100 µs<"), "{page}");
        assert!(!page.contains(">200 µs<"), "{page}");
        assert_eq!(
            page.matches("<line").count(),
            axis.marks(Unit::Nanoseconds).len()
        );
        // In a block of a waterfall there is room for less.
        let mut page = Markup::default();
        Axis::linear(201.8e6).draw(Unit::Nanoseconds, &mut page);
        let page = page.into_string();
        assert!(
            page.contains(">100 ms<") && !page.contains(">200 ms<"),
            "{page}"
        );
    }

    #[test]
    fn marks_are_round_and_few() {
        let near = marks(&[9e6, 41e6], Unit::Nanoseconds);
        assert_eq!(near, ["0", "10 ms", "20 ms", "30 ms", "40 ms"]);
        let far = marks(&[1.1e6, 2.2e9], Unit::Nanoseconds);
        assert_eq!(far, ["1 ms", "10 ms", "100 ms", "1 s"]);
        let memory = marks(&[3.0e6, 30.0e6], Unit::Bytes);
        assert_eq!(memory, ["0", "10 MiB", "20 MiB"]);
        let memory = marks(&[0.9e6, 90.0e6], Unit::Bytes);
        assert_eq!(memory, ["1 MiB", "4 MiB", "16 MiB", "64 MiB"]);
        for values in [&[][..], &[0.0], &[0.0, 0.0], &[1e-9, 1e20], &[5.0]] {
            let axis = Axis::of(values.iter().copied());
            let marks = axis.marks(Unit::Count);
            assert!(marks.len() <= 7, "{marks:?}");
            for value in values {
                assert!((0.0..=1.0).contains(&axis.place(*value)));
            }
        }
    }
}
