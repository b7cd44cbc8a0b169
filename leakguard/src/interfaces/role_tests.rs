//! Tests of the roles: what a link is, what the routes say, what the user wrote.

use super::*;
use crate::interfaces::{routes::testing::routes, snapshot::testing::link, visible_tunnels};

const NONE: Reach = Reach {
    gateway: false,
    on_link: false,
};
const ON_LINK: Reach = Reach {
    gateway: false,
    on_link: true,
};
const GATEWAY: Reach = Reach {
    gateway: true,
    on_link: false,
};
const BOTH: Reach = Reach {
    gateway: true,
    on_link: true,
};

/// A link of some kind with what the routes over it say.
fn of_kind(ifindex: u32, kind: &str) -> Link {
    let mut link = link(ifindex, &format!("{kind}{ifindex}"));
    link.kind = Some(kind.to_owned());
    link
}

fn tun(ifindex: u32) -> Link {
    Link {
        hardware_type: libc::ARPHRD_NONE,
        ..of_kind(ifindex, "tun")
    }
}

fn port(mut link: Link, bridge: u32) -> Link {
    link.master = Some(bridge);
    link
}

fn snapshot(links: &[(Link, Reach)]) -> Snapshot {
    let reaches: Vec<_> = links
        .iter()
        .map(|(link, reach)| (link.ifindex, *reach))
        .collect();
    Snapshot {
        links: links
            .iter()
            .map(|(link, _)| (link.ifindex, link.clone()))
            .collect(),
        routes: Some(routes(&reaches)),
    }
}

fn patterns(tunnel: &[&str], local: &[&str], uplink: &[&str]) -> RolePatterns {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    RolePatterns {
        tunnel: parse(tunnel),
        local: parse(local),
        uplink: parse(uplink),
    }
}

fn role(links: &[(Link, Reach)], ifindex: u32) -> Role {
    classify(&snapshot(links), &RolePatterns::default())[&ifindex].role
}

/// The role of a link that is alone.
fn alone(link: Link, reach: Reach) -> Role {
    let ifindex = link.ifindex;
    role(&[(link, reach)], ifindex)
}

#[test]
fn loopback_is_local() {
    let mut lo = link(1, "lo");
    lo.hardware_type = libc::ARPHRD_LOOPBACK;
    assert_eq!(
        alone(lo.clone(), NONE),
        Role::Uplink,
        "the flag decides as well"
    );
    lo.flags |= libc::IFF_LOOPBACK.cast_unsigned();
    assert_eq!(alone(lo.clone(), NONE), Role::Local);
    assert_eq!(alone(lo.clone(), BOTH), Role::Local);
    // Or a glob takes away what this host asks itself.
    let configured = classify(&snapshot(&[(lo, NONE)]), &patterns(&[], &[], &["lo*"]));
    assert_eq!(configured[&1].role, Role::Local);
}

#[test]
fn a_kind_alone_decides_where_it_can() {
    for kind in ["dummy", "ifb"] {
        assert_eq!(alone(of_kind(2, kind), NONE), Role::Local, "{kind}");
        assert_eq!(alone(of_kind(2, kind), ON_LINK), Role::Local, "{kind}");
        assert_eq!(alone(of_kind(2, kind), GATEWAY), Role::Uplink, "{kind}");
    }
    let outward = [
        "vlan",
        "macvlan",
        "macvtap",
        "ipvlan",
        "vxlan",
        "geneve",
        "gre",
        "gretap",
        "ipip",
        "sit",
        "bond",
        "team",
        "vrf",
        "wireguard",
        "ovpn",
        "xfrm",
        "netkit",
        "ppp",
        "wwan",
        "anything",
    ];
    for kind in outward {
        for reach in [NONE, ON_LINK, GATEWAY, BOTH] {
            assert_eq!(
                alone(of_kind(2, kind), reach),
                Role::Uplink,
                "{kind} {reach:?}"
            );
        }
    }
    for reach in [NONE, ON_LINK, GATEWAY, BOTH] {
        assert_eq!(
            alone(link(2, "eth0"), reach),
            Role::Uplink,
            "physical {reach:?}"
        );
        assert_eq!(
            alone(link(2, "lo1"), reach),
            Role::Uplink,
            "a name says nothing"
        );
        assert_eq!(alone(tun(2), reach), Role::Uplink, "tun {reach:?}");
        assert_eq!(
            alone(of_kind(2, "tun"), reach),
            Role::Uplink,
            "lone tap {reach:?}"
        );
    }
}

#[test]
fn a_veth_is_local_by_its_network_or_its_bridge() {
    assert_eq!(alone(of_kind(2, "veth"), NONE), Role::Uplink);
    assert_eq!(alone(of_kind(2, "veth"), ON_LINK), Role::Local);
    assert_eq!(alone(of_kind(2, "veth"), GATEWAY), Role::Uplink);
    assert_eq!(alone(of_kind(2, "veth"), BOTH), Role::Uplink);

    let veth = port(of_kind(2, "veth"), 3);
    for reach in [NONE, ON_LINK] {
        assert_eq!(
            role(&[(veth.clone(), NONE), (of_kind(3, "bridge"), reach)], 2),
            Role::Local
        );
    }
    for master in ["bond", "vrf", "team"] {
        let links = [(veth.clone(), NONE), (of_kind(3, master), NONE)];
        assert_eq!(role(&links, 2), Role::Uplink, "port of a {master}");
    }
    assert_eq!(
        role(&[(veth, NONE)], 2),
        Role::Uplink,
        "the bridge is not there"
    );
}

#[test]
fn a_bridge_is_judged_by_its_ports_and_routes() {
    let bridge = || of_kind(9, "bridge");
    let veth = || (port(of_kind(2, "veth"), 9), NONE);
    let tap = || (port(of_kind(3, "tun"), 9), NONE);
    for (reach, expected) in [
        (NONE, Role::Uplink),
        (ON_LINK, Role::Local),
        (GATEWAY, Role::Uplink),
        (BOTH, Role::Uplink),
    ] {
        assert_eq!(alone(bridge(), reach), expected, "without ports, {reach:?}");
        assert_eq!(
            role(&[(bridge(), reach), veth(), tap()], 9),
            expected,
            "{reach:?}"
        );
        for outward in [link(4, "eth0"), of_kind(4, "vxlan"), of_kind(4, "vlan")] {
            let links = [(bridge(), reach), veth(), (port(outward, 9), NONE)];
            assert_eq!(role(&links, 9), Role::Uplink, "outward port, {reach:?}");
            assert_eq!(role(&links, 4), Role::Uplink, "the port itself, {reach:?}");
            assert_eq!(
                role(&links, 2),
                Role::Local,
                "the pair beside it, {reach:?}"
            );
        }
    }
}

#[test]
fn a_gateway_behind_pairs_and_taps_makes_every_port_an_uplink() {
    let links = [
        (of_kind(9, "bridge"), BOTH),
        (port(of_kind(2, "veth"), 9), NONE),
        (port(of_kind(3, "tun"), 9), NONE),
    ];
    assert_eq!(role(&links, 2), Role::Uplink);
    assert_eq!(role(&links, 3), Role::Uplink);
}

#[test]
fn a_tap_in_a_bridge_is_a_virtual_machine() {
    let links = [
        (of_kind(9, "bridge"), ON_LINK),
        (port(of_kind(3, "tun"), 9), NONE),
    ];
    assert_eq!(role(&links, 3), Role::Local);
}

#[test]
fn a_bridge_with_a_port_configured_as_uplink_is_one() {
    let snapshot = snapshot(&[
        (of_kind(9, "bridge"), ON_LINK),
        (port(of_kind(2, "veth"), 9), NONE),
    ]);
    let interfaces = classify(&snapshot, &patterns(&[], &[], &["veth2"]));
    assert_eq!(interfaces[&2].role, Role::Uplink);
    assert_eq!(interfaces[&9].role, Role::Uplink);
}

#[test]
fn what_the_user_wrote_wins_in_a_fixed_order() {
    let snapshot = snapshot(&[(of_kind(2, "veth"), BOTH), (of_kind(3, "dummy"), NONE)]);
    let cases = [
        (patterns(&["veth:veth2"], &[], &[]), Role::Tunnel),
        (patterns(&["any:veth2"], &[], &[]), Role::Tunnel),
        (patterns(&[], &["veth*"], &[]), Role::Local),
        (patterns(&["veth:veth2"], &["veth2"], &[]), Role::Tunnel),
        (patterns(&["veth2"], &["veth2"], &[]), Role::Local),
        (patterns(&["veth:veth2"], &["veth2"], &["v*"]), Role::Uplink),
        (patterns(&[], &["veth2"], &["v*"]), Role::Uplink),
    ];
    for (patterns, expected) in cases {
        let interfaces = classify(&snapshot, &patterns);
        assert_eq!(interfaces[&2].role, expected, "{patterns:?}");
        assert_eq!(
            interfaces[&3].role,
            Role::Local,
            "the other one is not touched"
        );
    }
    let all = classify(&snapshot, &patterns(&[], &[], &["*"]));
    assert_eq!(all[&3].role, Role::Uplink);
}

#[test]
fn a_name_makes_no_tunnel() {
    let wg0 = |kind: Option<&str>| Link {
        kind: kind.map(str::to_owned),
        ..link(2, "wg0")
    };
    let classified = |link: Link, reach, patterns: &RolePatterns| {
        classify(&snapshot(&[(link, reach)]), patterns)
            .remove(&2)
            .unwrap()
    };
    let configured = patterns(&["wg0", "tun*"], &[], &[]);
    for (kind, reach, role) in [
        (Some("veth"), ON_LINK, Role::Local),
        (Some("veth"), GATEWAY, Role::Uplink),
        (Some("bridge"), NONE, Role::Uplink),
        (Some("macvlan"), ON_LINK, Role::Uplink),
        (Some("dummy"), NONE, Role::Local),
        (None, ON_LINK, Role::Uplink),
    ] {
        let found = classified(wg0(kind), reach, &configured);
        assert_eq!(found.role, role, "{kind:?}: what is detected");
        assert_eq!(found.passed_over.as_deref(), Some("wg0"), "{kind:?}");
    }
    for kind in ["wireguard", "tun"] {
        let found = classified(wg0(Some(kind)), GATEWAY, &configured);
        assert_eq!((found.role, found.passed_over), (Role::Tunnel, None));
    }
    let both = patterns(&["wg0", "veth:wg0"], &[], &[]);
    let found = classified(wg0(Some("veth")), GATEWAY, &both);
    assert_eq!((found.role, found.passed_over), (Role::Tunnel, None));
    let uplink = patterns(&["wg*"], &[], &["wg0"]);
    let found = classified(wg0(Some("veth")), GATEWAY, &uplink);
    assert_eq!(
        (found.role, found.passed_over),
        (Role::Uplink, None),
        "nothing to warn of: somebody has said what it is"
    );
}

#[test]
fn auto_names_the_tunnels() {
    let snapshot = snapshot(&[
        (tun(2), GATEWAY),
        (of_kind(3, "wireguard"), ON_LINK),
        (of_kind(4, "tun"), ON_LINK),
        (link(5, "wg0"), ON_LINK),
    ]);
    let interfaces = classify(&snapshot, &patterns(&["auto"], &[], &[]));
    let roles: Vec<_> = interfaces
        .values()
        .map(|interface| interface.role)
        .collect();
    assert_eq!(
        roles,
        [Role::Tunnel, Role::Tunnel, Role::Uplink, Role::Uplink]
    );
}

#[test]
fn without_routes_nothing_is_local_by_its_routes() {
    let mut snapshot = snapshot(&[
        (of_kind(2, "veth"), ON_LINK),
        (of_kind(3, "bridge"), ON_LINK),
    ]);
    snapshot.routes = None;
    let interfaces = classify(&snapshot, &RolePatterns::default());
    assert!(
        interfaces
            .values()
            .all(|interface| interface.role == Role::Uplink)
    );
}

#[test]
fn the_link_layer_follows_the_hardware_type() {
    for hardware_type in [1, 772] {
        assert_eq!(
            link_layer(hardware_type),
            LinkLayer::Ethernet,
            "{hardware_type}"
        );
    }
    for hardware_type in [65534, 512, 519, 768, 769, 776, 778, 823] {
        assert_eq!(link_layer(hardware_type), LinkLayer::Ip, "{hardware_type}");
    }
    for hardware_type in [0, 32, 801, 803, 65535] {
        assert_eq!(
            link_layer(hardware_type),
            LinkLayer::Unknown,
            "{hardware_type}"
        );
    }
}

#[test]
fn up_needs_the_carrier() {
    let mut down = link(2, "eth0");
    down.flags = libc::IFF_UP.cast_unsigned();
    let interfaces = classify(&snapshot(&[(down, NONE)]), &RolePatterns::default());
    assert!(!interfaces[&2].up);
    let interfaces = classify(
        &snapshot(&[(link(2, "eth0"), NONE)]),
        &RolePatterns::default(),
    );
    assert!(interfaces[&2].up);
}

#[test]
fn the_tunnels_to_suggest_are_those_that_are_up() {
    let mut down = of_kind(5, "sit");
    down.flags = 0;
    let snapshot = snapshot(&[
        (tun(2), NONE),
        (of_kind(3, "wireguard"), NONE),
        (link(4, "eth0"), NONE),
        (down, NONE),
        (of_kind(6, "tun"), NONE),
        (port(of_kind(7, "tun"), 8), NONE),
        (of_kind(8, "bridge"), NONE),
    ]);
    let names: Vec<_> = visible_tunnels(&snapshot)
        .iter()
        .map(|link| link.ifindex)
        .collect();
    assert_eq!(names, [2, 3, 6]);
}
