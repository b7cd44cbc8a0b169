//! Podman's own networks, by netavark and aardvark-dns.

use std::net::IpAddr;

use leakguard::lab::{Resolver, WHO_NAME, address, carries_name};
use leakguard_tests::{Bench, Container, Place, Podman, Shape, interface};

use super::{BOTH, caught_by};

/// A container of an engine.
fn shape<'lab>(name: &'lab str, container: &'lab Container<'_>) -> Shape<'lab> {
    Shape {
        name,
        origin: container.origin(),
        families: BOTH,
    }
}

/// Podman on the host, whose resolvers are these.
fn engine(bench: &Bench, resolvers: [IpAddr; 2]) -> Podman {
    let resolvers = resolvers.map(|address| address.to_string());
    Podman::new(bench.topology.host(), &bench.cgroup, &resolvers)
}

/// Two containers on a new network of both families with podman's resolver.
fn two_on_a_network(podman: &Podman) -> [Container<'_>; 2] {
    podman.run(&[
        "network",
        "create",
        "--subnet=10.90.0.0/24",
        "--ipv6",
        "--subnet=fd90::/64",
        "net90",
    ]);
    ["one", "two"].map(|name| podman.container(name, "net90"))
}

/// Asserts that each container finds the other by its name, with the C library and at podman's resolver.
#[track_caller]
fn find_each_other(first: &Container<'_>, second: &Container<'_>) {
    for (asker, name, number) in [(first, "two", 3), (second, "one", 2)] {
        let found = asker.exec(&["getent", "ahostsv4", name]);
        assert!(found.starts_with(&format!("10.90.0.{number} ")), "{found}");
        for server in ["10.90.0.1", "fd90::1"] {
            let at = format!("@{server}");
            let found = asker.exec(&["dig", &at, "+short", "+tries=1", "AAAA", name]);
            assert_eq!(found, format!("fd90::{number}"));
        }
    }
}

/// Which resolver answers what a container asks podman's, if one does.
#[track_caller]
fn who_answers(container: &Container<'_>) -> Option<String> {
    let line = format!("dig @10.90.0.1 +short +tries=1 +time=2 TXT {WHO_NAME} || true");
    let answer = container.exec(&["sh", "-c", &line]);
    let lines = answer.lines().find(|line| !line.starts_with(';'));
    lines.map(|line| line.trim_matches('"').to_owned())
}

/// The resolvers at the end of the tunnel.
const TUNNEL: [IpAddr; 2] = [
    IpAddr::V4(address::TUNNEL_RESOLVER_V4),
    IpAddr::V6(address::TUNNEL_RESOLVER_V6),
];

#[test]
fn containers_of_a_podman_network_find_each_other_and_resolve_through_the_tunnel_only() {
    let mut bench = Bench::with_tunnel();
    let podman = engine(&bench, TUNNEL);
    let [one, two] = &two_on_a_network(&podman);
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
            let status = bench.agent().status_json().unwrap();
            assert_eq!(interface(&status, "podman1").unwrap()["role"], "local");
        }
        let shape = shape("podman bridge", one);
        if protected {
            shape.is_kept_in(&mut bench.observer, "with leakguard");
        } else {
            shape.leaks(&mut bench.observer, "without leakguard");
        }
        find_each_other(one, two);
        shape.resolves_through_the_tunnel();
        // By way of aardvark-dns, which asks the host's resolver.
        assert_eq!(who_answers(one), Some("vpn".to_owned()));
    }
    caught_by(&mut bench, "tc");
}

#[test]
fn a_podman_network_that_is_made_while_leakguard_enforces_works_and_keeps_dns_in() {
    let mut bench = Bench::with_tunnel();
    let podman = engine(&bench, TUNNEL);
    bench.protect(&[]);
    let [one, two] = &two_on_a_network(&podman);
    let shape = shape("podman bridge, made later", one);
    shape.is_kept_in(&mut bench.observer, "with leakguard");
    find_each_other(one, two);
    shape.resolves_through_the_tunnel();
    assert_eq!(who_answers(one), Some("vpn".to_owned()));
}

#[test]
fn aardvark_that_asks_the_isp_is_stopped_and_still_knows_its_containers() {
    let mut bench = Bench::with_tunnel();
    let _isp = Resolver::new(bench.topology.isp(), "isp").unwrap();
    let resolvers = [
        address::ISP_RESOLVER_V4.into(),
        address::ISP_RESOLVER_V6.into(),
    ];
    let podman = engine(&bench, resolvers);
    let [one, two] = &two_on_a_network(&podman);
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        bench.frames(Place::Host);
        let answer = who_answers(one);
        let frames = bench.frames(Place::Host);
        let asked = frames.iter().any(|frame| carries_name(frame, WHO_NAME));
        if protected {
            assert!(answer.is_none() && !asked, "{answer:?}, asked: {asked}");
        } else {
            assert!(answer.as_deref() == Some("isp") && asked, "{answer:?}");
        }
        find_each_other(one, two);
    }
    caught_by(&mut bench, "cgroup_skb");
}

#[test]
fn a_podman_container_with_the_hosts_network_is_as_any_process_of_the_host() {
    let mut bench = Bench::with_tunnel();
    let podman = Podman::new(bench.topology.host(), &bench.cgroup, &[]);
    let container = podman.container("one", "host");
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        let shape = shape("podman host", &container);
        if protected {
            shape.is_kept_in(&mut bench.observer, "with leakguard");
        } else {
            shape.leaks(&mut bench.observer, "without leakguard");
        }
        shape.resolves_through_the_tunnel();
    }
    caught_by(&mut bench, "cgroup_skb");
}

#[test]
fn dns_of_a_podman_macvlan_network_is_dropped_at_the_uplink() {
    let mut bench = Bench::new();
    let podman = Podman::new(bench.topology.host(), &bench.cgroup, &[]);
    podman.run(&[
        "network",
        "create",
        "--driver=macvlan",
        "--opt=parent=eth0",
        "--subnet=192.168.77.0/24",
        "--gateway=192.168.77.1",
        "--ip-range=192.168.77.128/25",
        "--ipv6",
        "--subnet=fd77::/64",
        "--gateway=fd77::1",
        "mac",
    ]);
    let container = podman.container("one", "mac");
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        let shape = shape("podman macvlan", &container);
        if protected {
            shape.is_kept_in(&mut bench.observer, "with leakguard");
        } else {
            shape.leaks(&mut bench.observer, "without leakguard");
        }
    }
    caught_by(&mut bench, "tc");
}
