//! `cargo xtask lint`: formatting, architecture rules, tests that documents name, systemd units, shell scripts, playbooks,
//! clippy on both targets, cargo-deny; the quick ones first.

mod deny;
mod references;
mod scripts;
mod tidy;
mod units;

use std::{env::consts, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    report::say,
    setup,
    workspace::{self, Metadata},
};

const BPF_TARGET: &str = "bpfel-unknown-none";

pub(crate) fn run() -> Result<ExitCode> {
    check()?;
    Ok(ExitCode::SUCCESS)
}

/// Runs all lints; fails at the first that finds something.
pub(crate) fn check() -> Result<()> {
    let metadata = Metadata::load()?;

    say("lint", "formatting");
    workspace::cargo("fmt")
        .args(["--all", "--", "--check"])
        .run()
        .context("some files are not formatted; run `cargo fmt --all`")?;

    say("lint", "architecture rules");
    tidy::check(&metadata)?;
    references::check(&metadata)?;
    units::check(&metadata)?;

    setup::ensure_lint()?;
    scripts::check(&metadata)?;

    // Leakguard's build script builds the kernel programs also for clippy.
    setup::ensure_build_tools()?;
    say("lint", "clippy on the host");
    workspace::cargo("clippy")
        .args(["--workspace", "--all-targets", "--", "-Dwarnings"])
        .run()?;

    clippy_bpf(&metadata)?;

    deny::check()?;
    say("lint", "nothing found");
    Ok(())
}

fn clippy_bpf(metadata: &Metadata) -> Result<()> {
    say("lint", format_args!("clippy on {BPF_TARGET}"));
    // Build scripts see RUSTC_BOOTSTRAP and would be built anew for every other command in the same
    // directory.
    let target_dir = metadata.target_dir()?.join("clippy-bpf");
    workspace::cargo("clippy")
        .args(["--package=leakguard-ebpf", "--release", "-Zbuild-std=core"])
        .arg(format!("--target={BPF_TARGET}"))
        .arg("--target-dir")
        .arg(target_dir)
        .args(["--", "-Dwarnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", consts::ARCH),
        )
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .run()
}
