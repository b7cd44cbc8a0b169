//! Sizes of packets in the tunnel.

use leakguard_common::abi::Role;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;

/// Parameters that say what happens to packets that are too large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Discovery {
    /// `net.ipv4.tcp_mtu_probing`.
    pub(super) probing: Option<u64>,
    /// `net.ipv4.ip_no_pmtu_disc`.
    pub(super) off: Option<u64>,
}

/// What IPv6 needs, and what Ethernet carries.
const LEAST: u32 = 1280;
const MOST: u32 = 1500;

/// What `WireGuard` adds over IPv4: 20 for IP, 8 for UDP, 32 of its own.
const OVERHEAD: u32 = 60;

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Mtu,
        severity,
        title,
        why,
    }
}

pub(super) const LOW: Rule = rule(
    "tunnel-mtu-too-low",
    Severity::Problem,
    "a tunnel's MTU is below 1280",
    "IPv6 is switched off on such an interface, and large answers of DNS are cut into fragments",
);
pub(super) const HIGH: Rule = rule(
    "tunnel-mtu-too-high",
    Severity::Warning,
    "a tunnel's MTU is above 1500",
    "full packets are fragmented outside, or are lost where fragments are",
);
pub(super) const TIGHT: Rule = rule(
    "tunnel-mtu-over-uplink",
    Severity::Warning,
    "full packets of a tunnel do not fit its uplink",
    "they are fragmented outside, or are lost where fragments are: small answers come, large ones do not",
);
pub(super) const NO_PROBING: Rule = rule(
    "mtu-probing-off",
    Severity::Note,
    "TCP does not probe for a smaller packet size",
    "with a packet size that does not fit, and routers that keep silent, connections hang after the first bytes",
);
pub(super) const NO_DISCOVERY: Rule = rule(
    "pmtu-discovery-off",
    Severity::Warning,
    "path MTU discovery is off",
    "packets may be cut into fragments, of which leakguard drops the later ones of dropped firsts, and others lose more",
);

pub(super) const RULES: &[&Rule] = &[&LOW, &HIGH, &TIGHT, &NO_PROBING, &NO_DISCOVERY];

pub(super) fn collect(root: &Root) -> Discovery {
    Discovery {
        probing: root.number("/proc/sys/net/ipv4/tcp_mtu_probing"),
        off: root.number("/proc/sys/net/ipv4/ip_no_pmtu_disc"),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let mtu = |ifindex: &u32| network.mtus.get(ifindex).copied();
    let mut found = Vec::new();
    let smallest = network
        .of_role(Role::Uplink)
        .filter(|uplink| uplink.up)
        .filter_map(|uplink| Some((mtu(&uplink.ifindex)?, uplink.name.as_str())))
        .min();
    let mut misfit = false;
    for tunnel in network.of_role(Role::Tunnel) {
        let Some(size) = mtu(&tunnel.ifindex) else {
            continue;
        };
        let name = &tunnel.name;
        let shown = format!("ip link show {name}: mtu {size}");
        if size < LEAST {
            found.push(LOW.found([shown], format!("ip link set {name} mtu 1420")));
        } else if size > MOST {
            misfit = true;
            found.push(HIGH.found([shown], format!("ip link set {name} mtu 1420")));
        } else if let Some((outer, uplink)) = smallest
            && tunnel.kind.as_deref() == Some("wireguard")
            && size + OVERHEAD > outer
        {
            misfit = true;
            let fits = outer.saturating_sub(OVERHEAD + 20).max(LEAST);
            found.push(TIGHT.found(
                [
                    shown,
                    format!("ip link show {uplink}: mtu {outer}; WireGuard adds {OVERHEAD}"),
                ],
                format!("ip link set {name} mtu {fits}"),
            ));
        }
    }
    let Discovery { probing, off } = &facts.discovery;
    if misfit && *probing == Some(0) {
        found.push(NO_PROBING.found(
            ["net.ipv4.tcp_mtu_probing = 0".to_owned()],
            "sysctl -w net.ipv4.tcp_mtu_probing=1",
        ));
    }
    if let Some(value) = off.filter(|value| *value != 0) {
        found.push(NO_DISCOVERY.found(
            [format!("net.ipv4.ip_no_pmtu_disc = {value}")],
            "sysctl -w net.ipv4.ip_no_pmtu_disc=0",
        ));
    }
    found
}
