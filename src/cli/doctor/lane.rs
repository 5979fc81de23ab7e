// SPDX-License-Identifier: Apache-2.0
//! Does this host carry a guest kernel in ring 3, and does it need one? Main thread; the
//! probe runs a guest of its own for a moment.

use super::check::{Check, FastLane, State};
use crate::cli::ring;
use crate::probe::{self, WhyNot};
use std::time::Duration;

const NAME: &str = "ring 3 kernel";

/// Nothing to say where /dev/kvm does not open: the check before says it.
pub fn examine() -> (FastLane, Option<Check>) {
    let Some(answer) = ring::ask() else {
        return (FastLane::Unknown, None);
    };
    let (lane, check) = judge(&answer);
    (lane, Some(check))
}

fn judge(answer: &Result<probe::FastLane, WhyNot>) -> (FastLane, Check) {
    match answer {
        Ok(lane) => (figures(lane), open(lane)),
        Err(WhyNot::NotNeeded(_)) => (
            FastLane::NotNeeded,
            Check::ok(NAME, "not needed: ring 0 is native"),
        ),
        Err(why) => (FastLane::Closed, closed(why)),
    }
}

fn figures(lane: &probe::FastLane) -> FastLane {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    FastLane::Open {
        system_call_ns: nanos(lane.system_call),
        ring0_call_ns: nanos(lane.ring0_call),
        page_fault_ns: nanos(lane.page_fault),
        probe_ns: nanos(lane.took),
    }
}

fn open(lane: &probe::FastLane) -> Check {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let found = format!(
        "works in a try of {:.1} ms: system call {:.1} us, page fault {:.1} us, call of ring 0 \
         {:.1} us",
        micros(lane.took) / 1000.0,
        micros(lane.system_call),
        micros(lane.page_fault),
        micros(lane.ring0_call),
    );
    Check::ok(NAME, found).means(
        "a guest's kernel may run natively here; in such a guest every program can reach the \
         kernel's memory, and the machine is the only boundary (--guest-ring 0 keeps the kernel apart, interpreted)",
    )
}

fn closed(why: &WhyNot) -> Check {
    let mut found = why.to_string();
    let mut cause = std::error::Error::source(why);
    while let Some(error) = cause {
        found = format!("{found}: {error}");
        cause = error.source();
    }
    Check::new(NAME, State::Warn, found).means("a guest's kernel is interpreted, in ring 0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{HostKind, Step};

    #[test]
    fn each_answer_is_told_in_words_and_in_json() {
        let lane = probe::FastLane {
            system_call: Duration::from_nanos(870),
            ring0_call: Duration::from_nanos(5730),
            page_fault: Duration::from_nanos(12_090),
            system_call_unmasks: true,
            took: Duration::from_micros(2640),
        };
        let (json, check) = judge(&Ok(lane));
        assert_eq!(check.state, State::Ok);
        assert_eq!(
            check.found,
            "works in a try of 2.6 ms: system call 0.9 us, page fault 12.1 us, call of ring 0 5.7 us"
        );
        let json = serde_json::to_value(json).expect("JSON");
        assert_eq!(json["state"], "open");
        assert_eq!(json["page_fault_ns"], 12_090);

        let (json, check) = judge(&Err(WhyNot::NotNeeded(HostKind::Vmx)));
        assert_eq!((json, check.state), (FastLane::NotNeeded, State::Ok));

        let stuck = WhyNot::Stuck {
            step: Some(Step::Idle),
        };
        let (json, check) = judge(&Err(stuck));
        assert_eq!((json, check.state), (FastLane::Closed, State::Warn));
        assert!(check.found.contains("HLT") && check.means.contains("interpreted"));
    }
}
