//! What the kill switch lets through because it has to, or cannot tell.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use leakguard::lab::{Netns, WireGuard, address, output_within, wait_until};
use leakguard_tests::{
    Bench, Carrier, ELSEWHERE, Origin, PacketSocket, Place, Transport, Volley, isp, join_lan,
    kill_switch, write_config,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::wire::{ETHERTYPE_IPV4, UDP, ethernet, ipv4, udp};
use crate::{UPLINK, count};

const PATIENCE: Duration = Duration::from_secs(30);
const CARRIER: SocketAddr =
    SocketAddr::new(IpAddr::V4(address::VPN_SERVER_V4), address::CARRIER_PORT);

fn engaged(lines: &str) -> (Bench, tempfile::NamedTempFile) {
    let mut bench = Bench::with_tunnel();
    let config = write_config(&kill_switch("always", lines));
    let path = config.path().to_str().unwrap().to_owned();
    bench.protect(&["--config", &path]);
    let elsewhere = ELSEWHERE[0].parse().unwrap();
    let seen = bench.seen(Place::Host, Transport::Udp, elsewhere, 5);
    assert_eq!(seen, 0, "control: it is engaged");
    (bench, config)
}

#[test]
fn a_macvlan_container_can_set_the_mark_of_an_endpoint_and_over_a_veth_it_is_cleared() {
    let (mut bench, _config) = engaged("");
    let container = Netns::new("marked").unwrap();
    let host = bench.topology.host();
    let name = container.name();
    let line = format!("link add link {UPLINK} name eth0 netns {name} type macvlan mode bridge\n");
    host.ip_batch(&line).unwrap();
    join_lan(&container, 30);
    let mut open = Vec::new();
    for (kind, netns) in [
        ("macvlan", &container),
        ("veth", bench.topology.client().unwrap()),
    ] {
        for (mark, port) in [
            (WireGuard::MARK, CARRIER.port()),
            (0, CARRIER.port()),
            (WireGuard::MARK, 53),
            (WireGuard::MARK, 443),
        ] {
            let target = SocketAddr::new(CARRIER.ip(), port);
            let cgroup = None;
            let socket = Origin { netns, cgroup }.udp(target.ip());
            setsockopt(&socket.as_fd(), sockopt::Mark, &mark).unwrap();
            let payload = format!("{kind} to {port}, mark {mark}");
            // Refused or not: what counts is what is seen.
            drop(socket.send_to(payload.as_bytes(), target));
            let frames = bench.observer.drain_past_fence(netns).unwrap();
            if count(&frames, payload.as_bytes()) > 0 {
                open.push(payload);
            }
        }
    }
    assert_eq!(
        open,
        [format!(
            "macvlan to {}, mark {}",
            CARRIER.port(),
            WireGuard::MARK
        )],
        "what is known to be open, and nothing else"
    );
}

#[test]
fn frames_that_are_not_ip_pass_an_engaged_kill_switch() {
    let (mut bench, _config) = engaged("");
    let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    // ARP, EAPOL, PPPoE and LLDP, by their types; what is in them does not matter.
    for (ethertype, expected) in [
        (0x0806, 1),
        (0x888e, 1),
        (0x8863, 1),
        (0x88cc, 1),
        (ETHERTYPE_IPV4, 0),
    ] {
        let payload = format!("of type {ethertype:#06x}");
        let mut packet = ipv4(UDP, &udp(443, payload.as_bytes()));
        packet[16..20].copy_from_slice(&[203, 0, 113, 77]);
        let sent = socket.send(ethertype, &ethernet(ethertype, &packet));
        let seen = count(&bench.frames(Place::Host), payload.as_bytes());
        assert_eq!(seen, expected, "{payload}: {sent:?}");
    }
}

/// An endpoint is UDP or TCP; the remote of a tunnel that is neither can only be named in `lan`, for everybody.
#[test]
fn the_remote_of_a_tunnel_that_does_not_encrypt_is_exempt_by_lan_for_everybody() {
    let mut bench = Bench::with_tunnel();
    let remote = [203, 0, 113, 77];
    let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    for (exempt, expected) in [(false, 0), (true, 1)] {
        let text = kill_switch("always", "");
        let text = if exempt {
            text.replace("lan = [", "lan = [\"203.0.113.77/32\", ")
        } else {
            text
        };
        let config = write_config(&text);
        bench.protect(&["--config", config.path().to_str().unwrap()]);
        for (name, port, passes) in [("other", 443, expected), ("DNS", 53, 0)] {
            let payload = format!("{name} in GRE, exempt: {exempt}");
            let inner = ipv4(UDP, &udp(port, payload.as_bytes()));
            let mut packet = crate::wire::gre(&inner);
            packet[16..20].copy_from_slice(&remote);
            let sent = socket.send(ETHERTYPE_IPV4, &ethernet(ETHERTYPE_IPV4, &packet));
            let seen = count(&bench.frames(Place::Host), payload.as_bytes());
            assert_eq!(seen, passes, "{payload}: {sent:?}");
        }
        bench.unprotect();
    }
}

/// Packets that wait in an uplink's queue have been judged.
#[test]
fn packets_that_wait_in_a_queue_leave_after_it_is_engaged() {
    const QUEUED: usize = 60;
    let mut bench = Bench::with_tunnel();
    let mut limit = bench.topology.host().command("tc");
    // 100 kB a second, and room for all.
    let shape = "qdisc replace dev eth0 root tbf rate 160kbit burst 2000 limit 1000000";
    limit.args(shape.split(' '));
    assert!(output_within(limit, PATIENCE).unwrap().status.success());
    let target: SocketAddr = ELSEWHERE[0].parse().unwrap();
    let socket = bench.origin(Place::Host).udp(target.ip());
    let filler = [b'.'; 1200];
    for _ in 0..QUEUED {
        socket.send_to(&filler, target).unwrap();
    }
    socket.send_to(b"the last of the queue", target).unwrap();
    let config = write_config(&kill_switch("always", ""));
    bench.protect(&["--config", config.path().to_str().unwrap()]);
    let refused = socket.send_to(b"of now", target).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "control");
    let before = bench.observer.drain().unwrap();
    assert_eq!(
        count(&before, b"the last of the queue"),
        0,
        "control: it waits"
    );
    let waited = bench
        .observer
        .wait_for(PATIENCE, |frame| frame.ends_with(b"the last of the queue"));
    assert!(waited.is_ok(), "{waited:?}");
}

/// The second net cannot know whether the switch is engaged, so it drops what it has to if it is.
#[test]
fn forwarded_packets_over_a_new_uplink_are_dropped_until_it_is_covered() {
    let mut bench = Bench::with_tunnel();
    let config =
        write_config(&kill_switch("tunnel-down", "").replace("198.51.100.53", "192.0.2.1"));
    bench.protect(&["--config", config.path().to_str().unwrap()]);
    let target = isp(0, 443);
    let forwarded = bench.seen(Place::Client, Transport::Udp, target, 5);
    assert_eq!(forwarded, 5, "control: it is not engaged");
    let pid = Pid::from_raw(bench.agent().pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let mut observer = Carrier::Veth.open(&bench.topology, "late0", None, "");
    let mut seen = |bench: &Bench, place: Place| {
        let volley = Volley::send(bench.origin(place), Transport::Udp, target, 5);
        // The fence is forwarded too: it comes by the host's own way.
        let frames = observer.drain_past_fence(bench.netns(Place::Host)).unwrap();
        volley.seen(&frames)
    };
    assert_eq!(seen(&bench, Place::Client), 0, "although it is not engaged");
    kill(pid, Signal::SIGCONT).unwrap();
    wait_until("the uplink is covered", PATIENCE, || {
        Ok(seen(&bench, Place::Client) == 5)
    })
    .unwrap();
    assert_eq!(seen(&bench, Place::Host), 5);
}
