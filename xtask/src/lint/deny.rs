//! cargo-deny, where it is installed: licences, sources and duplicates of what we depend on, and
//! known vulnerabilities.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    process::{Cmd, find_program},
    report::say,
    workspace,
};

/// The database is a git repository of a few megabytes.
const FETCH_LIMIT: Duration = Duration::from_mins(1);
const CHECK_LIMIT: Duration = Duration::from_mins(2);

pub(super) fn check() -> Result<()> {
    if find_program("cargo-deny").is_none() {
        say(
            "lint",
            "WARNING: licences, sources and advisories of the dependencies were NOT CHECKED: cargo-deny is not \
             installed (`cargo install --locked cargo-deny` takes some minutes)",
        );
        return Ok(());
    }

    say("lint", "cargo-deny: bans, licences, sources");
    deny(CHECK_LIMIT)
        .args(["check", "bans", "licenses", "sources"])
        .run()
        .context("a dependency breaks deny.toml")?;

    if let Err(error) = deny(FETCH_LIMIT).args(["fetch", "db"]).output() {
        let cause = error.root_cause().to_string();
        let cause = cause.lines().last().unwrap_or_default();
        say(
            "lint",
            format_args!(
                "WARNING: advisories were NOT CHECKED: cannot fetch their database: {cause}"
            ),
        );
        return Ok(());
    }
    say("lint", "cargo-deny: advisories");
    deny(CHECK_LIMIT)
        .args(["check", "--disable-fetch", "advisories"])
        .run()
        .context("a dependency has a known vulnerability")
}

fn deny(limit: Duration) -> Cmd {
    Cmd::new("cargo-deny", limit).dir(workspace::root())
}
