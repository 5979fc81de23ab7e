// SPDX-License-Identifier: Apache-2.0
//! The rows of `husk bench work`, by the names under which the program inside tells of them
//! (`guest/agent/src/load`), and what that program said as figures. Pure. What is read
//! here comes out of a guest and is hostile.

use crate::bench::model::{Better, Unit};
use std::collections::BTreeMap;

/// What one operation of a row is, and how it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    /// Between which points: the program's own two readings of the clock, around a batch.
    pub metric: &'static str,
    amount: Amount,
    /// Where its files are.
    pub on: On,
}

/// Where the files of a row are. What differs in this is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// It has none.
    Nothing,
    /// Where the contestant writes to unless told otherwise.
    Own,
    /// What it is given of the host's disk.
    Disk,
    /// The same, past the page cache of whoever's kernel it is.
    Direct,
}

impl On {
    /// Whether it is for those only who are given a part of the host's disk.
    #[must_use]
    pub const fn is_given(self) -> bool {
        matches!(self, Self::Disk | Self::Direct)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amount {
    /// Nanoseconds of one.
    Each,
    /// How many a second.
    Rate,
    /// Each moves a block.
    Blocks,
}

/// Of one operation of the rows that move bytes: `BLOCK` of the program inside.
const BLOCK: f64 = 1_048_576.0;

const fn row(name: &'static str, metric: &'static str, amount: Amount) -> Row {
    Row {
        name,
        metric,
        amount,
        on: On::Nothing,
    }
}

const fn on(on: On, mut row: Row) -> Row {
    row.on = on;
    row
}

const WRITE: &str = "file written, into the page cache";
const READ: &str = "file read, from the page cache";
const SYNC: &str = "4 KiB written and fdatasync";
const DIRECT: &str = "file read past the page cache inside (O_DIRECT)";

/// In the order in which they are done.
pub const ROWS: &[Row] = &[
    row("cpu", "CPU loop, 1024 dependent steps", Amount::Rate),
    row("memory-write", "memory written", Amount::Blocks),
    row("memory-read", "memory read", Amount::Blocks),
    row("memory-copy", "memory copied", Amount::Blocks),
    row("page-fault", "first write to a page", Amount::Each),
    row("system-call", "system call (getppid)", Amount::Each),
    row("fork", "fork, exit, wait", Amount::Each),
    row("exec", "fork, exec, exit, wait", Amount::Each),
    row(
        "pipe",
        "byte to another process and back by pipes",
        Amount::Each,
    ),
    on(On::Own, row("file-write", WRITE, Amount::Blocks)),
    on(On::Own, row("file-read", READ, Amount::Blocks)),
    on(On::Own, row("file-sync", SYNC, Amount::Each)),
    on(On::Disk, row("disk-write", WRITE, Amount::Blocks)),
    on(On::Disk, row("disk-read", READ, Amount::Blocks)),
    on(On::Direct, row("disk-direct", DIRECT, Amount::Blocks)),
    on(On::Disk, row("disk-sync", SYNC, Amount::Each)),
    row(
        "tcp-turn",
        "byte there and back by TCP, inside",
        Amount::Each,
    ),
    row("tcp-stream", "TCP stream, inside", Amount::Blocks),
    row(
        "http",
        "HTTP request on its own connection, inside",
        Amount::Each,
    ),
];

impl Row {
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.name == name)
    }

    #[must_use]
    pub const fn unit(&self) -> Unit {
        match self.amount {
            Amount::Each => Unit::Nanoseconds,
            Amount::Rate => Unit::PerSecond,
            Amount::Blocks => Unit::BytesPerSecond,
        }
    }

    #[must_use]
    pub const fn better(&self) -> Better {
        match self.amount {
            Amount::Each => Better::Lower,
            Amount::Rate | Amount::Blocks => Better::Higher,
        }
    }

    /// Of so many operations in so many nanoseconds, neither of which is zero.
    fn figure(&self, operations: u64, nanoseconds: u64) -> f64 {
        let (operations, seconds) = (operations as f64, nanoseconds as f64 / 1e9);
        match self.amount {
            Amount::Each => nanoseconds as f64 / operations,
            Amount::Rate => operations / seconds,
            Amount::Blocks => operations * BLOCK / seconds,
        }
    }
}

/// What the program inside said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// By the row's name; or why there is no figure.
    pub figures: BTreeMap<&'static str, Result<f64, String>>,
    /// The kinds of file systems its files were on: its own, and that of the disk it was given.
    pub place: Option<String>,
    pub disk: Option<String>,
}

/// Longest output that is read: a row is less than a hundred bytes. Stops a guest that writes
/// without end from being kept in memory.
pub const MOST_OUTPUT: usize = 64 << 10;

/// Reads the output. Lines that are none of the program's are passed over, since a machine's
/// console may have a word of its kernel's; an output that does not come to its end is an error.
pub fn read(output: &str) -> Result<Told, String> {
    let mut told = Told::default();
    let mut done = false;
    for line in output.lines().map(str::trim_end) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["done"] => done = true,
            ["place", kind] => told.place = Some(file_system(kind)),
            ["disk", kind] => told.disk = Some(file_system(kind)),
            ["row", name, operations, took] => {
                let Some(row) = Row::named(name) else {
                    continue;
                };
                let figure = match (operations.parse(), took.parse()) {
                    (Ok(operations @ 1..), Ok(took @ 1..)) => Ok(row.figure(operations, took)),
                    _ => Err(format!("it said {operations} operations in {took} ns")),
                };
                told.figures.insert(row.name, figure);
            }
            ["fault", name, "errno", number] => {
                if let (Some(row), Ok(errno)) = (Row::named(name), number.parse()) {
                    let error = std::io::Error::from_raw_os_error(errno);
                    told.figures.insert(row.name, Err(error.to_string()));
                }
            }
            _ => {}
        }
    }
    match done {
        true => Ok(told),
        false => Err(unfinished(output, told.figures.len())),
    }
}

fn unfinished(output: &str, rows: usize) -> String {
    /// Of a last line that is shown. Stops a guest's line from filling a report.
    const MOST_SHOWN: usize = 80;
    let last = output.lines().map(str::trim).rfind(|line| !line.is_empty());
    let last: String = last.unwrap_or("nothing").chars().take(MOST_SHOWN).collect();
    let last = last.escape_debug();
    format!("the work came to no end: {rows} rows, and its last words were: {last}")
}

/// Names of the numbers of statfs(2) that are likely.
pub fn file_system(kind: &str) -> String {
    match kind {
        "ef53" => "ext4",
        "1021994" => "tmpfs",
        "794c7630" => "overlayfs",
        "9123683e" => "btrfs",
        "58465342" => "xfs",
        "e0f5e1e2" => "erofs",
        "6a656a63" => "virtiofs or fuse",
        "65735546" => "fuse",
        "1021997" => "9p",
        "858458f6" => "ramfs",
        "2fc12fc1" => "zfs",
        "f2f52010" => "f2fs",
        other if other.len() <= 16 && other.bytes().all(|b| b.is_ascii_hexdigit()) => {
            return format!("a file system of kind 0x{other}");
        }
        _ => "an unknown file system",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_figures() {
        let told = read(
            "[    0.1] a kernel speaks\r\nplace ef53\r\ndisk 58465342\nrow cpu 1000 2000000\r\n\
             row memory-copy 2 1000000000\nrow fork 4 1000\nfault file-sync errno 30\n\
             row of-tomorrow 1 1\ndone\n",
        )
        .unwrap();
        assert_eq!(told.place.as_deref(), Some("ext4"));
        assert_eq!(told.disk.as_deref(), Some("xfs"));
        let names: Vec<_> = told.figures.keys().copied().collect();
        assert_eq!(names, ["cpu", "file-sync", "fork", "memory-copy"]);
        assert_eq!(told.figures["cpu"], Ok(500_000.0));
        assert_eq!(told.figures["memory-copy"], Ok(2.0 * BLOCK));
        assert_eq!(told.figures["fork"], Ok(250.0));
        let why = told.figures["file-sync"].clone().unwrap_err();
        assert!(why.contains("Read-only"), "{why}");
    }

    #[test]
    fn what_is_no_figure_is_never_one() {
        for words in ["0 5", "5 0", "-1 5", "x 5", "99999999999999999999 1"] {
            let told = read(&format!("row cpu {words}\ndone")).unwrap();
            assert!(told.figures["cpu"].is_err(), "{words}");
        }
        // Half an output is none: its rows may be those of a guest that was slow to die.
        let why = read("row cpu 1 1\n\x1b[31mKernel panic").unwrap_err();
        assert!(why.contains("1 rows") && !why.contains('\x1b'), "{why}");
        assert!(read("").unwrap_err().contains("nothing"));
        let long = read(&"x".repeat(5000)).unwrap_err();
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn a_file_system_has_a_name_or_a_number() {
        assert_eq!(file_system("794c7630"), "overlayfs");
        assert_eq!(file_system("abc"), "a file system of kind 0xabc");
        assert_eq!(file_system("<script>"), "an unknown file system");
    }

    /// The program itself, on this host.
    #[test]
    fn the_program_knows_the_same_rows() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::TempDir::new().unwrap();
        let program = folder.path().join("load");
        std::fs::write(&program, crate::bench::load::PROGRAM).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = std::process::Command::new(&program);
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let output = command.args(["work", "2"]).arg(folder.path()).arg(&disk);
        let output = output.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let told = read(&text).expect(&text);
        for row in ROWS {
            let figure = told
                .figures
                .get(row.name)
                .unwrap_or_else(|| panic!("{text}"));
            assert!(
                figure.as_ref().is_ok_and(|f| *f > 0.0),
                "{}: {figure:?}",
                row.name
            );
        }
        assert_eq!(told.figures.len(), ROWS.len());
        assert!(told.place.is_some() && told.disk == told.place);
        // It leaves the folders as it found them.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);
        // Without a disk there are no rows of one, and nothing else changes.
        let output = std::process::Command::new(&program)
            .args(["work", "0"])
            .arg(folder.path())
            .args(["-", "disk-sync", "file-sync"])
            .output()
            .unwrap();
        let told = read(&String::from_utf8(output.stdout).unwrap()).unwrap();
        let names: Vec<_> = told.figures.keys().copied().collect();
        assert_eq!((names, told.disk), (vec!["file-sync"], None));
    }
}
