//! What is dropped, what passes, and why.

mod facts;

use leakguard_common::abi::{
    Class, ClassSet, Hook, MAX_EXTRA_PORTS, Reason, Role, Settings, Verdict,
};
use leakguard_common::packet::{Fragment, Packet, ParseError, has_ports, protocol};
use leakguard_common::verdict::{ClassPorts, Decision, class, decide, decide_alone, ports};

use self::facts::known;

const HOOKS: [Hook; 2] = [Hook::CgroupSkb, Hook::Tc];
const WITH_PORTS: [u8; 5] = [
    protocol::TCP,
    protocol::UDP,
    protocol::UDP_LITE,
    protocol::SCTP,
    protocol::DCCP,
];
const ICMP: u8 = 1;

fn to_port(number: u8, port: u16) -> Packet {
    Packet {
        protocol: number,
        destination_port: port,
        ..Packet::UNKNOWN
    }
}

fn later_fragment(number: u8) -> Packet {
    Packet {
        protocol: number,
        fragment: Fragment::Later,
        ..Packet::UNKNOWN
    }
}

fn with_extra_ports(ports: &[u16]) -> Settings {
    let mut settings = Settings::default();
    for (place, &port) in settings.extra_ports.iter_mut().zip(ports) {
        *place = port;
        settings.extra_port_count += 1;
    }
    settings
}

/// The classes that a port alone says, with their ports.
fn known_by_port() -> impl Iterator<Item = (Class, ClassPorts)> {
    Class::ALL
        .iter()
        .filter_map(|&class| Some((class, ports(class)?)))
}

fn on(role: Role, packet: &Packet, settings: &Settings) -> Decision {
    let judged = |hook| decide(Ok(()), packet, hook, settings, &known(|| Some(role), false));
    let [first, second] = HOOKS.map(judged);
    assert_eq!(first, second, "the hooks disagree about {packet:?}");
    first
}

#[test]
fn each_class_is_known_by_its_port() {
    let settings = Settings::default();
    for number in WITH_PORTS {
        let is_udp = matches!(number, protocol::UDP | protocol::UDP_LITE);
        for port in 0..=u16::MAX {
            let expected = match port {
                53 => Some(Class::Dns),
                137 => Some(Class::Netbios),
                853 => Some(if is_udp { Class::Doq } else { Class::Dot }),
                5353 => is_udp.then_some(Class::Mdns),
                5355 => Some(Class::Llmnr),
                _ => None,
            };
            let packet = to_port(number, port);
            assert_eq!(class(&packet, &settings), expected, "{port} of {number}");
        }
    }
}

#[test]
fn a_transport_without_ports_has_no_class() {
    let settings = with_extra_ports(&[8053]);
    for number in (0..=u8::MAX).filter(|&number| !has_ports(number)) {
        for port in [53, 853, 8053] {
            assert_eq!(class(&to_port(number, port), &settings), None, "{number}");
        }
    }
}

#[test]
fn the_source_port_means_nothing() {
    let mut packet = to_port(protocol::UDP, 40_000);
    packet.source_port = 53;
    assert_eq!(class(&packet, &Settings::default()), None);
}

/// Both say which packets belong to a class: the programs ask one, the nftables rules are made of the other.
#[test]
fn classes_and_their_ports_agree() {
    let settings = Settings::default();
    for (expected, ClassPorts { port, tcp, udp }) in known_by_port() {
        for (number, covered) in [(protocol::TCP, tcp), (protocol::UDP, udp)] {
            let found = class(&to_port(number, port), &settings);
            assert_eq!(found == Some(expected), covered, "{expected} over {number}");
        }
    }
    for number in [protocol::TCP, protocol::UDP] {
        for port in 0..=u16::MAX {
            if let Some(found) = class(&to_port(number, port), &settings) {
                assert_eq!(ports(found).map(|found| found.port), Some(port));
            }
        }
    }
}

#[test]
fn extra_ports_are_dns() {
    let ports: [u16; MAX_EXTRA_PORTS] =
        std::array::from_fn(|index| 8000 + u16::try_from(index).unwrap());
    let settings = with_extra_ports(&ports);
    for number in WITH_PORTS {
        for port in ports {
            assert_eq!(class(&to_port(number, port), &settings), Some(Class::Dns));
        }
        assert_eq!(class(&to_port(number, 7999), &settings), None);
    }
    // A port with a class of its own keeps it.
    let settings = with_extra_ports(&[853, 5353]);
    let found = |number, port| class(&to_port(number, port), &settings);
    assert_eq!(found(protocol::TCP, 853), Some(Class::Dot));
    assert_eq!(found(protocol::UDP, 5353), Some(Class::Mdns));
    assert_eq!(found(protocol::TCP, 5353), Some(Class::Dns));
}

#[test]
fn unused_extra_ports_do_not_match_port_0() {
    let packet = to_port(protocol::UDP, 0);
    assert_eq!(class(&packet, &with_extra_ports(&[8053])), None);
    assert_eq!(class(&packet, &Settings::default()), None);
}

#[test]
fn the_role_decides_what_happens_to_dns() {
    let packet = to_port(protocol::UDP, 53);
    for (role, verdict) in [
        (Role::Tunnel, Verdict::Pass),
        (Role::Local, Verdict::Pass),
        (Role::Uplink, Verdict::Drop),
    ] {
        let decision = on(role, &packet, &Settings::default());
        let reason = Reason::Dns;
        assert_eq!(
            decision,
            Decision {
                verdict,
                reason,
                role
            }
        );
        assert!(decision.is_judged());
    }
}

/// A map that was created and not yet written.
#[test]
fn settings_of_zeroes_block_every_class() {
    let zeroed = Settings {
        netns_cookie: 0,
        netns_inode: 0,
        mode: 0,
        exempt: ClassSet::default(),
        extra_port_count: 0,
        extra_ports: [0; MAX_EXTRA_PORTS],
        kill_switch: 0,
        ipv6: 0,
        exemptions: 0,
        options: 0,
        packet_sockets: Settings::DENY_NEW,
        rate_per_key: 0,
        redirect: 0,
        redirect_v4: [0; 4],
        redirect_v6: [0; 16],
    };
    assert_eq!(zeroed, Settings::default());
    for (blocked, ClassPorts { port, udp, .. }) in known_by_port() {
        let number = if udp { protocol::UDP } else { protocol::TCP };
        let decision = on(Role::Uplink, &to_port(number, port), &zeroed);
        assert_eq!(decision.verdict, Verdict::Drop, "{blocked}");
        assert_eq!(decision.reason, Reason::from(blocked));
    }
}

#[test]
fn an_exempt_class_is_let_out_and_no_other() {
    for &exempt in Class::ALL {
        let settings = Settings {
            exempt: ClassSet::default().with(exempt),
            ..Settings::default()
        };
        for (other, ClassPorts { port, udp, .. }) in known_by_port() {
            let number = if udp { protocol::UDP } else { protocol::TCP };
            let decision = on(Role::Uplink, &to_port(number, port), &settings);
            assert_eq!(decision.is_judged(), exempt != other, "{other} of {exempt}");
        }
    }
}

#[test]
fn observing_passes_and_says_so() {
    let observing = Settings {
        mode: Settings::OBSERVE,
        ..Settings::default()
    };
    let packet = to_port(protocol::TCP, 853);
    let decision = on(Role::Uplink, &packet, &observing);
    assert_eq!(
        (decision.verdict, decision.reason),
        (Verdict::WouldDrop, Reason::Dot)
    );
    assert_eq!(on(Role::Tunnel, &packet, &observing).verdict, Verdict::Pass);
}

#[test]
fn an_unknown_mode_enforces() {
    let settings = Settings {
        mode: 2,
        ..Settings::default()
    };
    let decision = on(Role::Uplink, &to_port(protocol::UDP, 53), &settings);
    assert_eq!(decision.verdict, Verdict::Drop);
}

#[test]
fn what_cannot_be_judged_is_dropped() {
    for error in [
        ParseError::Truncated,
        ParseError::Version,
        ParseError::HeaderLength,
        ParseError::TooDeep,
    ] {
        for hook in HOOKS {
            let settings = Settings {
                exempt: Class::ALL.iter().copied().collect(),
                ..Settings::default()
            };
            let uplink = || Some(Role::Uplink);
            let decision = decide(
                Err(error),
                &Packet::UNKNOWN,
                hook,
                &settings,
                &known(uplink, false),
            );
            assert_eq!(decision.verdict, Verdict::Drop);
            assert_eq!(decision.reason, Reason::Malformed);
        }
    }
}

#[test]
fn a_later_fragment_is_dropped_only_where_a_raw_socket_made_it() {
    let judged = |number, hook| {
        let uplink = || Some(Role::Uplink);
        let packet = later_fragment(number);
        decide(
            Ok(()),
            &packet,
            hook,
            &Settings::default(),
            &known(uplink, false),
        )
        .reason
    };
    for number in WITH_PORTS {
        assert_eq!(judged(number, Hook::CgroupSkb), Reason::Fragment);
        assert_eq!(judged(number, Hook::Tc), Reason::Other);
    }
    assert_eq!(judged(ICMP, Hook::CgroupSkb), Reason::Other);
    assert_eq!(judged(ICMP, Hook::Tc), Reason::Other);
}

#[test]
fn the_role_of_an_unsuspicious_packet_is_not_looked_up() {
    let settings = Settings {
        exempt: ClassSet::default().with(Class::Mdns),
        ..Settings::default()
    };
    for hook in HOOKS {
        for (parsed, packet) in [
            (Ok(()), to_port(protocol::TCP, 443)),
            (Ok(()), to_port(protocol::UDP, 5353)),
            (Ok(()), to_port(ICMP, 53)),
            (Ok(()), later_fragment(ICMP)),
            (Err(ParseError::NotIp), Packet::UNKNOWN),
        ] {
            let asked = || panic!("asked for the role of {packet:?}");
            let decision = decide(parsed, &packet, hook, &settings, &known(asked, false));
            assert!(!decision.is_judged());
            assert_eq!(decision.verdict, Verdict::Pass);
        }
    }
}

#[test]
fn a_packet_of_another_namespace_is_not_judged() {
    let settings = Settings::default();
    for hook in HOOKS {
        let packet = to_port(protocol::UDP, 53);
        let decision = decide(Ok(()), &packet, hook, &settings, &known(|| None, false));
        assert!(!decision.is_judged());
        assert_eq!(decision.verdict, Verdict::Pass);
        let truncated = Err(ParseError::Truncated);
        let decision = decide(truncated, &packet, hook, &settings, &known(|| None, false));
        assert!(!decision.is_judged());
        assert_eq!(decision.verdict, Verdict::Pass);
    }
}

/// By headers alone nobody knows what is in a packet.
#[test]
fn what_may_carry_another_packet_is_dropped_where_nobody_looks_into_it() {
    let settings = Settings::default();
    let judged = |packet: &Packet, role, hook| {
        decide_alone(Ok(()), packet, hook, &settings, &known(|| role, false))
    };
    for packet in [
        to_port(protocol::GRE, 0),
        to_port(protocol::IPV4, 0),
        to_port(protocol::IPV6, 0),
        to_port(protocol::UDP, 4789),
        to_port(protocol::UDP, 6081),
    ] {
        for hook in HOOKS {
            let decision = judged(&packet, Some(Role::Uplink), hook);
            assert_eq!(decision.verdict, Verdict::Drop, "{packet:?}");
            assert_eq!(decision.reason, Reason::Malformed, "{packet:?}");
            for role in [Role::Tunnel, Role::Local] {
                let decision = judged(&packet, Some(role), hook);
                assert_eq!(decision.verdict, Verdict::Pass, "{packet:?}");
            }
            assert!(!judged(&packet, None, hook).is_judged(), "{packet:?}");
        }
    }
    // The rest is judged as ever.
    let uplink = |packet: &Packet| judged(packet, Some(Role::Uplink), Hook::Tc);
    assert_eq!(uplink(&to_port(protocol::UDP, 53)).reason, Reason::Dns);
    for packet in [
        to_port(protocol::UDP, 443),
        to_port(protocol::TCP, 4789),
        to_port(ICMP, 0),
        later_fragment(protocol::GRE),
    ] {
        assert!(!uplink(&packet).is_judged(), "{packet:?}");
    }
}
