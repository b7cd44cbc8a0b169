//! Sockets that send past TC, and what of them `strict` and the kill switch leave open.

use leakguard_tests::{
    Bench, ELSEWHERE, PacketSocket, Place, Transport, kill_switch, write_config,
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
