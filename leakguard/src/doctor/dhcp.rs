//! Clients of DHCP, which write `resolv.conf` with each lease.

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;

/// Facts about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dhcp {
    /// Whether a hook keeps dhclient from it.
    pub(super) dhclient_kept: bool,
    /// Whether `dhcpcd.conf` does.
    pub(super) dhcpcd_kept: bool,
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Dhcp,
        severity,
        title,
        why,
    }
}

pub(super) const REWRITES: Rule = rule(
    "dhcp-rewrites-resolv-conf",
    Severity::Warning,
    "a DHCP client writes resolv.conf",
    "when the lease is renewed, the LAN's resolver comes back in place of the VPN's",
);
pub(super) const RDNSSD: Rule = rule(
    "rdnssd-rewrites-resolv-conf",
    Severity::Warning,
    "rdnssd writes resolv.conf",
    "whatever a router announces becomes a resolver of this host",
);

pub(super) const RULES: &[&Rule] = &[&REWRITES, &RDNSSD];

const HOOKS: &str = "/etc/dhcp/dhclient-enter-hooks.d";
const DHCPCD: &str = "/etc/dhcpcd.conf";

pub(super) fn collect(root: &Root) -> Dhcp {
    let hooks = root.list(HOOKS);
    let keeps = |name: &String| {
        root.read(&format!("{HOOKS}/{name}"))
            .is_some_and(|text| text.contains("make_resolv_conf()"))
    };
    let dhcpcd = root.read(DHCPCD).unwrap_or_default();
    Dhcp {
        dhclient_kept: hooks.iter().any(keeps),
        dhcpcd_kept: dhcpcd.lines().any(|line| {
            let mut words = line.split([' ', ',', '\t']);
            words.next() == Some("nohook") && words.any(|word| word == "resolv.conf")
        }),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Dhcp {
        dhclient_kept,
        dhcpcd_kept,
    } = facts.dhcp;
    let mut found = Vec::new();
    // One that cannot be changed stays, and systemd-resolved's is not theirs.
    if facts.resolv_conf.immutable || facts.resolv_conf.names_stub() {
        return found;
    }
    let clients = [
        (
            "dhclient",
            dhclient_kept,
            format!("mkdir -p {HOOKS} && echo 'make_resolv_conf() {{ :; }}' > {HOOKS}/leakguard"),
        ),
        (
            "dhcpcd",
            dhcpcd_kept,
            format!("echo 'nohook resolv.conf' >> {DHCPCD} && systemctl restart dhcpcd"),
        ),
        (
            "udhcpc",
            false,
            "echo 'RESOLV_CONF=no' >> /etc/udhcpc/udhcpc.conf".to_owned(),
        ),
    ];
    for (name, kept, remedy) in clients {
        if let Some(running) = facts.processes.evidence(&[name]).filter(|_| !kept) {
            found.push(REWRITES.found([running], remedy));
        }
    }
    if let Some(running) = facts.processes.evidence(&["rdnssd"]) {
        found.push(RDNSSD.found([running], "systemctl disable --now rdnssd"));
    }
    found
}
