// SPDX-License-Identifier: Apache-2.0
//! Wrong values for `husk bench`. Data only; the tests that read it are those of all verbs.

use super::{ANY, CPUS, FORMAT, MEMORY, Row, Verb};

pub const VERBS: &[Verb] = &[
    Verb {
        name: "bench start",
        rest: NO_IMAGE,
        code: 1,
        rows: &bench(("--clock", &["", "sun"])),
    },
    Verb {
        name: "bench churn",
        rest: NO_IMAGE,
        code: 1,
        rows: &bench(CONCURRENCY),
    },
    Verb {
        name: "bench density",
        rest: NO_IMAGE,
        code: 1,
        rows: &bench(INSTANCES),
    },
    Verb {
        name: "bench work",
        rest: NO_IMAGE,
        code: 1,
        rows: &BENCH,
    },
    Verb {
        name: "bench all",
        rest: NO_IMAGE,
        code: 1,
        rows: &both(),
    },
    Verb {
        name: "bench compare",
        rest: &["/no/such/before", "/no/such/after"],
        code: 1,
        rows: &[
            // Whatever is wrong with either is told beside what is wrong with the other.
            ("BEFORE", ANY),
            ("AFTER", ANY),
            ("--threshold", &["", "-1", "much", "nan"]),
            FORMAT,
        ],
    },
    Verb {
        name: "bench report",
        rest: &["/no/such/file"],
        code: 1,
        rows: &[
            ("RESULTS", &["", "/no/such/file", "/"]),
            FORMAT,
            ("--output", ANY),
        ],
    },
];

/// A benchmark of an image that is not there ends before it begins.
const NO_IMAGE: &[&str] = &["--image", "dir:empty"];
const COUNTS: &[&str] = &["", "0", "-1", "many", "1.5", "99999999999"];
const CONCURRENCY: Row = ("--concurrency", COUNTS);
const INSTANCES: Row = ("--instances", COUNTS);
/// What every study takes.
const BENCH: [Row; 13] = [
    CPUS,
    MEMORY,
    (
        "--image",
        &["", "dir:", "oci:/no/such", "tar:/no/such", "A b"],
    ),
    ("--port", &["", "0", "70000", "-1", "http"]),
    (
        "--path",
        &["", "index.html", "/a b", "/\u{e4}", "/\r\nHost: x"],
    ),
    ("--against", &["", "nobody", "runc,", "runc,nobody"]),
    ("--with", &["", "x", "x=y", "runc=/no/such", "runc=/"]),
    ("--rounds", COUNTS),
    ("--timeout", &["", "soon", "-1", "1y", "0"]),
    FORMAT,
    ("--report", &["", "/", "/no/such/folder/page.html"]),
    ("--out", &["", "/", "/no/such/folder/out.json"]),
    ("CMD", ANY),
];

/// What one study takes beside that.
const fn bench(own: Row) -> [Row; 14] {
    let mut rows = [own; 14];
    let mut place = 0;
    while place < BENCH.len() {
        rows[place] = BENCH[place];
        place += 1;
    }
    rows
}

const fn both() -> [Row; 15] {
    let mut rows = [INSTANCES; 15];
    let one = bench(CONCURRENCY);
    let mut place = 0;
    while place < one.len() {
        rows[place] = one[place];
        place += 1;
    }
    rows
}
