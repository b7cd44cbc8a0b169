//! Children of the uplink: the host's IP stack and its netfilter never see their packets.

use std::net::IpAddr;

use leakguard::lab::{Netns, Resolver, Topology};
use leakguard_tests::{Bench, Shape};

use super::{BOTH, caught_by, container, inside};

/// A container with a macvlan child of the uplink, beside the host on the ISP's network.
fn child(bench: &Bench, mode: &str, number: u8) -> Netns {
    let netns = container("macvlan");
    bench
        .topology
        .host()
        .ip(&[
            "link",
            "add",
            "link",
            Topology::UPLINK,
            "name",
            "eth0",
            "netns",
            netns.name(),
            "type",
            "macvlan",
            "mode",
            mode,
        ])
        .unwrap();
    netns
        .ip_batch(&format!(
            "link set eth0 up\n\
             addr add 192.168.77.{number}/24 dev eth0\n\
             addr add fd77::{number}/64 dev eth0 nodad\n\
             route add default via 192.168.77.1\n\
             route add default via fd77::1\n"
        ))
        .unwrap();
    netns
}

#[test]
fn dns_of_macvlan_containers_is_dropped_at_the_uplink_in_every_mode() {
    for mode in ["bridge", "private", "vepa"] {
        let mut bench = Bench::new();
        let netns = child(&bench, mode, 20);
        for protected in [false, true] {
            if protected {
                bench.protect(&[]);
            }
            let name = format!("macvlan {mode}");
            let shape = Shape {
                name: &name,
                origin: inside(&netns, &bench.cgroup),
                families: BOTH,
            };
            if protected {
                shape.is_kept_in(&mut bench.observer, "with leakguard");
            } else {
                shape.leaks(&mut bench.observer, "without leakguard");
            }
        }
        caught_by(&mut bench, "tc");
    }
}

#[test]
fn macvlan_siblings_serve_each_other_while_leakguard_enforces() {
    let mut bench = Bench::new();
    let (first, second) = (child(&bench, "bridge", 20), child(&bench, "bridge", 21));
    let _service = Resolver::new(&second, "sibling").unwrap();
    bench.protect(&[]);
    let shape = Shape {
        name: "macvlan bridge",
        origin: inside(&first, &bench.cgroup),
        families: BOTH,
    };
    let second: [IpAddr; 2] = ["192.168.77.21", "fd77::21"].map(|text| text.parse().unwrap());
    for server in second {
        shape.hears(server, "sibling");
    }
    shape.is_kept_in(&mut bench.observer, "meanwhile");
}
