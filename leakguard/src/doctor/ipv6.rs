//! What is particular to IPv6: switched off where it is needed, on where it is not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use leakguard_common::abi::Role;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;

const CONF: &str = "/proc/sys/net/ipv6/conf";

/// Parameters of interfaces, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ipv6 {
    /// Whether it is switched off.
    pub(super) disabled: BTreeMap<String, bool>,
    /// Whether routers are listened to: 0, 1, or 2 for also when this host forwards.
    pub(super) accept_ra: BTreeMap<String, u64>,
    /// Whether this host forwards, which makes 1 mean no.
    pub(super) forwarding: bool,
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Ipv6,
        severity,
        title,
        why,
    }
}

pub(super) const OFF_ON_TUNNEL: Rule = rule(
    "ipv6-off-on-tunnel",
    Severity::Problem,
    "IPv6 is switched off on the tunnel, and a resolver has an IPv6 address",
    "it cannot be asked",
);
pub(super) const ROUTERS: Rule = rule(
    "ipv6-accepts-routers",
    Severity::Note,
    "an uplink takes its IPv6 from any router, and the tunnel has none",
    "a router can come at any time and draw all IPv6 past the tunnel; DNS is kept inside nevertheless",
);

pub(super) const RULES: &[&Rule] = &[&OFF_ON_TUNNEL, &ROUTERS];

pub(super) fn collect(root: &Root) -> Ipv6 {
    let mut ipv6 = Ipv6 {
        forwarding: root.number(&format!("{CONF}/all/forwarding")) == Some(1),
        ..Ipv6::default()
    };
    for name in root.list(CONF) {
        let number = |key: &str| root.number(&format!("{CONF}/{name}/{key}"));
        if let Some(value) = number("disable_ipv6") {
            ipv6.disabled.insert(name.clone(), value != 0);
        }
        if let Some(value) = number("accept_ra") {
            ipv6.accept_ra.insert(name.clone(), value);
        }
    }
    ipv6
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let Ipv6 {
        disabled,
        accept_ra,
        forwarding,
    } = &facts.ipv6;
    let is_off = |name: &str| disabled.get(name).copied().unwrap_or(false);
    let mut found = Vec::new();
    let asked = network
        .resolvers
        .iter()
        .map(|seen| seen.server.address)
        .find(|address| address.is_ipv6() && !address.is_loopback());
    for tunnel in network.of_role(Role::Tunnel) {
        let name = &tunnel.name;
        if let Some(address) = asked.filter(|_| is_off(name)) {
            found.push(OFF_ON_TUNNEL.found(
                [
                    format!("net.ipv6.conf.{name}.disable_ipv6 = 1"),
                    format!("nameserver {address}"),
                ],
                format!("sysctl -w net.ipv6.conf.{name}.disable_ipv6=0 # and restart the VPN"),
            ));
        }
    }
    let has_v6 = |ifindex: u32| {
        network.tables.addresses.iter().any(|address| {
            address.ifindex == ifindex
                && matches!(address.net.addr(), IpAddr::V6(v6) if !v6.is_unicast_link_local())
        })
    };
    let tunnels: Vec<u32> = network
        .of_role(Role::Tunnel)
        .map(|tunnel| tunnel.ifindex)
        .collect();
    if !tunnels.is_empty() && !tunnels.into_iter().any(has_v6) {
        for uplink in network.of_role(Role::Uplink).filter(|uplink| uplink.up) {
            let name = &uplink.name;
            let value = accept_ra.get(name).copied().unwrap_or(0);
            let listens = value == 2 || value == 1 && !forwarding;
            if listens && !is_off(name) {
                found.push(ROUTERS.found(
                    [format!("net.ipv6.conf.{name}.accept_ra = {value}")],
                    format!("sysctl -w net.ipv6.conf.{name}.accept_ra=0"),
                ));
            }
        }
    }
    found
}
