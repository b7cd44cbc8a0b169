//! `cargo xtask fleet`: the Ansible collection of `deploy/ansible`, on three Debians with systemd, sshd, an uplink and a
//! tunnel each.
//!
//! A controller comes by ssh, as an administrator does. What the hosts ask for past their tunnels is counted where the
//! ISP gets it: before, while they observe, when they enforce, and after. One host is lost on the way: it has to go back by
//! itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    boot::rootfs,
    build,
    nspawn::{NAMESPACES, remove, watch},
    process::Cmd,
    setup,
    workspace::{self, Metadata},
};

/// A dozen playbooks of half a minute each; a machine that is busy or slow may take much longer.
const LIMIT: Duration = Duration::from_hours(1);
const CLEANING_LIMIT: Duration = Duration::from_mins(1);

/// What the hosts run in.
const MACHINE: &str = concat!(
    include_str!("../nspawn/guest/lab.sh"),
    include_str!("lab/machine.sh")
);

/// What each host has on top of the essential packages.
const PACKAGES: &str = "bind9-dnsutils,dbus,iproute2,nftables,openssh-server,procps,python3,python3-apt,sudo,\
                        systemd-sysv,wireguard-go,wireguard-tools";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Roll out this program, Debian package or release archive [default: the program, optimised]
    #[arg(long, value_name = "FILE")]
    install: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure_all()?;
    setup::ensure_fleet()?;
    let what = match &args.install {
        Some(given) => {
            fs::canonicalize(given).with_context(|| format!("cannot find {}", given.display()))?
        }
        None => build::agent(true)?,
    };
    let source = rootfs::directory(PACKAGES)?;
    let directory = Metadata::load()?.target_dir()?.join("fleet");
    remove(&directory)?;
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let cgroup = format!("leakguard-fleet-{}", std::process::id());
    let machine = Cmd::new("unshare", LIMIT)
        .args(NAMESPACES)
        .args(["bash", "-c", MACHINE, "machine"])
        .args([
            &source,
            &directory,
            &workspace::root().join("xtask/src/fleet/lab"),
            &what,
            &workspace::root().join("deploy/ansible/leakguard"),
            Path::new(&cgroup),
        ])
        .label("the fleet")
        .privileged();
    let watched = watch(
        "fleet",
        &format!("rollout of {}", what.display()),
        &machine,
        &directory,
    );
    leave(&cgroup)?;
    let tally = watched?;
    for host in 1..=3 {
        remove(&directory.join(format!("fleet-{host}")))?;
    }
    Ok(tally.conclude())
}

/// Removes the cgroups of hosts that are gone: namespaces do not take them along.
fn leave(cgroup: &str) -> Result<()> {
    Cmd::new("sh", CLEANING_LIMIT)
        .args([
            "-c",
            // The last processes end when their namespace has ended.
            r#"findmnt --noheadings --list --output TARGET --types cgroup,cgroup2 | while read -r tree; do
                   while [ -d "$tree/$1" ] && ! find "$tree/$1" -depth -type d -exec rmdir {} + 2>/dev/null; do
                       sleep 0.05
                   done
               done"#,
            "sh",
            cgroup,
        ])
        .label("removing the hosts' cgroups")
        .privileged()
        .output()
        .map(drop)
}
