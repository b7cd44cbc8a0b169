//! `cargo xtask bench`: builds the agent and the measurements, and runs them as root, with nothing else beside them.

use std::{ffi::OsString, process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{build, process::Cmd, report::say, setup, workspace};

/// All sections with the default number of rounds take half an hour.
const LIMIT: Duration = Duration::from_hours(4);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Passed on to the measurements: sections, `--rounds`, `--help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure_all()?;
    let agent = build::agent(true)?;
    let bench = Cmd::new(build::measurements()?.join("leakguard-bench"), LIMIT)
        .env("LEAKGUARD_BIN", &agent)
        .arg("--output")
        .arg(workspace::root().join("target/bench"))
        .args(&args.args)
        .privileged();
    say("bench", &bench);
    bench.exit_code()
}
