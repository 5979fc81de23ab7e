// SPDX-License-Identifier: Apache-2.0
//! `husk cp`: files into and out of a machine that runs.
//!
//! The agent packs and unpacks, so that the image needs nothing for it. What comes out of a
//! guest is hostile: `unpack` sees to it that nothing outside of the destination is touched.

mod unpack;

use super::exec::own;
use super::guest::{self, Call, drive};
use super::output::{ExitStatus, Failure, Printer, Problem};
use super::run::place;
use super::signals::Signals;
use crate::instance::session::Streams;
use anyhow::Context as _;
use std::ffi::OsStr;
use std::io::{self, PipeReader, PipeWriter};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::thread;

/// Copy files into or out of a machine
///
/// One of both is MACHINE:PATH, the other a path of this host. A directory is copied with
/// all below it; DIR/. copies what is in it. What arrives belongs to root in the guest, and
/// on the host to you. Devices, pipes and sockets are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk cp web:/var/log/nginx ./logs
  husk cp nginx.conf web:/etc/nginx/nginx.conf
  husk cp web:/etc/hosts - | tar t

With - for a path of this host, a tar stream is written, or read.")]
pub struct CpArgs {
    #[arg(value_name = "[MACHINE:]FROM")]
    from: String,
    #[arg(value_name = "[MACHINE:]TO")]
    to: String,
}

pub fn execute(args: &CpArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    match (guest_path(&args.from), guest_path(&args.to)) {
        (Some((machine, path)), None) => out(machine, path, &args.to, printer),
        (None, Some((machine, path))) => into(&args.from, machine, path),
        (None, None) => Err(Problem::new("neither path is in a machine")
            .hint("one of them looks like MACHINE:/path")
            .into()),
        (Some(_), Some(_)) => Err(Problem::new("both paths are in machines")
            .hint("copy to this host first, or to - and from -")
            .into()),
    }
}

/// `MACHINE:PATH`; a path of the host that has a colon can be written ./a:b.
fn guest_path(text: &str) -> Option<(&str, &str)> {
    let (machine, path) = text.split_once(':')?;
    let plain = !machine.is_empty() && !machine.contains('/') && !machine.starts_with('.');
    (plain && !path.is_empty()).then_some((machine, path))
}

fn out(machine: &str, path: &str, to: &str, printer: &Printer) -> Result<ExitStatus, Failure> {
    let call = own(&place()?, machine, &[b"archive", path.as_bytes()], false)?;
    if to == "-" {
        return guest::converse(call, guest::streams(false)?, false);
    }
    let target = unpack::Target::open(Path::new(to), last_name(path))?;
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let streams = Streams {
        stdin: None,
        stdout: Some(writer.into()),
        ..guest::streams(false)?
    };
    let (code, unpacked) = with_thread(call, streams, move || unpack::unpack(reader, &target))?;
    let skipped = unpacked?;
    for line in &skipped {
        printer.talk(&format!("husk: {line}\n"));
    }
    Ok(match (code, skipped.is_empty()) {
        (0, true) => ExitStatus::Success,
        _ => ExitStatus::UserError,
    })
}

/// What a path of the guest is called here; none for the content of a directory.
fn last_name(path: &str) -> Option<&OsStr> {
    let name = path.trim_end_matches('/').rsplit('/').next();
    name.filter(|name| !matches!(*name, "" | "." | ".."))
        .map(OsStr::new)
}

fn into(from: &str, machine: &str, path: &str) -> Result<ExitStatus, Failure> {
    let words: [&[u8]; 3] = [b"extract", path.as_bytes(), b"contents"];
    let words = match is_contents(from) {
        true => &words[..],
        false => &words[..2],
    };
    let ask = || own(&place()?, machine, words, true);
    if from == "-" {
        return guest::converse(ask()?, guest::streams(true)?, false);
    }
    // Missing is told before the guest is asked.
    let meta = std::fs::metadata(from)
        .map_err(|error| Problem::new(format!("cannot copy {from}")).because(&error))?;
    let call = ask()?;
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let streams = input(reader)?;
    let from = from.to_owned();
    let directory = meta.is_dir();
    let (code, packed) = with_thread(call, streams, move || pack(&from, directory, writer))?;
    match (code, packed) {
        (0, Ok(())) => Ok(ExitStatus::Success),
        (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::new("not all was copied").because(&error).into())
        }
        _ => Ok(ExitStatus::UserError),
    }
}

fn input(reader: PipeReader) -> anyhow::Result<Streams> {
    Ok(Streams {
        stdin: Some(reader.into()),
        ..guest::streams(false)?
    })
}

/// A session on this thread, and its other end on another.
fn with_thread<T: Send>(
    call: Call,
    streams: Streams,
    work: impl FnOnce() -> T + Send,
) -> Result<(u8, T), Failure> {
    let signals = Signals::catch().context("cannot catch signals")?;
    let (result, done) = thread::scope(|scope| {
        let working = scope.spawn(work);
        let result = drive(call, streams, &signals, false);
        (result, working.join())
    });
    let outcome = result.map_err(|error| guest::failure(&error))?;
    let done = done.map_err(|_| anyhow::anyhow!("copying failed"))?;
    Ok((outcome.code(), done))
}

/// A directory that is named by what it holds.
fn is_contents(from: &str) -> bool {
    from == "." || from.ends_with("/.")
}

/// Sends a file or a directory of the host.
fn pack(from: &str, directory: bool, writer: PipeWriter) -> io::Result<()> {
    let mut builder = tar::Builder::new(writer);
    builder.follow_symlinks(false);
    // Holes are a form of their own, which the agent does not read.
    builder.sparse(false);
    let mut left_out = Vec::new();
    let path = Path::new(from);
    let name = match path.components().next_back() {
        Some(Component::Normal(name)) if !is_contents(from) => name,
        _ => OsStr::new("."),
    };
    if directory {
        left_out = pack_directory(&mut builder, Path::new(name), path)?;
    } else {
        // A pipe would be waited for, a device may have no end, and neither has a size.
        if !std::fs::metadata(path)?.is_file() {
            let why = "it is no file and no directory";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        // What is named is followed; links further down are copied as such.
        let mut file = std::fs::File::open(path)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&file.metadata()?);
        // A name of this host may be no UTF-8; the stream takes any bytes.
        let name = Path::new(OsStr::from_bytes(name.as_bytes()));
        builder.append_data(&mut header, name, &mut file)?;
    }
    builder.finish()?;
    match left_out.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            let first = first.display();
            Err(io::Error::other(format!(
                "{first}{more}: no file, directory or link"
            )))
        }
    }
}

/// Sends a directory as `name`, with all below it; returns what means something only where
/// it is.
fn pack_directory(
    builder: &mut tar::Builder<PipeWriter>,
    name: &Path,
    path: &Path,
) -> io::Result<Vec<PathBuf>> {
    let mut left_out = Vec::new();
    let mut stack = vec![(path.to_owned(), name.join(""))];
    builder.append_dir(name.join(""), path)?;
    while let Some((from, to)) = stack.pop() {
        for entry in std::fs::read_dir(&from)? {
            let entry = entry?;
            let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
            if kind.is_dir() {
                builder.append_dir(&to, entry.path())?;
                stack.push((entry.path(), to));
            } else if kind.is_file() || kind.is_symlink() {
                builder.append_path_with_name(entry.path(), to)?;
            } else {
                left_out.push(entry.path());
            }
        }
    }
    Ok(left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_has_the_name_that_was_asked_for() {
        let name = |path| last_name(path).and_then(OsStr::to_str);
        assert_eq!(name("/var/log//"), Some("log"));
        assert_eq!(name("log"), Some("log"));
        for path in ["/", "/var/.", "/var/..", "."] {
            assert_eq!(name(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        for path in [pipe.to_str().expect("a path"), "/dev/zero"] {
            let (_reader, writer) = io::pipe().expect("a pipe");
            let error = pack(path, false, writer).expect_err("no file");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }

    #[test]
    fn a_directory_goes_whole_but_for_what_means_something_only_there() {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
        let folder = tempfile::tempdir().expect("a folder");
        let from = folder.path().join("from");
        std::fs::create_dir_all(from.join("below")).expect("a folder");
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket"));
        nix::unistd::mkfifo(&from.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        symlink("below/holes", from.join("link")).expect("a link");
        let holes = std::fs::File::create(from.join("below/holes")).expect("a file");
        holes.write_all_at(b"end", 4 << 20).expect("written");
        assert!(holes.metadata().expect("a file").blocks() < 1024, "holes");
        std::fs::write(from.join("below/last"), "last").expect("written");

        let to = folder.path().join("to");
        std::fs::create_dir(&to).expect("a folder");
        let target = unpack::Target::open(&to, None).expect("a target");
        let (reader, writer) = io::pipe().expect("a pipe");
        let packed = thread::scope(|scope| {
            let packing = scope.spawn(|| pack(from.to_str().expect("a path"), true, writer));
            let complaints = unpack::unpack(reader, &target).expect("a stream");
            assert_eq!(complaints, Vec::<String>::new());
            packing.join().expect("no panic")
        });
        let told = packed.expect_err("two were left out").to_string();
        assert!(told.contains("and 1 more: no file"), "{told}");
        let to = to.join("from");
        let names = std::fs::read_dir(&to).expect("a folder").count();
        assert_eq!(names, 2, "a folder and a link");
        let bytes = std::fs::read(to.join("link")).expect("a link to a file");
        assert!(bytes.len() == (4 << 20) + 3 && bytes.ends_with(b"\0end"));
        assert_eq!(
            std::fs::read(to.join("below/last")).expect("a file"),
            b"last"
        );
    }

    #[test]
    fn paths_of_guests_have_a_colon_before_any_slash() {
        assert_eq!(guest_path("web:/a:b"), Some(("web", "/a:b")));
        assert_eq!(guest_path("web:rel"), Some(("web", "rel")));
        for text in ["./a:b", "/a:b", "a", ":x", "web:", "../x:y"] {
            assert_eq!(guest_path(text), None, "{text}");
        }
    }
}
