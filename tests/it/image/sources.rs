// SPDX-License-Identifier: Apache-2.0
//! Every way to name an image leads to the same machine, and what it says is obeyed.

use super::server::{Kind, Registry};
use super::{Cache, SAID, Sample, done, tool};
use crate::support::husk::{Host, Husk};
use crate::support::skipped;

fn run(host: &Host, reference: &str, options: &[&str], command: &[&str]) -> Husk {
    Husk::run(&host.root, reference.into(), command).options(options)
}

#[test]
fn all_sources_are_one_image() {
    let Some(host) = Host::find() else { return };
    let Some(sample) = Sample::shared() else {
        return;
    };
    run(&host, &sample.reference(), &[], &[])
        .end()
        .is(0, SAID, "");
    for transport in ["oci-archive", "docker-archive"] {
        let Some(reference) = sample.copied(transport, &[]) else {
            return;
        };
        run(&host, &reference, &[], &[]).end().is(0, SAID, "");
    }
    // Of one registry skopeo takes what is there already, however it is packed.
    let start = || Registry::start(Kind::default());
    let (Some(first), Some(second)) = (start(), start()) else {
        return;
    };
    // skopeo packs what is not packed yet.
    let Some(plain) = sample.copied("docker-archive", &[]) else {
        return;
    };
    let zstd = ["--format", "oci", "--dest-compress-format", "zstd"];
    let names = [
        first.push(sample, "team/gzip:1", &[]),
        second.copy(&plain, "team/zstd:1", &zstd),
    ];
    for (name, kind) in names.into_iter().zip(["+gzip", "+zstd"]) {
        let Some(name) = name else { return };
        run(&host, &name, &["--quiet"], &[]).end().is(0, SAID, "");
        let manifest = done(tool("skopeo").expect("it pushed").args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{name}"),
        ]));
        assert!(manifest.contains(kind), "{manifest}");
    }
}

#[test]
fn what_is_typed_comes_before_what_the_image_says() {
    let Some(host) = Host::find() else { return };
    let Some(sample) = Sample::shared() else {
        return;
    };
    let image = sample.reference();
    let options = ["-u", "root", "-w", "/etc", "-e", "A=typed", "-e", "C=new"];
    let ended = run(&host, &image, &options, &["id -u; pwd; echo $A $B $C"]).end();
    ended.is(0, "0\n/etc\ntyped image new\n", "");
    let ended = run(&host, &image, &["--entrypoint", "echo"], &["a", "b"]).end();
    ended.is(0, "a b\n", "");
    // The image's command goes with its entry point.
    run(&host, &image, &["--entrypoint", "pwd"], &[])
        .end()
        .is(0, "/srv\n", "");
    run(&host, &image, &["--entrypoint", ""], &["id", "-u"])
        .end()
        .is(0, "1000\n", "");
    let ended = run(&host, &image, &["--entrypoint", ""], &[]).end();
    assert_eq!(ended.code, 125, "{ended:?}");
    assert!(ended.stderr.contains("no command was given"), "{ended:?}");
    run(&host, &image, &["-u", "1000:0"], &["id -u; id -g"])
        .end()
        .is(0, "1000\n0\n", "");
    let ended = run(&host, &image, &["-u", "nobody-there"], &["true"]).end();
    assert!(
        ended.code != 0 && ended.stderr.contains("nobody-there"),
        "{ended:?}"
    );
}

#[test]
fn inspect_tells_all_the_image_says() {
    let Some(sample) = Sample::shared() else {
        return;
    };
    let cache = Cache::new();
    let found = cache.json(&["image", "inspect", "--format", "json", &sample.reference()]);
    let config = &found["config"];
    assert_eq!(config["entrypoint"], serde_json::json!(["sh", "-c"]));
    assert_eq!(config["user"], "guest");
    assert_eq!(config["working_dir"], "/srv");
    assert_eq!(config["exposed_ports"], serde_json::json!(["80/tcp"]));
    assert_eq!(config["stop_signal"], "SIGQUIT");
    assert_eq!(config["volumes"], serde_json::json!(["/srv/old"]));
    assert_eq!(config["labels"]["org.example"], "yes");
    assert_eq!(found["layers"].as_array().map(Vec::len), Some(2));
    let page = cache.good(&["image", "inspect", &sample.reference()]);
    assert!(page.contains("Stop signal   SIGQUIT\n"), "{page}");
}

/// The image is looked for before a kernel is looked into.
const NO_KERNEL: &str = "/etc/passwd";

#[test]
fn names_that_lead_nowhere_say_so() {
    let cache = Cache::new();
    let folder = cache.path().join("x.erofs");
    std::fs::write(&folder, "").expect("a file");
    for (image, says) in [
        ("oci:", "names nothing"),
        ("oci:/nowhere", "does not exist"),
        ("oci-archive:/nowhere", "does not exist"),
        ("docker-archive:/etc/passwd", "not usable"),
        ("x.io/UPPER", "is neither a file nor the name"),
        ("a b", "is neither a file nor the name"),
        ("nginx@sha256:12", "is neither a file nor the name"),
    ] {
        cache.bad(&["run", "--kernel", NO_KERNEL, image, "true"], 125, says);
    }
    let mut run = cache.command(&["run", "--kernel", NO_KERNEL, "x.erofs", "true"]);
    let outcome = crate::support::finish(run.current_dir(cache.path()));
    assert_eq!(outcome.code, 125);
    assert!(
        outcome.stderr.contains("type ./x.erofs for the file"),
        "{outcome:?}"
    );
    cache.bad(&["import", "dir:/etc"], 1, "nothing to import");
    cache.bad(
        &["import", "oci:/nowhere", "No Name"],
        1,
        "no name of an image",
    );
    cache.bad(&["pull", "No/Name"], 1, "no name of an image");
    cache.bad(&["rmi", "nothing"], 1, "not in the store");
    cache.bad(&["image", "inspect", "nothing"], 1, "not in the store");
    cache.bad(
        &[
            "run", "--kernel", NO_KERNEL, "--pull", "never", "nothing", "true",
        ],
        125,
        "not in the store",
    );
    cache.bad(&["run", "--pull", "perhaps", "nothing"], 125, "'perhaps'");
    assert_eq!(cache.good(&["rmi", "--force", "nothing"]), "");
    // Nobody listens there.
    cache.bad(&["pull", "localhost:1/app"], 1, "cannot be reached");
}

#[test]
fn images_of_buildah_run_too() {
    let Some(host) = Host::find() else { return };
    if !nix::unistd::geteuid().is_root() {
        return skipped("buildah needs root, or subordinate ids");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let buildah = |words: &[&str]| {
        let mut buildah = tool("buildah")?;
        buildah.args(["--storage-driver", "vfs", "--root", &path("root")]);
        buildah.args(["--runroot", &path("run")]);
        Some(done(buildah.args(words)).trim().to_owned())
    };
    let Some(id) = buildah(&["from", "scratch"]) else {
        return;
    };
    let busybox = host.root.path().join("bin/busybox").display().to_string();
    buildah(&[
        "copy",
        "-q",
        "--chown",
        "7:8",
        "--chmod",
        "4755",
        &id,
        &busybox,
        "/bin/busybox",
    ]);
    let cmd = r#"["/bin/busybox","stat","-c","%a %u %g","/bin/busybox"]"#;
    buildah(&["config", "--cmd", cmd, "--workingdir", "/new/dir", &id]);
    for (format, transport) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let image = format!("{transport}:{}", path(transport));
        buildah(&["commit", "-q", "--format", format, &id, &image]);
        run(&host, &image, &[], &[]).end().is(0, "4755 7 8\n", "");
    }
}
