//! `cargo xtask ci`: what continuous integration runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::{lint, test};

/// Lints first: they fail in seconds. The last line is the tests' `N passed, N failed`.
pub(crate) fn run() -> Result<ExitCode> {
    lint::check()?;
    test::run(&test::Args::default())
}
