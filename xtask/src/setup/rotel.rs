//! rotel, an OpenTelemetry collector: what receives logs in the tests. Debian has none; this one comes from `PyPI`, into a
//! directory of this project.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::{
    report::say,
    setup::{python, tools_dir},
};

/// Pinned: an older or newer one may print otherwise.
const VERSION: &str = "0.0.1a15";

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
    python::environment(&directory.join("venv"))?
        .arg("--no-deps")
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
