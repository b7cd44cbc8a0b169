//! shellcheck on every shell script of the repository, ansible-lint and yamllint on the Ansible collection.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::Cmd,
    report::say,
    workspace::{Metadata, root},
};

const LIMIT: Duration = Duration::from_mins(3);

/// Where the Ansible collection is.
const COLLECTION: &str = "deploy/ansible/leakguard";

pub(super) fn check(metadata: &Metadata) -> Result<()> {
    say("lint", "shell scripts");
    let scripts = scripts()?;
    ensure!(!scripts.is_empty(), "there are no shell scripts");
    Cmd::new("shellcheck", LIMIT)
        .arg("--")
        .args(scripts)
        .dir(root())
        .label("shellcheck")
        .run()
        .context("a shell script has findings")?;

    say("lint", "Ansible collection");
    Cmd::new("yamllint", LIMIT)
        .args(["--strict", "."])
        .dir(root().join(COLLECTION))
        .run()?;
    // Its playbooks name it as a collection that is installed, and what is known of collections is kept in a cache.
    let directory = metadata.target_dir()?.join("ansible");
    let installed = directory.join("ansible_collections/leakguard");
    Cmd::new("sh", LIMIT)
        .args(["-c", r#"mkdir -p "$1" && ln -sfn "$2" "$1/fleet""#, "sh"])
        .args([installed, root().join(COLLECTION)])
        .output()?;
    Cmd::new("ansible-lint", LIMIT)
        .args([
            "--offline",
            "--profile=production",
            "--strict",
            "--nocolor",
            "-q",
        ])
        .env("ANSIBLE_COLLECTIONS_PATH", &directory)
        .env("ANSIBLE_HOME", &directory)
        .env("XDG_CACHE_HOME", &directory)
        .dir(root().join(COLLECTION))
        .run()
}

/// All shell scripts that git knows, or would know after an `add`. Which shell they are for, they say themselves: shellcheck
/// refuses one that does not.
fn scripts() -> Result<Vec<PathBuf>> {
    let listed = Cmd::new("git", LIMIT)
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .dir(root())
        .output()?;
    let mut scripts = Vec::new();
    for name in listed.lines().map(Path::new) {
        // What is no text is no script.
        let text = fs::read_to_string(root().join(name)).unwrap_or_default();
        if is_script(name, text.lines().next().unwrap_or_default()) {
            scripts.push(name.to_owned());
        }
    }
    Ok(scripts)
}

/// Whether a file is a shell script, by its name and its first line.
fn is_script(name: &Path, first: &str) -> bool {
    let program = first
        .strip_prefix("#!")
        .and_then(|line| line.rsplit(['/', ' ']).next());
    name.extension().is_some_and(|extension| extension == "sh")
        || program.is_some_and(|program| ["bash", "dash", "sh"].contains(&program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_known_by_its_first_line_or_its_name() {
        for (name, first, expected) in [
            (".ci/run", "#!/usr/bin/env bash", true),
            ("init", "#!/bin/busybox sh", true),
            ("a.sh", "# shellcheck shell=bash", true),
            ("a.pl", "#!/usr/bin/perl", false),
            ("a.rs", "//! A module that ends with sh", false),
        ] {
            assert_eq!(is_script(Path::new(name), first), expected, "{name}");
        }
    }

    #[test]
    fn what_runs_here_is_among_them() {
        let found = scripts().unwrap();
        for path in [".ci/run", "xtask/src/boot/guest/init.sh"] {
            assert!(found.contains(&PathBuf::from(path)), "{path}");
        }
    }
}
