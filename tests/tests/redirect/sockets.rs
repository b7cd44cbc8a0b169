//! Every way in which a socket can ask.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use leakguard_tests::{Bench, Place};

use crate::way::{WAYS, Way};
use crate::{ASKED, DNS, FAMILIES, asked, assert_silence, bench, questions_outside, redirect};

/// The address of a socket, as far as its family goes, and whom it asks.
#[derive(Clone, Copy, Debug)]
struct Pair {
    name: &'static str,
    socket: SocketAddr,
    asked: SocketAddr,
}

/// IPv4, IPv6, and IPv4 by sockets of IPv6.
fn pairs() -> [Pair; 4] {
    let IpAddr::V4(v4) = ASKED[0] else {
        unreachable!("the first is IPv4");
    };
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), DNS);
    let pair = |name, socket, asked| Pair {
        name,
        socket,
        asked,
    };
    [
        pair(FAMILIES[0], asked(0), asked(0)),
        pair(FAMILIES[1], asked(1), asked(1)),
        pair("mapped", any, mapped),
        pair("ipv4 by ipv6", any, asked(0)),
    ]
}

/// The ways that make sense: a TCP socket of IPv6 takes no address of IPv4.
fn combinations() -> impl Iterator<Item = (Way, Pair)> {
    let all = WAYS
        .into_iter()
        .flat_map(|way| pairs().map(|pair| (way, pair)));
    all.filter(|(way, pair)| !way.is_tcp() || pair.name != "ipv4 by ipv6")
}

/// Asks in one way.
fn ask(bench: &Bench, way: Way, pair: Pair) -> std::io::Result<crate::way::Told> {
    way.ask(bench.origin(Place::Host), pair.socket, pair.asked)
}

#[test]
fn a_socket_is_answered_by_the_tunnels_resolver_and_told_that_it_is_whom_it_asked() {
    let mut bench = bench();
    questions_outside(&mut bench);
    for (way, pair) in [(Way::SendTo, 0), (Way::Connected, 1), (Way::Tcp, 0)] {
        let pair = pairs()[pair];
        assert!(ask(&bench, way, pair).is_err(), "control: {way:?}");
        let seen = questions_outside(&mut bench);
        let seen = seen
            .iter()
            .filter(|(frame, _)| frame.destination == pair.asked);
        assert!(seen.count() > 0, "control: {way:?}");
    }
    redirect(&mut bench, &[]);
    let mut wrong = Vec::new();
    for (way, pair) in combinations() {
        match ask(&bench, way, pair) {
            // A socket of IPv6 that is given an address of IPv4 tells of it as one of IPv6.
            Ok(told)
                if told.by_tunnel
                    && told.from.ip().to_canonical() == pair.asked.ip().to_canonical() => {}
            other => wrong.push((way, pair, other)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_silence(&mut bench);
}

#[test]
fn a_socket_from_before_is_redirected_too() {
    let mut bench = bench();
    let socket = bench.origin(Place::Host).udp(ASKED[0]);
    redirect(&mut bench, &[]);
    let told = Way::SendTo.ask_by(&socket, asked(0)).unwrap();
    assert!(told.by_tunnel && told.from == asked(0), "{told:?}");
}

#[test]
fn one_socket_can_ask_several_one_after_the_other() {
    let mut bench = bench();
    redirect(&mut bench, &[]);
    let socket = bench.origin(Place::Host).udp(ASKED[0]);
    for last in [8, 4, 8] {
        let asked = SocketAddr::new([8, 8, last, last].into(), DNS);
        let told = Way::SendTo.ask_by(&socket, asked).unwrap();
        assert!(told.by_tunnel && told.from == asked, "{told:?}");
    }
    let itself = SocketAddr::new(crate::TUNNEL_RESOLVER[0], DNS);
    let told = Way::SendTo.ask_by(&socket, itself).unwrap();
    assert!(told.by_tunnel && told.from == itself, "{told:?}");
}
