// SPDX-License-Identifier: Apache-2.0
//! What husk refuses: one clear line, the right exit code, nothing on standard output, and
//! nothing left behind. The machines these ask for never run an instruction.

use crate::support::husk::{Host, Husk};
use crate::support::kernels::{self, HALTS};
use crate::support::leftovers;
use crate::support::process::Ended;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A refusal: one line of husk's that says all of `words` with its causes and hints, and
/// not one of anybody else.
#[track_caller]
pub fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!((ended.code, ended.text().as_str()), (code, ""), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let own = lines
        .iter()
        .filter(|line| line.starts_with("husk: "))
        .count();
    assert_eq!(own, 1, "{ended:?}");
    let about = |line: &&str| !line.starts_with("  ") && !line.starts_with("hint: ");
    assert_eq!(
        lines.iter().skip(1).find(|line| about(line)),
        None,
        "{ended:?}"
    );
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in {ended:?}");
    }
}

/// Both verbs refuse a kernel, each with its code and nothing kept but the image.
#[track_caller]
pub fn refuses_kernel(host: &Host, kernel: &Path, words: &[&str]) {
    let boot = Husk::boot(&host.root, kernel).options(&["-m", "64m"]);
    refused(&boot.end(), 1, words);
    let run = host.run(&["true"]).kernel(kernel).options(&["-m", "64m"]);
    refused(&run.end(), 125, words);
}

#[test]
fn files_that_are_no_kernel_are_refused() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let good = kernels::elf(&HALTS, 0x1000);
    let mut narrow = good.clone();
    narrow[4] = 1;
    let huge = kernels::elf(&HALTS, 1 << 30);
    refuses_kernel(&host, Path::new("/no/such/kernel"), &["/no/such/kernel"]);
    refuses_kernel(&host, folder.path(), &["no file"]);
    refuses_kernel(&host, &file("empty", b""), &["is empty"]);
    refuses_kernel(&host, &file("cut", &good[..good.len() - 1]), &["cut short"]);
    refuses_kernel(&host, &file("header", &good[..40]), &["cut short"]);
    refuses_kernel(
        &host,
        &file("script", b"#!/bin/sh\nexit 0\n"),
        &["neither an ELF"],
    );
    refuses_kernel(&host, &file("narrow", &narrow), &["32-bit"]);
    refuses_kernel(&host, &file("huge", &huge), &["give it more memory"]);
    // Larger than the machine as a file, too: only its head is looked at.
    let large = file("large", b"\x7fELF");
    let length = 1 << 40;
    File::options()
        .write(true)
        .open(&large)
        .and_then(|file| file.set_len(length))
        .expect("a sparse file");
    refuses_kernel(&host, &large, &["large"]);
}

#[test]
fn an_initrd_larger_than_the_memory_is_refused() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("kernel");
    kernels::write(&kernel, &HALTS);
    let initrd = folder.path().join("initrd");
    let file = File::create(&initrd).expect("a file");
    file.set_len(1 << 30).expect("a sparse file");
    let initrd = initrd.to_str().expect("UTF-8");
    let boot = Husk::boot(&host.root, &kernel);
    let ended = boot.options(&["-m", "64m", "--initrd", initrd]).end();
    refused(&ended, 1, &[initrd, "give it more memory"]);
}

#[test]
fn machines_no_host_has_are_refused() {
    let Some(host) = Host::find() else { return };
    for (option, value, words) in [
        ("-m", "0", "too little"),
        ("-m", "1m", "too little"),
        ("-m", "1000000g", "more than this host has"),
        ("-c", "0", "too few"),
        ("-c", "10000", "too many"),
    ] {
        let husk = host.run(&["true"]).options(&[option, value]);
        refused(&husk.end(), 125, &[words]);
    }
}

/// Nothing is kept of an image that could not be made.
#[test]
fn images_that_cannot_be_read_are_refused() {
    let Some(host) = Host::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let empty_cache = |husk: Husk, by: &[&str], words: &[&str]| {
        let cache = tempfile::tempdir().expect("a folder");
        let ended = husk.cache(cache.path().to_owned()).by(by).end();
        refused(&ended, 125, words);
        let mut kept = leftovers::files(cache.path());
        kept.retain(|path| path.is_file());
        assert!(kept.is_empty(), "left in the cache: {kept:?}");
    };
    let image = |reference: &str| Husk::run(&host.root, reference.into(), &["true"]);
    empty_cache(image("dir:/no/such/folder"), &[], &["/no/such/folder"]);
    empty_cache(image("tar:/no/such/archive"), &[], &["/no/such/archive"]);
    empty_cache(image("/no/such/image"), &[], &["/no/such/image"]);

    let secret = folder.path().join("secret");
    std::fs::create_dir(&secret).expect("a folder");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o000)).expect("it is ours");
    let reference = format!("dir:{}", secret.display());
    // In a user namespace without identities even root has no right to other than what the
    // modes give its own files.
    let unprivileged = ["/bin/busybox", "unshare", "-U"];
    empty_cache(
        image(&reference),
        &unprivileged,
        &["secret", "ermission denied"],
    );
}

/// /dev/kvm is looked for in a mount namespace where it is hidden.
#[test]
fn a_host_without_kvm_is_refused() {
    let Some(host) = Host::find() else { return };
    let hidden = |hide: &str| {
        let script = format!("{hide} && exec \"$0\" \"$@\"");
        let words = ["unshare", "-U", "-r", "-m", "sh", "-c", &script];
        let husk = host.run(&["true"]).by(&words.map(str::to_owned));
        husk.end()
    };
    let absent = hidden("mount -t tmpfs none /dev");
    refused(&absent, 125, &["/dev/kvm", "o such file", "husk doctor"]);
    let other = hidden("mount -o bind /dev/null /dev/kvm");
    refused(&other, 125, &["KVM"]);
}
