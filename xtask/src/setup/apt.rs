//! Installs Debian packages without questions, without starting daemons, within a bounded time.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    process::{Cmd, find_program, is_root},
    report::say,
};

const UPDATE_LIMIT: Duration = Duration::from_mins(3);
const INSTALL_LIMIT: Duration = Duration::from_mins(15);
const QUERY_LIMIT: Duration = Duration::from_mins(1);

/// A mirror that does not answer is given up, and so is a lock that somebody keeps.
pub(crate) const OPTIONS: &[&str] = &[
    "-q",
    "-o=Acquire::http::Timeout=20",
    "-o=Acquire::https::Timeout=20",
    "-o=Acquire::Retries=2",
    "-o=DPkg::Lock::Timeout=120",
    "-o=Dpkg::Use-Pty=0",
];

/// Runs its arguments while no package may start a daemon: `policy-rc.d` is Debian's interface for
/// that. The file of an administrator stays as it is; ours goes away also after Ctrl-C.
const WITHOUT_DAEMONS: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' HUP TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
"$@"
"#;

/// A Debian package to install.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// The units that the package would start at every boot.
    pub(crate) services: &'static [&'static str],
}

/// Installs `packages`.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    let mut names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    names.dedup();
    let list = names.join(" ");
    if find_program("apt-get").is_none() {
        bail!(
            "only Debian's packages are installed automatically (here: {list}), and there is no apt-get"
        );
    }
    if !is_root()? && find_program("sudo").is_none() {
        bail!(
            "installing packages needs root, and there is no sudo; run as root: \
             apt-get update && apt-get install --no-install-recommends {list}"
        );
    }

    say("setup", format_args!("installing {list} with apt"));
    let mut updated = false;
    if !are_known(&names) {
        update();
        updated = true;
    }
    match install_command(&names).run() {
        // Lists that are older than the mirror's contents name files that are gone.
        Err(_) if !updated => {
            update();
            install_command(&names).run()?;
        }
        outcome => outcome?,
    }
    for service in packages.iter().flat_map(|package| package.services) {
        keep_disabled(service);
    }
    Ok(())
}

/// Whether the package lists have a version of every package.
fn are_known(names: &[&str]) -> bool {
    Cmd::new("apt-cache", QUERY_LIMIT)
        .args(["show", "--quiet", "--no-all-versions"])
        .args(names)
        .output()
        .is_ok_and(|output| {
            names.iter().all(|name| {
                output
                    .lines()
                    .any(|line| line == format!("Package: {name}"))
            })
        })
}

/// Reads the package lists anew. One unreachable source does not matter if the others have the
/// packages, so a failure is reported and the installation decides.
fn update() {
    let update = Cmd::new("apt-get", UPDATE_LIMIT)
        .args(OPTIONS)
        .arg("update")
        .privileged();
    if let Err(error) = update.run() {
        say("setup", format_args!("{error:#}; trying all the same"));
    }
}

fn install_command(names: &[&str]) -> Cmd {
    let bound = format!("{}", INSTALL_LIMIT.as_secs());
    // The inner bound ends apt-get, so that the script still removes its policy file; the outer one
    // is the last resort.
    Cmd::new("sh", INSTALL_LIMIT + Duration::from_mins(1))
        .args(["-c", WITHOUT_DAEMONS, "sh"])
        .args(["timeout", "--foreground", "--kill-after=30"])
        .arg(bound)
        .arg("apt-get")
        .args(OPTIONS)
        .args(["install", "--yes", "--no-install-recommends", "--"])
        .args(names)
        .label(format!(
            "apt-get install --no-install-recommends {}",
            names.join(" ")
        ))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_MODE", "l")
        .privileged()
}

/// Sees to it that a daemon that came with a package does not start at the next boot either.
fn keep_disabled(service: &str) {
    if find_program("systemctl").is_none() {
        return;
    }
    let disable = Cmd::new("systemctl", QUERY_LIMIT)
        .args(["--quiet", "disable", service])
        .privileged();
    if let Err(error) = disable.output() {
        say(
            "setup",
            format_args!("cannot disable {service}, it will start at the next boot: {error:#}"),
        );
    }
}
