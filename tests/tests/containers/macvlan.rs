//! Children of the uplink: the host's IP stack and its netfilter never see their packets.

use std::net::IpAddr;

use leakguard::lab::{Netns, Resolver, Topology, wait_until};
use leakguard_tests::{Bench, Shape, interface};

use super::{BOTH, LIMIT, caught_by, container, inside};

/// A container with a macvlan child of the uplink, beside the host on the ISP's network.
fn child(bench: &Bench, mode: &str, number: u8) -> Netns {
    let netns = container("macvlan");
    let name = format!("macvlan{number}");
    let uplink = Topology::UPLINK;
    // At once where it belongs, under a name that the host does not have: kernels before 6.13 look for it there.
    bench
        .topology
        .host()
        .ip_batch(&format!(
            "link add link {uplink} name {name} netns {} type macvlan mode {mode}\n",
            netns.name()
        ))
        .unwrap();
    configure(&netns, &name, number);
    netns
}

/// Gives a child that is in its container its name and its addresses.
fn configure(netns: &Netns, name: &str, number: u8) {
    netns
        .ip_batch(&format!(
            "link set {name} name eth0 up\n\
             addr add 192.168.77.{number}/24 dev eth0\n\
             addr add fd77::{number}/64 dev eth0 nodad\n\
             route add default via 192.168.77.1\n\
             route add default via fd77::1\n"
        ))
        .unwrap();
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

/// A known issue: it has to fail here, and be struck from the list, when that changes.
#[test]
fn a_macvlan_child_that_was_the_hosts_at_first_hears_no_sibling() {
    let mut bench = Bench::new();
    let second = child(&bench, "bridge", 21);
    let _service = Resolver::new(&second, "sibling").unwrap();
    for (protected, number) in [(false, 22), (true, 23)] {
        let name = format!("macvlan{number}");
        if protected {
            bench.protect(&[]);
        }
        let uplink = Topology::UPLINK;
        bench
            .topology
            .host()
            .ip_batch(&format!(
                "link add link {uplink} name {name} type macvlan mode bridge\n"
            ))
            .unwrap();
        if protected {
            wait_until("the child is covered", LIMIT, || {
                let status = bench.agent().status_json()?;
                Ok(interface(&status, &name).is_some_and(|found| found["tc"] == "head"))
            })
            .unwrap();
        }
        let first = container("first");
        let host = bench.topology.host();
        host.ip(&["link", "set", &name, "netns", first.name()])
            .unwrap();
        configure(&first, &name, number);
        let shape = Shape {
            name: "macvlan that was the host's",
            origin: inside(&first, &bench.cgroup),
            families: BOTH,
        };
        let server = "192.168.77.21".parse().unwrap();
        if protected {
            shape.is_refused(server);
        } else {
            shape.hears(server, "sibling");
        }
    }
}
