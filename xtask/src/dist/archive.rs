//! Archives whose bytes follow from their files alone, and checksums: with tar, gzip and coreutils.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    dist::{Release, stage::Tree},
    process::Cmd,
    setup::toolchain::STATIC_TARGET,
};

const LIMIT: Duration = Duration::from_mins(5);

/// What an archive is called, and the directory in it.
pub(super) fn name(release: &Release) -> String {
    format!("leakguard-{}-{STATIC_TARGET}", release.version)
}

/// The archive of a release, for systems without dpkg.
pub(super) fn release(release: &Release, tree: &Tree, directory: &Path) -> Result<PathBuf> {
    let name = name(release);
    let file = directory.join(format!("{name}.tar"));
    tar(release, &tree.root, &file, Some(&name))?;
    gzip(&file)?;
    let mut compressed = file.into_os_string();
    compressed.push(".gz");
    Ok(compressed.into())
}

/// Everything in `directory`: in order, root's, of one time, with one mode. `top` is a directory around it.
pub(super) fn tar(
    release: &Release,
    directory: &Path,
    file: &Path,
    top: Option<&str>,
) -> Result<()> {
    let mut tar = Cmd::new("tar", LIMIT)
        .args(["--create", "--format=gnu", "--sort=name", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--mode=u=rwX,go=rX"])
        .arg(format!("--mtime=@{}", release.epoch))
        .arg("--file")
        .arg(file)
        .arg("--directory")
        .arg(directory);
    tar = match top {
        Some(top) => tar
            .arg(format!("--transform=flags=r;s,^\\.,{top},"))
            .arg("."),
        // Without an entry for the directory itself.
        None => tar.arg("--transform=flags=r;s,^\\./,,").args(
            entries(directory)?
                .into_iter()
                .map(|name| format!("./{name}")),
        ),
    };
    tar.output()
        .map(drop)
        .with_context(|| format!("cannot make {}", file.display()))
}

/// What is in a directory, in order.
fn entries(directory: &Path) -> Result<Vec<String>> {
    let listed = Cmd::new("ls", LIMIT)
        .arg("-A")
        .arg(directory)
        .env("LC_ALL", "C")
        .output()?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Compresses a file; it gets `.gz` behind its name.
pub(super) fn gzip(file: &Path) -> Result<()> {
    Cmd::new("gzip", LIMIT)
        .args(["--no-name", "--best", "--force"])
        .arg(file)
        .output()
        .map(drop)
}

/// A file's checksum, as hexadecimal digits.
pub(super) fn sha256(file: &Path) -> Result<String> {
    let said = Cmd::new("sha256sum", LIMIT).arg("--").arg(file).output()?;
    said.split_whitespace()
        .next()
        // In front of a name with special characters.
        .map(|sum| sum.trim_start_matches('\\').to_owned())
        .with_context(|| format!("no checksum of {}", file.display()))
}
