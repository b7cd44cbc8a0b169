//! A node of Kubernetes as Calico and kube-proxy make it: a pair to each pod with a route of its own and no bridge, a
//! service's address that is translated, and a cache on an address that only the node has.
//!
//! Unbound stands for `CoreDNS` and for `NodeLocal DNSCache`: both are resolvers of the node that know names of the cluster
//! and ask others for the rest.

use std::net::{IpAddr, Ipv4Addr};

use leakguard::lab::{Netns, Resolver, WHO_NAME, address, carries_name};
use leakguard_tests::{Bench, Place, Shape, Transport, interface, isp};

use super::{caught_by, container, finds, inside};

/// Where `NodeLocal DNSCache` listens.
const CACHE: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);
/// The service in front of `CoreDNS`.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The pod of `CoreDNS`.
const COREDNS: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 11);
/// A name of the cluster.
const NAME: &str = "shop.web.svc.cluster.test";
/// Packets of each kind.
const PROBES: usize = 20;

/// The node with the client of the bench and another for pods.
fn node() -> (Bench, Netns) {
    let bench = Bench::with_tunnel();
    let coredns = container("coredns");
    let host = bench.topology.host();
    host.ip_batch(&format!(
        "addr flush dev cont0\n\
         route add 192.168.78.10/32 dev cont0 scope link\n\
         link add cali1 type veth peer name eth0 netns {}\n\
         link set cali1 up\n\
         route add {COREDNS}/32 dev cali1 scope link\n\
         link add nodelocaldns type bridge\n\
         link set nodelocaldns up\n\
         addr add {CACHE}/32 dev nodelocaldns\n",
        coredns.name()
    ))
    .unwrap();
    for port in ["cont0", "cali1"] {
        host.sysctl(&format!("net.ipv4.conf.{port}.proxy_arp"), "1")
            .unwrap();
    }
    let mut translate = host.command("nft");
    translate.arg(format!(
        "table ip kube-proxy {{ chain nat {{ type nat hook prerouting priority dstnat; \
         ip daddr {SERVICE} meta l4proto {{ udp, tcp }} th dport 53 dnat to {COREDNS}; }}; }}"
    ));
    assert!(translate.status().unwrap().success());
    let client = bench.topology.client().unwrap();
    for (pod, own) in [
        (client, Ipv4Addr::new(192, 168, 78, 10)),
        (&coredns, COREDNS),
    ] {
        pod.ip_batch(&format!(
            "link set eth0 up\n\
             addr flush dev eth0 scope global\n\
             addr add {own}/32 dev eth0\n\
             route add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 dev eth0\n"
        ))
        .unwrap();
    }
    (bench, coredns)
}

/// The pod that asks, over IPv4.
fn pod(bench: &Bench) -> Shape<'_> {
    Shape {
        name: "pod",
        origin: inside(bench.netns(Place::Client), &bench.cgroup),
        families: &[0],
    }
}

#[test]
fn pods_are_answered_by_a_cache_on_the_node_and_by_a_service_and_leave_through_the_tunnel_only() {
    let (mut bench, coredns) = node();
    let upstream = [address::TUNNEL_RESOLVER_V4.into()];
    let answer = IpAddr::V4(Ipv4Addr::new(10, 96, 1, 1));
    let names = [(NAME, answer)];
    let _coredns = Resolver::forwarding(&coredns, &bench.cgroup, &names, &upstream).unwrap();
    let _cache =
        Resolver::forwarding(bench.topology.host(), &bench.cgroup, &names, &upstream).unwrap();
    for protected in [false, true] {
        if protected {
            // As the profile for the cache says; nothing would be let out without.
            bench.protect(&["--local", "nodelocaldns"]);
            let status = bench.agent().status_json().unwrap();
            for name in ["cont0", "cali1", "nodelocaldns"] {
                assert_eq!(interface(&status, name).unwrap()["role"], "local", "{name}");
            }
        }
        for transport in [Transport::Udp, Transport::Tcp] {
            let seen = bench.seen(Place::Client, transport, isp(0, 53), PROBES);
            let expected = if protected { 0 } else { PROBES };
            assert_eq!(seen, expected, "{transport:?}, protected: {protected}");
        }
        for server in [CACHE, SERVICE, COREDNS] {
            let server = IpAddr::V4(server);
            finds(pod(&bench).origin, server, NAME, answer);
            pod(&bench).hears(server, "vpn");
        }
        let frames = bench.frames(Place::Client);
        assert!(!frames.iter().any(|frame| carries_name(frame, WHO_NAME)));
    }
    caught_by(&mut bench, "tc");
}
