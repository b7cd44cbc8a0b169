//! The `leakguard` command.

fn main() {}
