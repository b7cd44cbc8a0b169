//! The Debian package on a Debian that has just been made: installed, upgraded, removed and purged, with a tunnel and an ISP
//! that are watched.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    boot::rootfs,
    dist::{Packages, Release, deb},
    nspawn,
    process::Cmd,
    test::libtest::Tally,
};

/// The machine needs a minute; one that is busy or slow may take much longer.
const LIMIT: Duration = Duration::from_mins(10);

/// What the guest runs in.
const MACHINE: &str = concat!(
    include_str!("../../nspawn/guest/lab.sh"),
    include_str!("../guest/machine.sh")
);

/// What the guest has on top of the essential packages: what the package depends on, a tunnel, and what one looks with.
const PACKAGES: &str = "bind9-dnsutils,bpftool,dbus,iproute2,nftables,procps,systemd-sysv,wireguard-go,wireguard-tools";

pub(super) fn check(release: &Release, packages: &Packages) -> Result<Tally> {
    let directory = release.fresh("check/debian")?;
    // The same program under a higher version: what is upgraded here is the package. Other tests replace the program by one
    // with another ABI.
    let higher = format!("{}-2", release.version);
    let newer = deb::build(release, &release.fresh("check/newer")?, Some(&higher))?;
    let source = rootfs::directory(PACKAGES)?;
    let root = nspawn::copy_root(&source, &directory)?;
    nspawn::put(
        &root,
        &[
            (
                "root/check.sh",
                concat!(
                    include_str!("../../nspawn/guest/steps.sh"),
                    include_str!("../guest/check.sh")
                ),
            ),
            ("root/prober.pl", include_str!("../guest/prober.pl")),
            (
                "etc/systemd/system/check.service",
                include_str!("../../nspawn/guest/check.service"),
            ),
        ],
    )?;
    for (file, place) in [(&packages.deb, "root/old.deb"), (&newer, "root/new.deb")] {
        Cmd::new("install", LIMIT)
            .args(["-m", "644"])
            .args([file.as_path(), &root.join(place)])
            .privileged()
            .output()?;
    }
    Cmd::new("sh", LIMIT)
        .args([
            "-c",
            r#"rm -f "$1/etc/resolv.conf" && mkdir -p "$1/$2" && ln -s ../check.service "$1/$2/check.service""#,
            "sh",
        ])
        .arg(&root)
        .arg("etc/systemd/system/multi-user.target.wants")
        .label("preparing the root file system")
        .privileged()
        .output()?;
    let logs = directory.join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let machine = Cmd::new("unshare", LIMIT)
        .args(nspawn::NAMESPACES)
        .args(["sh", "-c", MACHINE, "machine"])
        .args([root.as_path(), logs.as_path()])
        .arg(include_str!("../guest/zones.sh"))
        .label("the Debian that the package is installed on")
        .privileged();
    let tally = nspawn::watch("dist", "debian", &machine, &directory)?;
    nspawn::remove(&root)?;
    Ok(tally)
}
