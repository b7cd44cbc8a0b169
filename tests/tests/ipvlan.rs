//! Containers with an ipvlan child of the uplink, on kernels that have it: `cargo xtask vm-test --suite ipvlan`.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use leakguard::lab::{Netns, Topology, wait_until};
use leakguard_tests::{Guest, Origin, Shape, packets};

/// After which time a datagram is taken for lost.
const RETRY: Duration = Duration::from_secs(2);
/// IPv4 and IPv6.
const BOTH: &[usize] = &[0, 1];

/// A container with a child of the uplink. In the modes of layer 3 it is in a network behind the host, as seen from
/// the ISP, for nobody answers for it on the host's own; and it has no gateway, for the host's routes are used.
fn child(guest: &Guest, mode: &str, number: u8) -> Netns {
    let netns = Netns::new(mode).unwrap();
    for key in ["all.accept_dad", "default.accept_dad"] {
        netns.sysctl(&format!("net.ipv6.conf.{key}"), "0").unwrap();
    }
    let host = guest.topology.host();
    let uplink = Topology::UPLINK;
    // At once where it belongs: the agent would put its program on one that is the host's at first. Under a name that
    // the host does not have, for kernels before 6.13 look for it there.
    let child = format!("ipvlan{number}");
    let created = host.ip_batch(&format!(
        "link add link {uplink} name {child} netns {} type ipvlan mode {mode}\n",
        netns.name()
    ));
    assert!(
        created.is_ok(),
        "if the kernel lacks ipvlan: `cargo xtask vm-test --suite ipvlan`: {created:?}"
    );
    let [via4, via6] = match mode {
        "l2" => ["via 192.168.77.1", "via fd77::1"],
        _ => ["dev eth0", "dev eth0"],
    };
    let [v4, v6] = addresses(mode, number);
    netns
        .ip_batch(&format!(
            "link set {child} name eth0 up\n\
             addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             route add default {via4}\n\
             route add ::/0 {via6}\n"
        ))
        .unwrap();
    netns
}

/// The addresses of a container.
fn addresses(mode: &str, number: u8) -> [String; 2] {
    let network = if mode == "l2" { 77 } else { 78 };
    [
        format!("192.168.{network}.{number}"),
        format!("fd{network}::{number}"),
    ]
}

/// Asserts that datagrams to port 53 of a sibling arrive there. One may be lost.
#[track_caller]
fn reaches(origin: Origin<'_>, sibling: &Netns, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    let target = SocketAddr::new(address, 53);
    let server = sibling.run_in(|| UdpSocket::bind(target).unwrap()).unwrap();
    server.set_read_timeout(Some(RETRY)).unwrap();
    let client = origin.udp(address);
    wait_until(
        &format!("a sibling hears at {target}"),
        Guest::LIMIT,
        || {
            client.send_to(b"question", target).unwrap();
            let mut buffer = [0; 16];
            Ok(server
                .recv(&mut buffer)
                .is_ok_and(|length| &buffer[..length] == b"question"))
        },
    )
    .unwrap();
}

#[test]
fn dns_of_ipvlan_containers_is_dropped_at_the_uplink_in_every_mode() {
    let mut lab = Guest::new("ipvlan");
    for protected in [false, true] {
        let agent = protected.then(|| lab.protect("wg0"));
        for mode in ["l2", "l3", "l3s"] {
            let children = [20, 21].map(|number| child(&lab, mode, number));
            let [first, second] = &children;
            let name = format!("ipvlan {mode}");
            let shape = Shape {
                name: &name,
                origin: Origin {
                    netns: first,
                    cgroup: Some(&lab.cgroup),
                },
                families: BOTH,
            };
            if protected {
                shape.is_kept_in(&mut lab.observer, "with leakguard");
            } else {
                shape.leaks(&mut lab.observer, "without leakguard");
            }
            for address in addresses(mode, 21) {
                reaches(shape.origin, second, &address);
            }
            // The kernel takes its time with what is in a namespace that is gone, and no address twice.
            for netns in &children {
                netns.ip(&["link", "del", "eth0"]).unwrap();
            }
        }
        if let Some(agent) = agent {
            let status = agent.status_json().unwrap();
            let dropped = |hook| packets(&status, &[("verdict", "drop"), ("hook", hook)]);
            assert!(dropped("tc") > 0 && dropped("cgroup_skb") == 0, "{status}");
        }
    }
}
