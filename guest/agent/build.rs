// SPDX-License-Identifier: Apache-2.0
//! Links the program without C's start files and libraries: it has its own of what it needs.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for argument in ["-nostartfiles", "-nodefaultlibs", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
