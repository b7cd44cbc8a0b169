//! `cargo xtask kube`: the Helm chart and the manifests in `deploy/kubernetes`, looked at by Helm's own engine, the schemas of
//! Kubernetes and of the Prometheus operator, checkov, and leakguard.
//!
//! Neither helm nor a validator is in Debian. `PyPI` has Helm's Go code as a library, and the schemas.

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    build,
    process::Cmd,
    report::{line, say},
    setup::{self, python},
    test::libtest::Tally,
    workspace::{self, Metadata},
};

const LIMIT: Duration = Duration::from_mins(10);
/// What is installed, with its versions.
const REQUIREMENTS: &str = include_str!("requirements.txt");

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Make the manifests anew from the chart.
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    Ok(tally(args)?.conclude())
}

/// Looks at everything, and counts what is as it should be.
pub(crate) fn tally(args: &Args) -> Result<Tally> {
    setup::ensure_build_tools()?;
    let agent = build::agent(false)?;
    let what = "Helm's engine, schemas and checkov, 700 MB";
    let environment = python::ensure("kube", REQUIREMENTS, what)?;
    let directory = Metadata::load()?.target_dir()?.join("kube");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let checks = Cmd::new(environment.join("bin/python"), LIMIT)
        .args(["-I", "-c", include_str!("check.py")])
        .arg(workspace::root().join("deploy/kubernetes"))
        .args([agent, directory])
        .arg(if args.write { "write" } else { "check" })
        .label("looking at deploy/kubernetes");
    let mut tally = Tally::default();
    let mut ended = false;
    let status = checks.lines(|text| {
        let passed = text.starts_with("ok ");
        let failed = text.starts_with("FAILED ");
        tally.passed += u64::from(passed);
        tally.failed += u64::from(failed);
        ended |= text == "end";
        if !passed && text != "end" {
            line(format_args!("    {text}"));
        }
        Ok(())
    })?;
    // Whoever does not come to the end has failed, whatever was said before.
    if !ended || !status.success() {
        tally.failed += 1;
    }
    say(
        "kube",
        format_args!("{} looked at, {} wrong", tally.passed, tally.failed),
    );
    Ok(tally)
}
