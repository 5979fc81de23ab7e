// SPDX-License-Identifier: Apache-2.0
//! Both halves of a session together: `drive` against the very agent that guests run, as
//! an ordinary process of the host.

mod further;
mod harness;
mod hostile;
mod saving;

use super::{Event, How, SessionError};
use crate::control::{End, Report};
use harness::{Bench, Ran, sh};
use husk_protocol::{Exit, Size, Terminal};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::process::Command;

const INT: u8 = 2;
const TERM: u8 = 15;
const WINCH: u8 = 28;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn exit_codes_and_separate_streams() {
    let ran = Bench::new(sh("echo out; echo err >&2; exit 7")).run();
    assert_eq!(ran.how(), How::Exited(Exit::Code(7)));
    assert_eq!(ran.code(), 7);
    assert_eq!(text(&ran.stdout), "out\n");
    assert_eq!(text(&ran.stderr), "err\n");
    assert_eq!(ran.result.unwrap().end, Some(End::Reset));
}

#[test]
fn a_killing_signal_is_told_as_one() {
    let ran = Bench::new(sh("kill -9 $$")).run();
    assert_eq!(ran.how(), How::Exited(Exit::Signal(9)));
    assert_eq!(ran.code(), 137);
}

#[test]
fn what_cannot_start_is_told_with_the_code_of_shells() {
    let mut start = sh("");
    start.argv = vec![b"no-such-command".to_vec()];
    let error = Bench::new(start).run().result.unwrap_err();
    assert_eq!(error.code(), 127);
    assert_eq!(error.to_string(), "'no-such-command': command not found");
    let mut start = sh("");
    start.argv = vec![b"/etc/passwd".to_vec()];
    let error = Bench::new(start).run().result.unwrap_err();
    assert_eq!(error.code(), 126);
    assert!(
        error.to_string().ends_with(": Permission denied"),
        "{error}"
    );
    let mut start = sh("");
    start.user = "nobody-of-that-name".into();
    let error = Bench::new(start).run().result.unwrap_err();
    assert_eq!(error.code(), 125);
}

#[test]
fn environment_and_directory_are_as_given() {
    let mut start = sh("pwd; echo \"$A\"; echo \"$HOME\"");
    start.env.push(b"A=x  \xff y".to_vec());
    start.env.push(b"HOME=/h".to_vec());
    start.cwd = b"/usr".to_vec();
    let ran = Bench::new(start).run();
    assert_eq!(ran.stdout, b"/usr\nx  \xff y\n/h\n");
}

#[test]
fn another_user_needs_root_and_is_complete() {
    let mut start = sh("id -u; id -g; id -G; cat /proc/self/fd/0; echo x >/dev/stdout");
    start.user = "64321:64322".into();
    let ran = Bench::new(start).run();
    if nix::unistd::geteuid().is_root() {
        assert_eq!(text(&ran.stdout), "64321\n64322\n64322\nx\n");
    } else {
        assert_eq!(ran.result.unwrap_err().code(), 125);
    }
}

#[test]
fn the_process_starts_as_any_other_but_in_a_session_of_its_own() {
    let same = "grep -E 'SigBlk|SigIgn' /proc/self/status; ls /proc/self/fd | wc -l";
    let shell = ["--default-signal", "/bin/sh", "-c", same];
    let shell = Command::new("env").args(shell).output().unwrap();
    let script = format!("{same}; ps -o pid=,pgid=,sid= -p $$ | awk '{{print $1==$2, $2==$3}}'");
    let ran = Bench::new(sh(&script)).run();
    assert_eq!(text(&ran.stdout), format!("{}1 1\n", text(&shell.stdout)));
}

#[test]
fn ten_mebibytes_through_and_back_are_equal() {
    let mut bench = Bench::new(sh("exec cat"));
    let mut stdin = bench.pipe_stdin();
    let mut seed = 1u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_le_bytes()[7]
    })
    .take(10 << 20)
    .collect();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let ran = bench.run();
    writer.join().unwrap();
    assert_eq!(ran.code(), 0);
    assert!(ran.stdout == bytes, "{} bytes came back", ran.stdout.len());
}

#[test]
fn input_may_be_a_file_or_nothing() {
    let mut bench = Bench::new(sh("cat; echo end"));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"of a file\n").unwrap();
    file.rewind().unwrap();
    bench.stdin(file.into());
    assert_eq!(text(&bench.run().stdout), "of a file\nend\n");

    let mut bench = Bench::new(sh("cat; echo end"));
    bench.stdin(File::open("/dev/null").unwrap().into());
    assert_eq!(text(&bench.run().stdout), "end\n");

    // Not forwarded.
    assert_eq!(text(&Bench::new(sh("cat; echo end")).run().stdout), "end\n");

    // Open for writing only: as good as closed.
    let mut bench = Bench::new(sh("cat; echo end"));
    bench.stdin(File::create("/dev/null").unwrap().into());
    assert_eq!(text(&bench.run().stdout), "end\n");
}

#[test]
fn a_process_that_reads_no_input_still_ends() {
    let mut bench = Bench::new(sh("exec 0<&-; echo done"));
    let mut stdin = bench.pipe_stdin();
    let writer = std::thread::spawn(move || {
        // Ends with EPIPE when the session closes its end.
        while stdin.write_all(&[0; 4096]).is_ok() {}
    });
    let ran = bench.run();
    assert_eq!(text(&ran.stdout), "done\n");
    writer.join().unwrap();
}

#[test]
fn nothing_written_before_the_end_is_lost() {
    for size in [1, 60_000, 3 << 20] {
        let script = format!("head -c {size} /dev/zero; head -c {size} /dev/zero >&2");
        let ran = Bench::new(sh(&script)).run();
        assert_eq!(ran.stdout.len(), size);
        assert_eq!(ran.stderr.len(), size);
    }
}

#[test]
fn orphans_that_hold_the_streams_are_not_waited_for() {
    let ran = Bench::new(sh("sleep 1000 & setsid sleep 12 & echo mine")).run();
    assert_eq!(text(&ran.stdout), "mine\n");
    assert!(ran.took.as_secs() < 10, "{:?}", ran.took);
}

#[test]
fn orphans_are_reaped() {
    // A grandchild whose parent ends first; the shell waits until nobody in the session
    // is a zombie or the orphan.
    let script = "(sh -c 'exit 0' & ) ; i=0; \
        while ps -o stat= --ppid $PPID | grep -q Z; do i=$((i+1)); [ $i -gt 1000 ] && exit 1; done";
    assert_eq!(Bench::new(sh(script)).run().code(), 0);
}

#[test]
fn a_signal_reaches_the_process() {
    // A shell looks at its traps between commands; a read would race with the signal.
    let bench = Bench::new(sh(
        "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.02; done",
    ));
    let ran = bench.run_while(|ran| {
        ran.wait_for_output("ready\n");
        ran.signal(TERM);
    });
    assert_eq!(text(&ran.stdout), "ready\ncaught\n");
    assert_eq!(ran.code(), 3);
}

/// Whether `shell` sleeps, and a child of it has become `program`.
fn waits_for(shell: u32, program: &str) -> bool {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let child = read(format!("/proc/{shell}/task/{shell}/children"));
    let stat = read(format!("/proc/{shell}/stat"));
    read(format!("/proc/{}/comm", child.trim())).trim() == program
        && stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('S'))
}

#[test]
fn an_interrupt_reaches_the_whole_group() {
    let bench = Bench::new(sh("(echo ready; exec sleep 1000); echo not reached"));
    let ran = bench.run_while(|ran| {
        let shell = ran.wait_for_start();
        ran.wait_for_output("ready\n");
        // dash catches interrupts, and loses one that comes while it is not waiting.
        while !waits_for(shell, "sleep") {
            std::thread::yield_now();
        }
        ran.signal(INT);
    });
    assert_eq!(ran.how(), How::Exited(Exit::Signal(INT)));
    assert_eq!(text(&ran.stdout), "ready\n");
}

#[test]
fn the_second_interrupt_stops_the_machine() {
    let mut bench = Bench::new(sh("trap '' INT; echo ready; exec cat"));
    let _stdin = bench.pipe_stdin();
    let ran = bench.run_while(|ran| {
        ran.wait_for_output("ready\n");
        ran.signal(INT);
        ran.signal(INT);
    });
    assert_eq!(ran.how(), How::Killed { signal: INT });
    assert_eq!(ran.code(), 130);
    assert_eq!(ran.result.unwrap().end, Some(End::Stopped));
}

#[test]
fn a_blocked_output_does_not_block_a_signal() {
    let mut bench = Bench::new(sh("exec yes"));
    bench.hold_stdout();
    let ran = bench.run_while(|ran| {
        let pid = ran.wait_for_start();
        ran.wait_for_full_stdout();
        ran.signal(TERM);
        while Path::new(&format!("/proc/{pid}")).exists() {
            std::thread::yield_now();
        }
        ran.release_stdout();
    });
    assert_eq!(ran.how(), How::Exited(Exit::Signal(TERM)));
    assert!(ran.stdout.len() > 64 * 1024);
    assert!(
        ran.stdout
            .chunks(2)
            .all(|pair| pair == b"y\n" || pair == b"y")
    );
}

#[test]
fn a_closed_output_ends_its_writer_as_a_closed_pipe_does() {
    let mut bench = Bench::new(sh("yes; echo \"$?\" >&2"));
    bench.close_stdout();
    let ran = bench.run();
    assert_eq!(text(&ran.stderr), "141\n");
    assert!(ran.result.unwrap().unwritten.is_none());
}

#[test]
fn a_full_disk_is_told() {
    let mut bench = Bench::new(sh("yes; echo \"$?\" >&2"));
    bench.stdout_to(File::create("/dev/full").unwrap().into());
    let ran = bench.run();
    assert_eq!(text(&ran.stderr), "141\n");
    let error = ran.result.unwrap().unwritten.unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn a_terminal_echoes_translates_and_follows_its_window() {
    let mut start = sh(
        "test -t 0 && test -t 1 && test -t 2 && echo tty; echo $TERM; stty size; \
         echo ready; read line; echo got $line; \
         while [ \"$(stty size)\" = '25 81' ]; do sleep 0.02; done; stty size; exit 5",
    );
    start.terminal = Some(Terminal {
        size: Size {
            columns: 81,
            rows: 25,
        },
        term: "vt100".into(),
    });
    let mut bench = Bench::new(start);
    let mut stdin = bench.pipe_stdin();
    let ran = bench.run_while(|ran| {
        ran.wait_for_output("ready\r\n");
        stdin.write_all(b"hello\n").unwrap();
        ran.wait_for_output("got hello\r\n");
        ran.set_window(Size {
            columns: 100,
            rows: 30,
        });
        ran.signal(WINCH);
    });
    let expected = "tty\r\nvt100\r\n25 81\r\nready\r\nhello\r\ngot hello\r\n30 100\r\n";
    assert_eq!(text(&ran.stdout), expected);
    assert_eq!(ran.code(), 5);
    assert!(ran.stderr.is_empty());
}

#[test]
fn the_last_output_of_a_terminal_is_not_lost() {
    let mut start = sh("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
    start.terminal = Some(Terminal {
        size: Size {
            columns: 80,
            rows: 24,
        },
        term: String::new(),
    });
    let ran = Bench::new(start).run();
    assert!(text(&ran.stdout).ends_with("line 2999\r\n"));
    assert_eq!(text(&ran.stdout).lines().count(), 3000);
}

#[test]
fn a_terminal_that_orphans_keep_open_ends_with_its_process() {
    let mut start = sh("setsid sleep 12 & echo mine");
    start.terminal = Some(Terminal {
        size: Size {
            columns: 80,
            rows: 24,
        },
        term: String::new(),
    });
    let ran = Bench::new(start).run();
    assert_eq!(text(&ran.stdout), "mine\r\n");
    assert!(ran.took.as_secs() < 10, "{:?}", ran.took);
}

#[test]
fn the_kernel_log_comes_after_the_end_and_before_the_shutdown() {
    let mut start = sh("exit 0");
    start.kernel_log = true;
    let ran = Bench::new(start).run();
    assert_eq!(ran.code(), 0);
    let at = |what: fn(&Event) -> bool| ran.events.iter().position(what).unwrap();
    let order = [
        at(|e| matches!(e, Event::AgentUp(_))),
        at(|e| matches!(e, Event::Started { .. })),
        at(|e| matches!(e, Event::Exited(_))),
        at(|e| matches!(e, Event::KernelLog(_))),
        at(|e| matches!(e, Event::Report(Report::Ended(End::Reset)))),
    ];
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn a_machine_with_nothing_left_to_write_is_stopped_where_it_stands() {
    for kernel_log in [false, true] {
        let mut start = sh("echo out; exit 7");
        start.kernel_log = kernel_log;
        let mut bench = Bench::new(start);
        bench.limits.shutdown = std::time::Duration::ZERO;
        let ran = bench.run();
        assert_eq!(ran.how(), How::Exited(Exit::Code(7)));
        assert_eq!(text(&ran.stdout), "out\n");
        let log = |event: &Event| matches!(event, Event::KernelLog(_));
        assert_eq!(ran.events.iter().any(log), kernel_log);
        assert_eq!(ran.result.unwrap().end, Some(End::Stopped));
    }
}

#[test]
fn a_machine_that_ends_under_its_process_is_an_error() {
    let mut bench = Bench::new(sh("echo ready; exec cat"));
    let _stdin = bench.pipe_stdin();
    let ran = bench.run_while(|ran| {
        ran.wait_for_output("ready\n");
        ran.kill_machine();
    });
    assert_eq!(text(&ran.stdout), "ready\n");
    let error = ran.result.unwrap_err();
    assert!(
        matches!(
            error,
            SessionError::Ended {
                end: End::Reset,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.code(), 125);
}

#[test]
fn a_panic_is_told_with_the_console() {
    let mut bench = Bench::new(sh("echo ready; exec cat"));
    let _stdin = bench.pipe_stdin();
    let ran = bench.run_while(|ran| {
        ran.wait_for_output("ready\n");
        ran.report(&Report::Panicked {
            message: "Attempted to kill init".into(),
        });
    });
    let error = ran.result.unwrap_err();
    assert!(matches!(error, SessionError::Panicked { .. }));
    assert_eq!(error.console(), Some("the last line"));
}

#[test]
fn a_command_beyond_its_frame_is_refused_at_once() {
    let mut start = sh("");
    start.env.push(vec![b'x'; 2 << 20]);
    let error = Bench::new(start).run().result.unwrap_err();
    assert!(matches!(error, SessionError::TooLong));
}

#[test]
fn a_large_environment_arrives() {
    let mut start = sh("echo ${#A}; echo ${#B}");
    start
        .env
        .push([b"A=".to_vec(), vec![b'x'; 100_000]].concat());
    start
        .env
        .push([b"B=".to_vec(), vec![b'y'; 100_000]].concat());
    assert_eq!(text(&Bench::new(start).run().stdout), "100000\n100000\n");
}

#[test]
fn descriptors_of_others_keep_their_mode() {
    let mut bench = Bench::new(sh("cat; echo end"));
    let mut stdin = bench.pipe_stdin();
    let theirs = bench.stdin_clone();
    stdin.write_all(b"x").unwrap();
    drop(stdin);
    let ran: Ran = bench.run();
    assert_eq!(text(&ran.stdout), "xend\n");
    // A description that became non-blocking would say so here.
    let flags = nix::fcntl::fcntl(&theirs, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert_eq!(flags & libc::O_NONBLOCK, 0);
    assert_eq!(File::from(theirs).read(&mut [0]).unwrap(), 0);
}
