//! `cargo xtask setup`: finds or installs what building, demonstrating and testing need.
//!
//! Looking is cheap (a few programs on PATH, two files), so every other command does it first.

pub(crate) mod apt;
pub(crate) mod bpf_linker;
pub(crate) mod crates;
mod packages;
pub(crate) mod python;
pub(crate) mod rotel;
pub(crate) mod toolchain;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use self::packages::Tool;
use crate::report::{line, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; exit code 1 if something is.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        return check();
    }
    ensure_all()?;
    rotel::ensure()?;
    say("setup", "everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Sees to it that the agent can be built.
pub(crate) fn ensure_build_tools() -> Result<()> {
    toolchain::RUST_SRC.ensure()?;
    if bpf_linker::find().is_none() {
        bpf_linker::install()?;
    }
    Ok(())
}

/// Sees to it that the agent can be built, demonstrated and tested.
pub(crate) fn ensure_all() -> Result<()> {
    ensure_build_tools()?;
    ensure_tools(packages::TOOLS)
}

/// Sees to it that emulated machines can be started.
pub(crate) fn ensure_emulator() -> Result<()> {
    ensure_tools(packages::EMULATOR)
}

/// Sees to it that `cargo xtask boot` can make a root file system and start it.
pub(crate) fn ensure_boot() -> Result<()> {
    ensure_emulator()?;
    ensure_tools(packages::BOOT)
}

/// Sees to it that Debian can be started in a container.
pub(crate) fn ensure_nspawn() -> Result<()> {
    ensure_tools(packages::NSPAWN)
}

/// Sees to it that packages can be made.
pub(crate) fn ensure_dist() -> Result<()> {
    ensure_build_tools()?;
    toolchain::STATIC_STD.ensure()?;
    ensure_tools(packages::DIST)
}

/// Sees to it that packages can be tested.
pub(crate) fn ensure_dist_check() -> Result<()> {
    ensure_all()?;
    ensure_nspawn()?;
    ensure_tools(packages::DIST_CHECK)
}

/// Sees to it that a fleet can be administered.
pub(crate) fn ensure_fleet() -> Result<()> {
    ensure_nspawn()?;
    ensure_tools(packages::FLEET)
}

/// Sees to it that scripts and playbooks can be checked.
pub(crate) fn ensure_lint() -> Result<()> {
    ensure_tools(packages::LINT)
}

fn ensure_tools(tools: &'static [Tool]) -> Result<()> {
    let missing = packages::missing(tools);
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    Ok(())
}

/// The directory for what this project downloads and builds for itself.
pub(crate) fn tools_dir() -> Result<PathBuf> {
    bpf_linker::own_root()
        .and_then(|root| root.parent().map(PathBuf::from))
        .context("neither XDG_CACHE_HOME nor HOME says where tools can be kept")
}

fn check() -> Result<ExitCode> {
    let mut complete = true;
    let mut item = |name: &str, state: Option<String>, missing: &str| {
        complete &= state.is_some();
        let state = state.unwrap_or_else(|| format!("MISSING ({missing})"));
        line(format_args!("{name:<16} {state}"));
    };

    item(
        "rust-src",
        toolchain::RUST_SRC
            .is_present()?
            .then(|| "present".to_owned()),
        "rustup component",
    );
    item(
        "bpf-linker",
        bpf_linker::find().map(|path| path.display().to_string()),
        "built from source against llvm-22-dev",
    );
    for tool in packages::TOOLS {
        item(
            tool.name(),
            tool.find().map(|path| path.display().to_string()),
            tool.package,
        );
    }

    item(
        "rotel",
        rotel::find().map(|path| path.display().to_string()),
        "from PyPI",
    );

    if complete {
        return Ok(ExitCode::SUCCESS);
    }
    say("setup", "`cargo xtask setup` installs what is missing");
    Ok(ExitCode::FAILURE)
}
