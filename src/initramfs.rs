// SPDX-License-Identifier: Apache-2.0
//! The initramfs husk gives its own kernels: the agent as /init and the directories it
//! mounts on. Pure and deterministic: the same agent makes the same bytes. Tool side, any
//! thread; must never read the host's file system.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst, "newc".

/// PID 1 of the guest, built by build.rs.
pub const AGENT: &[u8] = include_bytes!(env!("HUSK_AGENT"));

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Mount points of `guest/agent/src/root.rs`; those below them are made there.
const DIRECTORIES: [&str; 6] = ["dev", "image", "proc", "root", "scratch", "sys"];

/// The archive, uncompressed: unpacking is the guest kernel's time.
pub fn agent_initramfs() -> Vec<u8> {
    begin(AGENT).finish()
}

/// The same for a machine of another's monitor: a program in the agent's place, and what it
/// is to do.
pub fn initramfs_with(init: &[u8], task: &[u8]) -> Vec<u8> {
    let mut archive = begin(init);
    archive.entry("task", FILE, (0, 0), task);
    archive.finish()
}

fn begin(init: &[u8]) -> Archive {
    let mut archive = Archive::default();
    for name in DIRECTORIES {
        archive.entry(name, DIRECTORY, (0, 0), &[]);
    }
    // The kernel opens the console before init could mount a devtmpfs (init/main.c,
    // console_on_rootfs).
    archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    archive.entry("init", PROGRAM, (0, 0), init);
    archive
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Owner root, time zero, one link: nothing of the host that wrote it.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = 1;
        let fields = [
            self.entries, // inode
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            length(content.len()),
            0, // device of the file itself, major and minor
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            0, // check
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

/// Everything archived here is part of this program, and so far below 4 GiB.
fn length(n: usize) -> u32 {
    u32::try_from(n).expect("a part of husk itself is shorter than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    struct Entry {
        name: String,
        mode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads an archive as strictly as the kernel's init/initramfs.c.
    fn entries(mut rest: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut offset = 0;
        let mut take = |n: usize, aligned: bool| {
            let (head, tail) = rest.split_at(n);
            rest = tail;
            offset += n;
            if aligned {
                let padding = offset.next_multiple_of(4) - offset;
                let (zeroes, tail) = rest.split_at(padding);
                assert!(zeroes.iter().all(|&b| b == 0));
                rest = tail;
                offset += padding;
            }
            head
        };
        loop {
            let header = take(110, false);
            assert_eq!(&header[..6], b"070701");
            let field = |i: usize| {
                let text = std::str::from_utf8(&header[6 + 8 * i..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let name = take(field(11) as usize, true);
            let content = take(field(6) as usize, true);
            let (&nul, name) = name.split_last().unwrap();
            assert_eq!(nul, 0);
            let name = String::from_utf8(name.to_vec()).unwrap();
            if name == "TRAILER!!!" {
                break;
            }
            entries.push(Entry {
                name,
                mode: field(1),
                device: (field(9), field(10)),
                content: content.to_vec(),
            });
        }
        assert!(rest.is_empty());
        entries
    }

    #[test]
    fn the_archive_holds_the_agent_and_what_it_needs() {
        let archive = agent_initramfs();
        assert_eq!(archive, agent_initramfs());
        let entries = entries(&archive);
        let entry = |name: &str| entries.iter().find(|e| e.name == name).unwrap();
        assert_eq!(entry("init").mode, 0o100_755);
        assert_eq!(entry("init").content, AGENT);
        assert_eq!(entry("dev/console").mode, 0o020_600);
        assert_eq!(entry("dev/console").device, (5, 1));
        for name in DIRECTORIES {
            assert_eq!(entry(name).mode, 0o040_755);
        }
        // A directory must come before what is in it.
        let position = |name: &str| entries.iter().position(|e| e.name == name);
        assert!(position("dev") < position("dev/console"));
    }

    #[test]
    fn the_agent_is_a_static_program_without_interpreter() {
        assert_eq!(&AGENT[..4], b"\x7fELF");
        // e_type 2: fixed address. PT_INTERP is 3, in program headers of 56 bytes at e_phoff.
        assert_eq!(AGENT[16], 2);
        let offset = AGENT[32] as usize;
        let count = AGENT[56] as usize;
        for i in 0..count {
            assert_ne!(AGENT[offset + i * 56], 3, "program header {i} is PT_INTERP");
        }
        // Every boot unpacks it, on some hosts with an interpreted kernel: what makes it grow is
        // to be worth that. A third of it is what a restored machine's identity takes.
        assert!(AGENT.len() < 120 * 1024, "{} bytes", AGENT.len());
    }

    #[test]
    fn cpio_lists_the_same_names() {
        let archive = agent_initramfs();
        let mut cpio = match Command::new("cpio")
            .args(["-it", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        {
            Ok(cpio) => cpio,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: no cpio here; our own strict reader ran all the same");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let names: Vec<_> = entries(&archive).into_iter().map(|e| e.name).collect();
        assert_eq!(
            String::from_utf8(output.stdout)
                .unwrap()
                .lines()
                .collect::<Vec<_>>(),
            names
        );
    }
}
