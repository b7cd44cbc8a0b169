//! DNS leaves the host through its tunnel only: real sockets, counted at the ISP. Every silence has its control.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use leakguard::lab::{Frame, Netns, Query, WHO_NAME, address, carries_name};
use leakguard_tests::{Bench, Origin, Place, Transport, Volley, connect, isp, packets};

/// Probes of each kind.
const N: usize = 20;
/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(5);

const PLACES: [Place; 2] = [Place::Host, Place::Client];

const BLOCKED: [(Transport, u16); 9] = [
    (Transport::Udp, 53),
    (Transport::Tcp, 53),
    (Transport::Udp, 853),
    (Transport::Tcp, 853),
    (Transport::Udp, 5353),
    (Transport::Udp, 5355),
    (Transport::Tcp, 5355),
    (Transport::Udp, 137),
    (Transport::Tcp, 137),
];
/// Ports that are nobody's DNS; TCP 5353 is not multicast DNS.
const OTHERS: [(Transport, u16); 9] = [
    (Transport::Udp, 443),
    (Transport::Tcp, 443),
    (Transport::Udp, 5354),
    (Transport::Tcp, 5354),
    (Transport::Udp, 8080),
    (Transport::Tcp, 8080),
    (Transport::Udp, 54),
    (Transport::Tcp, 852),
    (Transport::Tcp, 5353),
];

/// Sends probes of each kind from everywhere, over both families, and expects so many of each at the ISP.
fn expect(bench: &mut Bench, when: &str, kinds: &[(Transport, u16)], expected: usize) {
    let mut seen = 0;
    let mut sent = 0;
    for place in PLACES {
        for family in 0..2 {
            for &(transport, port) in kinds {
                let target = isp(family, port);
                let arrived = bench.seen(place, transport, target, N);
                assert_eq!(
                    arrived, expected,
                    "{when}: {transport:?} from {place:?} to {target}"
                );
                seen += arrived;
                sent += N;
            }
        }
    }
    let ports: Vec<_> = kinds
        .iter()
        .map(|(transport, port)| format!("{transport:?}/{port}"))
        .collect();
    println!(
        "{when}: {seen} of {sent} seen at the ISP ({})",
        ports.join(" ")
    );
}

#[test]
fn all_dns_leaks_without_leakguard_and_none_with_it() {
    let mut bench = Bench::new();
    expect(&mut bench, "without leakguard", &BLOCKED, N);
    expect(&mut bench, "without leakguard", &OTHERS, N);
    bench.protect(&[]);
    expect(&mut bench, "with leakguard", &BLOCKED, 0);
    expect(&mut bench, "with leakguard", &OTHERS, N);
    bench.unprotect();
    expect(&mut bench, "after its release", &BLOCKED, N);
}

#[test]
fn dns_through_the_tunnel_is_answered() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    // Whatever has led here is not what is counted below.
    bench.frames(Place::Host);
    let servers: [IpAddr; 2] = [
        address::TUNNEL_RESOLVER_V4.into(),
        address::TUNNEL_RESOLVER_V6.into(),
    ];
    let (mut lookups, mut echoes) = (0, 0);
    for place in PLACES {
        for server in servers {
            let query = Query::new(server, WHO_NAME, "TXT");
            for query in [query.clone(), query.over_tcp()] {
                let cgroup = bench.origin(place).cgroup;
                let lookup = query.run(bench.netns(place), cgroup).unwrap();
                assert!(
                    lookup.is("vpn"),
                    "{place:?}: {}: {lookup:?}",
                    query.command_line()
                );
                lookups += 1;
            }
            let target = SocketAddr::new(server, 853);
            echo_datagrams(bench.origin(place), bench.topology.vpn(), target);
            echo_streams(bench.origin(place), bench.topology.vpn(), target);
            echoes += 2 * N;
        }
    }
    println!(
        "through the tunnel: {lookups} lookups answered, {echoes} of {echoes} probes to port 853 echoed"
    );
    let frames = bench.frames(Place::Host);
    assert!(!frames.iter().any(|frame| carries_name(frame, WHO_NAME)));
    let carried = frames.iter().filter_map(|frame| Frame::parse(frame));
    let carried: Vec<_> = carried
        .filter(|frame| frame.is_udp() || frame.is_tcp())
        .collect();
    assert!(!carried.is_empty(), "the carrier must be visible");
    for frame in carried {
        assert!(
            frame.is_udp() && frame.has_port(address::CARRIER_PORT),
            "{frame}"
        );
    }
}

fn echo_datagrams(origin: Origin<'_>, vpn: &Netns, target: SocketAddr) {
    let server = vpn.run_in(|| UdpSocket::bind(target).unwrap()).unwrap();
    let client = origin.udp(target.ip());
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
    }
    for number in 0..N {
        let payload = format!("datagram {number}");
        let mut buffer = [0; 64];
        client.send_to(payload.as_bytes(), target).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..length], from).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (payload.as_bytes(), target));
    }
}

fn echo_streams(origin: Origin<'_>, vpn: &Netns, target: SocketAddr) {
    let server = vpn.run_in(|| TcpListener::bind(target).unwrap()).unwrap();
    for (number, mut client) in origin.tcp(target.ip(), N).into_iter().enumerate() {
        let payload = format!("stream {number}");
        let mut buffer = vec![0; payload.len()];
        connect(&client, target).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(payload.as_bytes()).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        accepted.set_read_timeout(Some(LIMIT)).unwrap();
        accepted.read_exact(&mut buffer).unwrap();
        accepted.write_all(&buffer).unwrap();
        client.read_exact(&mut buffer).unwrap();
        assert_eq!(buffer, payload.as_bytes());
    }
}

#[test]
fn the_configuration_decides_what_is_dns() {
    let mut bench = Bench::new();
    let extra = [(Transport::Udp, 5300), (Transport::Tcp, 5300)];
    expect(&mut bench, "without leakguard", &extra, N);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leakguard.toml");
    fs::write(&file, "[dns]\nports = [5300]\n").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    bench.protect(&["--config", file.to_str().unwrap()]);
    expect(&mut bench, "with an extra port", &extra, 0);
    expect(&mut bench, "with an extra port", &BLOCKED[..4], 0);
    expect(&mut bench, "with an extra port", &OTHERS, N);
    bench.unprotect();

    bench.protect(&["--block", "dns"]);
    expect(&mut bench, "with --block dns", &BLOCKED[..2], 0);
    expect(&mut bench, "with --block dns", &BLOCKED[2..], N);
    expect(&mut bench, "with --block dns", &extra, N);
}

#[test]
fn observing_lets_everything_pass_and_counts_it() {
    let mut bench = Bench::new();
    bench.protect(&["--mode", "observe"]);
    let kinds = &BLOCKED[..4];
    for (transport, port) in kinds {
        for family in 0..2 {
            assert_eq!(
                bench.seen(Place::Host, *transport, isp(family, *port), N),
                N
            );
        }
    }
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["mode"], "observe");
    assert_eq!(packets(&status, &[("verdict", "drop")]), 0, "{status}");
    for protocol in ["udp", "tcp"] {
        let labels = [
            ("verdict", "would_drop"),
            ("hook", "cgroup_skb"),
            ("protocol", protocol),
        ];
        let counted = packets(&status, &labels);
        // A datagram is a packet; a connection that is refused is one SYN.
        assert_eq!(counted, 4 * N as u64, "{protocol}: {status}");
    }
    expect(&mut bench, "observing", &BLOCKED, N);
}

#[test]
fn a_bridged_guest_is_stopped_too() {
    let mut bench = Bench::new();
    let guest = bench.bridge_a_guest();
    let origin = Origin {
        netns: &guest,
        cgroup: None,
    };
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        for family in 0..2 {
            for (kinds, expected) in [(&BLOCKED, if protected { 0 } else { N }), (&OTHERS, N)] {
                for &(transport, port) in kinds {
                    let target = isp(family, port);
                    let volley = Volley::send(origin, transport, target, N);
                    let frames = bench.observer.drain_past_fence(&guest).unwrap();
                    assert_eq!(bench.observer.lost().unwrap(), 0);
                    let seen = volley.seen(&frames);
                    assert_eq!(
                        seen, expected,
                        "{transport:?} to {target}, protected: {protected}"
                    );
                }
            }
        }
    }
}
