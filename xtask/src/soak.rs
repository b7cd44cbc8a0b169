//! `cargo xtask soak`: the long forms of the tests that show something over many repetitions.

use std::process::ExitCode;

use anyhow::Result;

use crate::test;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this.
    filter: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    Ok(test::soak(args.filter)?.conclude())
}
