//! The programs that the demonstration and the tests call, and the Debian packages they come from.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    process::find_program,
    setup::apt::{self, Package},
};

/// A program, and where it comes from.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Its presence proves the package's; a whole path where it is not meant to be typed.
    pub(crate) program: &'static str,
    /// Debian's package.
    pub(crate) package: &'static str,
    /// The units that the package would start at every boot.
    services: &'static [&'static str],
}

impl Tool {
    /// What people call it.
    pub(crate) fn name(&self) -> &'static str {
        self.program.rsplit('/').next().unwrap_or(self.program)
    }

    pub(crate) fn find(&self) -> Option<PathBuf> {
        let path = Path::new(self.program);
        if path.is_absolute() {
            // Also what is only read, such as a library's header.
            return path.is_file().then(|| path.to_owned());
        }
        find_program(self.program)
    }
}

/// What must be there.
pub(crate) const TOOLS: &[Tool] = &[
    // The tests start it in a mount namespace of its own.
    tool("/lib/systemd/systemd-journald", "systemd"),
    // What they say when names do not resolve is looked up.
    tool("/usr/bin/python3", "python3"),
    // A test makes a program that resolves names with it.
    tool("/usr/include/ares.h", "libc-ares-dev"),
    tool("/usr/lib/podman/aardvark-dns", "aardvark-dns"),
    tool("/usr/lib/podman/netavark", "netavark"),
    // Tests read manifests for Kubernetes and configurations of collectors with it.
    tool(
        "/usr/lib/python3/dist-packages/yaml/__init__.py",
        "python3-yaml",
    ),
    // A module of ulogd; where it is depends on the machine.
    tool("/usr/share/doc/ulogd2-json/copyright", "ulogd2-json"),
    // What `report` makes is looked at in a real browser: with what it depends on, the largest of all (some 400 MB).
    tool("chromium", "chromium"),
    tool("curl", "curl"),
    tool("dhclient", "isc-dhcp-client"),
    tool("dig", "bind9-dnsutils"),
    Tool {
        program: "dnsdist",
        package: "dnsdist",
        // It would occupy port 53 of the developer's machine.
        services: &["dnsdist.service"],
    },
    tool("dnsmasq", "dnsmasq-base"),
    tool("dnsperf", "dnsperf"),
    tool("dnssec-signzone", "bind9-utils"),
    tool("drill", "ldnsutils"),
    tool("gcc", "gcc"),
    tool("go", "golang-go"),
    tool("ip", "iproute2"),
    // netavark calls it.
    tool("iptables", "iptables"),
    tool("kdig", "knot-dnsutils"),
    tool("musl-gcc", "musl-tools"),
    tool("nft", "nftables"),
    Tool {
        program: "nsd",
        package: "nsd",
        // It would occupy port 53 of the developer's machine.
        services: &["nsd.service"],
    },
    tool("nsenter", "util-linux"),
    tool("openssl", "openssl"),
    tool("pasta", "passt"),
    tool("ping", "iputils-ping"),
    Tool {
        program: "podman",
        package: "podman",
        // They would serve containers of the developer's machine.
        services: &[
            "podman-auto-update.service",
            "podman-auto-update.timer",
            "podman-restart.service",
            "podman.service",
            "podman.socket",
        ],
    },
    Tool {
        program: "prometheus",
        package: "prometheus",
        // It would serve at port 9090 of the developer's machine.
        services: &["prometheus.service"],
    },
    Tool {
        program: "prometheus-node-exporter",
        package: "prometheus-node-exporter",
        // It would serve at port 9100 of the developer's machine.
        services: &["prometheus-node-exporter.service"],
    },
    Tool {
        program: "radvd",
        package: "radvd",
        // It would announce the developer's machine as a router.
        services: &["radvd.service"],
    },
    // podman takes crun otherwise, which refuses to run without some of the controllers.
    tool("runc", "runc"),
    tool("slirp4netns", "slirp4netns"),
    tool("tcpdump", "tcpdump"),
    // A terminal for `top`, and a dissector for captures.
    tool("tmux", "tmux"),
    tool("tshark", "tshark"),
    Tool {
        // The measurements start it behind nftables' log.
        program: "ulogd",
        package: "ulogd2",
        // It would read the log of the developer's machine.
        services: &["ulogd2.service"],
    },
    Tool {
        program: "unbound",
        package: "unbound",
        // It would occupy port 53 of the developer's machine.
        services: &["unbound.service"],
    },
    // Counts instructions.
    tool("valgrind", "valgrind"),
    tool("wg", "wireguard-tools"),
    tool("wget", "wget"),
    tool("wireguard-go", "wireguard-go"),
];

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool {
        program,
        package,
        services: &[],
    }
}

/// What emulated machines need besides.
pub(crate) const EMULATOR: &[Tool] = &[
    tool("busybox", "busybox-static"),
    tool("depmod", "kmod"),
    tool("lz4", "lz4"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("strip", "binutils"),
    tool("xz", "xz-utils"),
    tool("zstd", "zstd"),
];

/// What `cargo xtask boot` needs besides those.
pub(crate) const BOOT: &[Tool] = &[
    tool("mke2fs", "e2fsprogs"),
    tool("mmdebstrap", "mmdebstrap"),
];

/// What `cargo xtask nspawn` needs.
pub(crate) const NSPAWN: &[Tool] = &[
    tool("chattr", "e2fsprogs"),
    tool("mmdebstrap", "mmdebstrap"),
    tool("systemd-nspawn", "systemd-container"),
];

/// What `cargo xtask dist` needs.
pub(crate) const DIST: &[Tool] = &[
    // The licence of the C library that static programs are linked with.
    tool("/usr/share/doc/musl/copyright", "musl"),
    tool("git", "git"),
    // They go into the image.
    tool("ip", "iproute2"),
    tool("nft", "nftables"),
    tool("strip", "binutils"),
    tool("wg", "wireguard-tools"),
];

/// What `cargo xtask dist --check` needs besides those of the tests and of `cargo xtask nspawn`.
pub(crate) const DIST_CHECK: &[Tool] = &[
    tool("jq", "jq"),
    tool("lintian", "lintian"),
    tool("piuparts", "piuparts"),
];

/// What `cargo xtask fleet` needs besides those.
pub(crate) const FLEET: &[Tool] = &[
    tool("ansible-playbook", "ansible-core"),
    tool("ssh", "openssh-client"),
];

/// What `cargo xtask lint` needs besides what builds.
pub(crate) const LINT: &[Tool] = &[
    tool("ansible-lint", "ansible-lint"),
    tool("shellcheck", "shellcheck"),
    tool("yamllint", "yamllint"),
];

/// Those of `tools` that are not there.
pub(crate) fn missing(tools: &'static [Tool]) -> Vec<&'static Tool> {
    tools.iter().filter(|tool| tool.find().is_none()).collect()
}

/// Installs the packages of `missing`.
pub(crate) fn install(missing: &[&Tool]) -> Result<()> {
    let packages: Vec<Package> = missing
        .iter()
        .map(|tool| Package {
            name: tool.package,
            services: tool.services,
        })
        .collect();
    let programs: Vec<&str> = missing.iter().map(|tool| tool.name()).collect();
    apt::install(&packages)
        .with_context(|| format!("these programs are missing: {}", programs.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_without_duplicates() {
        for table in [TOOLS, EMULATOR, BOOT, NSPAWN, DIST, DIST_CHECK, FLEET, LINT] {
            assert!(table.is_sorted_by(|a, b| a.program < b.program));
        }
    }

    #[test]
    fn nothing_to_install_for_what_is_there() {
        assert!(tool("sh", "dash").find().is_some());
        assert!(tool("no-such-program", "none").find().is_none());
    }
}
