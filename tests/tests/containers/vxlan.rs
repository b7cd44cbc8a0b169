//! An overlay between hosts: containers on a bridge with a VXLAN port.

use leakguard::lab::{Directions, Netns, Observer, Resolver, address};
use leakguard_tests::{Bench, Shape, interface};

use super::{BOTH, caught_by, container, inside};

/// Containers' addresses on the overlay that goes over the uplink, without their last part.
const OUTSIDE: [&str; 2] = ["10.20.0.", "fd20::"];
/// The same on the one that goes through the tunnel.
const TUNNELLED: [&str; 2] = ["10.21.0.", "fd21::"];

/// Joins the overlay `vni` between two addresses, as `name`.
fn join(netns: &Netns, name: &str, vni: u8, local: &str, remote: &str) {
    netns
        .ip_batch(&format!(
            "link add {name} type vxlan id {vni} dstport 4789 local {local} remote {remote}\n\
             link set {name} mtu 1300 up\n"
        ))
        .unwrap();
}

/// Gives the host a bridge on its overlay device, with a container on it.
fn on_bridge(bench: &Bench, overlay: &str, bridge: &str, prefixes: [&str; 2], number: u8) -> Netns {
    let netns = container("overlay");
    let host = bench.topology.host();
    if host.ip(&["link", "show", bridge]).is_err() {
        host.ip_batch(&format!(
            "link add {bridge} type bridge\n\
             link set {bridge} up\n\
             link set {overlay} master {bridge}\n"
        ))
        .unwrap();
    }
    host.ip_batch(&format!(
        "link add {bridge}p{number} type veth peer name eth0 netns {}\n\
         link set {bridge}p{number} mtu 1300 master {bridge} up\n",
        netns.name()
    ))
    .unwrap();
    let [v4, v6] = prefixes;
    netns
        .ip_batch(&format!(
            "link set eth0 mtu 1300 up\n\
             addr add {v4}{number}/24 dev eth0\n\
             addr add {v6}{number}/64 dev eth0 nodad\n\
             route add default via {v4}1\n\
             route add default via {v6}1\n"
        ))
        .unwrap();
    netns
}

/// Addresses the far end of an overlay, where its gateway is.
fn gateway(netns: &Netns, name: &str, prefixes: [&str; 2]) {
    let [v4, v6] = prefixes;
    netns
        .ip_batch(&format!(
            "addr add {v4}1/24 dev {name}\n\
             addr add {v6}1/64 dev {name} nodad\n"
        ))
        .unwrap();
}

#[test]
fn dns_on_an_overlay_over_the_uplink_is_dropped_before_it_is_wrapped() {
    let mut bench = Bench::new();
    join(
        bench.topology.host(),
        "vx0",
        20,
        "192.168.77.10",
        "192.168.77.1",
    );
    join(
        bench.topology.isp(),
        "vx0",
        20,
        "192.168.77.1",
        "192.168.77.10",
    );
    gateway(bench.topology.isp(), "vx0", OUTSIDE);
    let first = on_bridge(&bench, "vx0", "br20", OUTSIDE, 10);
    let second = on_bridge(&bench, "vx0", "br20", OUTSIDE, 11);
    let _neighbour = Resolver::new(&second, "neighbour").unwrap();
    // At the far end of the overlay: what was wrapped is bare again.
    let mut observer = Observer::new(bench.topology.isp(), "vx0", Directions::Incoming).unwrap();
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        let shape = Shape {
            name: "vxlan",
            origin: inside(&first, &bench.cgroup),
            families: BOTH,
        };
        if protected {
            shape.is_kept_in(&mut observer, "with leakguard");
        } else {
            shape.leaks(&mut observer, "without leakguard");
        }
        for prefix in OUTSIDE {
            shape.hears(format!("{prefix}11").parse().unwrap(), "neighbour");
        }
    }
    caught_by(&mut bench, "tc");
}

#[test]
fn an_overlay_through_the_tunnel_carries_dns_once_it_is_named() {
    let mut bench = Bench::with_tunnel();
    let (host, vpn) = (bench.topology.host(), bench.topology.vpn());
    let [near, far] = [address::TUNNEL_HOST_V4, address::TUNNEL_RESOLVER_V4].map(|a| a.to_string());
    join(host, "vx1", 21, &near, &far);
    join(vpn, "vx1", 21, &far, &near);
    gateway(vpn, "vx1", TUNNELLED);
    let netns = on_bridge(&bench, "vx1", "br21", TUNNELLED, 10);
    let servers = TUNNELLED.map(|prefix| format!("{prefix}1").parse().unwrap());
    let cases: [(&[&str], &str); 2] = [(&[], "uplink"), (&["--tunnel", "any:vx1"], "tunnel")];
    for (arguments, role) in cases {
        bench.protect(arguments);
        let status = bench.agent().status_json().unwrap();
        assert_eq!(interface(&status, "vx1").unwrap()["role"], role);
        let shape = Shape {
            name: "vxlan through the tunnel",
            origin: inside(&netns, &bench.cgroup),
            families: BOTH,
        };
        for server in servers {
            if role == "tunnel" {
                shape.hears(server, "vpn");
            } else {
                shape.is_refused(server);
            }
        }
        bench.unprotect();
    }
}
