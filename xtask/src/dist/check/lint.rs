//! What Debian's own tools say of the package.

use std::time::Duration;

use anyhow::Result;

use crate::{
    boot::rootfs,
    dist::{Packages, Release, check::step},
    process::Cmd,
    report::{line, say},
    test::libtest::Tally,
};

const LINTIAN_LIMIT: Duration = Duration::from_mins(5);
const PIUPARTS_LIMIT: Duration = Duration::from_mins(15);

/// No errors, no warnings, and no override that is not needed.
pub(super) fn lintian(packages: &Packages) -> Result<Tally> {
    say("dist", "lintian");
    let status = Cmd::new("lintian", LINTIAN_LIMIT)
        .args(["--allow-root", "--fail-on=error,warning", "--info"])
        .arg(&packages.deb)
        .lines(|text| {
            // What is explained of a tag begins with `N:`.
            if !text.starts_with("N:") {
                line(format_args!("    {text}"));
            }
            Ok(())
        })?;
    Ok(step(status.success()))
}

/// Installs, removes and purges the package in a root file system that has nothing else, and looks for what is left.
pub(super) fn piuparts(release: &Release, packages: &Packages) -> Result<Tally> {
    say("dist", "piuparts: about a minute");
    let directory = release.fresh("check/piuparts")?;
    let source = rootfs::directory("nftables")?;
    let base = directory.join("base.tar.gz");
    Cmd::new("tar", PIUPARTS_LIMIT)
        .args(["--create", "--gzip", "--one-file-system", "--numeric-owner"])
        .arg("--file")
        .arg(&base)
        .arg("--directory")
        .arg(&source)
        .arg(".")
        .privileged()
        .output()?;
    let log = directory.join("piuparts.log");
    let status = Cmd::new("piuparts", PIUPARTS_LIMIT)
        .arg("--basetgz")
        .arg(&base)
        .args([
            "--keep-sources-list",
            "--no-upgrade-test",
            "--warn-on-others",
        ])
        .arg("--log-file")
        .arg(&log)
        .arg(&packages.deb)
        .privileged()
        .lines(|text| {
            if text.contains("ERROR") || text.contains("FAIL") || text.contains("PASS") {
                line(format_args!("    {text}"));
            }
            Ok(())
        })?;
    if !status.success() {
        line(format_args!("    all of it is in {}", log.display()));
    }
    Ok(step(status.success()))
}
