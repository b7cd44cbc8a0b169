//! Where packets go: into the tunnel, past it, or half and half.

use std::net::IpAddr;

use ipnet::IpNet;
use leakguard_common::abi::Role;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::host::{FAR_V4, FAR_V6, Network, first_of, is_narrow};

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Routes,
        severity,
        title,
        why,
    }
}

pub(super) const V6_OFF: Rule = rule(
    "ipv6-off-tunnel",
    Severity::Problem,
    "IPv4 goes into the tunnel and IPv6 past it",
    "leakguard keeps DNS inside, but all else over IPv6 leaves with the host's own address",
);
pub(super) const SPLIT: Rule = rule(
    "default-route-split",
    Severity::Warning,
    "a part of the Internet is reached past the tunnel",
    "one of the halves that a VPN makes of the default route is missing",
);
pub(super) const OFF: Rule = rule(
    "default-route-off-tunnel",
    Severity::Note,
    "the default route does not go into the tunnel",
    "only what has a route into it uses the tunnel; DNS is kept inside whatever the routes",
);
pub(super) const PAST: Rule = rule(
    "routes-past-tunnel",
    Severity::Warning,
    "routes through a gateway lead past the tunnel",
    "they are narrower than the tunnel's and win; a DHCP server can hand them out (option 121)",
);
pub(super) const OVERLAP: Rule = rule(
    "prefix-overlap",
    Severity::Problem,
    "the tunnel's network overlaps one at an uplink",
    "the resolver's address can be found on the LAN: questions go there, or some here and some there",
);
pub(super) const POLICY: Rule = rule(
    "policy-rules",
    Severity::Note,
    "there are policy rules",
    "which table is looked into depends on them; `ip route get ADDRESS` says what holds",
);

pub(super) const RULES: &[&Rule] = &[&V6_OFF, &SPLIT, &OFF, &PAST, &OVERLAP, &POLICY];

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let mut found = Vec::new();
    if network.has_tunnel() {
        let blocked = facts
            .enforcement
            .enforced()
            .is_some_and(|status| status.ipv6 == Some("block-off-tunnel"));
        found.extend(defaults(network, blocked));
        found.extend(past(network));
        found.extend(overlap(network));
    }
    let unusual: Vec<String> = network
        .tables
        .rules
        .iter()
        .filter(|rule| !rule.is_usual())
        .map(|rule| {
            let family = if rule.v6 { "ip -6 rule" } else { "ip rule" };
            let mark = rule.mark.map(|mark| format!(" fwmark {mark:#x}"));
            format!(
                "{family}: {}: table {}{}",
                rule.priority,
                rule.table,
                mark.unwrap_or_default()
            )
        })
        .collect();
    if !unusual.is_empty() {
        found.push(POLICY.found(unusual, "ip rule; ip -6 rule"));
    }
    found
}

/// What the ways to far addresses say of the default routes.
fn defaults(network: &Network, ipv6_blocked: bool) -> Vec<Finding> {
    let by_tunnel = |far: [IpAddr; 2]| far.map(|address| network.by_tunnel(address));
    let off = |far: [IpAddr; 2]| -> Vec<String> {
        let leaving = far
            .into_iter()
            .filter_map(|address| network.leaves(address));
        leaving
            .map(|leaves| format!("ip route get: {leaves}"))
            .collect()
    };
    let (v4, v6) = (by_tunnel(FAR_V4), by_tunnel(FAR_V6));
    let (v4_off, v6_off) = (off(FAR_V4), off(FAR_V6));
    let mut found = Vec::new();
    let tunnel = network
        .of_role(Role::Tunnel)
        .find(|tunnel| tunnel.up)
        .map_or("wg0", |tunnel| tunnel.name.as_str());
    let mixed = |by: [bool; 2], off: &[String]| by.contains(&true) && !off.is_empty();
    if mixed(v4, &v4_off) {
        let halves =
            format!("ip route add 0.0.0.0/1 dev {tunnel}; ip route add 128.0.0.0/1 dev {tunnel}");
        found.push(SPLIT.found(v4_off.clone(), halves));
    }
    if mixed(v6, &v6_off) {
        let halves =
            format!("ip -6 route add ::/1 dev {tunnel}; ip -6 route add 8000::/1 dev {tunnel}");
        found.push(SPLIT.found(v6_off.clone(), halves));
    }
    if v4 == [true; 2] && v6 == [false; 2] && !v6_off.is_empty() && !ipv6_blocked {
        found.push(V6_OFF.found(
            v6_off,
            format!(
                "ip -6 route add ::/1 dev {tunnel}; ip -6 route add 8000::/1 dev {tunnel} # or in [ipv6]: policy = \
                 \"block-off-tunnel\""
            ),
        ));
    } else if v4 == [false; 2] && !v4_off.is_empty() {
        found.push(OFF.found(
            v4_off,
            "nothing has to be done where only some networks are meant to use the tunnel",
        ));
    }
    found
}

/// Routes through a gateway at an uplink that win against the tunnel's default route.
fn past(network: &Network) -> Option<Finding> {
    if !FAR_V4.into_iter().any(|address| network.by_tunnel(address)) {
        return None;
    }
    let mut evidence = Vec::new();
    let mut commands = Vec::new();
    for route in &network.tables.routes {
        let (Some(ifindex), Some(gateway)) = (route.ifindex, route.gateway) else {
            continue;
        };
        if !is_narrow(route) || network.role(ifindex) != Role::Uplink {
            continue;
        }
        // A rule may look into another table first.
        if network.uplink_towards(first_of(route.net)).is_none() {
            continue;
        }
        let name = network.name(ifindex);
        evidence.push(format!("ip route: {} via {gateway} dev {name}", route.net));
        commands.push(format!(
            "ip route del {} via {gateway} dev {name}",
            route.net
        ));
    }
    (!evidence.is_empty()).then(|| PAST.found(evidence, commands.join("; ")))
}

/// Networks of the tunnel that are also at an uplink, but for those whose resolvers have routes of their own.
fn overlap(network: &Network) -> Option<Finding> {
    let mut evidence = Vec::new();
    let mut commands = Vec::new();
    for (uplink, lan) in network.on_link(Role::Uplink) {
        let uplink = network.name(uplink);
        for (tunnel, net) in network.on_link(Role::Tunnel) {
            // Halves of the default route are meant to cover everything.
            let overlaps = net.contains(&lan) || lan.contains(&net);
            if net.prefix_len() <= 7 || !overlaps {
                continue;
            }
            let tunnel = network.name(tunnel);
            let both = if net.contains(&lan) { lan } else { net };
            let resolvers = network.resolvers.iter().map(|seen| seen.server.address);
            let inside: Vec<IpNet> = resolvers
                .filter(|address| both.contains(address))
                .map(IpNet::from)
                .collect();
            let is_settled = |host: &IpNet| {
                network.tables.routes.iter().any(|route| {
                    let by = route.ifindex.map(|ifindex| network.role(ifindex));
                    route.net == *host && by == Some(Role::Tunnel)
                })
            };
            let open = inside.iter().filter(|host| !is_settled(host));
            let open: Vec<String> = open
                .map(|host| format!("ip route replace {host} dev {tunnel}"))
                .collect();
            if inside.is_empty() || !open.is_empty() {
                evidence.push(format!("{net} at {tunnel} overlaps {lan} at {uplink}"));
                commands.extend(open);
            }
        }
    }
    for list in [&mut evidence, &mut commands] {
        list.sort_unstable();
        list.dedup();
    }
    commands.push("# in the long run: another prefix for the LAN or the VPN".to_owned());
    (!evidence.is_empty()).then(|| OVERLAP.found(evidence, commands.join("; ")))
}
