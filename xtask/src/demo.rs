//! `cargo xtask demo`: builds the agent and runs its demonstration as root.

use std::{ffi::OsString, process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{build, process::Cmd, report::say, setup};

/// The demonstration takes less than a minute; it may be read slowly.
const LIMIT: Duration = Duration::from_mins(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Passed on to `leakguard demo`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure_all()?;
    let binary = build::agent(true)?;
    let demo = Cmd::new(binary, LIMIT)
        .arg("demo")
        .args(&args.args)
        .privileged();
    say("demo", &demo);
    demo.exit_code()
}
