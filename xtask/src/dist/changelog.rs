//! The changelog in the form that Debian wants: which version, when; what has changed is in `CHANGELOG.md`.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::{dist::Release, process::Cmd};

const LIMIT: Duration = Duration::from_mins(1);

/// The file, in the release's directory, where `Cargo.toml` names it.
const FILE: &str = "changelog";

/// Whose package it is, as in `Cargo.toml`.
const MAINTAINER: &str = "The leakguard contributors <leakguard@packages.invalid>";

pub(super) fn write(release: &Release) -> Result<()> {
    let date = Cmd::new("date", LIMIT)
        .args(["--utc", "--rfc-email"])
        .arg(format!("--date=@{}", release.epoch))
        .env("LC_ALL", "C")
        .output()?;
    let text = text(&release.version, date.trim());
    let file = release.directory.join(FILE);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn text(version: &str, date: &str) -> String {
    format!(
        "leakguard ({version}-1) unstable; urgency=medium\n\n  \
         * Version {version}: see /usr/share/doc/leakguard/changelog.gz.\n\n \
         -- {MAINTAINER}  {date}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace::root;

    #[test]
    fn the_maintainer_is_the_one_of_the_package() {
        let manifest = fs::read_to_string(root().join("leakguard/Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("maintainer = \"{MAINTAINER}\"")));
        assert!(text("1.2.3", "today").starts_with("leakguard (1.2.3-1) unstable"));
    }
}
