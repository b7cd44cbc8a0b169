//! The Debian package: what `[package.metadata.deb]` in the agent's `Cargo.toml` says, by cargo-deb.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    dist::{EPOCH, Release},
    setup::{crates::CARGO_DEB, toolchain::STATIC_TARGET},
    workspace,
};

/// Makes the package out of the files that are laid out; of another version if one is given.
pub(super) fn build(release: &Release, directory: &Path, version: Option<&str>) -> Result<PathBuf> {
    let program = CARGO_DEB.ensure()?;
    let mut deb = workspace::program(program)
        .args([
            "--package=leakguard",
            "--no-build",
            "--no-strip",
            "--locked",
        ])
        .arg(format!("--target={STATIC_TARGET}"))
        .arg("--output")
        .arg(directory)
        .env(EPOCH, release.epoch.to_string());
    if let Some(version) = version {
        deb = deb.arg(format!("--deb-version={version}"));
    }
    let said = deb.output().context("cannot make the Debian package")?;
    let file = said.lines().map(str::trim).rfind(|line| {
        Path::new(line)
            .extension()
            .is_some_and(|extension| extension == "deb")
    });
    file.map(PathBuf::from)
        .context("cargo-deb does not say what it has made")
}
