//! Ways out that leakguard does not close, where this host has them (docs/known-issues.md).

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::host::FAR_V4;
use super::root::Root;
use crate::sockets::Inventory;

/// Facts about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OpenWays {
    /// Sockets that send past TC.
    pub(super) inventory: Inventory,
    /// Whether programs of 32 bits run on this kernel of 64.
    pub(super) ia32: bool,
    /// Whether systemd runs here, and starts leakguard before the network.
    pub(super) systemd: bool,
    pub(super) early: bool,
    /// The cgroup that is guarded, where that is not the root.
    pub(super) cgroup: Option<String>,
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::OpenWays,
        severity,
        title,
        why,
    }
}

pub(super) const BYPASS: Rule = rule(
    "packet-socket-bypass",
    Severity::Problem,
    "a socket sends past TC",
    "what it sends is not judged: it was there before leakguard, or has an option that nothing refused",
);
pub(super) const UNKNOWN: Rule = rule(
    "packet-sockets-unknown",
    Severity::Note,
    "some packet sockets could not be asked",
    "one of them may send past TC",
);
pub(super) const INT80: Rule = rule(
    "bypass-by-32-bit-call",
    Severity::Note,
    "a 32-bit system call can make a packet socket bypass TC",
    "nothing refuses the option there; it takes CAP_NET_RAW in this network namespace",
);
pub(super) const EARLY: Rule = rule(
    "boot-not-covered",
    Severity::Warning,
    "nothing is enforced between boot and the agent's start",
    "DNS leaves by any interface in those seconds",
);
pub(super) const CGROUP: Rule = rule(
    "cgroup-narrow",
    Severity::Warning,
    "only a part of the local sockets is guarded",
    "sockets outside of that cgroup are judged by TC alone, and may set options that lead past it",
);
pub(super) const DOH: Rule = rule(
    "doh-unlisted",
    Severity::Note,
    "DNS over HTTPS to a resolver that is not in the list gets out",
    "the default route leads past the tunnel, and nothing tells it from other HTTPS",
);

pub(super) const RULES: &[&Rule] = &[&BYPASS, &UNKNOWN, &INT80, &EARLY, &CGROUP, &DOH];

pub(super) fn collect(root: &Root) -> OpenWays {
    let units = root.list("/etc/systemd/system");
    let early = units
        .iter()
        .filter(|name| name.strip_suffix(".wants").is_some())
        .any(|name| {
            root.link(&format!(
                "/etc/systemd/system/{name}/leakguard-early.service"
            ))
            .is_some()
        });
    OpenWays {
        // The kernel has this parameter only with the 32-bit calls.
        ia32: root.exists("/proc/sys/abi/vsyscall32")
            && !root
                .read("/proc/cmdline")
                .unwrap_or_default()
                .split_whitespace()
                .any(|word| word == "ia32_emulation=0"),
        systemd: root.exists("/run/systemd/system"),
        early,
        ..OpenWays::default()
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let OpenWays {
        inventory,
        ia32,
        systemd,
        early,
        cgroup,
    } = &facts.open_ways;
    let enforced = facts.enforcement.enforced();
    let strict = enforced
        .and_then(|status| status.hardening.as_ref())
        .is_some_and(|hardening| hardening.packet_sockets == "strict");
    let mut found = Vec::new();
    if !inventory.sockets.is_empty() {
        let mut pids: Vec<String> = Vec::new();
        for holder in inventory
            .sockets
            .iter()
            .flat_map(|socket| &socket.processes)
        {
            pids.push(holder.pid.to_string());
        }
        pids.dedup();
        found.push(BYPASS.found(
            inventory.sockets.iter().map(ToString::to_string),
            format!(
                "kill {} # or packet_sockets = \"strict\" in [hardening]",
                pids.join(" ")
            ),
        ));
    }
    if inventory.unknown > 0 {
        found.push(UNKNOWN.found(
            [format!("/proc/net/packet: {} sockets", inventory.unknown)],
            "sudo leakguard doctor # in the host's process namespace",
        ));
    }
    if *ia32 && enforced.is_some() && !strict {
        found.push(INT80.found(
            ["/proc/sys/abi/vsyscall32: present".to_owned()],
            "packet_sockets = \"strict\" in [hardening]; or boot with ia32_emulation=0",
        ));
    }
    if *systemd && !early {
        found.push(EARLY.found(
            ["/etc/systemd/system/*.wants: no leakguard-early.service".to_owned()],
            "systemctl enable leakguard-early",
        ));
    }
    if let Some(cgroup) = cgroup {
        found.push(CGROUP.found(
            [format!("leakguard status: cgroup {cgroup}")],
            "leave --cgroup out",
        ));
    }
    let blocks_doh = enforced.is_some_and(|status| status.block.contains(&"doh"));
    if let Some(leaves) = facts.network.leaves(FAR_V4[0]).filter(|_| blocks_doh) {
        found.push(DOH.found(
            [leaves],
            "send everything through the tunnel; or add its address and name to a list of your own (doh_resolvers)",
        ));
    }
    found
}
