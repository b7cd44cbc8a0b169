//! Which interfaces are tested: not what the enforcement takes for an uplink, which may be what is wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;

use leakguard_common::abi::Role;
use nix::libc;

use super::report::{Check, Part, Verdict};
use super::send::Egress;
use crate::interfaces::{Address, Link, Pattern, RolePatterns, Snapshot, classify};
use crate::status::InterfaceStatus;

/// The uplinks, and what is to be said of others.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    pub(super) tested: Vec<Egress>,
    pub(super) checks: Vec<Check>,
}

/// The patterns that hold: those of the configuration, and for tunnels also what is enforced, if it is of a kind that can
/// be one. What was merely let through by name (`leakguard allow add eth0`) is tested.
pub(super) fn roles(
    snapshot: &Snapshot,
    configured: RolePatterns,
    enforced: &[InterfaceStatus],
) -> BTreeMap<u32, Role> {
    let mut tunnel = configured.tunnel;
    let permitted = enforced
        .iter()
        .filter(|interface| interface.role == Role::Tunnel.name());
    tunnel.extend(permitted.map(|interface| Pattern::exact(&interface.name)));
    let patterns = RolePatterns {
        tunnel,
        ..configured
    };
    let mut roles: BTreeMap<u32, Role> = classify(snapshot, &patterns)
        .into_iter()
        .map(|(index, interface)| (index, interface.role))
        .collect();
    // One that is called local although routes lead out by it is no less an uplink.
    let detected = classify(
        snapshot,
        &RolePatterns {
            local: Vec::new(),
            ..patterns
        },
    );
    for (index, role) in &mut roles {
        let gateway = snapshot
            .routes
            .as_ref()
            .is_some_and(|routes| routes.over(*index).gateway);
        if *role == Role::Local
            && gateway
            && detected
                .get(index)
                .is_some_and(|found| found.role == Role::Uplink)
        {
            *role = Role::Uplink;
        }
    }
    roles
}

/// Picks what can be tested.
pub(super) fn pick(
    snapshot: &Snapshot,
    roles: &BTreeMap<u32, Role>,
    enforced: &[InterfaceStatus],
    addresses: &[Address],
) -> Uplinks {
    let mut uplinks = Uplinks::default();
    let links = snapshot
        .links
        .values()
        .filter(|link| roles.get(&link.ifindex) == Some(&Role::Uplink));
    for link in links {
        if !link.is_up() {
            // Most hosts have some that nobody uses.
            log::debug!("{} is down: nothing can leave by it", link.name);
            continue;
        }
        let role = enforced
            .iter()
            .find(|interface| interface.index == link.ifindex)
            .map_or(Role::Uplink.name(), |interface| interface.role);
        if !enforced.is_empty() && role != Role::Uplink.name() {
            uplinks.checks.push(
                Check::new(
                    Part::Enforcement,
                    "role",
                    Verdict::Fail,
                    format!(
                        "it is taken for a {role} interface, so DNS may leave by it, but it is no tunnel and leads off this host"
                    ),
                )
                .on(&link.name),
            );
        }
        uplinks.tested.push(egress(link, addresses));
    }
    if uplinks.tested.is_empty() {
        uplinks.checks.push(Check::new(
            Part::Leak,
            "uplinks",
            Verdict::Skipped,
            "no uplink is up: nothing can leave this host",
        ));
    }
    uplinks
}

fn egress(link: &Link, addresses: &[Address]) -> Egress {
    let own = addresses
        .iter()
        .filter(|address| address.ifindex == link.ifindex);
    let (mut v4, mut v6, mut link_local) = (None, None, None);
    for address in own {
        match address.net.addr() {
            IpAddr::V4(address) => v4 = v4.or(Some(address)),
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                link_local = link_local.or(Some(address));
            }
            IpAddr::V6(address) => v6 = v6.or(Some(address)),
        }
    }
    Egress {
        name: link.name.clone(),
        index: link.ifindex,
        v4,
        v6: v6.or(link_local),
        ethernet: link.hardware_type == libc::ARPHRD_ETHER,
    }
}
