//! Python environments: what `PyPI` has and Debian has not, in directories of this project.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    process::Cmd,
    setup::apt::{self, Package},
};

const MAKE_LIMIT: Duration = Duration::from_mins(2);
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(10);

/// Makes an environment, and returns the command that installs into it, for want of what to install.
pub(crate) fn environment(directory: &Path) -> Result<Cmd> {
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
