//! A number or a name is not an interface: who has it now may not be who was meant.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use leakguard::lab::{
    Directions, Netns, Observer, Query, Topology, WHO_NAME, address, output_within, wait_until,
};
use leakguard_tests::{Bench, Origin, Place, Transport, Volley, interface, packets};

/// Probes of each kind.
const N: usize = 20;
/// How long the agent may take to follow a change.
const LIMIT: Duration = Duration::from_secs(5);
/// Twice as long as the second net leaves an uplink to its program without hearing of an agent.
const LEASE: Duration = Duration::from_secs(30);

const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(address::ISP_RESOLVER_V4), 53);
const HTTPS: SocketAddr = SocketAddr::new(IpAddr::V4(address::ISP_RESOLVER_V4), 443);
const TRANSPORTS: [Transport; 2] = [Transport::Udp, Transport::Tcp];

fn ifindex(netns: &Netns, interface: &str) -> u32 {
    netns
        .run_in(|| nix::net::if_::if_nametoindex(interface).unwrap())
        .unwrap()
}

/// Sends probes from a namespace of the test's own; says how many the observer has seen.
fn seen(
    observer: &mut Observer,
    origin: Origin<'_>,
    transport: Transport,
    target: SocketAddr,
) -> usize {
    let volley = Volley::send(origin, transport, target, N);
    let frames = observer.drain_past_fence(origin.netns).unwrap();
    assert_eq!(observer.lost().unwrap(), 0);
    volley.seen(&frames)
}

#[test]
fn a_number_that_is_the_tunnels_elsewhere_permits_nothing() {
    let mut bench = Bench::with_tunnel();
    let host = bench.topology.host();
    let number = ifindex(host, Bench::TUNNEL);
    let container = Netns::new("twin").unwrap();
    container
        .ip_batch(&format!(
            "link add eth0 index {number} type veth peer name twin0 netns {}\n\
             link set eth0 up\n\
             addr add 192.168.79.10/24 dev eth0\n",
            host.name()
        ))
        .unwrap();
    host.ip_batch("link set twin0 up\naddr add 192.168.79.1/24 dev twin0\n")
        .unwrap();
    container
        .ip_batch("route add default via 192.168.79.1\n")
        .unwrap();
    bench
        .topology
        .isp()
        .ip_batch("route add 192.168.79.0/24 via 192.168.77.10\n")
        .unwrap();
    assert_eq!(ifindex(&container, "eth0"), number);

    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        let origin = Origin {
            netns: &container,
            cgroup: Some(&bench.cgroup),
        };
        for transport in TRANSPORTS {
            let expected = if protected { 0 } else { N };
            assert_eq!(
                seen(&mut bench.observer, origin, transport, DNS),
                expected,
                "{transport:?}"
            );
            assert_eq!(
                seen(&mut bench.observer, origin, transport, HTTPS),
                N,
                "{transport:?}"
            );
        }
    }
    let status = bench.agent().status_json().unwrap();
    assert_eq!(
        packets(&status, &[("role", "tunnel")]),
        0,
        "not taken for the tunnel: {status}"
    );

    // The number does belong to a tunnel, where it is looked up.
    let lookup = Query::new(address::TUNNEL_RESOLVER_V4, WHO_NAME, "TXT")
        .run(bench.topology.host(), Some(&bench.cgroup))
        .unwrap();
    assert!(lookup.is("vpn"), "{lookup:?}");
    let status = bench.agent().status_json().unwrap();
    assert_eq!(
        packets(&status, &[("role", "tunnel"), ("verdict", "pass")]),
        1,
        "{status}"
    );
}

#[test]
fn an_uplink_that_is_moved_away_stays_covered_and_so_does_its_successor() {
    for protected in [false, true] {
        let mut bench = Bench::new();
        if protected {
            bench.protect(&[]);
        }
        let other = Netns::new("moved").unwrap();
        let host = bench.topology.host();
        let number = ifindex(host, Topology::UPLINK);
        host.ip(&["link", "set", Topology::UPLINK, "netns", other.name()])
            .unwrap();
        other
            .ip_batch(
                "link set eth0 up\n\
                 addr add 192.168.77.10/24 dev eth0\n\
                 route add default via 192.168.77.1\n",
            )
            .unwrap();
        for cgroup in [None, Some(&bench.cgroup)] {
            let origin = Origin {
                netns: &other,
                cgroup,
            };
            for transport in TRANSPORTS {
                let expected = if protected { 0 } else { N };
                let dns = seen(&mut bench.observer, origin, transport, DNS);
                assert_eq!(dns, expected, "{transport:?}, protected: {protected}");
                assert_eq!(seen(&mut bench.observer, origin, transport, HTTPS), N);
            }
        }
        if !protected {
            continue;
        }

        // A device that comes to the number it had is covered for itself, and the moved one goes on being covered.
        let host = bench.topology.host();
        host.ip(&[
            "link",
            "add",
            "next0",
            "index",
            &number.to_string(),
            "type",
            "veth",
            "peer",
            "name",
            "next1",
        ])
        .unwrap();
        wait_until("the successor is covered", LIMIT, || {
            let status = bench.agent().status_json()?;
            Ok(interface(&status, "next0").is_some_and(|found| found["tc"] == "head"))
        })
        .unwrap();
        let origin = Origin {
            netns: &other,
            cgroup: None,
        };
        assert_eq!(seen(&mut bench.observer, origin, Transport::Udp, DNS), 0);
    }
}

/// A second way from the host to the ISP, as whatever device is there: the way to its resolver, with a number that is
/// chosen.
struct Way<'bench> {
    host: &'bench Netns,
    isp: &'bench Netns,
}

impl Way<'_> {
    const NUMBER: &'static str = "4242";

    fn open(&self, name: &str) -> Observer {
        self.host
            .ip_batch(&format!(
                "link add {name} index {} type veth peer name far0 netns {}\n\
                 link set {name} up\n\
                 addr add 10.99.0.1/24 dev {name}\n",
                Self::NUMBER,
                self.isp.name()
            ))
            .unwrap();
        self.isp
            .ip_batch("link set far0 up\naddr add 10.99.0.2/24 dev far0\n")
            .unwrap();
        self.route(name);
        Observer::new(self.isp, "far0", Directions::Incoming).unwrap()
    }

    fn route(&self, name: &str) {
        self.host
            .ip_batch(&format!(
                "route replace 198.51.100.53/32 via 10.99.0.2 dev {name}\n"
            ))
            .unwrap();
    }

    fn close(&self, name: &str) {
        self.host.ip(&["link", "del", name]).unwrap();
    }
}

/// What the agent says of an interface's role.
fn role(bench: &mut Bench, name: &str) -> Option<String> {
    let status = bench.agent().status_json().unwrap();
    Some(interface(&status, name)?["role"].as_str()?.to_owned())
}

fn await_role(bench: &mut Bench, name: &str, wanted: &str) {
    let what = format!("{name} is a {wanted}");
    wait_until(&what, LIMIT, || {
        Ok(role(bench, name).as_deref() == Some(wanted))
    })
    .unwrap();
}

/// Probes from the guarded cgroup and from the client, which come by this way.
fn expect(bench: &Bench, observer: &mut Observer, when: &str, expected: usize) {
    for place in [Place::Host, Place::Client] {
        for transport in TRANSPORTS {
            let volley = Volley::send(bench.origin(place), transport, DNS, N);
            let frames = observer.drain_past_fence(bench.netns(place)).unwrap();
            assert_eq!(observer.lost().unwrap(), 0);
            assert_eq!(
                volley.seen(&frames),
                expected,
                "{when}: {transport:?} from {place:?}"
            );
            if expected == 0 && place == Place::Host && transport == Transport::Udp {
                let refused = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
                assert!(volley.errors().len() == N && volley.errors().iter().all(refused));
            }
        }
    }
    println!("{when}: {expected} of {N} of each kind seen");
}

/// `--uplink` keeps a device that is no tunnel from being taken for a local one: here it stands for a physical one. The
/// tunnel is a pair as well, so that what comes through can be counted at its other end.
const ARGUMENTS: [&str; 4] = ["--uplink", "other*", "--tunnel", "veth:wg0"];

#[test]
fn a_device_that_takes_over_a_tunnels_number_is_not_permitted() {
    for agent_lives in [true, false] {
        let when = |what: &str| format!("{what}, agent alive: {agent_lives}");
        let mut bench = Bench::new();
        bench.protect(&ARGUMENTS);
        let way = Way {
            host: bench.topology.host(),
            isp: bench.topology.isp(),
        };
        let mut observer = way.open(Bench::TUNNEL);
        await_role(&mut bench, Bench::TUNNEL, "tunnel");
        expect(
            &bench,
            &mut observer,
            &when("control: through the tunnel"),
            N,
        );

        if !agent_lives {
            bench.agent().kill9().unwrap();
        }
        let way = Way {
            host: bench.topology.host(),
            isp: bench.topology.isp(),
        };
        way.close(Bench::TUNNEL);
        let mut observer = way.open("other0");
        expect(
            &bench,
            &mut observer,
            &when("through whoever has its number now"),
            0,
        );
        assert_eq!(role(&mut bench, "other0").as_deref(), Some("uplink"));
        expect(&bench, &mut observer, &when("and later"), 0);
    }
}

#[test]
fn a_permission_goes_with_the_name_that_the_pattern_matches() {
    let mut bench = Bench::new();
    bench.protect(&ARGUMENTS);
    let way = Way {
        host: bench.topology.host(),
        isp: bench.topology.isp(),
    };
    let mut observer = way.open(Bench::TUNNEL);
    await_role(&mut bench, Bench::TUNNEL, "tunnel");
    expect(&bench, &mut observer, "control: as a tunnel", N);

    // Renamed away from the pattern, the same device loses the permission.
    rename(&bench, Bench::TUNNEL, "other0");
    await_role(&mut bench, "other0", "uplink");
    expect(&bench, &mut observer, "renamed to something else", 0);

    // Whoever has the name and the kind that the operator has said is the tunnel: giving names takes CAP_NET_ADMIN.
    rename(&bench, "other0", Bench::TUNNEL);
    await_role(&mut bench, Bench::TUNNEL, "tunnel");
    expect(&bench, &mut observer, "renamed back", N);

    // So does a new device of that name, with another number.
    let host = bench.topology.host();
    host.ip(&["link", "del", Bench::TUNNEL]).unwrap();
    host.ip_batch(&format!(
        "link add wg0 type veth peer name far0 netns {}\n\
         link set wg0 up\n\
         addr add 10.99.0.1/24 dev wg0\n",
        bench.topology.isp().name()
    ))
    .unwrap();
    bench
        .topology
        .isp()
        .ip_batch("link set far0 up\naddr add 10.99.0.2/24 dev far0\n")
        .unwrap();
    host.ip_batch("route replace 198.51.100.53/32 via 10.99.0.2 dev wg0\n")
        .unwrap();
    let mut observer = Observer::new(bench.topology.isp(), "far0", Directions::Incoming).unwrap();
    await_role(&mut bench, Bench::TUNNEL, "tunnel");
    expect(&bench, &mut observer, "a new device of the name", N);
}

/// Renames a device, for which it goes down and loses its route.
fn rename(bench: &Bench, from: &str, to: &str) {
    let way = Way {
        host: bench.topology.host(),
        isp: bench.topology.isp(),
    };
    way.host
        .ip_batch(&format!(
            "link set {from} down\nlink set {from} name {to}\nlink set {to} up\n"
        ))
        .unwrap();
    way.route(to);
}

#[test]
fn an_uplink_that_comes_again_without_an_agent_lets_nothing_through() {
    let mut bench = Bench::new();
    bench.protect(&ARGUMENTS);
    let way = Way {
        host: bench.topology.host(),
        isp: bench.topology.isp(),
    };
    let mut observer = way.open("other0");
    wait_until("the uplink is covered", LIMIT, || {
        let status = bench.agent().status_json()?;
        Ok(interface(&status, "other0").is_some_and(|found| found["tc"] == "head"))
    })
    .unwrap();
    expect(&bench, &mut observer, "by a covered uplink", 0);

    bench.agent().kill9().unwrap();
    let way = Way {
        host: bench.topology.host(),
        isp: bench.topology.isp(),
    };
    // Whoever vouched for the uplink is gone; nobody would notice that its successor has no program.
    wait_until("the second net takes over", LEASE, || {
        let mut list = way.host.command("nft");
        list.args(["list", "set", "inet", "leakguard", "covered"]);
        let listed = output_within(list, LIMIT)?;
        Ok(listed.status.success() && !String::from_utf8_lossy(&listed.stdout).contains("other0"))
    })
    .unwrap();
    way.close("other0");
    let mut observer = way.open("other0");
    expect(
        &bench,
        &mut observer,
        "by its successor of the same name and number",
        0,
    );
}
