//! `cargo xtask nspawn`: `leakguard resolver` on a real Debian, with its own systemd, systemd-resolved, `NetworkManager`,
//! dhclient, Unbound and dnsmasq, in a container with a network of its own.
//!
//! What an ISP hands out by DHCP would change whom the host asks; the ISP's resolver gives other answers than the tunnel's.
//! The guest says of every step whether it went as it should: names after each lease, files after each revert.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;

use crate::{
    boot::rootfs,
    build,
    process::Cmd,
    report::{line, say},
    setup,
    test::libtest::Tally,
    workspace::{self, Metadata},
};

/// A container starts in seconds; a machine that is busy or slow may take much longer.
const LIMIT: Duration = Duration::from_mins(10);
const COPY_LIMIT: Duration = Duration::from_mins(3);

/// What a guest runs in.
const MACHINE: &str = concat!(
    include_str!("guest/lab.sh"),
    include_str!("guest/machine.sh")
);

/// What the guest has on top of the essential packages.
const PACKAGES: &str = "bind9-dnsutils,dbus,dns-root-data,dnsmasq-base,e2fsprogs,iproute2,isc-dhcp-client,libnss-resolve,\
                        network-manager,procps,systemd-resolved,systemd-sysv,udev,unbound";

/// What a machine has of its own; all of it ends with the first process in it.
pub(crate) const NAMESPACES: [&str; 6] = [
    "--net",
    "--mount",
    "--mount-proc",
    "--pid",
    "--fork",
    "--kill-child",
];

/// How a line of the guest's own begins on the console.
const MARK: &str = "guest: ";

/// A host with systemd-resolved, and one without.
const SCENARIOS: [&str; 2] = ["resolved", "plain"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// On which host [default: on both]
    #[arg(value_name = "SCENARIO", value_parser = PossibleValuesParser::new(SCENARIOS))]
    scenarios: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure_all()?;
    setup::ensure_nspawn()?;
    // The debug build can be told at which step to die.
    let agent = build::agent(false)?;
    let source = rootfs::directory(PACKAGES)?;
    let mut total = Tally::default();
    for name in SCENARIOS {
        if args.scenarios.is_empty() || args.scenarios.iter().any(|wanted| wanted == name) {
            total += live(name, &source, &agent)?;
        }
    }
    Ok(total.conclude())
}

/// Starts one host, and counts what went as it should.
fn live(name: &str, source: &Path, agent: &Path) -> Result<Tally> {
    let directory = Metadata::load()?.target_dir()?.join("nspawn").join(name);
    let root = copy_root(source, &directory)?;
    prepare(name, &root, agent)?;
    let machine = Cmd::new("unshare", LIMIT)
        .args(NAMESPACES)
        .args(["sh", "-c", MACHINE, "machine"])
        .args([root.as_path(), directory.as_path()])
        .label(format!("the container `{name}`"))
        .privileged();
    let tally = watch("nspawn", name, &machine, &directory)?;
    remove(&root)?;
    Ok(tally)
}

/// Makes `directory` anew, with a copy of a root file system in it that may be used up; returns where that is.
pub(crate) fn copy_root(source: &Path, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    remove(directory)?;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Cmd::new("cp", COPY_LIMIT)
        .arg("--archive")
        .args([source, root.as_path()])
        .privileged()
        .output()?;
    Ok(root)
}

/// Runs what says of its steps how they went; counts them, and keeps all that was said in `directory`.
pub(crate) fn watch(area: &str, name: &str, machine: &Cmd, directory: &Path) -> Result<Tally> {
    let started = Instant::now();
    say(area, format_args!("{name}: starting"));
    let console = directory.join("console.log");
    let mut log = String::new();
    let mut said = Vec::new();
    machine.lines(|text| {
        if let Some((_, text)) = text.split_once(MARK) {
            said.push(text.trim_end().to_owned());
        }
        log.push_str(text);
        log.push('\n');
        Ok(())
    })?;
    fs::write(&console, log).with_context(|| format!("cannot write {}", console.display()))?;
    let tally = judge(&said);
    for failure in failures(&said) {
        line(format_args!("    {failure}"));
    }
    say(
        area,
        format_args!(
            "{name}: {} ({:.1} s); the console is in {}",
            if tally.failed == 0 { "ok" } else { "FAILED" },
            started.elapsed().as_secs_f64(),
            console.display()
        ),
    );
    Ok(tally)
}

/// Puts in what the guest does, and makes it the host that is wanted.
fn prepare(name: &str, root: &Path, agent: &Path) -> Result<()> {
    put(
        root,
        &[
            (
                "root/check.sh",
                concat!(
                    include_str!("guest/steps.sh"),
                    include_str!("guest/check.sh")
                ),
            ),
            (
                "etc/systemd/system/check.service",
                include_str!("guest/check.service"),
            ),
            (
                "etc/NetworkManager/conf.d/lab.conf",
                include_str!("guest/NetworkManager.conf"),
            ),
            (
                "etc/NetworkManager/system-connections/eth0.nmconnection",
                include_str!("guest/eth0.nmconnection"),
            ),
            ("etc/leakguard-scenario", name),
        ],
    )?;
    Cmd::new("sh", COPY_LIMIT)
        .args(["-c", include_str!("guest/prepare.sh"), "prepare", name])
        .args([root, agent, &workspace::root().join("dist")])
        .label("preparing the root file system")
        .privileged()
        .output()?;
    Ok(())
}

/// Writes files into a root file system, each at its place below it.
pub(crate) fn put(root: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (path, content) in files {
        Cmd::new("sh", COPY_LIMIT)
            .args(["-c", r#"umask 077 && printf '%s\n' "$2" >"$1""#, "sh"])
            .arg(root.join(path))
            .arg(*content)
            .label(format!("writing {path}"))
            .privileged()
            .output()?;
    }
    Ok(())
}

/// Removes a directory, also with what was left immutable in it.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    Cmd::new("sh", COPY_LIMIT)
        .args([
            "-c",
            r#"[ ! -e "$1" ] || { chattr -R -f -i "$1"; rm -rf --one-file-system "$1"; }"#,
            "sh",
        ])
        .arg(directory)
        .label(format!("removing {}", directory.display()))
        .privileged()
        .output()
        .map(drop)
}

fn failures(said: &[String]) -> impl Iterator<Item = &String> {
    said.iter().filter(|said| said.starts_with("FAILED "))
}

/// A guest that does not come to its end has failed, whatever it has said.
fn judge(said: &[String]) -> Tally {
    let mut tally = Tally::default();
    for said in said {
        tally.passed += u64::from(said.starts_with("ok "));
        tally.failed += u64::from(said.starts_with("FAILED "));
    }
    tally.failed += u64::from(!said.iter().any(|said| said == "end"));
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_to_come_to_its_end() {
        let said = |lines: &[&str]| {
            judge(
                &lines
                    .iter()
                    .map(|&line| line.to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        let tally = said(&["ok a", "ok b", "end"]);
        assert_eq!((tally.passed, tally.failed), (2, 0));
        assert_eq!(said(&["ok a"]).failed, 1);
        assert_eq!(said(&["ok a", "FAILED b: c", "end"]).failed, 1);
    }
}
