//! Names still resolve: whomever a program of the host asks, the tunnel's resolver answers, and the program sees whom it has
//! asked.
//!
//! Nobody is at the addresses that are asked here, and the ISP is silent about them, as when a resolver has gone away.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod client;
mod clients;
mod exempt;
mod flood;
mod message;
mod site;
mod sockets;
mod told;
mod way;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use leakguard::lab::{Frame, address};
use leakguard_tests::{Bench, Place};

/// Whom programs ask: nobody.
const ASKED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
];
/// Who answers, in the same order.
const TUNNEL_RESOLVER: [IpAddr; 2] = [
    IpAddr::V4(address::TUNNEL_RESOLVER_V4),
    IpAddr::V6(address::TUNNEL_RESOLVER_V6),
];
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
const DNS: u16 = 53;

/// A device with a tunnel; nobody is at the addresses that are asked.
fn bench() -> Bench {
    let bench = Bench::with_tunnel();
    let isp = bench.topology.isp();
    let silences = ASKED.map(|asked| format!("route add blackhole {asked}\n"));
    isp.ip_batch(&silences.concat()).unwrap();
    bench
}

/// Starts leakguard with redirection of both families, and with more arguments.
fn redirect(bench: &mut Bench, arguments: &[&str]) {
    let targets = TUNNEL_RESOLVER.map(|target| target.to_string());
    let redirection = ["--redirect", &targets[0], "--redirect", &targets[1]];
    bench.protect(&[&redirection, arguments].concat());
}

/// The address that is asked, with the port of DNS.
fn asked(family: usize) -> SocketAddr {
    SocketAddr::new(ASKED[family], DNS)
}

/// What has left the host for port 53 since the last call, off the tunnel.
fn questions_outside(bench: &mut Bench) -> Vec<(Frame, Vec<u8>)> {
    let frames = bench.frames(Place::Host).into_iter();
    frames
        .filter_map(|bytes| Some((Frame::parse(&bytes)?, bytes)))
        .filter(|(frame, _)| frame.has_port(DNS))
        .collect()
}

/// That nothing has.
#[track_caller]
fn assert_silence(bench: &mut Bench) {
    let seen = questions_outside(bench);
    let seen: Vec<String> = seen.iter().map(|(frame, _)| frame.to_string()).collect();
    assert!(seen.is_empty(), "seen outside the tunnel: {seen:#?}");
}
