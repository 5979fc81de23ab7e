// SPDX-License-Identifier: Apache-2.0
//! A distribution's own kernel, as it is.

use crate::support::husk::{Host, Husk};
use crate::support::{kernels, kvm, left_to_the_lab};

const INIT: &[u8] = b"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
read -r _ _ version _ </proc/version
echo \"init of $version with $1\"
/bin/busybox reboot -f
";

/// A bzImage with a built-in decompressor, ACPI, PCI and thousands of drivers it will not
/// find devices for.
#[test]
fn a_stock_debian_kernel_boots_to_its_init_and_resets() {
    let Some(host) = Host::find() else { return };
    if !kvm::runs_any_kernel() {
        left_to_the_lab("where KVM interprets ring 0 a stock kernel cannot run programs");
        return;
    }
    let Some(kernel) = std::env::var_os("HUSK_TEST_STOCK_KERNEL") else {
        left_to_the_lab("HUSK_TEST_STOCK_KERNEL names no distribution's kernel");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let initrd = folder.path().join("initrd");
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let files = [
        ("dev", None),
        ("proc", None),
        ("bin", None),
        ("bin/busybox", Some(busybox.as_slice())),
        ("init", Some(INIT)),
    ];
    std::fs::write(&initrd, kernels::initramfs(&files)).expect("a file");
    let initrd = initrd.to_str().expect("UTF-8");
    let cmdline = "console=ttyS0 quiet reboot=k panic=-1 -- its-argument";
    let boot = Husk::boot(&host.root, kernel);
    let ended = boot
        .options(&["-m", "512m", "--initrd", initrd, "--cmdline", cmdline])
        .end();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    let text = ended.text();
    let line = text.lines().find(|line| line.starts_with("init of "));
    let line = line.unwrap_or_else(|| panic!("its init says nothing: {ended:?}"));
    assert!(line.ends_with(" with its-argument"), "{line}");
}
