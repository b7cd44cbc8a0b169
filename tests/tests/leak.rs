//! DNS leaves the host through its tunnel only: real sockets, counted at the ISP. Every silence has its control.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

use std::fs::{self, Permissions};
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use leakguard::lab::{Frame, Netns, Query, WHO_NAME, address, carries_name};
use leakguard_tests::{Bench, Origin, Place, Transport, Volley, packets};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, SockaddrIn, SockaddrStorage, sendto};

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

fn isp(family: usize, port: u16) -> SocketAddr {
    let resolvers: [IpAddr; 2] = [
        address::ISP_RESOLVER_V4.into(),
        address::ISP_RESOLVER_V6.into(),
    ];
    SocketAddr::new(resolvers[family], port)
}

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

fn connect(socket: &impl AsRawFd, target: SocketAddr) -> nix::Result<()> {
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target))
}

/// One way to send a datagram.
struct Sender {
    name: &'static str,
    send: fn(Origin<'_>, SocketAddr, &[u8]) -> std::io::Result<()>,
}

const SENDERS: [Sender; 3] = [
    Sender {
        name: "unconnected sendto",
        send: |origin, target, payload| origin.udp(target.ip()).send_to(payload, target).map(drop),
    },
    Sender {
        name: "connected send",
        send: |origin, target, payload| {
            let socket = origin.udp(target.ip());
            connect(&socket, target)?;
            socket.send(payload).map(drop)
        },
    },
    Sender {
        name: "sendmmsg",
        send: |origin, target, payload| {
            let socket = origin.udp(target.ip());
            connect(&socket, target)?;
            send_many(&socket, payload)
        },
    },
];

/// Sends one datagram with sendmmsg.
fn send_many(socket: &UdpSocket, payload: &[u8]) -> std::io::Result<()> {
    let mut vector = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    };
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = &raw mut vector;
    message.msg_hdr.msg_iovlen = 1;
    // SAFETY: one message, which describes a live buffer that is only read.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut message, 1, 0) };
    Errno::result(sent).map(drop).map_err(Error::from)
}

#[test]
fn senders_off_the_tunnel_fail_at_once() {
    let mut bench = Bench::new();
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        for Sender { name, send } in SENDERS {
            for target in [isp(0, 53), isp(1, 53), isp(0, 853), isp(1, 853)] {
                let payload = format!("{name} to {target}");
                let started = Instant::now();
                let result = send(bench.origin(Place::Host), target, payload.as_bytes());
                let elapsed = started.elapsed();
                let frames = bench.frames(Place::Host);
                let seen = frames
                    .iter()
                    .filter(|frame| frame.ends_with(payload.as_bytes()))
                    .count();
                if protected {
                    let error = result.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{payload}");
                    assert_eq!(seen, 0, "{payload}");
                    assert!(elapsed < Duration::from_secs(1), "{payload}: {elapsed:?}");
                    println!("{payload}: {error} after {elapsed:?}, with the making of the socket");
                } else {
                    result.unwrap();
                    assert_eq!(seen, 1, "control: {payload}");
                }
            }
        }
        for target in [isp(0, 53), isp(1, 853)] {
            let volley = Volley::send(bench.origin(Place::Host), Transport::Tcp, target, N);
            let frames = bench.frames(Place::Host);
            let expected = if protected { 0 } else { N };
            assert_eq!(volley.seen(&frames), expected);
            if protected {
                assert_eq!(volley.answered(), 0, "no connection gets anywhere");
            }
        }
    }
}

/// A whole IPv4 packet that asks the ISP's resolver.
fn ipv4_packet(port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(
        address::HOST_V4.octets(),
        address::ISP_RESOLVER_V4.octets(),
        64,
    );
    let mut packet = Vec::new();
    builder
        .udp(40_053, port)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

/// Sends a UDP datagram with this payload to this port of the ISP's resolver.
type SendRaw = fn(Origin<'_>, &[u8], u16) -> nix::Result<usize>;

fn send_raw(origin: Origin<'_>, payload: &[u8], port: u16) -> nix::Result<usize> {
    // IPPROTO_RAW brings its own IP header.
    let socket = origin.sockets(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW, 1);
    let target = SockaddrIn::new(198, 51, 100, 53, 0);
    let packet = ipv4_packet(port, payload);
    sendto(socket[0].as_raw_fd(), &packet, &target, MsgFlags::empty())
}

fn send_frame(origin: Origin<'_>, payload: &[u8], port: u16) -> nix::Result<usize> {
    let index = origin
        .netns
        .run_in(|| nix::net::if_::if_nametoindex("eth0").unwrap())
        .unwrap();
    let socket = origin.sockets(libc::AF_PACKET, libc::SOCK_RAW, 0, 1);
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(ipv4_packet(port, payload));
    let target = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
        sll_protocol: 0x0800_u16.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff; 8],
    };
    // SAFETY: a buffer and an address of the lengths given, both live.
    let sent = unsafe {
        libc::sendto(
            socket[0].as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const target).cast(),
            libc::socklen_t::try_from(size_of_val(&target)).unwrap(),
        )
    };
    Errno::result(sent).map(isize::cast_unsigned)
}

#[test]
fn raw_and_packet_sockets_do_not_get_past() {
    let mut bench = Bench::new();
    let senders: [(&str, SendRaw, Errno); 2] = [
        ("IP_HDRINCL", send_raw, Errno::EPERM),
        // Not judged at the cgroup, but at TC, whose drop is a queue that is full.
        ("AF_PACKET", send_frame, Errno::ENOBUFS),
    ];
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        for (name, send, refusal) in senders {
            for port in [53, 853, 443] {
                let payload = format!("{name} to {port}, protected: {protected}");
                let result = send(bench.origin(Place::Host), payload.as_bytes(), port);
                let frames = bench.frames(Place::Host);
                let seen = frames
                    .iter()
                    .filter(|frame| frame.ends_with(payload.as_bytes()))
                    .count();
                if protected && port != 443 {
                    assert_eq!((result, seen), (Err(refusal), 0), "{payload}");
                } else {
                    assert!(result.is_ok(), "{payload}: {result:?}");
                    assert_eq!(seen, 1, "{payload}");
                }
            }
        }
    }
    let status = bench.agent().status_json().unwrap();
    assert_eq!(
        packets(&status, &[("hook", "tc"), ("verdict", "drop")]),
        2,
        "{status}"
    );
    assert_eq!(
        packets(&status, &[("hook", "cgroup_skb"), ("verdict", "drop")]),
        2,
        "{status}"
    );
}

#[test]
fn sockets_from_before_are_stopped_too() {
    let mut bench = Bench::new();
    for place in PLACES {
        for family in 0..2 {
            let target = isp(family, 53);
            let listener = bench
                .topology
                .isp()
                .run_in(|| TcpListener::bind(target).unwrap())
                .unwrap();
            let mut stream = bench.origin(place).tcp(target.ip(), 1).pop().unwrap();
            connect(&stream, target).unwrap();
            let _accepted = listener.accept().unwrap();
            let datagrams = bench.origin(place).udp(target.ip());

            for protected in [false, true] {
                if protected {
                    bench.protect(&[]);
                }
                let payload = format!("{place:?} to {target}, protected: {protected}");
                let over_tcp = format!("stream from {payload}");
                let over_udp = format!("datagram from {payload}");
                stream.write_all(over_tcp.as_bytes()).unwrap();
                let sent = datagrams.send_to(over_udp.as_bytes(), target);
                let frames = bench.frames(place);
                for payload in [over_tcp, over_udp] {
                    let seen = frames
                        .iter()
                        .filter(|frame| frame.ends_with(payload.as_bytes()))
                        .count();
                    assert_eq!(seen, usize::from(!protected), "{payload}");
                }
                if protected && place == Place::Host {
                    assert_eq!(sent.unwrap_err().kind(), ErrorKind::PermissionDenied);
                } else {
                    sent.unwrap();
                }
            }
            bench.unprotect();
        }
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
    let guest = Netns::new("guest").unwrap();
    bench
        .topology
        .host()
        .ip_batch(&format!(
            "link add br0 type bridge\n\
             link set br0 up\n\
             addr flush dev eth0\n\
             route del default via fd77::1\n\
             link set eth0 master br0\n\
             addr add 192.168.77.10/24 dev br0\n\
             addr add fd77::10/64 dev br0 nodad\n\
             route add default via 192.168.77.1\n\
             route add default via fd77::1\n\
             link add guest0 type veth peer name eth0 netns {}\n\
             link set guest0 master br0\n\
             link set guest0 up\n",
            guest.name()
        ))
        .unwrap();
    guest.sysctl("net.ipv6.conf.all.accept_dad", "0").unwrap();
    guest
        .sysctl("net.ipv6.conf.default.accept_dad", "0")
        .unwrap();
    guest
        .ip_batch(
            "link set eth0 up\n\
             addr add 192.168.77.20/24 dev eth0\n\
             addr add fd77::20/64 dev eth0 nodad\n\
             route add default via 192.168.77.1\n\
             route add default via fd77::1\n",
        )
        .unwrap();
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
