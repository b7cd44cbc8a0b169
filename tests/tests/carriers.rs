//! Tunnels that do not encrypt, on kernels that have them: `cargo xtask vm-test --suite carriers`.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use leakguard::lab::{Agent, address};
use leakguard_tests::{Guest, Origin, packets};
use nix::libc;
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};

const PROBES: u8 = 10;
/// Behind the tunnel: nobody lives there, which is no matter.
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
const REMOTE: Ipv4Addr = address::VPN_SERVER_V4;
/// Where no tunnel leads.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);

/// How many of the payloads have been seen at the ISP.
fn seen(guest: &mut Guest, payloads: &[Vec<u8>]) -> usize {
    let frames = guest
        .observer
        .drain_past_fence(guest.topology.host())
        .unwrap();
    let is_seen = |payload: &&Vec<u8>| frames.iter().any(|frame| frame.ends_with(payload));
    payloads.iter().filter(is_seen).count()
}

fn payloads(what: &str) -> Vec<Vec<u8>> {
    (0..PROBES)
        .map(|number| format!("{what} of carriers {number:03}").into_bytes())
        .collect()
}

fn origin(guest: &Guest) -> Origin<'_> {
    Origin {
        netns: guest.topology.host(),
        cgroup: Some(&guest.cgroup),
    }
}

/// Questions by way of the tunnel.
fn by_tunnel(guest: &mut Guest, what: &str) -> usize {
    let payloads = payloads(what);
    let socket = origin(guest).udp(RESOLVER);
    for payload in &payloads {
        // Where it is dropped, the sender is told.
        drop(socket.send_to(payload, SocketAddr::new(RESOLVER, 53)));
    }
    drop(socket);
    seen(guest, &payloads)
}

/// The same packets, made by a program: a raw socket of the protocol, and in it a whole packet.
fn by_hand(guest: &mut Guest, what: &str, number: i32, remote: Ipv4Addr) -> usize {
    let payloads = payloads(what);
    let sockets = origin(guest).sockets(libc::AF_INET, libc::SOCK_RAW, number, 1);
    for payload in &payloads {
        let [a, b, c, d] = remote.octets();
        let target = SockaddrIn::new(a, b, c, d, 0);
        let mut packet = match number {
            libc::IPPROTO_GRE => vec![0, 0, 8, 0],
            _ => Vec::new(),
        };
        packet.extend(question(payload));
        let _refused = sendto(sockets[0].as_raw_fd(), &packet, &target, MsgFlags::empty());
    }
    seen(guest, &payloads)
}

/// A datagram to port 53 of the resolver, with its IP header; checksums are nobody's business here.
fn question(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
    packet.extend([0x9c, 0x40, 0, 53]);
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// Permits a tunnel in what an agent has left.
fn permit_without_agent(agent: &mut Agent, name: &str) {
    agent.kill9().unwrap();
    let output = agent.output(&["allow", "add", name]).unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_permitted_tunnel_that_does_not_encrypt_carries_dns_and_nobody_elses_packets_do() {
    let mut guest = Guest::new("carriers");
    for (kind, number) in [("gre", libc::IPPROTO_GRE), ("ipip", libc::IPPROTO_IPIP)] {
        let name = format!("{kind}7");
        let host = guest.topology.host();
        let created = host.ip_batch(&format!(
            "link add {name} type {kind} local {} remote {REMOTE} ttl 64\n\
             addr add 10.9.0.1/24 dev {name}\n\
             link set {name} up\n",
            address::HOST_V4
        ));
        assert!(
            created.is_ok(),
            "if the kernel lacks {kind}: `cargo xtask vm-test --suite carriers`: {created:?}"
        );
        let all = usize::from(PROBES);
        for remote in [REMOTE, ELSEWHERE] {
            let open = by_hand(
                &mut guest,
                &format!("{kind} by hand to {remote}"),
                number,
                remote,
            );
            assert_eq!(open, all, "control: {kind} to {remote}");
        }
        assert_eq!(
            by_tunnel(&mut guest, &format!("{kind} open")),
            all,
            "control"
        );

        // It is an uplink unless it is named.
        let mut agent = guest.protect("wg0");
        assert_eq!(by_tunnel(&mut guest, &format!("{kind} not named")), 0);
        let status = agent.status_json().unwrap();
        let dropped = packets(&status, &[("verdict", "drop")]);
        assert_eq!(dropped, u64::from(PROBES), "each once: {status:#}");
        permit_without_agent(&mut agent, &name);
        assert_eq!(
            by_tunnel(&mut guest, &format!("{kind} permitted later")),
            all
        );
        drop(agent);

        let agent = guest.protect(&name);
        assert_eq!(
            by_tunnel(&mut guest, &format!("{kind} permitted")),
            all,
            "{}",
            agent.stderr()
        );
        for remote in [REMOTE, ELSEWHERE] {
            let kept = by_hand(
                &mut guest,
                &format!("{kind} kept from {remote}"),
                number,
                remote,
            );
            assert_eq!(kept, 0, "{kind} to {remote}");
        }
        drop(agent);
        guest.topology.host().ip(&["link", "del", &name]).unwrap();
    }
}
