// SPDX-License-Identifier: Apache-2.0
//! The waterfall of `--trace`: marks on one clock, drawn or as data.
//!
//! The clock is the host's CLOCK_MONOTONIC in nanoseconds. A mark is the instant at which
//! something was reached; what it took lasts until the next mark. Guest marks carry the
//! guest's own clock and are moved onto the host's by one offset, taken when the agent
//! says hello, so they are off by at most the time that message travelled.

use super::output::Style;
use crate::control::{FIRST_INSTRUCTION, RoundTrips};
use crate::sys::clock;
use crate::units::Variant;
use serde::{Serialize, Serializer};
use std::fmt::Write as _;

/// Version of the JSON form, raised when a field changes its meaning.
const SCHEMA: &str = "husk-trace/1";
/// Width of the drawn bars, in columns.
const BAR: u64 = 24;

/// How the trace is shown.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
pub enum TraceFormat {
    Text,
    Json,
}

/// Who saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The husk command.
    Host,
    /// The process that runs the guest.
    Vmm,
    /// The guest's kernel or agent.
    Guest,
}

/// One instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub name: String,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    pub source: Source,
}

impl Mark {
    pub fn now(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            at: clock::monotonic_ns(),
            source,
        }
    }

    /// When this process was executed, as far as it can tell: now, less the CPU time it
    /// has used. Call it first thing in `main`. The kernel keeps a process's start only
    /// to a hundredth of a second, and this is good to the time spent off the CPU before
    /// `main`, which is reading the program from disk the first time.
    #[must_use]
    pub fn exec_estimate() -> Self {
        let spent = clock::process_cpu_ns();
        let mut mark = Self::now("exec", Source::Host);
        mark.at = mark.at.saturating_sub(spent);
        mark
    }
}

/// The marks of one run.
#[derive(Clone, Debug, Default)]
pub struct Waterfall {
    marks: Vec<Mark>,
    /// Host clock minus guest clock, in nanoseconds, once the agent has said hello.
    guest_offset: Option<i64>,
    /// Guest marks that came before the offset was known, on the guest's clock.
    early: Vec<(String, u64)>,
    /// Which kind of kernel the guest runs, once the machine has loaded it.
    kernel: Option<Variant>,
    /// Why it is not the fast kind, on a host where it might have been.
    fallback: Option<String>,
    /// Why there was no template to go on from.
    no_template: Option<String>,
    /// The guest goes on from where another one was saved.
    restored: bool,
    round_trips: Option<RoundTrips>,
}

impl Waterfall {
    #[must_use]
    pub fn starting(first: Mark) -> Self {
        Self {
            marks: vec![first],
            ..Self::default()
        }
    }

    pub fn add(&mut self, mark: Mark) {
        self.marks.push(mark);
    }

    /// The machine loaded a kernel of this kind.
    pub fn kernel(&mut self, variant: Variant) {
        self.kernel = Some(variant);
    }

    /// The kernel is interpreted, and this is why.
    pub fn fell_back(&mut self, why: Option<String>) {
        self.fallback = why;
    }

    /// The guest is booted, and this is why.
    pub fn no_template(&mut self, why: String) {
        self.no_template = Some(why);
    }

    /// The guest goes on from where another one was saved: what its kernel said before it
    /// began here is none of this start.
    pub fn restored(&mut self) {
        self.restored = true;
    }

    /// What the guest's kernel counted, last thing.
    pub fn round_trips(&mut self, trips: RoundTrips) {
        self.round_trips = Some(trips);
    }

    /// The host's own next step.
    pub fn reached(&mut self, name: &str) {
        self.add(Mark::now(name, Source::Host));
    }

    /// Ties the guest's clock to the host's: a message in which the guest's clock stood at
    /// `guest` arrived when the host's stood at `host`. The first one counts.
    pub fn tie_guest_clock(&mut self, host: u64, guest: u64) {
        if self.guest_offset.is_none() {
            self.guest_offset = Some(host.wrapping_sub(guest).cast_signed());
            for (name, at) in std::mem::take(&mut self.early) {
                self.add_guest(name, at);
            }
        }
    }

    /// A mark on the guest's clock. Kept aside until the clocks are tied. The guest names
    /// any time it likes, and its clock may run ahead; a mark that would come before its first
    /// instruction is held to that, or is of another machine where this one was restored.
    pub fn add_guest(&mut self, name: impl Into<String>, guest: u64) {
        let name = name.into();
        match self.guest_offset {
            None => self.early.push((name, guest)),
            Some(offset) => {
                let (at, began) = (guest.saturating_add_signed(offset), self.guest_began());
                if !self.restored || at >= began {
                    self.add(Mark {
                        name,
                        at: at.max(began),
                        source: Source::Guest,
                    });
                }
            }
        }
    }

    fn guest_began(&self) -> u64 {
        let began = |mark: &&Mark| mark.source == Source::Vmm && mark.name == FIRST_INSTRUCTION;
        self.marks.iter().find(began).map_or(0, |mark| mark.at)
    }

    /// As asked, with a line's end.
    #[must_use]
    pub fn render(&self, format: TraceFormat, style: Style) -> String {
        match format {
            TraceFormat::Text => self.text(style),
            TraceFormat::Json => self.json(),
        }
    }

    /// Every mark in order of time, with the time until the next.
    fn steps(&self) -> Vec<Step<'_>> {
        let mut marks: Vec<&Mark> = self.marks.iter().collect();
        marks.sort_by_key(|mark| mark.at);
        let next = marks.iter().skip(1).map(|mark| mark.at);
        let ends = next.chain(marks.last().map(|mark| mark.at));
        marks
            .iter()
            .zip(ends)
            .map(|(mark, end)| Step {
                name: &mark.name,
                source: mark.source,
                at_ns: mark.at,
                took_ns: end - mark.at,
            })
            .collect()
    }

    fn text(&self, style: Style) -> String {
        let steps = self.steps();
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
            return String::new();
        };
        let total = last.at_ns - first.at_ns;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{}trace: {} to {}, {} ms of the host's CLOCK_MONOTONIC{}",
            style.strong,
            printable(first.name),
            printable(last.name),
            millis(total),
            style.off,
        );
        let _ = writeln!(
            text,
            "{}     at ms    took ms   share  {:BAR$}  who    reached{}",
            style.dim,
            "",
            style.off,
            BAR = usize::try_from(BAR).unwrap_or(0),
        );
        for step in &steps {
            let share = step
                .took_ns
                .saturating_mul(1000)
                .checked_div(total)
                .unwrap_or(0);
            let _ = writeln!(
                text,
                "{:>10} {:>10} {:>3}.{} %  {}  {:<5}  {}",
                millis(step.at_ns - first.at_ns),
                millis(step.took_ns),
                share / 10,
                share % 10,
                bar(step.at_ns - first.at_ns, step.took_ns, total),
                step.source.name(),
                printable(step.name),
            );
        }
        self.add_kernel(&mut text, style);
        text
    }

    fn add_kernel(&self, text: &mut String, style: Style) {
        let Style { strong, off, .. } = style;
        if let Some(variant) = self.kernel {
            let ring = variant.ring();
            let why = self.fallback.as_deref().filter(|_| ring == 0);
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "{strong}guest kernel: ring {ring}{off}{}",
                printable(&why)
            );
        }
        if let Some(why) = &self.no_template {
            let _ = writeln!(text, "{strong}no template{off}: {}", printable(why));
        }
        if let Some(trips) = self.round_trips {
            let _ = writeln!(text, "{strong}ring-0 round trips:{off}");
            for (_, words, count) in trips.kinds().filter(|(.., count)| *count > 0) {
                let _ = writeln!(text, "{count:>20}  {words}");
            }
        }
    }

    fn json(&self) -> String {
        let steps = self.steps();
        let document = Document {
            schema: SCHEMA,
            clock: "CLOCK_MONOTONIC",
            total_ns: match (steps.first(), steps.last()) {
                (Some(first), Some(last)) => last.at_ns - first.at_ns,
                _ => 0,
            },
            marks: steps,
            variant: self.kernel,
            fallback: self.fallback.as_deref(),
            no_template: self.no_template.as_deref(),
            round_trips: self.round_trips.as_ref(),
        };
        // Numbers and strings only: there is nothing here that serde could refuse.
        serde_json::to_string(&document).unwrap_or_default() + "\n"
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    clock: &'static str,
    total_ns: u64,
    marks: Vec<Step<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<Variant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_template: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "by_name")]
    round_trips: Option<&'a RoundTrips>,
}

/// All kinds, also those that did not happen.
fn by_name<S: Serializer>(trips: &Option<&RoundTrips>, to: S) -> Result<S::Ok, S::Error> {
    let kinds = trips.iter().flat_map(|trips| trips.kinds());
    to.collect_map(kinds.map(|(name, _, count)| (name, count)))
}

#[derive(Serialize)]
struct Step<'a> {
    name: &'a str,
    source: Source,
    at_ns: u64,
    took_ns: u64,
}

impl Source {
    const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Vmm => "vmm",
            Self::Guest => "guest",
        }
    }
}

fn millis(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1_000_000, nanos / 1000 % 1000)
}

/// A guest chooses the names of its marks: no control character of one reaches a terminal.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// `took` at `at` of `total`, as columns; whatever took time at all has at least one.
fn bar(at: u64, took: u64, total: u64) -> String {
    let column = |time: u64| {
        let column = u128::from(time) * u128::from(BAR) / u128::from(total.max(1));
        usize::try_from(column.min(u128::from(BAR - 1))).unwrap_or(0)
    };
    let width = usize::try_from(BAR).unwrap_or(0);
    let start = column(at);
    let end = match took {
        0 => start,
        _ => column(at.saturating_add(took - 1)).max(start) + 1,
    };
    let mut text = " ".repeat(start);
    text.push_str(&"━".repeat(end - start));
    text.push_str(&" ".repeat(width - end));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str, at: u64, source: Source) -> Mark {
        Mark {
            name: name.into(),
            at,
            source,
        }
    }

    fn example() -> Waterfall {
        let mut fall = Waterfall::starting(mark("exec", 5_000_000, Source::Host));
        fall.add(mark("exit", 105_000_000, Source::Host));
        fall.add(mark("KVM_RUN", 30_000_000, Source::Vmm));
        fall.add_guest("init\x1b[2J", 1_000_000);
        fall.tie_guest_clock(55_000_000, 2_000_000);
        fall.tie_guest_clock(0, 0);
        fall
    }

    #[test]
    fn what_a_restored_kernel_said_before_is_none_of_this_start() {
        for restored in [false, true] {
            let mut fall = Waterfall::starting(mark("exec", 5_000_000, Source::Host));
            if restored {
                fall.restored();
            }
            fall.add(mark(FIRST_INSTRUCTION, 50_000_000, Source::Vmm));
            fall.tie_guest_clock(60_000_000, 20_000_000);
            fall.add_guest("of another boot", 1_000_000);
            fall.add_guest("of this one", 15_000_000);
            let names: Vec<_> = fall.marks.iter().map(|mark| &*mark.name).collect();
            assert_eq!(names.contains(&"of another boot"), !restored, "{names:?}");
            assert!(names.contains(&"of this one"), "{names:?}");
        }
    }

    #[test]
    fn guest_marks_move_onto_the_hosts_clock() {
        let fall = example();
        let steps = fall.steps();
        let times: Vec<(&str, u64, u64)> = steps
            .iter()
            .map(|step| (step.name, step.at_ns, step.took_ns))
            .collect();
        assert_eq!(
            times,
            [
                ("exec", 5_000_000, 25_000_000),
                ("KVM_RUN", 30_000_000, 24_000_000),
                ("init\x1b[2J", 54_000_000, 51_000_000),
                ("exit", 105_000_000, 0),
            ]
        );
    }

    #[test]
    fn the_text_names_its_end_points_and_lines_up() {
        let text = example().render(TraceFormat::Text, Style::PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "trace: exec to exit, 100.000 ms of the host's CLOCK_MONOTONIC"
        );
        assert_eq!(
            lines[2],
            "     0.000     25.000  25.0 %  ━━━━━━                    host   exec"
        );
        assert_eq!(
            lines[4],
            "    49.000     51.000  51.0 %             ━━━━━━━━━━━━━  guest  init\u{fffd}[2J"
        );
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn the_json_is_nanoseconds_on_one_clock() {
        let json = example().render(TraceFormat::Json, Style::PLAIN);
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!(value["total_ns"], 100_000_000);
        assert_eq!(value["marks"][1]["name"], "KVM_RUN");
        assert_eq!(value["marks"][1]["source"], "vmm");
        assert_eq!(value["marks"][1]["at_ns"], 30_000_000);
        assert_eq!(value["marks"][1]["took_ns"], 24_000_000);
    }

    #[test]
    fn the_ring_and_its_round_trips_are_told_where_they_are_known() {
        let mut fall = example();
        let lines = |fall: &Waterfall| {
            let text = fall.render(TraceFormat::Text, Style::PLAIN);
            let lines: Vec<String> = text.lines().skip(6).map(str::to_owned).collect();
            lines
        };
        assert_eq!(lines(&fall), [] as [String; 0]);
        let json = |fall: &Waterfall| -> serde_json::Value {
            let json = fall.render(TraceFormat::Json, Style::PLAIN);
            serde_json::from_str(&json).expect("JSON")
        };
        assert!(json(&fall).get("variant").is_none());

        fall.kernel(Variant::Ring0);
        fall.fell_back(Some("no lane".into()));
        assert_eq!(lines(&fall), ["guest kernel: ring 0: no lane"]);
        assert_eq!(json(&fall)["fallback"], "no lane");
        assert_eq!(json(&fall)["variant"], "ring0");

        fall.kernel(Variant::Ring3);
        fall.fell_back(None);
        let mut counts = [0; 16];
        (counts[3], counts[15]) = (1234, u64::MAX);
        fall.round_trips(RoundTrips(counts));
        assert_eq!(
            lines(&fall),
            [
                "guest kernel: ring 3",
                "ring-0 round trips:",
                "                1234  page faults",
                "18446744073709551615  other",
            ]
        );
        let told = json(&fall);
        assert_eq!(told["variant"], "ring3");
        assert_eq!(told["round_trips"]["page_faults"], 1234);
        assert_eq!(told["round_trips"]["halts"], 0);
        assert_eq!(
            told["round_trips"].as_object().map(|kinds| kinds.len()),
            Some(16)
        );
    }

    #[test]
    fn hostile_times_do_not_panic() {
        let mut fall = Waterfall::starting(mark("exec", 1, Source::Host));
        fall.tie_guest_clock(u64::MAX, 0);
        for at in [0, 1, u64::MAX / 2, u64::MAX] {
            fall.add_guest("x", at);
            let _ = fall.render(TraceFormat::Text, Style::PLAIN);
        }
        let mut fall = Waterfall::starting(mark("exec", 1, Source::Host));
        fall.tie_guest_clock(0, u64::MAX);
        fall.add_guest("x", u64::MAX);
        fall.add(mark("end", u64::MAX, Source::Host));
        let _ = fall.render(TraceFormat::Text, Style::PLAIN);
    }

    #[test]
    fn the_exec_of_this_process_is_in_its_past() {
        let now = Mark::now("now", Source::Host);
        let exec = Mark::exec_estimate();
        assert!(exec.at > 0 && exec.at < now.at + 1_000_000_000);
    }

    #[test]
    fn a_guest_whose_clock_runs_ahead_does_not_come_before_its_first_instruction() {
        let mark = |name: &str, at, source| Mark {
            name: name.into(),
            at,
            source,
        };
        let mut waterfall = Waterfall::starting(mark("exec", 1000, Source::Host));
        waterfall.add(mark(FIRST_INSTRUCTION, 1500, Source::Vmm));
        waterfall.tie_guest_clock(5000, 4500);
        waterfall.add_guest("early", 10);
        waterfall.add_guest("later", 2000);
        let at: Vec<u64> = waterfall.marks.iter().map(|mark| mark.at).collect();
        assert_eq!(at, [1000, 1500, 1500, 2500]);
    }
}
