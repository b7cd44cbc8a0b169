//! Sockets that send past TC, and what of them `strict` and the kill switch leave open.

use leakguard_tests::{
    Bench, ELSEWHERE, Origin, PacketSocket, Place, Transport, XdpSocket, isp, kill_switch, packets,
    write_config,
};
use nix::errno::Errno;

use crate::wire::{ETHERTYPE_IPV4, UDP, ethernet, ipv4, question, udp};
use crate::{UPLINK, count};

const STRICT: [&str; 2] = ["--packet-sockets", "strict"];

/// The row "`strict` and the kill switch".
#[test]
fn a_bypassing_socket_sends_all_but_dns_in_spite_of_strict_and_the_kill_switch() {
    let mut bench = Bench::with_tunnel();
    let origin = bench.origin(Place::Host);
    let sockets = [false, true].map(|bypasses| {
        let socket = PacketSocket::raw(origin, UPLINK);
        socket.bypass(bypasses).unwrap();
        socket
    });
    let config = write_config(&kill_switch("always", ""));
    let path = config.path().to_str().unwrap();
    bench.protect(&[&["--config", path], &STRICT[..]].concat());
    let elsewhere = bench.seen(
        Place::Host,
        Transport::Udp,
        ELSEWHERE[0].parse().unwrap(),
        5,
    );
    assert_eq!(elsewhere, 0, "control: it is engaged");
    for (socket, bypasses) in sockets.iter().zip([false, true]) {
        for port in [53, 443] {
            let payload = format!("to {port}, bypassing: {bypasses}");
            let mut packet = ipv4(UDP, &udp(port, payload.as_bytes()));
            // Somebody whom nothing exempts.
            packet[16..20].copy_from_slice(&[203, 0, 113, 77]);
            let sent = socket.send(ETHERTYPE_IPV4, &ethernet(ETHERTYPE_IPV4, &packet));
            let seen = count(&bench.frames(Place::Host), payload.as_bytes());
            let expected = usize::from(bypasses && port == 443);
            assert_eq!(seen, expected, "{payload}: {sent:?}");
        }
    }
}

/// The row "the 32-bit system call": what is refused in 64 bits is not in 32, by whatever socket.
#[cfg(target_arch = "x86_64")]
#[test]
fn int80_setsockopt_is_not_refused() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    let send = |bench: &mut Bench, payload: &[u8]| {
        let frame = ethernet(ETHERTYPE_IPV4, &question(payload));
        let sent = socket.send(ETHERTYPE_IPV4, &frame);
        (sent, count(&bench.frames(Place::Host), payload))
    };
    assert_eq!(socket.bypass(true), Err(Errno::EPERM), "control");
    let refused = (Err(Errno::ENOBUFS), 0);
    assert_eq!(send(&mut bench, b"in 64 bits"), refused, "control");
    assert_eq!(socket.bypass_in_32_bits(), Ok(()), "known to be open");
    assert_eq!(send(&mut bench, b"in 32 bits"), (Ok(()), 1));
}

/// With `--cgroup`, a socket outside is not told that it is refused; TC drops its packets all the same.
#[test]
fn a_socket_outside_of_the_cgroup_is_judged_by_tc_alone() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let target = isp(0, 53);
    let inside = bench.origin(Place::Host);
    let outside = Origin {
        cgroup: None,
        ..inside
    };
    for (origin, refused, hook) in [(inside, true, "cgroup_skb"), (outside, false, "tc")] {
        let sent = origin.udp(target.ip()).send_to(hook.as_bytes(), target);
        assert_eq!(sent.is_err(), refused, "{hook}: {sent:?}");
    }
    let frames = bench.frames(Place::Host);
    let status = bench.agent().status_json().unwrap();
    for hook in ["cgroup_skb", "tc"] {
        assert_eq!(count(&frames, hook.as_bytes()), 0, "{hook}");
        let labels = [("hook", hook), ("class", "dns"), ("verdict", "drop")];
        assert_eq!(packets(&status, &labels), 1, "{hook}: {status}");
    }
}

/// The row "`AF_XDP` sockets": also one that is made while leakguard enforces, if by the system call of 32-bit programs.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_af_xdp_socket_can_be_made_by_int80_and_sends_dns_in_spite_of_strict() {
    let mut bench = Bench::new();
    bench.protect(&STRICT);
    let origin = bench.origin(Place::Host);
    let refused = XdpSocket::new(origin, UPLINK).unwrap_err();
    assert_eq!(refused, Errno::EPERM, "control");
    let mut socket = XdpSocket::in_32_bits(origin, UPLINK).unwrap();
    let frame = ethernet(ETHERTYPE_IPV4, &question(b"of AF_XDP, in 32 bits"));
    socket.send(&frame).unwrap();
    let seen = count(&bench.frames(Place::Host), b"of AF_XDP, in 32 bits");
    assert_eq!(seen, 1, "what is known to be open");
    let status = bench.agent().status_json().unwrap();
    assert_eq!(
        status["hardening"]["sockets"][0]["kind"], "af_xdp",
        "{status}"
    );
}

/// What netfilter drops of packet sockets is in the table's counters, and no event tells of it.
#[test]
fn strict_counts_the_dns_of_packet_sockets_and_makes_no_events() {
    let mut bench = Bench::new();
    let bypassing = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    bypassing.bypass(true).unwrap();
    let ordinary = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    bench.protect(&STRICT);
    for socket in [&bypassing, &ordinary] {
        let frame = ethernet(ETHERTYPE_IPV4, &question(b"in strict"));
        assert_eq!(socket.send(ETHERTYPE_IPV4, &frame), Err(Errno::ENOBUFS));
    }
    assert_eq!(count(&bench.frames(Place::Host), b"in strict"), 0);
    // An event of one that is judged elsewhere comes last.
    let target = isp(0, 53);
    let late = bench.origin(Place::Host).udp(target.ip());
    assert!(late.send_to(b"of a socket", target).is_err());
    bench.await_packets("the last is told of", |event| event["hook"] == "cgroup_skb");
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["netfilter"]["egress"], 2, "{status}");
    let events = bench.agent().events_json().unwrap();
    assert!(
        events.iter().all(|event| event["hook"] != "tc"),
        "{events:?}"
    );
}

/// In observe mode a packet goes on, and is seen again.
#[test]
fn in_observe_mode_one_packet_is_counted_at_every_hook_it_passes() {
    for (mode, verdict, at_tc) in [("observe", "would_drop", 10), ("enforce", "drop", 0)] {
        let mut bench = Bench::new();
        bench.protect(&["--mode", mode]);
        let seen = bench.seen(Place::Host, Transport::Udp, isp(0, 53), 10);
        assert_eq!(seen, usize::from(mode == "observe") * 10);
        let status = bench.agent().status_json().unwrap();
        for (hook, expected) in [("cgroup_skb", 10), ("tc", at_tc)] {
            let labels = [("hook", hook), ("verdict", verdict)];
            assert_eq!(packets(&status, &labels), expected, "{mode}: {status}");
        }
    }
}
