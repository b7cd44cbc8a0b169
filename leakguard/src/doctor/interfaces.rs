//! Tunnels: whether they are there, up, and usable.

use leakguard_common::abi::Role;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use crate::error::shell_word;
use crate::interfaces::Interface;

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Interfaces,
        severity,
        title,
        why,
    }
}

pub(super) const ABSENT: Rule = rule(
    "tunnel-absent",
    Severity::Problem,
    "a tunnel that is named does not exist",
    "no interface may carry DNS in its place: names do not resolve until it is there",
);
pub(super) const DOWN: Rule = rule(
    "tunnel-down",
    Severity::Problem,
    "a tunnel is down",
    "names do not resolve until it is up",
);
pub(super) const NO_ADDRESS: Rule = rule(
    "tunnel-without-address",
    Severity::Problem,
    "a tunnel has no address",
    "nothing can be sent by it, so the resolver behind it is not reached",
);
pub(super) const OTHER_KIND: Rule = rule(
    "tunnel-of-another-kind",
    Severity::Problem,
    "an interface has a tunnel's name and is none",
    "whoever makes an interface chooses its name; by its kind it is treated as an uplink",
);

pub(super) const RULES: &[&Rule] = &[&ABSENT, &DOWN, &NO_ADDRESS, &OTHER_KIND];

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let mut found = Vec::new();
    for pattern in &network.unmet {
        let known: Vec<&str> = network
            .interfaces
            .values()
            .map(|interface| interface.name.as_str())
            .collect();
        found.push(ABSENT.found(
            [format!(
                "tunnel = [\"{pattern}\"]; there are: {}",
                known.join(", ")
            )],
            bring_up(pattern),
        ));
    }
    for interface in network.interfaces.values() {
        if let Some(pattern) = &interface.passed_over {
            let kind = interface.kind.as_deref().unwrap_or("physical");
            found.push(OTHER_KIND.found(
                [format!(
                    "ip -d link show {}: kind {kind}; the pattern {pattern} has its name",
                    interface.name
                )],
                format!(
                    "if it is meant: tunnel = [\"any:{}\"] in /etc/leakguard/leakguard.toml",
                    interface.name
                ),
            ));
        }
    }
    for Interface {
        ifindex, name, up, ..
    } in network.of_role(Role::Tunnel)
    {
        if !up {
            found.push(DOWN.found(
                [format!("ip link show {name}: not up, or without a carrier")],
                format!("ip link set {name} up # or restart the VPN"),
            ));
            continue;
        }
        let mut addresses = network.tables.addresses.iter();
        let usable = addresses
            .any(|address| address.ifindex == *ifindex && !is_link_local(address.net.addr()));
        if !usable {
            found.push(NO_ADDRESS.found(
                [format!("ip addr show {name}: none")],
                format!("ip addr add ADDRESS/LENGTH dev {name} # or restart the VPN"),
            ));
        }
    }
    found
}

fn bring_up(pattern: &str) -> String {
    if pattern.contains(['*', '?', '[', ':']) || pattern == "auto" {
        "bring the VPN up".to_owned()
    } else {
        format!(
            "wg-quick up {} # or start the VPN that makes it",
            shell_word(pattern)
        )
    }
}

fn is_link_local(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(address) => address.is_link_local(),
        std::net::IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
