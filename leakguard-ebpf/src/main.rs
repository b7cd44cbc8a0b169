//! leakguard's kernel programs.

fn main() {}
