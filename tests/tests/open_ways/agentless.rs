//! Without an agent nobody follows what changes.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use leakguard::lab::{Observer, address, wait_until};
use leakguard_tests::{
    Bench, Carrier, Origin, PacketSocket, Place, Transport, Tun, Volley, interface, isp,
};
use serde_json::Value;

use crate::count;
use crate::device::{Device, TUNNEL};
use crate::https::with_list;
use crate::wire::{ETHERTYPE_IPV4, UDP, ethernet, ipv4, udp};

const PROBES: usize = 20;
const LIMIT: Duration = Duration::from_secs(30);
const LATE: &str = "late0";
const NUMBER: u32 = 4711;

/// Probes that come by the new uplink.
fn seen(bench: &Bench, observer: &mut Observer, place: Place, target: SocketAddr) -> usize {
    let volley = Volley::send(bench.origin(place), Transport::Udp, target, PROBES);
    let frames = observer.drain_past_fence(bench.netns(place)).unwrap();
    assert_eq!(observer.lost().unwrap(), 0, "the capture is complete");
    volley.seen(&frames)
}

/// Sends DNS by a packet socket; says how often it is seen.
fn framed(bench: &Bench, observer: &mut Observer, socket: &PacketSocket, when: &str) -> usize {
    let packet = ipv4(UDP, &udp(53, when.as_bytes()));
    // Refused or not: what counts is what is seen.
    let _sent = socket.send(ETHERTYPE_IPV4, &ethernet(ETHERTYPE_IPV4, &packet));
    let frames = observer.drain_past_fence(bench.netns(Place::Host)).unwrap();
    count(&frames, when.as_bytes())
}

/// The rows on an uplink that comes when no agent runs: what of it is open, with `deny-new` and with `strict`.
#[test]
fn a_new_uplink_without_an_agent_is_covered_in_part() {
    for choice in ["deny-new", "strict"] {
        let mut bench = Bench::new();
        let origin = bench.origin(Place::Host);
        let ordinary = PacketSocket::raw(origin, crate::UPLINK).over(NUMBER);
        let bypassing = PacketSocket::raw(origin, crate::UPLINK).over(NUMBER);
        bypassing.bypass(true).unwrap();
        let resolver = isp(0, 443);
        let (_directory, config) = with_list(&format!("{}\n", resolver.ip()));
        bench.protect(&["--config", &config, "--packet-sockets", choice]);
        bench.agent().kill9().unwrap();
        let mut observer = Carrier::Veth.open(&bench.topology, LATE, Some(NUMBER), "");

        let status = bench.agent().status_json().unwrap();
        assert_eq!(status["level"], "reduced", "{status}");
        assert_eq!(interface(&status, LATE).unwrap()["tc"], "absent");
        for place in [Place::Host, Place::Client] {
            let dns = seen(&bench, &mut observer, place, isp(0, 53));
            assert_eq!(dns, 0, "{choice}, {place:?}");
            let other = seen(&bench, &mut observer, place, isp(0, 8443));
            assert_eq!(other, PROBES, "control: {choice}, {place:?}");
        }
        // What the second net drops is counted, and no event tells of it.
        let status = bench.agent().status_json().unwrap();
        assert_eq!(status["netfilter"]["routed"], PROBES, "{choice}: {status}");
        let local = seen(&bench, &mut observer, Place::Host, resolver);
        assert_eq!(local, 0, "{choice}");
        let forwarded = seen(&bench, &mut observer, Place::Client, resolver);
        assert_eq!(forwarded, PROBES, "doh is known to be open: {choice}");
        for (name, socket) in [("ordinary", &ordinary), ("bypassing", &bypassing)] {
            let when = format!("{name} without an agent, {choice}");
            let open = framed(&bench, &mut observer, socket, &when);
            assert_eq!(open, 1, "known to be open: {when}");
        }

        bench.agent().restart().unwrap();
        wait_until("the uplink is covered", LIMIT, || {
            let status = bench.agent().status_json()?;
            Ok(status["level"] == "full" && interface(&status, LATE).is_some())
        })
        .unwrap();
        // What was dropped meanwhile is told of, but for what the second net has dropped.
        bench.await_packets("local packets are told of", |event| {
            event["hook"] == "cgroup_skb" && event["interface"]["name"] == LATE
        });
        let events = bench.agent().events_json().unwrap();
        let others = events.iter().filter(|event| event["hook"] == "tc");
        assert_eq!(others.count(), 0, "{events:?}");
        let forwarded = seen(&bench, &mut observer, Place::Client, resolver);
        assert_eq!(forwarded, 0, "control: {choice}");
        let when = format!("ordinary with an agent, {choice}");
        assert_eq!(framed(&bench, &mut observer, &ordinary, &when), 0);
        let when = format!("bypassing with an agent, {choice}");
        let expected = usize::from(choice == "deny-new");
        assert_eq!(framed(&bench, &mut observer, &bypassing, &when), expected);
        Carrier::Veth.close(bench.topology.host(), LATE);
    }
}

/// The row "a tunnel's number and name, both taken over by another device of the same kind".
#[test]
fn a_device_of_a_tunnels_kind_with_its_name_and_number_passes_the_second_net_without_an_agent() {
    let mut bench = Bench::new();
    let pattern = format!("veth:{LATE}");
    let first = Carrier::Veth.open(&bench.topology, LATE, Some(NUMBER), "");
    bench.protect(&["--tunnel", &pattern]);
    let role = |bench: &mut Bench| {
        let status = bench.agent().status_json().unwrap();
        interface(&status, LATE).unwrap()["role"].clone()
    };
    assert_eq!(role(&mut bench), "tunnel", "control");
    bench.agent().kill9().unwrap();
    drop(first);
    let remove = format!("link del {LATE}\n");
    let mut observer = Carrier::Veth.open(&bench.topology, LATE, Some(NUMBER), &remove);
    let dns = isp(0, 53);
    let forwarded = seen(&bench, &mut observer, Place::Client, dns);
    assert_eq!(forwarded, PROBES, "what is known to be open");
    assert_eq!(seen(&bench, &mut observer, Place::Host, dns), 0);

    // Of another kind it does not.
    let another = Carrier::Macvlan.open(&bench.topology, LATE, Some(NUMBER), &remove);
    drop(observer);
    let mut observer = another;
    let forwarded = seen(&bench, &mut observer, Place::Client, dns);
    assert_eq!(forwarded, 0, "control");
}

/// Asks the resolver in the tunnel; whether the kernel takes the question.
fn is_refused(socket: &UdpSocket) -> bool {
    let target = SocketAddr::new(address::TUNNEL_RESOLVER_V4.into(), 53);
    let Err(error) = socket.send_to(b"a question", target) else {
        return false;
    };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    true
}

fn tunnel(device: &Device) -> Tun {
    let tunnel = Tun::new(device.host(), TUNNEL);
    device
        .host()
        .ip_batch(&format!(
            "link set {TUNNEL} up\naddr add 10.8.0.2/24 dev {TUNNEL}\n"
        ))
        .unwrap();
    tunnel
}

/// Without the device's own, which nobody reads.
fn device() -> Device {
    let device = Device::new();
    device.host().ip(&["link", "del", TUNNEL]).unwrap();
    device
}

fn apply(device: &Device) {
    device.leakguard(&["apply", "--tunnel", TUNNEL]).ok();
}

fn socket(device: &Device) -> UdpSocket {
    let origin = Origin {
        netns: device.host(),
        cgroup: Some(&device.cgroup),
    };
    origin.udp(address::TUNNEL_RESOLVER_V4.into())
}

#[test]
fn a_recreated_tunnel_is_blocked_until_apply() {
    let device = device();
    let socket = socket(&device);
    let mut tunnel_of_now = tunnel(&device);
    apply(&device);
    assert!(!is_refused(&socket), "control");
    assert!(tunnel_of_now.carries_dns(LIMIT), "control");
    drop(tunnel_of_now);
    let mut tunnel_of_now = tunnel(&device);
    assert!(is_refused(&socket), "nobody has permitted the new one");
    apply(&device);
    tunnel_of_now.packets();
    assert!(!is_refused(&socket));
    assert!(tunnel_of_now.carries_dns(LIMIT));
}

#[test]
fn apply_follows_neither_a_tunnel_nor_an_uplink_that_comes_later() {
    let device = device();
    apply(&device);
    let socket = socket(&device);
    let mut late = tunnel(&device);
    let _observer = Carrier::Veth.open(&device.topology, LATE, None, "");
    assert!(is_refused(&socket), "nobody has permitted it");
    let tc = |status: &Value| interface(status, LATE).unwrap()["tc"].clone();
    assert_eq!(tc(&device.status()), "absent");
    assert_eq!(device.status()["level"], "reduced");
    apply(&device);
    assert!(!is_refused(&socket));
    assert!(late.carries_dns(LIMIT));
    assert_ne!(tc(&device.status()), "absent");
    assert_eq!(device.status()["level"], "full");
}
