//! The machine's own kernel as a row of the matrix: the same binaries, started here.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    console::{END, Outcome, Record},
    initramfs::Payload,
};
use crate::{process::Cmd, test::Suite};

/// What one suite may take.
const LIMIT: Duration = Duration::from_mins(15);

/// As `uname -r` says it.
pub(super) fn release() -> Result<String> {
    const FILE: &str = "/proc/sys/kernel/osrelease";
    let release = std::fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}"))?;
    Ok(release.trim().to_owned())
}

/// Runs suites as root, in the way of the guests.
pub(super) fn run(payload: &Payload, suites: &[&Suite], work_dir: &Path) -> Result<Outcome> {
    std::fs::create_dir_all(work_dir)
        .with_context(|| format!("cannot create {}", work_dir.display()))?;
    let mut record = Record::create(&work_dir.join("host.log"))?;
    for Suite { name, binary } in suites {
        // As cargo would announce it.
        record.take(&format!("     Running {name} ({})", binary.display()))?;
        // How it ends is in what it says; one that does not has no result.
        Cmd::new(binary, LIMIT)
            .privileged()
            .env("LEAKGUARD_BIN", &payload.agent)
            .env("LEAKGUARD_SENDER", &payload.sender)
            .args(["--test-threads=1", "--show-output"])
            .lines(|text| record.take(text))?;
    }
    record.take(END)?;
    record.finish(suites.len())
}
