// SPDX-License-Identifier: Apache-2.0
//! The command line, as far as it needs no KVM: help, refusals, manners.

use crate::support::{Outcome, binary, finish, golden, husk, run, skipped};
use std::process::Command;

const VERBS: [&str; 28] = [
    "bench",
    "run",
    "boot",
    "ps",
    "logs",
    "stats",
    "top",
    "inspect",
    "events",
    "exec",
    "cp",
    "attach",
    "wait",
    "stop",
    "kill",
    "rm",
    "snapshots",
    "snapshot",
    "volume",
    "pull",
    "import",
    "images",
    "rmi",
    "image",
    "kernel",
    "doctor",
    "completions",
    "man",
];

/// A refusal: its code, nothing on standard output, and on standard error one line for
/// each problem and after them nothing but causes and hints.
fn refused(outcome: &Outcome, code: i32, problems: &[&str]) {
    assert_eq!(outcome.code, code, "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    let said: Vec<&str> = outcome
        .stderr
        .lines()
        .filter(|line| line.starts_with("husk: "))
        .collect();
    assert_eq!(said.len(), problems.len(), "{outcome:?}");
    for (said, expected) in said.iter().zip(problems) {
        assert!(
            said.contains(expected),
            "{expected:?} is not in {outcome:?}"
        );
    }
    let beside = |line: &&str| {
        !line.starts_with("husk: ") && !line.starts_with("hint: ") && !line.starts_with("  ")
    };
    assert_eq!(outcome.stderr.lines().find(beside), None, "{outcome:?}");
}

#[test]
fn help_is_what_it_was() {
    golden::check("help.txt", &run(&["--help"]).stdout);
    for verb in VERBS {
        let help = run(&[verb, "--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""));
        golden::check(&format!("help-{verb}.txt"), &help.stdout);
        assert!(help.stdout.contains("Examples:"), "{verb} teaches nothing");
    }
}

#[test]
fn bad_input_to_the_daily_verbs_is_refused_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |words: &[&str]| finish(husk().args(words).env("XDG_RUNTIME_DIR", folder.path()));
    for verb in [
        "logs", "attach", "wait", "stop", "kill", "rm", "inspect", "top", "stats",
    ] {
        refused(
            &run(&[verb, "nobody"]),
            1,
            &["there is no machine 'nobody'"],
        );
    }
    refused(&run(&["rm", "a", "b"]), 1, &["'a'", "'b'"]);
    refused(&run(&["exec", "nobody", "true"]), 125, &["'nobody'"]);
    refused(&run(&["exec", "nobody"]), 125, &["<CMD>"]);
    refused(
        &run(&["exec", "-w", "x", "-u", "", "nobody", "true"]),
        125,
        &["--workdir", "--user"],
    );
    refused(&run(&["cp", "nobody:/a", "b"]), 1, &["'nobody'"]);
    refused(&run(&["cp", "a", "b"]), 1, &["neither path"]);
    refused(&run(&["cp", "a:/b", "c:/d"]), 1, &["both paths"]);
    refused(&run(&["kill", "-s", "NOPE", "x"]), 1, &["--signal NOPE"]);
    refused(&run(&["stop", "-t", "-1", "x"]), 1, &["--time -1"]);
    refused(
        &run(&["logs", "--since", "soon", "x"]),
        1,
        &["--since soon"],
    );
    refused(&run(&["logs", "--tail", "x", "x"]), 1, &["--tail"]);
    refused(&run(&["events", "--since", "soon"]), 1, &["--since soon"]);
    refused(&run(&["ps", "--filter", "x"]), 1, &["--filter x"]);
    refused(&run(&["ps", "--format", "xml"]), 1, &["'xml'"]);
    for (option, value) in [
        ("--name", "a/b"),
        ("--name", ""),
        ("--label", "=x"),
        ("--stop-signal", "65"),
    ] {
        refused(&run(&["run", option, value, "dir:/"]), 125, &[option]);
    }
    refused(&run(&["run", "-d", "--trace", "dir:/"]), 125, &["--trace"]);
}

#[test]
fn a_host_without_machines_lists_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |words: &[&str]| finish(husk().args(words).env("XDG_RUNTIME_DIR", folder.path()));
    let table = run(&["ps", "-a"]);
    assert_eq!(
        table.stdout,
        "ID  NAME  IMAGE  COMMAND  CREATED  STATUS  PORTS\n"
    );
    assert_eq!(run(&["ps", "--format", "json"]).stdout, "[]\n");
    assert_eq!(run(&["ps", "-q"]).stdout, "");
    assert_eq!(run(&["events"]).stdout, "");
    let colored = run(&["--color", "always", "ps"]);
    assert!(colored.stdout.contains('\x1b'), "{colored:?}");
    let plain = run(&["--color", "always", "--no-color", "ps"]);
    assert_eq!(
        plain.stdout,
        "ID  NAME  IMAGE  COMMAND  CREATED  STATUS  PORTS\n"
    );
}

#[test]
fn the_version_is_the_packages() {
    let version = run(&["--version"]);
    assert_eq!(version.code, 0);
    assert_eq!(
        version.stdout,
        concat!("husk ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_command_line_that_is_none_is_refused_in_one_line() {
    refused(&run::<&str>(&[]), 1, &["a verb is missing"]);
    refused(&run(&["fly"]), 1, &["'fly'"]);
    refused(&run(&["doctor", "--loud"]), 1, &["'--loud'"]);
    refused(&run(&["boot"]), 1, &["--kernel <PATH>"]);
    refused(&run(&["man", "fly"]), 1, &["'fly'"]);
    refused(&run(&["run"]), 125, &["<IMAGE>"]);
    refused(&run(&["run", "--loud", "dir:/"]), 125, &["'--loud'"]);
    refused(
        &run(&["--color", "never", "run", "--trace=xml", "dir:/"]),
        125,
        &["'xml'"],
    );
}

#[test]
fn rings_there_are_not_are_refused() {
    for verb in [&["run"][..], &["kernel", "build"], &["kernel", "path"]] {
        for ring in ["1", "-3", "ring3", ""] {
            let mut words = verb.to_vec();
            let option = format!("--guest-ring={ring}");
            words.push(&option);
            let code = if verb == ["run"] { 125 } else { 1 };
            refused(&run(&words), code, &["--guest-ring"]);
        }
    }
    let help = run(&["kernel", "build", "--help"]).stdout;
    assert!(help.contains("[possible values: 0, 3]"), "{help}");
}

/// Each variant is missed by its own name, and a record of an older husk is still listed.
#[test]
fn the_kernels_of_a_cache_are_told_by_their_variant() {
    let cache = tempfile::tempdir().expect("a folder");
    let kernel = |words: &[&str]| {
        let mut command = husk();
        command.arg("kernel").args(words);
        finish(command.env("HUSK_CACHE_DIR", cache.path()))
    };
    for ring in ["0", "3"] {
        let path = kernel(&["path", "--guest-ring", ring]);
        refused(&path, 1, &[&format!("for ring {ring} is not built yet")]);
        let hint = format!("hint: build it once: husk kernel build --guest-ring {ring}");
        assert!(path.stderr.contains(&hint), "{path:?}");
    }
    let record = |digit: &str, variant: &str| {
        let digest = digit.repeat(64);
        let folder = cache.path().join("kernels").join(&digest);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("vmlinux"), "").expect("a file");
        let text = format!(
            r#"{{"digest":"{digest}","recipe":"r",{variant}"version":"6.12.{digit}",
            "built_at":{digit},"build_seconds":1,"source":"s","source_bytes":1,
            "source_sha256":"","compiler":"","linker":"","command":[],"fragments":[],
            "patches":[],"objects":1,"vmlinux_bytes":1,"vmlinux_sha256":""}}"#
        );
        std::fs::write(folder.join("provenance.json"), text).expect("a file");
    };
    record("1", "");
    record("2", r#""variant":"ring3","#);
    let table = kernel(&["list"]);
    let rows: Vec<Vec<&str>> = table
        .stdout
        .lines()
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    assert_eq!(
        rows,
        [
            ["DIGEST", "VERSION", "VARIANT"],
            ["222222222222", "6.12.2", "ring3"],
            ["111111111111", "6.12.1", "ring0"],
        ]
    );
    let json = kernel(&["list", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json[0]["variant"], &json[1]["variant"]),
        (&"ring3".into(), &"ring0".into())
    );
}

#[test]
fn machines_no_host_can_have_are_refused() {
    for (options, problem) in [
        (["-m", "0"], "too little"),
        (["-m", "1m"], "1 MiB is too little"),
        (["-m", "1E"], "more than this host has"),
        (
            ["-m", "99999999999999999999"],
            "larger than any computer's memory",
        ),
        (["-m", "plenty"], "unknown unit"),
        (["-c", "0"], "too few"),
        (["-c", "10000"], "too many"),
        (["-c", "-1"], "not a count"),
    ] {
        let [option, value] = options;
        refused(&run(&["run", option, value, "dir:/"]), 125, &[problem]);
        refused(
            &run(&["boot", option, value, "--kernel", "/proc/self/exe"]),
            1,
            &[problem],
        );
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let bad = run(&[
        "run",
        "-c",
        "0",
        "-m",
        "0",
        "-e",
        "=1",
        "-w",
        "here",
        "-u",
        "::",
        "--hostname=-",
        "--timeout",
        "soon",
        "--kernel",
        "/no/kernel",
        "dir:/",
    ]);
    let expected = [
        "--cpus 0",
        "--memory 0",
        "/no/kernel",
        "--workdir here",
        "--user ::",
        "--hostname -",
        "--env =1",
        "--timeout soon",
    ];
    refused(&bad, 125, &expected);
}

#[test]
fn files_that_are_not_there_are_refused() {
    refused(
        &run(&["run", "--kernel", "/no/kernel", "dir:/"]),
        125,
        &["/no/kernel"],
    );
    refused(
        &run(&["run", "--kernel", "/", "dir:/"]),
        125,
        &["it is no file"],
    );
    refused(
        &run(&[
            "boot",
            "--kernel",
            "/no/kernel",
            "--initrd",
            "/no/initrd",
            "--disk",
            "/no/disk:ro",
        ]),
        1,
        &["/no/kernel", "/no/initrd", "/no/disk"],
    );
}

#[test]
fn colour_is_only_where_it_is_wanted() {
    let escape = '\u{1b}';
    assert!(!run(&["run", "-c0", "x"]).stderr.contains(escape));
    assert!(
        run(&["--color=always", "run", "-c0", "x"])
            .stderr
            .contains(escape)
    );
    assert!(
        run(&["--help", "--color", "always"])
            .stdout
            .contains(escape)
    );
    let mut plain = husk();
    plain
        .args(["run", "--color", "auto", "-c0", "x"])
        .env("NO_COLOR", "1");
    assert!(!finish(&mut plain).stderr.contains(escape));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for args in [
        &["completions", "bash"][..],
        &["--help"],
        &["man", "run"],
        &["doctor"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = husk();
        command
            .args(args)
            .stdout(writer)
            .stderr(std::process::Stdio::piped());
        let output = command.spawn().expect("husk starts").wait_with_output();
        let output = output.expect("husk ends");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        // doctor's code tells of the host, the others have done what they were asked.
        assert!(output.status.success() || args == ["doctor"], "{args:?}");
    }
}

#[test]
fn every_shell_has_its_completions_and_every_verb_its_page() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert_eq!(script.code, 0);
        for verb in VERBS {
            assert!(script.stdout.contains(verb), "{shell} does not know {verb}");
        }
    }
    assert!(run(&["man"]).stdout.contains(".TH husk 1"));
    for verb in VERBS {
        let page = run(&["man", verb]);
        assert_eq!(page.code, 0);
        assert!(
            page.stdout.contains(&format!(".TH husk-{verb} 1")),
            "{}",
            page.stdout
        );
    }
}

#[test]
fn doctors_json_and_exit_code_agree() {
    let outcome = run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(report["schema"], "husk-doctor/1");
    assert_eq!(outcome.code == 0, report["usable"] == true, "{report}");
    let checks = report["checks"].as_array().expect("a list");
    for check in checks {
        let state = check["state"].as_str().expect("a state");
        assert!(["ok", "warn", "fail", "absent"].contains(&state), "{check}");
        let failed = state == "fail";
        assert!(
            !failed || check["means"] != "",
            "{check} does not say what follows"
        );
    }
    // It is asked of a KVM, and there is one or there is none.
    let lane = report["fast_lane"]["state"].as_str().expect("a state");
    let asked = checks.iter().find(|check| check["name"] == "ring 3 kernel");
    match asked.map(|check| check["state"].as_str()) {
        Some(Some("ok")) => assert!(["open", "not-needed"].contains(&lane), "{lane}"),
        Some(_) => assert_eq!(lane, "closed"),
        None => assert_eq!(lane, "unknown"),
    }
    for name in [
        "kvm",
        "namespaces",
        "landlock",
        "seccomp",
        "cgroup",
        "memory",
        "kernel build",
    ] {
        assert!(
            checks.iter().any(|check| check["name"] == name),
            "{name} is missing"
        );
    }
}

/// In namespaces of its own, with an empty /dev, there is no KVM to be found.
#[test]
fn doctor_fails_where_there_is_no_kvm() {
    let mut hidden = Command::new("unshare");
    let script = "mount -t tmpfs none /dev && exec \"$0\" doctor --json";
    hidden.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    hidden.arg(binary());
    let outcome = finish(&mut hidden);
    if outcome.stdout.is_empty() {
        skipped(&format!(
            "no namespaces here to hide /dev/kvm in: {}",
            outcome.stderr
        ));
        return;
    }
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(report["checks"][0]["name"], "kvm");
    assert_eq!(report["checks"][0]["state"], "fail");
    assert!(
        report["checks"][0]["fix"]
            .as_str()
            .is_some_and(|fix| fix.contains("modprobe"))
    );
}
