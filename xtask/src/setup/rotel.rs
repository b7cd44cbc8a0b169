//! rotel, an OpenTelemetry collector: what receives logs in the tests. Debian has none; this one comes from `PyPI`, into a
//! directory of this project.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::Cmd,
    report::say,
    setup::{
        apt::{self, Package},
        tools_dir,
    },
};

/// Pinned: an older or newer one may print otherwise.
const VERSION: &str = "0.0.1a15";
const VENV_LIMIT: Duration = Duration::from_mins(2);
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(5);

/// The program, if it is there.
pub(crate) fn find() -> Option<PathBuf> {
    let program = directory().ok()?.join("packages/rotel/rotel-agent");
    program.is_file().then_some(program)
}

/// Fetches it if it is missing.
pub(crate) fn ensure() -> Result<PathBuf> {
    if let Some(program) = find() {
        return Ok(program);
    }
    let directory = directory()?;
    say(
        "setup",
        format_args!("rotel {VERSION} is missing: fetching it from PyPI"),
    );
    let venv = directory.join("venv");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let make = || {
        Cmd::new("python3", VENV_LIMIT)
            .args(["-m", "venv"])
            .arg(venv.as_os_str())
    };
    // Debian's python3 has no pip of its own until this package is there.
    if make().output().is_err() {
        apt::install(&[Package {
            name: "python3-venv",
            services: &[],
        }])?;
        make()
            .output()
            .context("cannot make a Python environment")?;
    }
    Cmd::new(venv.join("bin/pip"), DOWNLOAD_LIMIT)
        .args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .arg("--target")
        .arg(directory.join("packages"))
        .arg(format!("rotel=={VERSION}"))
        .output()
        .context("cannot fetch rotel from PyPI, which the tests of OpenTelemetry need")?;
    let found = find();
    ensure!(
        found.is_some(),
        "rotel was fetched, but there is no program in {}",
        directory.display()
    );
    found.context("rotel has gone again")
}

fn directory() -> Result<PathBuf> {
    Ok(tools_dir()?.join(format!("rotel-{VERSION}")))
}
