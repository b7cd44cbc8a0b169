//! What the program is built of, for those who look for known vulnerabilities: a list of crates in `CycloneDX`'s form.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    dist::{EPOCH, PACKAGE, Release, archive},
    process::Cmd,
    setup::{crates::CARGO_CYCLONEDX, toolchain::STATIC_TARGET},
    workspace::{self, Metadata, root},
};

/// Writes the list into `directory`.
pub(super) fn write(release: &Release, directory: &Path) -> Result<PathBuf> {
    let program = CARGO_CYCLONEDX.ensure()?;
    // It writes next to every `Cargo.toml`: it gets a tree of links, so that nothing is written into the repository.
    let tree = release.fresh("sbom")?;
    let mut sources = vec![root().join("Cargo.toml"), root().join("Cargo.lock")];
    sources.extend(
        Metadata::load()?
            .packages()?
            .into_iter()
            .map(|package| package.dir),
    );
    Cmd::new("cp", workspace::CARGO_LIMIT)
        .args(["--recursive", "--symbolic-link"])
        .args(&sources)
        .arg(&tree)
        .output()?;
    workspace::program(program)
        .args([
            "cyclonedx",
            "--format=json",
            "--spec-version=1.5",
            "--quiet",
        ])
        .arg(format!("--target={STATIC_TARGET}"))
        .arg("--manifest-path")
        .arg(tree.join(PACKAGE).join("Cargo.toml"))
        .env(EPOCH, release.epoch.to_string())
        .output()
        .context("cannot list what the program is built of")?;
    let made = tree.join(PACKAGE).join(format!("{PACKAGE}.cdx.json"));
    let text =
        fs::read_to_string(&made).with_context(|| format!("cannot read {}", made.display()))?;
    // Where it was built is nobody's business, and different everywhere.
    let text = text.replace(&format!("file://{}", tree.display()), "file://.");
    ensure!(
        !text.contains(&root().display().to_string()),
        "the list names a directory of this machine"
    );
    let file = directory.join(format!("{}.cdx.json", archive::name(release)));
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
