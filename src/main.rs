// SPDX-License-Identifier: Apache-2.0
//! The `husk` command.
fn main() {}
