//! `cargo xtask ci`: what continuous integration runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::{fuzz, kube, lint, test, vm};

/// The short form of the kernel matrix: the kernel that takes every fallback.
const KERNELS: [&str; 1] = ["6.1"];

/// Lints first: they fail in seconds. The last line is the tests' `N passed, N failed`.
pub(crate) fn run() -> Result<ExitCode> {
    lint::check()?;
    let mut total = test::tally(&test::Args::default())?;
    total += kube::tally(&kube::Args::default())?;
    total += fuzz::tally()?;
    total += vm::quick(&KERNELS)?;
    Ok(total.conclude())
}
