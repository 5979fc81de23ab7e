// SPDX-License-Identifier: Apache-2.0
//! Builds the guest's agent with a cargo of its own, for `src/initramfs.rs` to embed, and of
//! the same source the program that benchmarks start, for `src/bench/load.rs`.
//!
//! Its own target directory below OUT_DIR keeps it clear of the lock of the build that
//! runs us; its flags are not those of the host's program.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The agent brings its own start files and is never relocated.
const FLAGS: [&str; 5] = [
    "-Ctarget-feature=+crt-static",
    "-Crelocation-model=static",
    "-Clink-arg=-Wl,-z,norelro",
    "-Clink-arg=-Wl,--build-id=none",
    // With the script named below.
    "-Clink-arg=-Wl,--no-eh-frame-hdr",
];
const LINK_SCRIPT: &str = "guest/agent/link.ld";

fn main() -> ExitCode {
    for path in [
        "build.rs",
        "Cargo.toml",
        "Cargo.lock",
        "guest/agent",
        "guest/protocol/src",
        "guest/protocol/Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    let both = build("agent", "init").and_then(|agent| Ok((agent, build("load", "init,load")?)));
    match both {
        Ok((agent, load)) => {
            println!("cargo:rustc-env=HUSK_AGENT={}", agent.display());
            println!("cargo:rustc-env=HUSK_LOAD={}", load.display());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("building the guest agent: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The agent, or another program of the same source: `features` say which.
fn build(name: &str, features: &str) -> Result<PathBuf, String> {
    let variable = |name| env::var(name).map_err(|_| format!("cargo did not set {name}"));
    let target_dir = PathBuf::from(variable("OUT_DIR")?).join(name);
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let script = root.join(LINK_SCRIPT);
    let script = format!("-Clink-arg=-Wl,-T,{}", script.display());
    let flags = FLAGS.iter().copied().chain([&*script]);
    let flags: Vec<&str> = flags.collect();
    let status = Command::new(variable("CARGO")?)
        .args(["build", "--quiet", "--locked", "--package", "husk-agent"])
        .args([
            "--features",
            features,
            "--profile",
            "agent",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(&root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // clippy and coverage tools wrap the compiler of the workspace that runs us.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_BUILD_BUILD_DIR")
        .status()
        .map_err(|error| error.to_string())?;
    if status.success() {
        Ok(target_dir.join(TARGET).join("agent/husk-agent"))
    } else {
        Err(format!("cargo ended with {status}"))
    }
}
