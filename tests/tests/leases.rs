//! What a host needs of its uplink goes on while DNS is blocked there, and while the kill switch lets nothing else out:
//! DHCP leases, router advertisements, neighbours.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use leakguard::lab::{Frame, Topology, wait_until};
use leakguard_tests::dhcp::{DhcpClient, DhcpServer, Family, LEASE, Pace, unconfigure};
use leakguard_tests::radvd::{Radvd, icmpv6_type, resolve_neighbour};
use leakguard_tests::{Bench, ELSEWHERE, Place, Transport, isp, kill_switch, soaks};

const PROBES: usize = 20;

/// How long a message and its answer may take.
const LIMIT: Duration = Duration::from_secs(30);

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// A port of the ISP's router on the uplink itself: where IPv6 reaches without a route.
const ON_LINK: &str = "[fd77::1]:443";

/// What the uplink may carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Uplink {
    /// Everything but DNS.
    Open,
    /// What the kill switch exempts.
    Closed,
}

/// A device that leakguard protects, whose uplink has no address.
fn protected(uplink: Uplink) -> Bench {
    let mut bench = Bench::with_tunnel();
    assert_eq!(dns_seen(&mut bench), PROBES, "control");
    for target in ELSEWHERE.into_iter().chain([ON_LINK]) {
        assert_eq!(others_seen(&mut bench, target), PROBES, "control: {target}");
    }
    // A pair without a route beyond it would be local, as no real network card is.
    let mut arguments = vec!["--uplink", Topology::UPLINK];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leakguard.toml");
    if uplink == Uplink::Closed {
        fs::write(&file, kill_switch("always", "")).unwrap();
        arguments.extend(["--config", file.to_str().unwrap()]);
    }
    bench.protect(&arguments);
    assert_eq!(dns_seen(&mut bench), 0);
    unconfigure(bench.topology.host(), Topology::UPLINK);
    bench
}

fn dns_seen(bench: &mut Bench) -> usize {
    bench.seen(Place::Host, Transport::Udp, isp(0, 53), PROBES)
}

fn others_seen(bench: &mut Bench, target: &str) -> usize {
    let target = target.parse().unwrap();
    bench.seen(Place::Host, Transport::Udp, target, PROBES)
}

/// Asserts that the uplink carries what it should and no DNS, and that nothing but leakguard keeps the rest.
fn assert_enforced(mut bench: Bench, uplink: Uplink, targets: &[&str]) {
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["level"], "full", "{status}");
    assert_eq!(
        status["kill_switch"]["engaged"],
        uplink == Uplink::Closed,
        "{status}"
    );
    assert_eq!(dns_seen(&mut bench), 0);
    let expected = match uplink {
        Uplink::Open => PROBES,
        Uplink::Closed => 0,
    };
    for target in targets {
        assert_eq!(others_seen(&mut bench, target), expected, "{target}");
    }
    bench.unprotect();
    assert_eq!(dns_seen(&mut bench), PROBES, "control");
    for target in targets {
        assert_eq!(others_seen(&mut bench, target), PROBES, "control: {target}");
    }
}

/// How many of the frames go to an address and port.
fn towards(frames: &[Vec<u8>], target: SocketAddr) -> usize {
    let parsed = frames.iter().filter_map(|bytes| Frame::parse(bytes));
    parsed.filter(|frame| frame.destination == target).count()
}

/// Discover, renew and rebind over IPv4; says what happened.
fn dhcpv4(uplink: Uplink) -> String {
    let mut bench = protected(uplink);
    let pace = if soaks() {
        Pace::Standard
    } else {
        Pace::Hurried
    };
    let mut server = DhcpServer::start(&bench.topology, pace);
    let broadcast = SocketAddr::from((Ipv4Addr::BROADCAST, 67));
    let unicast = SocketAddr::from(([192, 168, 77, 1], 67));

    let mut client = DhcpClient::start(bench.origin(Place::Host), Topology::UPLINK, Family::V4);
    let lease = client.await_lease("BOUND", 1, LIMIT);
    assert_eq!(
        (lease.address.as_str(), lease.time),
        ("192.168.77.10", LEASE)
    );
    let frames = bench.frames(Place::Host);
    assert!(towards(&frames, broadcast) >= 2, "discover and request");
    assert_eq!(server.messages("DHCPACK"), 1);
    assert_eq!(dns_seen(&mut bench), 0);

    let renewals = if soaks() {
        renew_over_two_leases(&mut client, "RENEW")
    } else {
        client.await_lease("RENEW", 2, LIMIT);
        2
    };
    assert!(server.messages("DHCPACK") > renewals, "{}", server.log());
    let frames = bench.frames(Place::Host);
    assert!(towards(&frames, unicast) >= renewals, "renewed by unicast");
    assert_eq!(towards(&frames, broadcast), 0);

    // Nobody answers until the client asks everybody.
    server.stop();
    let mut seen = 0;
    wait_until("the client rebinds", 2 * LEASE, || {
        seen += towards(&bench.frames(Place::Host), broadcast);
        Ok(seen > 0)
    })
    .unwrap();
    // dhclient calls this a renewal too, if the first request to everybody is answered.
    let had = client.leases().len();
    server.resume(&bench.topology);
    wait_until("the request to everybody is answered", LIMIT, || {
        Ok(client.leases().len() > had)
    })
    .unwrap();
    assert_enforced(bench, uplink, &ELSEWHERE[..1]);
    format!("DHCPv4: {renewals} renewals, then {seen} requests to everybody until one was answered")
}

/// Solicit and confirm over IPv6; in the long form also renew and rebind, which the server cannot hurry. Says
/// what happened.
fn dhcpv6(uplink: Uplink) -> String {
    let mut said = "DHCPv6: a lease, and its confirmation".to_owned();
    let mut bench = protected(uplink);
    let mut server = DhcpServer::start(&bench.topology, Pace::Standard);
    let servers: IpAddr = "ff02::1:2".parse().unwrap();
    let servers = SocketAddr::new(servers, 547);
    // The long way out is over IPv4 in this test: the capture's markers need a route.
    bench
        .topology
        .host()
        .ip_batch("addr add 192.168.77.10/24 dev eth0\nroute replace default via 192.168.77.1\n")
        .unwrap();

    let mut client = DhcpClient::start(bench.origin(Place::Host), Topology::UPLINK, Family::V6);
    let lease = client.await_lease("BOUND6", 1, LIMIT);
    assert_eq!((lease.address.as_str(), lease.time), ("fd77::10", LEASE));
    assert!(
        towards(&bench.frames(Place::Host), servers) >= 2,
        "solicit and request"
    );

    client.restart(bench.origin(Place::Host), Topology::UPLINK);
    client.await_lease("BOUND6", 2, LIMIT);
    assert_eq!(server.messages("DHCPCONFIRM"), 1, "{}", server.log());
    assert!(server.messages("DHCPREPLY") >= 2, "{}", server.log());
    if soaks() {
        let renewals = renew_over_two_leases(&mut client, "RENEW6");
        assert!(server.messages("DHCPRENEW") >= renewals, "{}", server.log());
        // Renewing ends after 105 s of a lease; from then on the client asks everybody.
        let replies = server.messages("DHCPREPLY");
        server.stop();
        let stopped = Instant::now();
        wait_until("it is time to rebind", 2 * LEASE, || {
            Ok(stopped.elapsed() > LEASE * 7 / 8)
        })
        .unwrap();
        server.resume(&bench.topology);
        client.await_lease("REBIND6", 1, LIMIT);
        assert!(server.messages("DHCPREPLY") > replies, "{}", server.log());
        said = format!("{said}, {renewals} renewals, then a rebinding");
    }
    assert_enforced(bench, uplink, &[ELSEWHERE[0], ON_LINK]);
    said
}

/// Waits for more than two lease times, in which the lease must not lapse; returns the renewals.
fn renew_over_two_leases(client: &mut DhcpClient, reason: &str) -> usize {
    let started = Instant::now();
    let mut renewals = 0;
    while started.elapsed() < LEASE * 2 {
        renewals += 1;
        client.await_lease(reason, renewals, LEASE);
    }
    assert!(renewals >= 3, "one at the half of each lease");
    renewals
}

/// Router solicitation and advertisement, neighbour solicitation and advertisement.
fn neighbours(uplink: Uplink) {
    let mut bench = protected(uplink);
    let mut radvd = Radvd::start(&bench.topology);
    let first = radvd.await_configuration(&bench.topology);
    assert!(first.starts_with("fd77:1:"), "{first}");

    // Everything from the beginning: the kernel asks for routers when the link comes up.
    let before = radvd.solicitations();
    let host = bench.topology.host();
    host.ip_batch("link set eth0 down\nlink set eth0 up\n")
        .unwrap();
    let again = radvd.await_configuration(&bench.topology);
    assert_eq!(again, first);
    wait_until("radvd hears a solicitation", LIMIT, || {
        Ok(radvd.solicitations() > before)
    })
    .unwrap();

    resolve_neighbour(host, Topology::UPLINK, Radvd::ROUTER);
    resolve_neighbour(bench.topology.isp(), Topology::OBSERVED, &first);
    host.ip_batch("addr add 192.168.77.10/24 dev eth0\nroute replace default via 192.168.77.1\n")
        .unwrap();
    let frames = bench.frames(Place::Host);
    for (kind, what) in [
        (ROUTER_SOLICITATION, "router solicitation"),
        (NEIGHBOUR_SOLICITATION, "neighbour solicitation"),
        (NEIGHBOUR_ADVERTISEMENT, "neighbour advertisement"),
    ] {
        let seen = frames
            .iter()
            .filter(|frame| icmpv6_type(frame) == Some(kind));
        assert!(seen.count() > 0, "no {what} has left the device");
    }
    assert_enforced(bench, uplink, &ELSEWHERE);
}

#[test]
fn dhcpv4_leases_are_had_renewed_and_rebound() {
    eprintln!("{}", dhcpv4(Uplink::Open));
}

#[test]
fn dhcpv4_goes_on_with_the_kill_switch_engaged() {
    eprintln!("kill switch engaged: {}", dhcpv4(Uplink::Closed));
}

#[test]
fn dhcpv6_leases_are_had_and_confirmed() {
    eprintln!("{}", dhcpv6(Uplink::Open));
}

#[test]
fn dhcpv6_goes_on_with_the_kill_switch_engaged() {
    eprintln!("kill switch engaged: {}", dhcpv6(Uplink::Closed));
}

#[test]
fn routers_and_neighbours_are_found() {
    neighbours(Uplink::Open);
}

#[test]
fn routers_and_neighbours_are_found_with_the_kill_switch_engaged() {
    neighbours(Uplink::Closed);
}
