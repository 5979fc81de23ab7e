// SPDX-License-Identifier: Apache-2.0
//! `husk snapshot export` and `import`: a snapshot as one stream.

use super::{problem, store};
use crate::cli::output::{ExitStatus, Failure, Printer, Problem};
use crate::cli::progress::Progress;
use crate::cli::table;
use crate::snapshot::{Import, SnapshotError, Store, is_name};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Read, Write};
use std::path::Path;

/// Write a snapshot to one file, for another host
///
/// Every byte is checked on the way. A snapshot that builds on another goes alone: the other
/// must be imported before it, or it be flattened first.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk snapshot export ready ready.husk
  husk snapshot export --compress ready - | ssh other husk snapshot import -

It holds the machine's memory, and so its secrets: keep it as you keep those.

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.")]
pub struct ExportArgs {
    /// Compress it (zstd): slower, and about a third as long
    #[arg(long)]
    compress: bool,
    #[arg(value_name = "NAME")]
    name: String,
    /// The file to make; - for standard output
    #[arg(value_name = "FILE")]
    file: String,
}

/// Take in a snapshot that was exported
///
/// Nothing of it is believed: what is damaged, cut short or made by hand is refused, and
/// leaves nothing.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  husk snapshot import ready.husk
  husk snapshot import --name other - < ready.husk

Machines that go on from it run what it holds: import what comes from people you trust.

Exit codes: 0, 1 for something you can mend, 2 for anything unexpected.")]
pub struct ImportArgs {
    /// What to call it, instead of what it was called
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Put it in the place of the one that has its name
    #[arg(long)]
    replace: bool,
    /// A file that `husk snapshot export` made; - for standard input
    #[arg(value_name = "FILE")]
    file: String,
}

pub fn export(args: &ExportArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let store = store()?;
    // Said before anything is made.
    let listed = store.look(&args.name).map_err(|error| problem(&error))?;
    drop(listed);
    if args.file != "-" {
        return export_to_file(&store, args, printer);
    }
    if io::stdout().is_terminal() {
        let told = Problem::new("a snapshot is nothing for a terminal");
        return Err(told
            .hint("name a file, or send it on: husk snapshot export NAME - | …")
            .into());
    }
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    written(&store, args, printer, &mut out)
}

/// Into a file that gets its name when it is whole.
fn export_to_file(
    store: &Store,
    args: &ExportArgs,
    printer: &Printer,
) -> Result<ExitStatus, Failure> {
    let path = Path::new(&args.file);
    let fail = |error: &io::Error| {
        Problem::new(format!("cannot write FILE '{}'", args.file)).because(error)
    };
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if path.file_name().is_none() || path.is_dir() {
        return Err(fail(&io::ErrorKind::IsADirectory.into()).into());
    }
    if path.exists() && !path.is_file() {
        // A device or a pipe has its name already.
        let file = File::options().write(true).open(path);
        let mut file = file.map_err(|error| fail(&error))?;
        return written(store, args, printer, &mut file);
    }
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| fail(&error))?;
    written(store, args, printer, &mut file)?;
    file.as_file().sync_all().map_err(|error| fail(&error))?;
    file.persist(path).map_err(|error| fail(&error.error))?;
    Ok(ExitStatus::Success)
}

fn written(
    store: &Store,
    args: &ExportArgs,
    printer: &Printer,
    out: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let mut progress = Progress::new(printer.talk, !io::stderr().is_terminal());
    progress.step("exporting");
    let mut told = |count| progress.detail(&table::size(count));
    let exported = store.export(&args.name, out, args.compress, &mut told);
    drop(progress);
    match exported {
        Ok(()) => Ok(ExitStatus::Success),
        Err(error) => Err(problem(&error).into()),
    }
}

pub fn import(args: &ImportArgs, printer: &Printer) -> Result<ExitStatus, Failure> {
    let store = store()?;
    if let Some(name) = args.name.as_deref().filter(|name| !is_name(name)) {
        let told = problem(&SnapshotError::Name(name.to_owned()));
        return Err(Problem {
            what: format!("--name: {}", told.what),
            ..told
        }
        .into());
    }
    let mut from: Box<dyn Read> =
        match args.file.as_str() {
            "-" => Box::new(io::stdin().lock()),
            path => Box::new(File::open(path).map_err(|error| {
                Problem::new(format!("cannot open FILE '{path}'")).because(&error)
            })?),
        };
    let mut progress = Progress::new(printer.talk, !io::stderr().is_terminal());
    progress.step("importing");
    let mut told = |count| progress.detail(&table::size(count));
    let how = Import {
        name: args.name.clone(),
        replace: args.replace,
    };
    let imported = store.import(&mut *from, &how, &mut told);
    drop(progress);
    let name = imported.map_err(|error| {
        let told = problem(&error);
        match error {
            SnapshotError::Stream(_) => Problem {
                what: format!("cannot import FILE '{}': {}", args.file, told.what),
                ..told
            },
            _ => told,
        }
    })?;
    printer.data(format!("{name}\n").as_bytes())?;
    Ok(ExitStatus::Success)
}
