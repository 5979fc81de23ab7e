// SPDX-License-Identifier: Apache-2.0
//! The `husk` command: everything it does is in `husk::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    husk::cli::main()
}
