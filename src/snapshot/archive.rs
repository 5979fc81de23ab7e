// SPDX-License-Identifier: Apache-2.0
//! A snapshot as one stream, for another host: a tar archive of plain files in one fixed
//! order, of sparse ones the pages that hold anything (docs/snapshot-format.md). Any thread of
//! the tool.
//!
//! What comes in is hostile. Only what belongs there next is taken, into files this module
//! names itself; nothing is longer than the manifest says, and the manifest says nothing
//! without a bound. What a stream takes of the disk it has brought itself, byte for byte.

use super::draft::Draft;
use super::error::{Fault, SnapshotError, failed};
use super::format::{Entry, FormatFault, MAX_MANIFEST, Manifest, is_name, is_sparse};
use super::pages::{self, PAGE, Run};
use super::store::{DIGEST, MANIFEST, Store, Trust, check_alone};
use super::verify::each_page;
use crate::image::{Digest, LOOK, room, unzstd};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// Of a sparse file: which pages follow, and those.
const MAP: &str = ".map";
const DATA: &str = ".data";
/// Most runs of a map, a page of each of which would be 16 GiB. Stops a map, which is read into
/// memory, from filling that; a file with more of them is sent with some of its zeros.
const MAX_RUNS: usize = 4 << 20;
/// Bytes of one run.
const RUN: u64 = 16;
/// Length of the digest's file.
const DIGEST_LENGTH: u64 = 72;
/// Bytes copied at a time.
const PIECE: usize = 256 << 10;
/// Bytes that are compressed on their own.
const FRAME: usize = 4 << 20;
/// How a zstd frame begins (RFC 8878, section 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What an import is told.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Instead of the name it was exported by.
    pub name: Option<String>,
    /// It may take the place of one that has its name.
    pub replace: bool,
}

impl Store {
    /// Writes a snapshot to `out`, of which every byte has been checked. `told` hears how many
    /// bytes have gone.
    pub fn export(
        &self,
        name: &str,
        out: &mut dyn Write,
        compress: bool,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), SnapshotError> {
        let lock = self.shared(name)?;
        let fail = |fault| SnapshotError::fault(name, fault);
        let (manifest, digest, bytes) = self.manifest(name).map_err(fail)?;
        let files = self.open_files(name, &manifest, Trust::Nothing, |_| true);
        let files = files.map_err(fail)?;
        drop(lock);
        let mut writing = Writing {
            name,
            made: manifest.created,
            told,
            count: 0,
        };
        let mut write = |out: &mut dyn Write| -> io::Result<()> {
            let mut tar = tar::Builder::new(out);
            writing.small(&mut tar, MANIFEST, &bytes)?;
            writing.small(&mut tar, DIGEST, format!("{digest}\n").as_bytes())?;
            for entry in &manifest.files {
                if let Some(file) = files.get(&entry.name) {
                    writing.file(&mut tar, entry, file)?;
                }
            }
            tar.finish()
        };
        let written = match compress {
            false => write(out).and_then(|()| out.flush()),
            true => {
                let mut packed = Packed {
                    out,
                    buffer: Vec::with_capacity(FRAME),
                };
                write(&mut packed).and_then(|()| packed.flush())
            }
        };
        written.map_err(failed("export", self.folder(name)?.as_path()))
    }

    /// Takes a snapshot out of a stream. Says its name.
    pub fn import(
        &self,
        from: &mut dyn Read,
        how: &Import,
        told: &mut dyn FnMut(u64),
    ) -> Result<String, SnapshotError> {
        let mut start = Vec::new();
        let magic = from.take(ZSTD.len() as u64).read_to_end(&mut start);
        magic.map_err(|error| SnapshotError::Stream(plain(&error)))?;
        let packed = start == ZSTD;
        let whole = io::Cursor::new(start).chain(from);
        let stream: Box<dyn Read + '_> = match packed {
            true => unzstd(whole),
            false => Box::new(whole),
        };
        let mut archive = tar::Archive::new(BufReader::with_capacity(PIECE, stream));
        let entries = archive.entries().map_err(|error| stream_error(&error))?;
        Reading {
            store: self,
            // Headers as they are: no name, link or map of an extension is followed.
            entries: entries.raw(true),
            folder: String::new(),
            count: 0,
            told,
        }
        .run(how)
    }
}

/// The words of an error without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn stream_error(error: &io::Error) -> SnapshotError {
    SnapshotError::Stream(plain(error))
}

struct Writing<'a> {
    name: &'a str,
    made: u64,
    told: &'a mut dyn FnMut(u64),
    count: u64,
}

impl Writing<'_> {
    fn header(&self, name: &str, length: u64) -> io::Result<tar::Header> {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("{}/{name}", self.name))?;
        header.set_size(length);
        header.set_mode(0o600);
        header.set_mtime(self.made / 1_000_000_000);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        Ok(header)
    }

    fn small<W: Write>(
        &self,
        tar: &mut tar::Builder<W>,
        name: &str,
        bytes: &[u8],
    ) -> io::Result<()> {
        tar.append(&self.header(name, bytes.len() as u64)?, bytes)
    }

    fn file<W: Write>(
        &mut self,
        tar: &mut tar::Builder<W>,
        entry: &Entry,
        file: &File,
    ) -> io::Result<()> {
        if !is_sparse(&entry.name) {
            let header = self.header(&entry.name, entry.length)?;
            return tar.append(&header, FromStart { file, at: 0 });
        }
        let runs = runs_of(file, entry.length)?;
        self.small(tar, &format!("{}{MAP}", entry.name), &pages::encode(&runs))?;
        let count: u64 = runs.iter().map(|run| run.count).sum();
        let header = self.header(&format!("{}{DATA}", entry.name), count * PAGE)?;
        let data = Data {
            file,
            length: entry.length,
            runs: runs.into_iter(),
            at: 0,
            left: 0,
            writing: self,
        };
        tar.append(&header, data)
    }
}

/// The pages of a sparse file that hold anything but zeros.
fn runs_of(file: &File, length: u64) -> io::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut piece = vec![0; PIECE];
    each_page(file, 0, length, &mut piece, |at, _| {
        let page = at / PAGE;
        match runs.last_mut() {
            Some(last) if last.start + last.count == page => last.count += 1,
            _ => runs.push(Run {
                start: page,
                count: 1,
            }),
        }
        Ok(())
    })?;
    Ok(at_most(runs, MAX_RUNS))
}

/// The same pages in no more than so many runs, with others between them if need be.
fn at_most(mut runs: Vec<Run>, most: usize) -> Vec<Run> {
    let mut gap = 1;
    while runs.len() > most {
        runs.dedup_by(|next, last| {
            let near = next.start - (last.start + last.count) <= gap;
            if near {
                last.count = next.start + next.count - last.start;
            }
            near
        });
        gap *= 2;
    }
    runs
}

/// A file from its beginning, wherever others read it.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Pages one after the other; a last one that is short is filled up with zeros.
struct Data<'a, 'b> {
    file: &'a File,
    length: u64,
    runs: std::vec::IntoIter<Run>,
    at: u64,
    /// Of the run.
    left: u64,
    writing: &'a mut Writing<'b>,
}

impl Read for Data<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let Some(run) = self.runs.next() else {
                return Ok(0);
            };
            (self.at, self.left) = (run.start * PAGE, run.count * PAGE);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let real = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let count = match most.min(real) {
            0 => {
                buffer[..most].fill(0);
                most
            }
            some => self.file.read_at(&mut buffer[..some], self.at)?,
        };
        self.at += count as u64;
        self.left -= count as u64;
        self.writing.count += count as u64;
        (self.writing.told)(self.writing.count);
        Ok(count)
    }
}

/// Compresses piece by piece, each a frame of its own: none is kept waiting for another.
struct Packed<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
}

impl Packed<'_> {
    fn frame(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let frame = compress_to_vec(&self.buffer[..], CompressionLevel::Fastest);
        self.buffer.clear();
        self.out.write_all(&frame)
    }
}

impl Write for Packed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(FRAME - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == FRAME {
            self.frame()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.frame()?;
        self.out.flush()
    }
}

struct Reading<'a, 'r, R: Read> {
    store: &'a Store,
    entries: tar::Entries<'r, R>,
    /// The name it was exported by, before every file's.
    folder: String,
    count: u64,
    told: &'a mut dyn FnMut(u64),
}

impl<'r, R: Read> Reading<'_, 'r, R> {
    fn run(mut self, how: &Import) -> Result<String, SnapshotError> {
        let bytes = self.small(MANIFEST, MAX_MANIFEST)?;
        let manifest = Manifest::read(&bytes);
        let name = how.name.clone().unwrap_or_else(|| self.folder.clone());
        let fail = |fault| SnapshotError::fault(&name, fault);
        let manifest = manifest.map_err(|fault: FormatFault| fail(fault.into()))?;
        let digest = format!("{}\n", Digest::of(&bytes));
        if self.small(DIGEST, DIGEST_LENGTH)? != digest.as_bytes() {
            return Err(fail(Fault::Digest(MANIFEST.to_owned())));
        }
        if !how.replace && self.store.has(&name) {
            return Err(SnapshotError::Exists(name));
        }
        let mut draft = self.store.draft(&name)?;
        if !how.replace {
            draft = draft.only_new();
        }
        draft.came_from_elsewhere()?;
        for entry in &manifest.files {
            self.file(&draft, entry)?;
        }
        match self.entries.next() {
            None => {}
            Some(Ok(_)) => {
                return Err(SnapshotError::Stream(
                    "it has more files than one has".into(),
                ));
            }
            Some(Err(error)) => return Err(stream_error(&error)),
        }
        let (found, seal) = draft.seal(manifest.parent.is_some())?;
        for (entry, found) in manifest.files.iter().zip(&found) {
            if entry != found {
                return Err(fail(Fault::Digest(entry.name.clone())));
            }
        }
        check_alone(draft.path(), &manifest).map_err(fail)?;
        draft.publish_bytes(&manifest, &bytes, &seal)?;
        Ok(name)
    }

    /// The next entry, which must be the file of this name, and its length.
    fn next(&mut self, name: &str) -> Result<(tar::Entry<'r, R>, u64), SnapshotError> {
        let bad = |what: String| SnapshotError::Stream(what);
        let entry = match self.entries.next() {
            None => return Err(bad(format!("it ends where {name} should be"))),
            Some(entry) => entry.map_err(|error| stream_error(&error))?,
        };
        let header = entry.header();
        let length = header.entry_size().map_err(|error| stream_error(&error))?;
        let path = entry.path_bytes();
        let path = std::str::from_utf8(&path).unwrap_or_default();
        let (folder, file) = path.split_once('/').unwrap_or_default();
        if self.folder.is_empty() && is_name(folder) {
            folder.clone_into(&mut self.folder);
        }
        let is_plain = header.entry_type() == tar::EntryType::Regular;
        if file != name || folder != self.folder || folder.is_empty() || !is_plain {
            let found: String = path.chars().take(100).collect();
            let kind = if is_plain {
                ""
            } else {
                ", which is no plain file,"
            };
            return Err(bad(format!(
                "it has '{found}'{kind} where {name} should be"
            )));
        }
        Ok((entry, length))
    }

    fn small(&mut self, name: &str, most: u64) -> Result<Vec<u8>, SnapshotError> {
        let (entry, length) = self.next(name)?;
        if length > most {
            return Err(long(name));
        }
        let mut bytes = Vec::new();
        let read = entry.take(length).read_to_end(&mut bytes);
        read.map_err(|error| stream_error(&error))?;
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(SnapshotError::Stream(format!("it ends within {name}"))),
        }
    }

    fn file(&mut self, draft: &Draft, entry: &Entry) -> Result<(), SnapshotError> {
        let target = Target {
            file: draft.create(&entry.name)?,
            path: draft.path().join(&entry.name),
            length: entry.length,
        };
        if !is_sparse(&entry.name) {
            return self.copy(&entry.name, &target, &[(0, entry.length)]);
        }
        let sized = target.file.set_len(entry.length);
        sized.map_err(failed("write", &target.path))?;
        let pages = entry.length.div_ceil(PAGE);
        let map = format!("{}{MAP}", entry.name);
        let list = self.small(&map, pages.min(MAX_RUNS as u64) * RUN)?;
        let runs = pages::decode(&list, pages);
        let runs = runs.ok_or_else(|| SnapshotError::Stream(format!("{map} makes no sense")))?;
        drop(list);
        let spans = runs.iter().map(|run| (run.start * PAGE, run.count * PAGE));
        let spans: Vec<(u64, u64)> = spans.collect();
        self.copy(&format!("{}{DATA}", entry.name), &target, &spans)
    }

    /// Takes bytes for these parts of a file, each a place and a length.
    fn copy(
        &mut self,
        name: &str,
        target: &Target,
        spans: &[(u64, u64)],
    ) -> Result<(), SnapshotError> {
        let (mut entry, length) = self.next(name)?;
        if length != spans.iter().map(|(_, count)| count).sum::<u64>() {
            return Err(long(name));
        }
        let mut looked = None;
        let mut piece = vec![0; PIECE];
        for &(mut at, mut left) in spans {
            while left > 0 {
                if looked.is_none_or(|looked| self.count - looked >= LOOK) {
                    looked = Some(self.count);
                    room(&target.file).map_err(failed("write", &target.path))?;
                }
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let most = most.min(piece.len());
                let bytes = &mut piece[..most];
                let read = entry.read_exact(bytes);
                read.map_err(|_| SnapshotError::Stream(format!("it ends within {name}")))?;
                target.write(bytes, at)?;
                at += most as u64;
                left -= most as u64;
                self.count += most as u64;
                (self.told)(self.count);
            }
        }
        Ok(())
    }
}

/// Where a file of the stream goes.
struct Target {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Target {
    /// Of the last page, as much as there is.
    fn write(&self, bytes: &[u8], at: u64) -> Result<(), SnapshotError> {
        let real = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        let written = self.file.write_all_at(&bytes[..real.min(bytes.len())], at);
        written.map_err(failed("write", &self.path))
    }
}

fn long(name: &str) -> SnapshotError {
    SnapshotError::Stream(format!("its {name} has another length than it should"))
}
