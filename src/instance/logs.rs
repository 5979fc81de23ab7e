// SPDX-License-Identifier: Apache-2.0
//! What a machine's process wrote, kept in its folder: two files, each bounded, the older
//! given up when the newer is full. One line of output a line, as container runtimes keep
//! them: time, stream, F for a whole line or P for a part of one, the bytes themselves.
//!
//! The bytes are a guest's: whoever reads them trusts only what stands before them.

use super::record::{now, stamp};
use husk_protocol::Stream;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// From this size on a file is turned: a guest that writes without end fills twice as much
/// of the host, and a little.
pub const FULL: u64 = 4 << 20;
/// Longest piece of output a line holds.
const PIECE: usize = 16 * 1024;
/// The older file, the newer.
const NAMES: [&str; 2] = ["output.log.1", "output.log"];

/// The owner's side.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    pub fn create(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            file: create(dir)?,
            size: 0,
        })
    }

    /// A log that cannot be written keeps nothing from running.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let time = stamp(now());
        let name = match stream {
            Stream::Stderr => "stderr",
            Stream::Stdin | Stream::Stdout | Stream::Terminal => "stdout",
        };
        let mut text = Vec::with_capacity(bytes.len() + 64);
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        for piece in lines.flat_map(|line| line.chunks(PIECE)) {
            let (content, tag) = match piece.strip_suffix(b"\n") {
                Some(content) => (content, "F"),
                None => (piece, "P"),
            };
            text.extend_from_slice(format!("{time} {name} {tag} ").as_bytes());
            text.extend_from_slice(content);
            text.push(b'\n');
        }
        if self.size >= FULL {
            self.turn();
        }
        if self.file.write_all(&text).is_ok() {
            self.size += u64::try_from(text.len()).unwrap_or(0);
        }
    }

    fn turn(&mut self) {
        let [old, new] = NAMES.map(|name| self.dir.join(name));
        if fs::rename(new, old).is_ok()
            && let Ok(file) = create(&self.dir)
        {
            self.file = file;
            self.size = 0;
        }
    }
}

fn create(dir: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(dir.join(NAMES[1]))
}

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As it stands there.
    pub time: &'a str,
    pub stderr: bool,
    /// Ends a line of the output.
    pub whole: bool,
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?;
        Some(Self {
            time,
            stderr: fields.next()? == b"stderr",
            whole: fields.next()? == b"F",
            content: fields.next()?,
        })
    }

    pub fn at(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(self.time).ok()
    }
}

/// Reads a log from its beginning on, through its turns.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    names: [&'static str; 2],
    file: Option<File>,
    /// What was read of a line so far.
    rest: Vec<u8>,
    /// The older file comes first.
    begun: bool,
}

impl Reader {
    /// What the process of the machine in this folder wrote.
    pub fn open(dir: &Path) -> Self {
        Self::of(dir, NAMES)
    }

    /// Any two files of lines, of which the newer becomes the older.
    pub fn of(dir: &Path, names: [&'static str; 2]) -> Self {
        Self {
            dir: dir.to_owned(),
            names,
            file: None,
            rest: Vec::new(),
            begun: false,
        }
    }

    /// What was added since the last call, in whole lines of the log; empty if nothing was.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut text = std::mem::take(&mut self.rest);
        if !self.begun {
            self.begun = true;
            self.file = self.open_one(self.names[0])?;
        }
        loop {
            if let Some(file) = &mut self.file {
                file.take(2 * FULL).read_to_end(&mut text)?;
            }
            let newer = self.open_one(self.names[1])?;
            if newer.is_none() || same(self.file.as_ref(), newer.as_ref())? {
                break;
            }
            // Turned after it was read: what was added meanwhile comes first.
            if let Some(file) = &mut self.file {
                file.take(2 * FULL).read_to_end(&mut text)?;
            }
            self.file = newer;
        }
        let whole = text.iter().rposition(|byte| *byte == b'\n');
        self.rest = text.split_off(whole.map_or(0, |at| at + 1));
        Ok(text)
    }

    fn open_one(&self, name: &str) -> io::Result<Option<File>> {
        match File::open(self.dir.join(name)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(0))?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn same(a: Option<&File>, b: Option<&File>) -> io::Result<bool> {
    let (Some(a), Some(b)) = (a, b) else {
        return Ok(false);
    };
    Ok(a.metadata()?.ino() == b.metadata()?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(text: &[u8]) -> Vec<(bool, bool, Vec<u8>)> {
        text.split(|byte| *byte == b'\n')
            .filter_map(Line::parse)
            .map(|line| (line.stderr, line.whole, line.content.to_vec()))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_once_and_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = Log::create(folder.path()).expect("a log");
        let mut reader = Reader::open(folder.path());
        assert!(reader.read().expect("empty").is_empty());
        log.write(Stream::Stdout, b"one\ntwo");
        log.write(Stream::Stderr, b"oh\xff \n\n");
        let text = reader.read().expect("text");
        assert_eq!(
            contents(&text),
            [
                (false, true, b"one".to_vec()),
                (false, false, b"two".to_vec()),
                (true, true, b"oh\xff ".to_vec()),
                (true, true, b"".to_vec()),
            ]
        );
        let first = text
            .split(|byte| *byte == b'\n')
            .next()
            .and_then(Line::parse);
        assert!(first.and_then(|line| line.at()).is_some());
        assert!(reader.read().expect("nothing new").is_empty());
    }

    #[test]
    fn a_log_is_bounded_and_followed_through_its_turns() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = Log::create(folder.path()).expect("a log");
        let mut reader = Reader::open(folder.path());
        let mut count = 0;
        let piece = [b'x'; 100_000];
        for number in 0..300 {
            log.write(Stream::Stdout, &piece);
            log.write(Stream::Stdout, format!("\n{number}\n").as_bytes());
            if number % 20 == 0 {
                count += contents(&reader.read().expect("text"))
                    .iter()
                    .filter(|(_, whole, content)| *whole && !content.is_empty())
                    .count();
            }
        }
        count += contents(&reader.read().expect("text"))
            .iter()
            .filter(|(_, whole, content)| *whole && !content.is_empty())
            .count();
        assert_eq!(count, 300);
        let size: u64 = NAMES
            .iter()
            .map(|name| {
                fs::metadata(folder.path().join(name))
                    .expect("a file")
                    .len()
            })
            .sum();
        assert!(size < 2 * FULL + 300_000, "{size}");
    }

    #[test]
    fn a_guest_cannot_forge_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = Log::create(folder.path()).expect("a log");
        log.write(Stream::Stdout, b"1970-01-01T00:00:00Z stderr F forged\n");
        let text = Reader::open(folder.path()).read().expect("text");
        let lines = contents(&text);
        assert_eq!(lines.len(), 1);
        assert!(!lines[0].0 && lines[0].2.ends_with(b"forged"));
    }
}
