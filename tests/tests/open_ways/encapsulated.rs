//! DNS inside of something else.

use leakguard::lab::Netns;
use leakguard_tests::{Bench, Origin, PacketSocket, Place};

use crate::wire::{
    ETHERTYPE_IPV4, GRE, IPIP, IPV6, TCP, UDP, ah, ethernet, geneve, gre, ipv4, ipv6, question,
    tcp, udp, vxlan,
};
use crate::{UPLINK, count};

/// A form of a packet: its name, the Ethernet type, and what it makes of a packet with DNS.
type Form = (&'static str, u16, fn(&[u8]) -> Vec<u8>);

const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;

/// What is looked into.
const SHUT: [Form; 6] = [
    ("nothing", ETHERTYPE_IPV4, <[u8]>::to_vec),
    ("IP", ETHERTYPE_IPV4, |dns| ipv4(IPIP, dns)),
    ("GRE", ETHERTYPE_IPV4, gre),
    ("VXLAN", ETHERTYPE_IPV4, |dns| vxlan(VXLAN, dns)),
    ("Geneve", ETHERTYPE_IPV4, |dns| geneve(GENEVE, dns)),
    ("VXLAN, port 8472", ETHERTYPE_IPV4, |dns| vxlan(8472, dns)),
];

const TWICE: [Form; 5] = [
    ("IP in IP in IP", ETHERTYPE_IPV4, |dns| {
        ipv4(IPIP, &ipv4(IPIP, dns))
    }),
    ("GRE in GRE", ETHERTYPE_IPV4, |dns| gre(&gre(dns))),
    ("VXLAN in VXLAN", ETHERTYPE_IPV4, |dns| {
        vxlan(VXLAN, &vxlan(VXLAN, dns))
    }),
    ("GRE in Geneve", ETHERTYPE_IPV4, |dns| {
        geneve(GENEVE, &gre(dns))
    }),
    ("VXLAN in IP", ETHERTYPE_IPV4, |dns| {
        ipv4(IPIP, &vxlan(VXLAN, dns))
    }),
];

const OTHERS: [Form; 11] = [
    ("Teredo", ETHERTYPE_IPV4, |dns| {
        // The same datagram in an IPv6 packet.
        ipv4(UDP, &udp(3544, &ipv6(UDP, &dns[20..])))
    }),
    ("L2TP with PPP", ETHERTYPE_IPV4, |dns| {
        let header = [0, 2, 0, 1, 0, 1, 0xff, 3, 0, 0x21];
        ipv4(UDP, &udp(1701, &[&header, dns].concat()))
    }),
    ("GUE", ETHERTYPE_IPV4, |dns| {
        ipv4(UDP, &udp(6080, &[&[0, IPIP, 0, 0], dns].concat()))
    }),
    ("FOU", ETHERTYPE_IPV4, |dns| ipv4(UDP, &udp(5555, dns))),
    ("ERSPAN", ETHERTYPE_IPV4, |dns| {
        // GRE with a number, and the header of the second version.
        let header = [0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 1, 0, 0, 0, 0];
        let frame = ethernet(ETHERTYPE_IPV4, dns);
        ipv4(GRE, &[&header, &frame[..]].concat())
    }),
    ("PPTP: GRE with PPP", ETHERTYPE_IPV4, |dns| {
        let length = u16::try_from(4 + dns.len()).unwrap().to_be_bytes();
        let header = [0x30, 1, 0x88, 0x0b, length[0], length[1], 0, 1, 0, 0, 0, 1];
        ipv4(GRE, &[&header[..], &[0xff, 3, 0, 0x21], dns].concat())
    }),
    ("VXLAN, another port", ETHERTYPE_IPV4, |dns| {
        vxlan(4790, dns)
    }),
    ("Geneve, another port", ETHERTYPE_IPV4, |dns| {
        geneve(6082, dns)
    }),
    ("a VPN in user space", ETHERTYPE_IPV4, |dns| {
        ipv4(UDP, &udp(1194, dns))
    }),
    ("SSH", ETHERTYPE_IPV4, |dns| ipv4(TCP, &tcp(22, dns))),
    ("an HTTP proxy", ETHERTYPE_IPV4, |dns| {
        ipv4(TCP, &tcp(3128, dns))
    }),
];

/// What is taken for no IP.
const FRAMES: [Form; 4] = [
    ("MPLS", 0x8847, |dns| {
        // Label 16, the last of the stack.
        [&[0, 1, 1, 64], dns].concat()
    }),
    ("PPPoE", 0x8864, |dns| {
        let length = u16::try_from(2 + dns.len()).unwrap().to_be_bytes();
        [&[0x11, 0, 0, 1, length[0], length[1], 0, 0x21], dns].concat()
    }),
    // Its type is the length of what follows.
    ("LLC with SNAP", 200, |dns| {
        [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], dns].concat()
    }),
    ("an experimental type", 0x88b5, <[u8]>::to_vec),
];

/// Sends one of each form by a packet socket of the host, or of a guest; asserts that each is seen outside, or none.
#[track_caller]
fn assert_seen(
    bench: &mut Bench,
    (guest, socket): (Option<&Netns>, &PacketSocket),
    forms: &[Form],
    when: &str,
    expected: bool,
) {
    let mut wrong = Vec::new();
    for (name, ethertype, form) in forms {
        let payload = format!("{when}: DNS in {name}");
        let frame = ethernet(*ethertype, &form(&question(payload.as_bytes())));
        let sent = socket.send(*ethertype, &frame);
        let frames = match guest {
            Some(guest) => bench.observer.drain_past_fence(guest).unwrap(),
            None => bench.frames(Place::Host),
        };
        let seen = count(&frames, payload.as_bytes());
        // TC's drop is a queue that is full. A bridge tells nobody of it.
        let told = sent.is_ok() == (expected || guest.is_some());
        if seen != usize::from(expected) || !told {
            wrong.push((payload, sent, seen));
        }
    }
    assert!(wrong.is_empty(), "seen should be {expected}: {wrong:?}");
}

/// One form by itself is in the list of what is open, and the control beside it is not.
fn compare(forms: &[Form]) {
    let mut bench = Bench::new();
    let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    assert_seen(
        &mut bench,
        (None, &socket),
        &SHUT,
        "without leakguard",
        true,
    );
    assert_seen(
        &mut bench,
        (None, &socket),
        forms,
        "without leakguard",
        true,
    );
    bench.protect(&[]);
    assert_seen(&mut bench, (None, &socket), &SHUT, "control", false);
    assert_seen(&mut bench, (None, &socket), forms, "known to be open", true);
}

#[test]
fn two_levels_of_encapsulation_pass() {
    compare(&TWICE);
}

#[test]
fn other_encapsulations_pass() {
    compare(&OTHERS);
}

#[test]
fn mpls_frames_and_the_like_of_a_packet_socket_pass() {
    compare(&FRAMES);
}

#[test]
fn mpls_frames_and_the_like_of_a_bridged_client_pass() {
    let mut bench = Bench::new();
    let guest = bench.bridge_a_guest();
    let origin = Origin {
        netns: &guest,
        cgroup: None,
    };
    let socket = PacketSocket::raw(origin, "eth0");
    assert_seen(
        &mut bench,
        (Some(&guest), &socket),
        &SHUT,
        "without leakguard",
        true,
    );
    bench.protect(&[]);
    assert_seen(&mut bench, (Some(&guest), &socket), &SHUT, "control", false);
    assert_seen(
        &mut bench,
        (Some(&guest), &socket),
        &FRAMES,
        "known to be open",
        true,
    );
}

/// The row "`strict`: what it cannot read": what it does not look behind.
#[test]
fn strict_does_not_look_behind_other_headers_and_mpls() {
    let mut bench = Bench::new();
    let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    socket.bypass(true).unwrap();
    bench.protect(&["--packet-sockets", "strict"]);
    let behind: [Form; 5] = [
        ("AH", ETHERTYPE_IPV4, |dns| ah(UDP, &dns[20..])),
        ("IP", ETHERTYPE_IPV4, |dns| ipv4(IPIP, dns)),
        ("IPv6", 0x86dd, |dns| ipv6(IPIP, dns)),
        ("GRE", ETHERTYPE_IPV4, gre),
        ("VXLAN", ETHERTYPE_IPV4, |dns| vxlan(VXLAN, dns)),
    ];
    assert_seen(&mut bench, (None, &socket), &SHUT[..1], "control", false);
    assert_seen(
        &mut bench,
        (None, &socket),
        &behind,
        "known to be open",
        true,
    );
    // All but the last: a type that says nothing is not believed.
    assert_seen(
        &mut bench,
        (None, &socket),
        &FRAMES[..3],
        "known to be open",
        true,
    );
    // TC, which others do not bypass, does look behind them.
    let ordinary = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    let inside: [Form; 1] = [("IPv6", ETHERTYPE_IPV4, |dns| {
        ipv4(IPV6, &ipv6(UDP, &dns[20..]))
    })];
    assert_seen(&mut bench, (None, &ordinary), &behind, "ordinary", false);
    assert_seen(&mut bench, (None, &ordinary), &inside, "ordinary", false);
}
