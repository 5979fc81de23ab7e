//! The `husk` command.
fn main() {}
