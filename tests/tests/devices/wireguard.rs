//! The kernel's own WireGuard, whose packets no process sends.

use std::net::{IpAddr, SocketAddr};

use leakguard::lab::{Directions, Frame, Observer, WireGuard, address};
use leakguard_tests::{
    Bench, ELSEWHERE, Place, Transport, interface, isp, kill_switch, write_config,
};

use crate::{FAMILIES, N, among, dropped, payloads};

/// Behind the tunnel.
fn resolver(family: usize) -> SocketAddr {
    let resolvers: [IpAddr; 2] = [
        address::TUNNEL_RESOLVER_V4.into(),
        address::TUNNEL_RESOLVER_V6.into(),
    ];
    SocketAddr::new(resolvers[family], 53)
}

/// What has come of questions through the tunnel.
#[derive(Debug, PartialEq, Eq)]
struct Through {
    /// How many have come out at its other end.
    arrived: usize,
    /// How many the ISP could read.
    readable: usize,
    /// Whether there were at least as many packets of the carrier.
    carried: bool,
}

const WELL: Through = Through {
    arrived: N,
    readable: 0,
    carried: true,
};

fn through(bench: &mut Bench, inside: &mut Observer, what: &str, family: usize) -> Through {
    let payloads = payloads(&format!("{what} {family}"));
    let target = resolver(family);
    let socket = bench.origin(Place::Host).udp(target.ip());
    for payload in &payloads {
        // Where it is dropped, the sender is told, and nothing arrives.
        drop(socket.send_to(payload, target));
    }
    // The last one is behind all others; where it does not come, the others are what they are.
    let last = payloads.last().unwrap();
    let arrived = inside.wait_for(std::time::Duration::from_secs(2), |frame| {
        frame.ends_with(last)
    });
    let arrived = arrived.unwrap_or_default();
    let outside = bench.frames(Place::Host);
    let carrier = outside.iter().filter_map(|bytes| Frame::parse(bytes));
    let carrier =
        carrier.filter(|frame| frame.is_udp() && frame.destination.port() == address::CARRIER_PORT);
    Through {
        arrived: among(&arrived, &payloads),
        readable: among(&outside, &payloads),
        carried: carrier.count() >= N,
    }
}

fn inside(bench: &Bench) -> Observer {
    let end = WireGuard::SERVER_INTERFACE;
    Observer::new(bench.topology.vpn(), end, Directions::Incoming).unwrap()
}

#[test]
fn the_kernels_own_is_found_by_auto_carries_dns_and_its_packets_pass() {
    let mut bench = Bench::with_kernel_tunnel();
    let mut inside = inside(&bench);
    for family in FAMILIES {
        assert_eq!(through(&mut bench, &mut inside, "open", family), WELL);
        let beside = bench.seen(Place::Host, Transport::Udp, isp(family, 53), N);
        assert_eq!(beside, N, "control");
    }

    bench.protect_by("auto", &[]);
    let status = bench.agent().status_json().unwrap();
    let tunnel = interface(&status, Bench::TUNNEL).unwrap();
    assert_eq!(tunnel["role"], "tunnel", "{status:#}");
    assert_eq!(tunnel["kind"], "wireguard", "{status:#}");
    for family in FAMILIES {
        let before = dropped(&mut bench);
        assert_eq!(through(&mut bench, &mut inside, "guarded", family), WELL);
        assert_eq!(dropped(&mut bench), before, "none of it");
        for place in [Place::Host, Place::Client] {
            let before = dropped(&mut bench);
            let beside = bench.seen(place, Transport::Udp, isp(family, 53), N);
            assert_eq!(beside, 0, "beside the tunnel, {place:?}");
            assert_eq!(dropped(&mut bench) - before, N as u64, "each once");
        }
    }

    bench.agent().kill9().unwrap();
    assert_eq!(through(&mut bench, &mut inside, "without agent", 0), WELL);
}

#[test]
fn its_packets_pass_the_kill_switch_by_their_mark_and_others_to_its_server_do_not() {
    let mut bench = Bench::with_kernel_tunnel();
    let mut inside = inside(&bench);
    let carrier = SocketAddr::new(address::VPN_SERVER_V4.into(), address::CARRIER_PORT);
    let elsewhere: SocketAddr = ELSEWHERE[0].parse().unwrap();
    for target in [carrier, elsewhere] {
        let open = bench.seen(Place::Host, Transport::Udp, target, N);
        assert_eq!(open, N, "control: {target}");
    }
    let config = write_config(&kill_switch("always", ""));
    bench.protect_by("auto", &["--config", config.path().to_str().unwrap()]);
    for target in [carrier, elsewhere] {
        let seen = bench.seen(Place::Host, Transport::Udp, target, N);
        assert_eq!(seen, 0, "of a program without the mark, to {target}");
    }
    for family in FAMILIES {
        assert_eq!(through(&mut bench, &mut inside, "engaged", family), WELL);
    }
}
