// SPDX-License-Identifier: Apache-2.0
//! What `husk run`'s options do in the guest, and that the guest does nothing to the image.

use crate::support::husk::{Host, Husk};
use crate::support::leftovers;
use crate::support::root::Root;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[test]
fn the_command_gets_its_environment_user_folder_and_host_name() {
    let Some(host) = Host::find() else { return };
    let script = "echo \"$GREETING|$GIVEN|$NOT_GIVEN\"; pwd; id -u; id -g; hostname; \
                  cat /proc/sys/kernel/hostname; touch /tmp/x 2>/dev/null || echo cannot write";
    let husk = host.sh(script).options(&[
        "-e",
        "GREETING=good day = to you",
        "--env",
        "GIVEN",
        "-w",
        "/etc",
        "-u",
        "guest:1000",
        "--hostname",
        "zoo",
    ]);
    let husk = husk.env("GIVEN", "by the host").env("NOT_GIVEN", "secret");
    let said = "good day = to you|by the host|\n/etc\n1000\n1000\nzoo\nzoo\ncannot write\n";
    husk.end().is(0, said, "");
}

#[test]
fn options_behind_the_image_are_the_commands() {
    let Some(host) = Host::find() else { return };
    let husk = host.run(&["-c", "echo \"$0 $*\"", "--memory", "--", "-it"]);
    let husk = husk.options(&["--entrypoint", "sh"]);
    husk.end().is(0, "--memory -- -it\n", "");
}

/// Every file of a folder with what it holds and may do.
fn picture(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt as _;
    let describe = |path: PathBuf| {
        let meta = std::fs::symlink_metadata(&path).expect("it is there");
        let bytes = match meta.is_file() {
            true => std::fs::read(&path).expect("it is readable"),
            false => Vec::new(),
        };
        (path, (meta.permissions().mode(), bytes))
    };
    leftovers::files(folder).into_iter().map(describe).collect()
}

#[test]
fn what_the_guest_writes_stays_in_the_guest() {
    let Some(_host) = Host::find() else { return };
    // Its own, which nobody else looks at or changes meanwhile.
    let root = Root::make();
    let before = picture(&root.path());
    let script = "echo changed > /etc/motd && rm /bin/no-program && echo new > /new && \
                  cat /etc/motd /new; ls /bin/no-program 2>/dev/null || echo gone";
    let husk = Husk::run(&root, root.dir(), &["sh", "-c", script]);
    husk.end().is(0, "changed\nnew\ngone\n", "");
    assert!(picture(&root.path()) == before, "the image was changed");
}

#[test]
fn a_read_only_root_refuses_writes() {
    let Some(host) = Host::find() else { return };
    let script = "cat /etc/motd; touch /new; echo $?; echo more >> /etc/motd; cat /etc/motd";
    let ended = host.sh(script).options(&["--read-only"]).end();
    assert_eq!(ended.text(), "as it was\n1\nas it was\n", "{ended:?}");
    assert_eq!(
        ended.stderr.matches("Read-only file system").count(),
        2,
        "{ended:?}"
    );
}
