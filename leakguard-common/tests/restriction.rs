//! What uplinks carry while the kill switch is engaged, and of IPv6.

#![expect(clippy::panic, reason = "everything here is a test, helpers too")]

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use leakguard_common::abi::{
    Class, Endpoint, EndpointKey, Family, FragmentKey, Hook, LanKey, Liveness, NameKey, Reason,
    Role, Settings, Verdict,
};
use leakguard_common::packet::{Fragment, Packet, ParseError, protocol};
use leakguard_common::restriction::is_engaged;
use leakguard_common::verdict::{ClassPorts, Decision, Facts, decide, ports};

const HOOKS: [Hook; 2] = [Hook::CgroupSkb, Hook::Tc];
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5));
const MARK: u32 = 0xca6c;

/// A hook with tables of one entry.
struct Lab {
    role: Option<Role>,
    engaged: bool,
    forwarded: bool,
    lan: Option<IpAddr>,
    endpoint: Option<(EndpointKey, Endpoint)>,
    mark: u32,
}

impl Lab {
    fn engaged() -> Self {
        Self {
            role: Some(Role::Uplink),
            engaged: true,
            forwarded: false,
            lan: None,
            endpoint: None,
            mark: 0,
        }
    }
}

impl Facts for Lab {
    fn role(&self) -> Option<Role> {
        self.role
    }

    fn is_engaged(&self) -> bool {
        self.engaged
    }

    fn is_forwarded(&self) -> bool {
        self.forwarded
    }

    fn is_lan(&self, destination: &LanKey) -> bool {
        self.lan.is_some_and(|lan| {
            let (family, address) = bytes(lan);
            LanKey::new(family, &address, 128) == *destination
        })
    }

    fn may_use_endpoint(&self, key: &EndpointKey) -> bool {
        self.endpoint
            .is_some_and(|(known, endpoint)| known == *key && endpoint.admits(self.mark, |_| 0))
    }

    fn is_doh_address(&self, _destination: &LanKey) -> bool {
        false
    }

    fn is_doh_name(&self, _name: &NameKey) -> bool {
        false
    }

    fn is_carrier(&self, _destination: EndpointKey) -> bool {
        false
    }

    fn first_fragment(&self, _datagram: &FragmentKey) -> Option<Verdict> {
        None
    }
}

fn bytes(address: IpAddr) -> (Family, [u8; 16]) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => {
            bytes[..4].copy_from_slice(&address.octets());
            (Family::Ipv4, bytes)
        }
        IpAddr::V6(address) => (Family::Ipv6, address.octets()),
    }
}

fn packet(to: IpAddr, number: u8, ports: (u16, u16)) -> Packet {
    let (family, destination) = bytes(to);
    Packet {
        family,
        destination,
        protocol: number,
        source_port: ports.0,
        destination_port: ports.1,
        hop_limit: 64,
        ..Packet::UNKNOWN
    }
}

fn icmpv6(to: &str, kind: u8, hop_limit: u8) -> Packet {
    Packet {
        icmpv6_type: kind,
        hop_limit,
        ..packet(address(to), protocol::ICMPV6, (0, 0))
    }
}

fn address(text: &str) -> IpAddr {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn armed() -> Settings {
    Settings {
        kill_switch: Settings::ALWAYS,
        exemptions: Settings::DHCP | Settings::NDP,
        ..Settings::default()
    }
}

fn judged(packet: &Packet, settings: &Settings, lab: &Lab) -> Decision {
    let [first, second] = HOOKS.map(|hook| decide(Ok(()), packet, hook, settings, lab));
    assert_eq!(first, second, "the hooks disagree about {packet:?}");
    first
}

fn reason(packet: &Packet, settings: &Settings, lab: &Lab) -> Reason {
    let decision = judged(packet, settings, lab);
    let dropped = decision.verdict == Verdict::Drop;
    assert_eq!(dropped, decision.is_judged(), "{decision:?}");
    decision.reason
}

#[test]
fn the_mode_says_when_it_is_engaged() {
    let engaged = |kill_switch, up| {
        let settings = Settings {
            kill_switch,
            ..Settings::default()
        };
        is_engaged(&settings, || up)
    };
    assert!(!engaged(Settings::KILL_SWITCH_OFF, false));
    assert!(!engaged(Settings::TUNNEL_DOWN, true));
    assert!(engaged(Settings::TUNNEL_DOWN, false));
    assert!(engaged(Settings::ALWAYS, true));
    assert!(engaged(77, true), "an unknown mode is the strictest");
}

#[test]
fn nobody_is_asked_for_the_tunnel_where_it_does_not_matter() {
    for kill_switch in [Settings::KILL_SWITCH_OFF, Settings::ALWAYS] {
        let settings = Settings {
            kill_switch,
            ..Settings::default()
        };
        is_engaged(&settings, || panic!("asked with {kill_switch}"));
    }
}

#[test]
fn a_word_for_a_tunnel_holds_until_it_ends_or_the_tunnel_goes() {
    let liveness = Liveness {
        until: 100,
        tunnel: 3,
        ..Liveness::default()
    };
    let holds = |now, tunnel| liveness.holds(|| now, |ifindex| ifindex == tunnel);
    assert!(holds(99, 3));
    assert!(!holds(100, 3), "it has ended");
    assert!(!holds(99, 4), "the tunnel has gone");
    let asked = Cell::new(false);
    let nothing = Liveness::default();
    assert!(!nothing.holds(
        || 0,
        |_| {
            asked.set(true);
            true
        }
    ));
    assert!(!asked.get(), "nobody is vouched for");
}

#[test]
fn everything_is_dropped_on_uplinks_and_only_there() {
    for number in [protocol::TCP, protocol::UDP, 1, 50, protocol::ICMPV6] {
        for to in ["198.51.100.1", "2001:db8::1"] {
            let packet = packet(address(to), number, (40_000, 443));
            let mut lab = Lab::engaged();
            assert_eq!(reason(&packet, &armed(), &lab), Reason::KillSwitch);
            for role in [Some(Role::Tunnel), Some(Role::Local), None] {
                lab.role = role;
                assert_eq!(reason(&packet, &armed(), &lab), Reason::Other, "{role:?}");
            }
            lab.engaged = false;
            lab.role = Some(Role::Uplink);
            assert_eq!(reason(&packet, &armed(), &lab), Reason::Other);
        }
    }
    let later = Packet {
        fragment: Fragment::Later,
        ..packet(SERVER, protocol::UDP, (0, 0))
    };
    let decision = decide(Ok(()), &later, Hook::Tc, &armed(), &Lab::engaged());
    assert_eq!(decision.reason, Reason::KillSwitch);
}

#[test]
fn observing_reports_what_the_kill_switch_would_drop() {
    let settings = Settings {
        mode: Settings::OBSERVE,
        ..armed()
    };
    let packet = packet(SERVER, protocol::TCP, (40_000, 443));
    let decision = judged(&packet, &settings, &Lab::engaged());
    assert_eq!(
        (decision.verdict, decision.reason),
        (Verdict::WouldDrop, Reason::KillSwitch)
    );
}

#[test]
fn what_is_not_ip_passes() {
    let not_ip = Err(ParseError::NotIp);
    let decision = decide(
        not_ip,
        &Packet::UNKNOWN,
        Hook::Tc,
        &armed(),
        &Lab::engaged(),
    );
    assert!(!decision.is_judged(), "ARP must pass");
}

#[test]
fn only_the_tunnel_reaches_its_endpoint() {
    let endpoint = |port, mark| {
        let (family, address) = bytes(SERVER);
        let key = EndpointKey::new(family, &address, protocol::UDP, port);
        let admitted = Endpoint {
            mark,
            ..Endpoint::default()
        };
        (key, admitted)
    };
    let lab = |endpoint, mark| Lab {
        endpoint: Some(endpoint),
        mark,
        ..Lab::engaged()
    };
    let carrier = packet(SERVER, protocol::UDP, (40_000, 51820));
    let found = |packet: &Packet, lab: &Lab| reason(packet, &armed(), lab);
    assert_eq!(
        found(&carrier, &lab(endpoint(51820, MARK), MARK)),
        Reason::Other
    );
    for mark in [0, MARK + 1] {
        let lab = lab(endpoint(51820, MARK), mark);
        assert_eq!(found(&carrier, &lab), Reason::KillSwitch, "mark {mark:#x}");
    }
    let open = lab(endpoint(51820, 0), 0);
    assert_eq!(found(&carrier, &open), Reason::KillSwitch, "open to nobody");
    for other in [
        packet(SERVER, protocol::UDP, (40_000, 51821)),
        packet(SERVER, protocol::TCP, (40_000, 51820)),
        packet(address("203.0.113.6"), protocol::UDP, (40_000, 51820)),
        packet(address("cb00:7105::"), protocol::UDP, (40_000, 51820)),
    ] {
        let lab = lab(endpoint(51820, MARK), MARK);
        assert_eq!(found(&other, &lab), Reason::KillSwitch, "{other:?}");
    }
    let later = Packet {
        fragment: Fragment::Later,
        ..packet(SERVER, protocol::UDP, (0, 0))
    };
    let fragments = lab(endpoint(0, MARK), MARK);
    let decision = decide(Ok(()), &later, Hook::Tc, &armed(), &fragments);
    assert!(!decision.is_judged(), "{decision:?}");
}

#[test]
fn an_endpoint_may_ask_for_a_cgroup_and_for_both() {
    let of = |cgroup_id, mark| Endpoint {
        cgroup_id,
        cgroup_level: 2,
        mark,
    };
    let admits = |endpoint: Endpoint, mark, cgroup| {
        endpoint.admits(mark, |level| {
            assert_eq!(level, 2);
            cgroup
        })
    };
    assert!(admits(of(9, 0), 0, 9));
    assert!(!admits(of(9, 0), 0, 8));
    assert!(admits(of(9, MARK), MARK, 9));
    assert!(!admits(of(9, MARK), MARK, 8));
    assert!(!admits(of(9, MARK), 0, 9));
    assert!(!Endpoint::default().admits(0, |_| 0));
}

#[test]
fn dhcp_of_this_host_passes_and_nothing_like_it() {
    let v4 = packet(address("255.255.255.255"), protocol::UDP, (68, 67));
    let v6 = |to| packet(address(to), protocol::UDP, (546, 547));
    let lab = Lab::engaged();
    for exempt in [
        v4,
        packet(address("192.0.2.1"), protocol::UDP, (68, 67)),
        v6("ff02::1:2"),
        v6("ff05::1:3"),
        v6("fe80::1"),
    ] {
        assert_eq!(reason(&exempt, &armed(), &lab), Reason::Other, "{exempt:?}");
        let without = Settings {
            exemptions: Settings::NDP,
            ..armed()
        };
        assert_eq!(reason(&exempt, &without, &lab), Reason::KillSwitch);
        let forwarded = Lab {
            forwarded: true,
            ..Lab::engaged()
        };
        assert_eq!(reason(&exempt, &armed(), &forwarded), Reason::KillSwitch);
    }
    for other in [
        packet(address("192.0.2.1"), protocol::UDP, (40_000, 67)),
        packet(address("192.0.2.1"), protocol::UDP, (68, 68)),
        packet(address("192.0.2.1"), protocol::TCP, (68, 67)),
        packet(address("192.0.2.1"), protocol::UDP, (546, 547)),
        v6("2001:db8::1"),
        v6("ff02::1:3"),
        v6("ff05::1:2"),
        v6("ff02::1:0:2"),
        v6("ff0e::1:2"),
        packet(address("ff02::1:2"), protocol::UDP, (40_000, 547)),
        packet(address("fe80::1"), protocol::UDP, (68, 67)),
    ] {
        assert_eq!(
            reason(&other, &armed(), &lab),
            Reason::KillSwitch,
            "{other:?}"
        );
    }
}

#[test]
fn neighbours_are_found_and_nothing_else_is_asked_of_them() {
    let lab = Lab::engaged();
    for (kind, hop_limit) in [
        (133, 255),
        (135, 255),
        (136, 255),
        (131, 1),
        (132, 1),
        (143, 1),
    ] {
        let found = |packet: &Packet, settings: &Settings| reason(packet, settings, &lab);
        assert_eq!(
            found(&icmpv6("ff02::1", kind, hop_limit), &armed()),
            Reason::Other
        );
        let without = Settings {
            exemptions: Settings::DHCP,
            ..armed()
        };
        assert_eq!(
            found(&icmpv6("ff02::1", kind, hop_limit), &without),
            Reason::KillSwitch
        );
        let routed = icmpv6("2001:db8::1", kind, 64);
        assert_eq!(found(&routed, &armed()), Reason::KillSwitch, "type {kind}");
    }
    for kind in [0, 1, 128, 129, 134, 137] {
        for hop_limit in [1, 255] {
            let packet = icmpv6("ff02::1", kind, hop_limit);
            assert_eq!(
                reason(&packet, &armed(), &lab),
                Reason::KillSwitch,
                "type {kind}"
            );
        }
    }
    let ipv4 = Packet {
        icmpv6_type: 135,
        hop_limit: 255,
        ..packet(SERVER, protocol::ICMPV6, (0, 0))
    };
    assert_eq!(reason(&ipv4, &armed(), &lab), Reason::KillSwitch);
}

#[test]
fn no_exemption_lets_dns_out() {
    for (class, ClassPorts { port, udp, .. }) in Class::ALL
        .iter()
        .filter_map(|&class| Some((class, ports(class)?)))
    {
        let number = if udp { protocol::UDP } else { protocol::TCP };
        let question = packet(SERVER, number, (40_000, port));
        let (family, address) = bytes(SERVER);
        let key = EndpointKey::new(family, &address, number, port);
        let admitted = Endpoint {
            mark: MARK,
            ..Endpoint::default()
        };
        let lab = Lab {
            lan: Some(SERVER),
            endpoint: Some((key, admitted)),
            mark: MARK,
            ..Lab::engaged()
        };
        assert_eq!(reason(&question, &armed(), &lab), Reason::from(class));
        let other = packet(SERVER, number, (40_000, 443));
        assert_eq!(reason(&other, &armed(), &lab), Reason::Other, "control");
    }
}

#[test]
fn ipv6_alone_can_be_kept_off_uplinks() {
    let settings = Settings {
        ipv6: Settings::BLOCK_OFF_TUNNEL,
        exemptions: Settings::DHCP | Settings::NDP,
        ..Settings::default()
    };
    let lab = Lab {
        engaged: false,
        ..Lab::engaged()
    };
    let v6 = packet(address("2001:db8::1"), protocol::TCP, (40_000, 443));
    assert_eq!(reason(&v6, &settings, &lab), Reason::Ipv6);
    let v4 = packet(SERVER, protocol::TCP, (40_000, 443));
    assert_eq!(reason(&v4, &settings, &lab), Reason::Other);
    let neighbour = icmpv6("ff02::1:ff00:1", 135, 255);
    assert_eq!(reason(&neighbour, &settings, &lab), Reason::Other);
    let engaged = Lab::engaged();
    assert_eq!(reason(&v6, &settings, &engaged), Reason::KillSwitch);
    for role in [Role::Tunnel, Role::Local] {
        let lab = Lab {
            role: Some(role),
            engaged: false,
            ..Lab::engaged()
        };
        assert_eq!(reason(&v6, &settings, &lab), Reason::Other);
    }
}

#[test]
fn keys_of_the_two_versions_never_meet() {
    let (family, address) = bytes(SERVER);
    let v4 = LanKey::new(family, &address, 32);
    let v6 = LanKey::new(Family::Ipv6, &address, 32);
    assert_ne!(v4.family, v6.family);
    assert_eq!(v4.address[..4], [203, 0, 113, 5]);
    assert_eq!(v4.length, 64);
}
