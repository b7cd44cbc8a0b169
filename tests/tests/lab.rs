//! The lab itself: a test that relies on it may believe what it shows.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails has to fail its test"
)]

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use leakguard::host;
use leakguard::lab::{
    Agent, AgentConfig, Bpffs, Cgroup, Directions, Frame, LAB_NAME, Netns, Observer, Query,
    Resolver, Topology, WHO_NAME, WireGuard, address, carries_name, check_requirements,
    output_within,
};

const LIMIT: Duration = Duration::from_secs(5);

fn send_probe(netns: &Netns, server: IpAddr, payload: &[u8]) {
    netns
        .run_in(|| {
            let any: IpAddr = match server {
                IpAddr::V4(_) => "0.0.0.0".parse().unwrap(),
                IpAddr::V6(_) => "::".parse().unwrap(),
            };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
            socket
                .send_to(payload, SocketAddr::new(server, 53))
                .unwrap();
        })
        .unwrap();
}

fn contains(frame: &[u8], payload: &[u8]) -> bool {
    frame.windows(payload.len()).any(|window| window == payload)
}

#[test]
fn requirements_are_met() {
    check_requirements().unwrap();
}

#[test]
fn the_isp_sees_probes_from_host_and_client() {
    let topology = Topology::with_client().unwrap();
    let mut observer =
        Observer::new(topology.isp(), Topology::OBSERVED, Directions::Incoming).unwrap();
    let servers: [IpAddr; 2] = [
        address::ISP_RESOLVER_V4.into(),
        address::ISP_RESOLVER_V6.into(),
    ];
    let senders: [(&Netns, [IpAddr; 2]); 2] = [
        (
            topology.host(),
            [address::HOST_V4.into(), address::HOST_V6.into()],
        ),
        (
            topology.client().unwrap(),
            [address::CLIENT_V4.into(), address::CLIENT_V6.into()],
        ),
    ];
    for (netns, sources) in senders {
        for (server, source) in servers.into_iter().zip(sources) {
            let payload = format!("probe from {} to {server}", netns.name());
            send_probe(netns, server, payload.as_bytes());
            let frames = observer
                .wait_for(LIMIT, |frame| contains(frame, payload.as_bytes()))
                .unwrap();
            let frame = Frame::parse(frames.last().unwrap()).unwrap();
            assert!(frame.is_udp(), "{frame}");
            assert_eq!(frame.source.ip(), source);
            assert_eq!(frame.destination, SocketAddr::new(server, 53));
        }
    }
    assert_eq!(observer.lost().unwrap(), 0);
}

#[test]
fn outgoing_frames_are_seen_only_on_request() {
    let topology = Topology::new().unwrap();
    let mut both = Observer::new(topology.host(), Topology::UPLINK, Directions::Both).unwrap();
    let mut incoming =
        Observer::new(topology.host(), Topology::UPLINK, Directions::Incoming).unwrap();
    let payload = b"leaves the host";
    send_probe(topology.host(), address::ISP_RESOLVER_V4.into(), payload);
    both.wait_for(LIMIT, |frame| contains(frame, payload))
        .unwrap();
    // The ICMP error that comes back quotes the probe.
    let seen = incoming
        .wait_for(LIMIT, |frame| contains(frame, payload))
        .unwrap();
    for frame in seen.iter().filter_map(|frame| Frame::parse(frame)) {
        assert!(!frame.is_udp(), "{frame}");
    }
}

#[test]
fn a_fence_comes_after_everything_sent_before() {
    const PROBES: usize = 200;
    let topology = Topology::new().unwrap();
    let mut observer = Observer::new(topology.isp(), Topology::OBSERVED, Directions::Both).unwrap();
    for server in [
        IpAddr::from(address::ISP_RESOLVER_V4),
        address::ISP_RESOLVER_V6.into(),
    ] {
        for _ in 0..PROBES / 2 {
            send_probe(topology.host(), server, b"before the fence");
        }
    }
    let frames = observer.drain_past_fence(topology.host()).unwrap();
    let udp = frames
        .iter()
        .filter_map(|frame| Frame::parse(frame))
        .filter(Frame::is_udp);
    assert_eq!(udp.count(), PROBES, "the markers are not among them");
}

#[test]
fn a_burst_is_counted_exactly() {
    const PROBES: usize = 5_000;
    let topology = Topology::new().unwrap();
    let mut observer =
        Observer::new(topology.isp(), Topology::OBSERVED, Directions::Incoming).unwrap();
    topology
        .host()
        .run_in(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..PROBES {
                socket
                    .send_to(b"one of a burst", (address::ISP_RESOLVER_V4, 5300))
                    .unwrap();
            }
            socket
                .send_to(b"the last one", (address::ISP_RESOLVER_V4, 5300))
                .unwrap();
        })
        .unwrap();
    let frames = observer
        .wait_for(LIMIT, |frame| contains(frame, b"the last one"))
        .unwrap();
    let burst = |frame: &&Vec<u8>| contains(frame, b"one of a burst");
    assert_eq!(frames.iter().filter(burst).count(), PROBES);
    assert_eq!(observer.lost().unwrap(), 0);
}

#[test]
fn resolvers_say_who_answered() {
    let topology = Topology::with_client().unwrap();
    let isp = Resolver::new(topology.isp(), "isp").unwrap();
    for netns in [topology.host(), topology.client().unwrap()] {
        for server in [
            IpAddr::from(address::ISP_RESOLVER_V4),
            address::ISP_RESOLVER_V6.into(),
        ] {
            let query = Query::new(server, WHO_NAME, "TXT");
            for query in [query.clone(), query.over_tcp()] {
                let lookup = query.run(netns, None).unwrap();
                assert!(lookup.is("isp"), "{}: {lookup:?}", query.command_line());
            }
        }
    }
    let server = address::ISP_RESOLVER_V4;
    let lookup = |record| {
        Query::new(server, LAB_NAME, record)
            .run(topology.host(), None)
            .unwrap()
    };
    assert!(lookup("A").is("192.0.2.80"));
    assert!(lookup("AAAA").is("2001:db8:80::80"));
    assert!(isp.log().contains(WHO_NAME), "{}", isp.log());
}

#[test]
fn the_tunnel_hides_lookups_from_the_isp() {
    let topology = Topology::with_client().unwrap();
    let _vpn = Resolver::new(topology.vpn(), "vpn").unwrap();
    let tunnel = WireGuard::new(&topology, "wg0").unwrap();
    let mut observer = Observer::new(topology.isp(), Topology::OBSERVED, Directions::Both).unwrap();
    for netns in [topology.host(), topology.client().unwrap()] {
        for server in [
            IpAddr::from(address::TUNNEL_RESOLVER_V4),
            address::TUNNEL_RESOLVER_V6.into(),
        ] {
            let query = Query::new(server, WHO_NAME, "TXT");
            for query in [query.clone(), query.over_tcp()] {
                let lookup = query.run(netns, None).unwrap();
                assert!(lookup.is("vpn"), "{}: {lookup:?}", query.command_line());
            }
        }
    }
    let frames = observer.drain().unwrap();
    assert_eq!(observer.lost().unwrap(), 0);
    assert!(!frames.iter().any(|frame| carries_name(frame, WHO_NAME)));
    let transport: Vec<Frame> = frames
        .iter()
        .filter_map(|frame| Frame::parse(frame))
        .filter(|frame| frame.is_udp() || frame.is_tcp())
        .collect();
    assert!(!transport.is_empty(), "the carrier must be visible");
    for frame in transport {
        assert!(
            frame.is_udp() && frame.has_port(address::CARRIER_PORT),
            "{frame}"
        );
    }
    let show = tunnel.show().unwrap();
    assert!(show.contains("latest handshake"), "{show}");
}

#[test]
fn children_start_inside_their_cgroup_and_leave_it_behind() {
    let netns = Netns::new("cgroup").unwrap();
    let cgroup = Cgroup::new("members").unwrap();
    let mut cat = netns.command("cat");
    cat.arg("/proc/self/cgroup");
    cgroup.attach(&mut cat);
    let output = output_within(cat, LIMIT).unwrap();
    let name = cgroup.path().file_name().unwrap().to_str().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("0::/{name}")), "{text}");

    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    cgroup.attach(&mut sleep);
    let mut sleep = sleep.spawn().unwrap();
    let path = cgroup.path().to_owned();
    drop(cgroup);
    assert!(!path.exists());
    assert!(sleep.try_wait().unwrap().is_none(), "it must be left alive");
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}

#[test]
fn a_command_that_does_not_end_is_killed() {
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    let error = output_within(sleep, Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().starts_with("sleep 60 ends"), "{error}");
}

#[test]
fn an_agent_that_ends_is_reported() {
    let netns = Netns::new("agent").unwrap();
    let cgroup = Cgroup::new("agent").unwrap();
    let bpffs = Bpffs::new().unwrap();
    let config = AgentConfig {
        binary: "false".into(),
        netns: &netns,
        cgroup: &cgroup,
        bpffs: &bpffs,
        tunnels: vec!["wg0".to_owned()],
        arguments: Vec::new(),
    };
    let error = Agent::start(&config).unwrap_err();
    assert!(
        error.to_string().starts_with("false ended early"),
        "{error}"
    );
}

#[test]
fn a_panic_inside_a_namespace_is_passed_on() {
    let netns = Netns::new("panic").unwrap();
    let result = std::panic::catch_unwind(|| netns.run_in(|| panic!("as intended")));
    assert_eq!(
        result.unwrap_err().downcast_ref::<&str>(),
        Some(&"as intended")
    );
}

#[test]
fn guards_leave_nothing_behind() {
    let traces = {
        let topology = Topology::with_client().unwrap();
        let cgroup = Cgroup::new("traces").unwrap();
        let bpffs = Bpffs::new().unwrap();
        let _isp = Resolver::new(topology.isp(), "isp").unwrap();
        let _tunnel = WireGuard::new(&topology, "wg0").unwrap();
        let _observer =
            Observer::new(topology.isp(), Topology::OBSERVED, Directions::Both).unwrap();
        let namespaces = [topology.host(), topology.isp(), topology.vpn()]
            .into_iter()
            .chain(topology.client())
            .map(|netns| format!("/run/netns/{}", netns.name()).into());
        let traces: Vec<std::path::PathBuf> = namespaces
            .chain([cgroup.path().to_owned(), bpffs.path().to_owned()])
            .collect();
        for trace in &traces {
            assert!(trace.exists(), "{}", trace.display());
        }
        assert!(mounted(bpffs.path()));
        traces
    };
    for trace in &traces {
        assert!(!trace.exists(), "{}", trace.display());
        assert!(!mounted(trace), "{}", trace.display());
    }
    // wireguard-go's control socket never was the machine's own.
    assert!(!fs::exists("/run/wireguard/wg0.sock").unwrap());
}

#[test]
fn the_machine_itself_is_not_touched() {
    let routes = || {
        let mut ip = Command::new("ip");
        ip.args(["-oneline", "route", "show", "table", "all"]);
        output_within(ip, LIMIT).unwrap().stdout
    };
    let before = routes();
    let topology = Topology::new().unwrap();
    let _tunnel = WireGuard::new(&topology, "wg0").unwrap();
    assert_eq!(routes(), before);
}

fn mounted(path: &std::path::Path) -> bool {
    host::mounts()
        .unwrap()
        .iter()
        .any(|mount| mount.point == path)
}
