// SPDX-License-Identifier: Apache-2.0
//! What the kernel's work costs a program, one JSON object a row on standard output.
//!
//! A row is measured in batches, as many operations each as take a twentieth of the row's
//! time, so that one binary serves a native kernel and one that is interpreted and a
//! thousand times slower. The figures are those of batches: nanoseconds an operation.

mod memory;
mod processes;
mod waits;

/// Runs so many operations and tells the nanoseconds they took together.
type Batch = Box<dyn FnMut(u64) -> Result<u64, String>>;

struct Row {
    name: &'static str,
    /// Operations in one batch, at most.
    most: u64,
    prepare: fn() -> Result<Batch, String>,
}

const ROWS: &[Row] = &[
    row("syscall", 1 << 20, processes::system_call),
    row("clock", 1 << 20, processes::clock),
    row("fault", memory::MOST_PAGES, memory::fault),
    row("fault-copy", memory::MOST_PAGES, memory::fault_copy),
    row("mmap", 1 << 16, memory::map),
    row("fork", 1 << 12, processes::fork),
    row("vfork", 1 << 14, processes::vfork),
    row("exec-tiny", 1 << 12, processes::exec_tiny),
    row("exec-static", 1 << 12, processes::exec_static),
    row("pipe", 1 << 16, waits::pipe),
    row("switch", 1 << 16, waits::switch),
    row("signal", 1 << 16, waits::signal),
    row("futex", 1 << 16, waits::futex),
    row("timer-late", 64, waits::timer),
];

/// Batches a row has at least, whatever they take.
const LEAST_BATCHES: usize = 3;

const fn row(name: &'static str, most: u64, prepare: fn() -> Result<Batch, String>) -> Row {
    Row {
        name,
        most,
        prepare,
    }
}

/// Measures the rows named, or all, for about so many milliseconds each.
pub fn measure(milliseconds: usize, names: &[&str]) -> Result<(), String> {
    if let Some(name) = names
        .iter()
        .find(|name| !ROWS.iter().any(|row| row.name == **name))
    {
        let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(format!("no row {name}; there are {}", known.join(" ")));
    }
    let budget = milliseconds as u64 * 1_000_000;
    for row in ROWS {
        if names.is_empty() || names.contains(&row.name) {
            let line = one(row, budget).map_err(|reason| format!("{}: {reason}", row.name))?;
            println!("{line}");
        }
    }
    Ok(())
}

fn one(row: &Row, budget: u64) -> Result<String, String> {
    let mut batch = (row.prepare)()?;
    let mut size = 1;
    let mut took = batch(size)?;
    while took < budget / 20 && size < row.most {
        size = (size * 2).min(row.most);
        took = batch(size)?;
    }
    let (mut all, mut spent) = (Vec::new(), 0);
    while all.len() < LEAST_BATCHES || spent < budget {
        let took = batch(size)?;
        spent += took;
        all.push(took);
        // A row whose operations cost nothing would never end.
        if all.len() >= 10_000 {
            break;
        }
    }
    all.sort_unstable();
    let at = |rank: usize| {
        let picoseconds = u128::from(all[rank]) * 1000 / u128::from(size);
        format!("{}.{:03}", picoseconds / 1000, picoseconds % 1000)
    };
    let batches = all.len();
    Ok(format!(
        r#"{{"name":"{}","iterations":{},"batches":{batches},"median_ns":{},"p95_ns":{}}}"#,
        row.name,
        size * batches as u64,
        at(batches / 2),
        at((batches * 95).div_ceil(100) - 1),
    ))
}
