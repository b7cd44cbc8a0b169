//! A bridge of the host with a pair to each container, as Docker, podman and most Kubernetes networks build it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use leakguard::lab::{Netns, Resolver, WHO_NAME, address, carries_name};
use leakguard_tests::{Bench, Place, Shape};

use super::{BOTH, caught_by, container, finds, inside};

/// The host on the bridge.
const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 78, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1)),
];
/// The second container.
const SECOND: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 78, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 0x11)),
];
/// What the second container is called.
const SECOND_NAME: &str = "second.containers.test";

/// Two containers on a bridge: the client of the bench, and one more.
fn bridged() -> (Bench, Netns) {
    let bench = Bench::with_tunnel();
    let second = container("second");
    bench
        .topology
        .host()
        .ip_batch(&format!(
            "link add br0 type bridge\n\
             link set br0 up\n\
             addr flush dev cont0\n\
             link set cont0 master br0\n\
             addr add 192.168.78.1/24 dev br0\n\
             addr add fd78::1/64 dev br0 nodad\n\
             link add cont1 type veth peer name eth0 netns {}\n\
             link set cont1 master br0\n\
             link set cont1 up\n",
            second.name()
        ))
        .unwrap();
    second
        .ip_batch(
            "link set eth0 up\n\
             addr add 192.168.78.11/24 dev eth0\n\
             addr add fd78::11/64 dev eth0 nodad\n\
             route add default via 192.168.78.1\n\
             route add default via fd78::1\n",
        )
        .unwrap();
    (bench, second)
}

/// Its first container.
fn first(bench: &Bench) -> Shape<'_> {
    Shape {
        name: "bridge",
        origin: inside(bench.netns(Place::Client), &bench.cgroup),
        families: BOTH,
    }
}

#[test]
fn a_container_on_a_bridge_resolves_through_the_tunnel_only() {
    let (mut bench, second) = bridged();
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        let Bench {
            observer,
            cgroup,
            topology,
            ..
        } = &mut bench;
        for (name, netns) in [
            ("bridge", topology.client().unwrap()),
            ("bridge, second container", &second),
        ] {
            let shape = Shape {
                name,
                origin: inside(netns, cgroup),
                families: BOTH,
            };
            if protected {
                shape.is_kept_in(observer, "with leakguard");
            } else {
                shape.leaks(observer, "without leakguard");
            }
            shape.resolves_through_the_tunnel();
        }
    }
    caught_by(&mut bench, "tc");
}

#[test]
fn a_service_on_a_bridge_serves_containers_and_asks_through_the_tunnel() {
    let (mut bench, _second) = bridged();
    let service = Resolver::forwarding(
        bench.topology.host(),
        &bench.cgroup,
        &SECOND.map(|address| (SECOND_NAME, address)),
        &[
            address::TUNNEL_RESOLVER_V4.into(),
            address::TUNNEL_RESOLVER_V6.into(),
        ],
    )
    .unwrap();
    bench.protect(&[]);
    bench.frames(Place::Client);
    for server in HOST {
        for address in SECOND {
            finds(first(&bench).origin, server, SECOND_NAME, address);
        }
        first(&bench).hears(server, "vpn");
    }
    let frames = bench.frames(Place::Client);
    assert!(!frames.iter().any(|frame| carries_name(frame, WHO_NAME)));
    drop(service);
}

#[test]
fn a_service_on_a_bridge_that_asks_the_isp_is_stopped() {
    let (mut bench, _second) = bridged();
    let _isp = Resolver::new(bench.topology.isp(), "isp").unwrap();
    let _service = Resolver::forwarding(
        bench.topology.host(),
        &bench.cgroup,
        &SECOND.map(|address| (SECOND_NAME, address)),
        &[
            address::ISP_RESOLVER_V4.into(),
            address::ISP_RESOLVER_V6.into(),
        ],
    )
    .unwrap();
    let asked = |frames: &[Vec<u8>]| {
        let names = frames.iter().filter(|frame| carries_name(frame, WHO_NAME));
        names.count()
    };
    for server in HOST {
        first(&bench).hears(server, "isp");
    }
    assert!(asked(&bench.frames(Place::Client)) > 0, "control");

    bench.protect(&[]);
    bench.frames(Place::Client);
    for server in HOST {
        first(&bench).is_refused(server);
        // What it knows itself, it goes on telling.
        for address in SECOND {
            finds(first(&bench).origin, server, SECOND_NAME, address);
        }
    }
    assert_eq!(asked(&bench.frames(Place::Client)), 0);
    caught_by(&mut bench, "cgroup_skb");
}

#[test]
fn a_service_in_a_container_serves_its_neighbours_and_the_host() {
    let (mut bench, second) = bridged();
    let _service = Resolver::new(&second, "neighbour").unwrap();
    bench.protect(&[]);
    let host = Shape {
        name: "the host",
        origin: bench.origin(Place::Host),
        families: BOTH,
    };
    for server in SECOND {
        first(&bench).hears(server, "neighbour");
        host.hears(server, "neighbour");
    }
    let Bench {
        observer,
        cgroup,
        topology,
        ..
    } = &mut bench;
    let shape = Shape {
        name: "bridge",
        origin: inside(topology.client().unwrap(), cgroup),
        families: BOTH,
    };
    shape.is_kept_in(observer, "meanwhile");
}
