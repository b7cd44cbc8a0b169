//! systemd's own check of the units that are shipped.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{Cmd, find_program},
    report::{line, say},
    workspace::{Metadata, root},
};

const LIMIT: Duration = Duration::from_mins(1);

/// What stands for the agent's program, which need not be installed here.
const STAND_IN: &str = "/bin/true";

pub(super) fn check(metadata: &Metadata) -> Result<()> {
    if find_program("systemd-analyze").is_none() {
        say(
            "lint",
            "WARNING: the units were NOT CHECKED: systemd-analyze is not installed (apt-get install systemd)",
        );
        return Ok(());
    }
    say("lint", "systemd units");
    let directory = metadata.target_dir()?.join("units");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut copies = Vec::new();
    for unit in units()? {
        let text =
            fs::read_to_string(&unit).with_context(|| format!("cannot read {}", unit.display()))?;
        let copy = directory.join(unit.file_name().unwrap_or_default());
        fs::write(&copy, with_stand_in(&text))
            .with_context(|| format!("cannot write {}", copy.display()))?;
        copies.push(copy);
    }
    let verify = Cmd::new("systemd-analyze", LIMIT)
        .args(["verify", "--man=no"])
        .args(&copies);
    // It succeeds in spite of words that it does not know; and it also looks at units of this machine.
    let mut findings = 0;
    let status = verify.lines(|text| {
        if text.contains("leakguard") {
            line(text);
            findings += 1;
        }
        Ok(())
    })?;
    if findings > 0 {
        bail!("`systemd-analyze verify` complains of the units in dist");
    }
    verify.check(status)
}

/// The units in `dist`.
fn units() -> Result<Vec<PathBuf>> {
    let directory = root().join("dist");
    let mut units: Vec<PathBuf> = fs::read_dir(&directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "service")
        })
        .collect();
    units.sort();
    if units.is_empty() {
        bail!("there are no units in {}", directory.display());
    }
    Ok(units)
}

fn with_stand_in(unit: &str) -> String {
    unit.replace("=leakguard ", &format!("={STAND_IN} "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_program_is_replaced() {
        assert_eq!(
            with_stand_in(
                "After=leakguard-early.service\nExecStart=leakguard run\nRuntimeDirectory=leakguard\n"
            ),
            "After=leakguard-early.service\nExecStart=/bin/true run\nRuntimeDirectory=leakguard\n"
        );
    }

    #[test]
    fn all_units_are_found() {
        let names: Vec<String> = units()
            .unwrap()
            .iter()
            .map(|unit| unit.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            names,
            [
                "leakguard-early.service",
                "leakguard-trial@.service",
                "leakguard.service"
            ]
        );
    }
}
