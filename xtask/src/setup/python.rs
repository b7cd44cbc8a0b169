//! Python environments: what `PyPI` has and Debian has not, in directories of this project.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::Cmd,
    report::say,
    setup::{
        apt::{self, Package},
        tools_dir,
    },
};

const MAKE_LIMIT: Duration = Duration::from_mins(2);
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(10);

/// What is in an environment that is complete; written there last.
const INSTALLED: &str = "installed.txt";

/// The environment of this name with these packages, a line each; made anew if it is missing or has others. `what` they are is
/// said then.
pub(crate) fn ensure(name: &str, requirements: &str, what: &str) -> Result<PathBuf> {
    let directory = tools_dir()?.join(name);
    let is_complete = || {
        fs::read_to_string(directory.join(INSTALLED))
            .is_ok_and(|installed| installed == requirements)
    };
    if is_complete() {
        return Ok(directory);
    }
    say("setup", format_args!("{what}: missing, fetching from PyPI"));
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    environment(&directory)?
        .args(requirements.lines())
        .output()
        .with_context(|| format!("cannot fetch from PyPI: {what}"))?;
    fs::write(directory.join(INSTALLED), requirements)
        .with_context(|| format!("cannot write into {}", directory.display()))?;
    ensure!(
        is_complete(),
        "{} is not complete after all",
        directory.display()
    );
    Ok(directory)
}

/// Makes an environment, and returns the command that installs into it, for want of what to install.
pub(super) fn environment(directory: &Path) -> Result<Cmd> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let make = || {
        Cmd::new("python3", MAKE_LIMIT)
            .args(["-m", "venv"])
            .arg(directory.as_os_str())
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
    Ok(Cmd::new(directory.join("bin/pip"), DOWNLOAD_LIMIT).args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]))
}
