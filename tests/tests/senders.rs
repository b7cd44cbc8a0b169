//! What a sender is told off the tunnel, whatever kind of socket it has and since when.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use leakguard::lab::{Topology, address};
use leakguard_tests::{
    Bench, Origin, PacketSocket, Place, Transport, Volley, connect, isp, packets, send_many,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};

/// Connections of each kind.
const N: usize = 20;

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
            send_many(&socket, &[payload]).map(drop)
        },
    },
];

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
type SendRaw = fn(Origin<'_>, &[u8], u16) -> std::io::Result<()>;

fn send_raw(origin: Origin<'_>, payload: &[u8], port: u16) -> std::io::Result<()> {
    // IPPROTO_RAW brings its own IP header.
    let socket = origin.sockets(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW, 1);
    let target = SockaddrIn::new(198, 51, 100, 53, 0);
    let packet = ipv4_packet(port, payload);
    let sent = sendto(socket[0].as_raw_fd(), &packet, &target, MsgFlags::empty());
    Ok(sent.map(drop)?)
}

fn send_frame(origin: Origin<'_>, payload: &[u8], port: u16) -> std::io::Result<()> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(ipv4_packet(port, payload));
    Ok(PacketSocket::raw(origin, Topology::UPLINK).send(0x0800, &frame)?)
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
                    let error = result.unwrap_err().raw_os_error();
                    assert_eq!((error, seen), (Some(refusal as i32), 0), "{payload}");
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
    for place in [Place::Host, Place::Client] {
        for family in 0..2 {
            let target = isp(family, 53);
            let listener = bench.listen(target);
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
