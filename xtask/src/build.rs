//! `cargo xtask build`: the agent with its kernel programs embedded.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{
    report::say,
    setup,
    workspace::{self, Metadata},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Optimise, as for installing.
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure_build_tools()?;
    let binary = agent(args.release)?;
    say("build", binary.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the agent and returns its path. The build tools must be there.
pub(crate) fn agent(release: bool) -> Result<PathBuf> {
    let profile = if release { "release" } else { "debug" };
    say("build", format_args!("leakguard ({profile})"));
    let mut cargo = workspace::cargo("build").args(["--locked", "--package=leakguard"]);
    if release {
        cargo = cargo.arg("--release");
    }
    cargo.run()?;

    let binary = Metadata::load()?
        .target_dir()?
        .join(profile)
        .join("leakguard");
    check(binary)
}

/// Builds the agent that stands in for the next version in the tests of an upgrade: another ABI, another layout.
pub(crate) fn next_agent() -> Result<PathBuf> {
    say("build", "leakguard with the next ABI (debug)");
    // Beside the real one, with which it shares what both depend on.
    workspace::cargo("build")
        .args(["--locked", "--package=leakguard", "--bin=leakguard"])
        .arg("--features=next-abi")
        .run()?;
    let target_dir = Metadata::load()?.target_dir()?;
    let built = check(target_dir.join("debug/leakguard"))?;
    let binary = target_dir.join("next-abi/leakguard");
    // Nobody must find it where the real one is expected.
    fs::create_dir_all(target_dir.join("next-abi"))
        .and_then(|()| fs::rename(&built, &binary))
        .with_context(|| format!("cannot put {} away", built.display()))?;
    check(binary)
}

/// Builds what measures, optimised; returns the directory that the programs are in.
pub(crate) fn measurements() -> Result<PathBuf> {
    say("build", "the measurements (release)");
    workspace::cargo("build")
        .args(["--locked", "--release", "--package=leakguard-bench"])
        .run()?;
    Ok(Metadata::load()?.target_dir()?.join("release"))
}

fn check(binary: PathBuf) -> Result<PathBuf> {
    ensure!(
        binary.is_file(),
        "cargo built leakguard, but {} does not exist (is `build.target` set for cargo?)",
        binary.display()
    );
    Ok(binary)
}
