//! Forwarded questions reach the tunnel's resolver, whomever they name, and the client sees whom it has asked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has to fail")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use leakguard::lab::{
    Lookup, Netns, Query, Resolver, WHO_NAME, address, carries_name, output_within, wait_until,
};
use leakguard_tests::{Bench, Place};

/// Nobody is there, in the lab.
const ASKED: [&str; 2] = ["8.8.8.8", "2001:4860:4860::8888"];
const FAMILIES: [&str; 2] = ["ip", "ip6"];
const LIMIT: Duration = Duration::from_secs(10);
/// How long is waited for an answer that should not come.
const SILENCE: Duration = Duration::from_secs(1);

fn targets() -> [String; 2] {
    let targets: [IpAddr; 2] = [
        address::TUNNEL_RESOLVER_V4.into(),
        address::TUNNEL_RESOLVER_V6.into(),
    ];
    targets.map(|target| target.to_string())
}

fn redirect(bench: &mut Bench, more: &[&str]) {
    let [v4, v6] = targets();
    let arguments = [&["--redirect", &v4, "--redirect", &v6], more].concat();
    bench.protect(&arguments);
}

fn redirected() -> Bench {
    let mut bench = Bench::with_tunnel();
    redirect(&mut bench, &[]);
    bench
}

/// Asks over UDP and TCP. `dig` takes an answer only from whom it has asked.
fn ask(netns: &Netns, server: IpAddr, limit: Duration) -> [Lookup; 2] {
    let query = || Query::new(server, WHO_NAME, "TXT").timeout(limit);
    [query(), query().over_tcp()].map(|query| query.run(netns, None).unwrap())
}

/// Asks everybody in every way; each answer is of the tunnel's resolver.
#[track_caller]
fn assert_answered(bench: &Bench) {
    for server in ASKED {
        for found in ask(bench.netns(Place::Client), server.parse().unwrap(), LIMIT) {
            assert!(found.is("vpn"), "{server}: {found:?}");
        }
    }
}

/// Asks everybody in every way; nobody answers.
#[track_caller]
fn assert_unanswered(bench: &Bench) {
    for server in ASKED {
        for found in ask(bench.netns(Place::Client), server.parse().unwrap(), SILENCE) {
            assert!(!found.is("vpn"), "{server}: {found:?}");
        }
    }
}

/// How many frames for port 53 of whom was asked, or of the tunnel's resolver, the ISP has seen since the last call.
fn seen(bench: &mut Bench) -> usize {
    let destinations: Vec<Vec<u8>> = ASKED
        .iter()
        .map(|text| (*text).to_owned())
        .chain(targets())
        .map(|text| match text.parse().unwrap() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        })
        .collect();
    let frames = bench.frames(Place::Client);
    let is_for = |frame: &&Vec<u8>| {
        let ends = [30..34, 38..54].map(|place| frame.get(place).map(<[u8]>::to_vec));
        carries_name(frame, WHO_NAME)
            || ends
                .iter()
                .flatten()
                .any(|found| destinations.contains(found))
    };
    frames.iter().filter(is_for).count()
}

fn nft(netns: &Netns, arguments: &[&str]) -> bool {
    let mut nft = netns.command("nft");
    nft.args(arguments);
    output_within(nft, LIMIT).unwrap().status.success()
}

fn has_tables(bench: &Bench) -> [bool; 2] {
    FAMILIES.map(|family| {
        nft(
            bench.netns(Place::Host),
            &["list", "table", family, "leakguard"],
        )
    })
}

#[test]
fn a_clients_question_is_answered_by_the_tunnels_resolver_also_without_an_agent() {
    let mut bench = Bench::with_tunnel();
    assert_unanswered(&bench);
    assert!(seen(&mut bench) >= 4, "control: it leaves by the uplink");
    redirect(&mut bench, &[]);
    assert_answered(&bench);
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["level"], "full", "{status:#}");
    bench.agent().kill9().unwrap();
    assert_answered(&bench);
    assert_eq!(seen(&mut bench), 0);
}

#[test]
fn with_the_tunnel_down_or_gone_no_question_leaves() {
    for end in ["link set wg0 down", "link del wg0"] {
        for alive in [true, false] {
            let mut bench = redirected();
            assert_answered(&bench);
            if !alive {
                bench.agent().kill9().unwrap();
            }
            let host = bench.netns(Place::Host);
            host.ip_batch(&format!("{end}\n")).unwrap();
            assert_unanswered(&bench);
            assert_eq!(seen(&mut bench), 0, "{end}, agent alive: {alive}");
        }
    }
}

#[test]
fn a_tunnel_that_comes_back_is_used_again() {
    let bench = redirected();
    let host = bench.netns(Place::Host);
    host.ip_batch("link set wg0 down\n").unwrap();
    assert_unanswered(&bench);
    // Its addresses of IPv6 went with it.
    host.ip_batch(&format!(
        "link set wg0 up\naddr replace {}/64 dev wg0 nodad\n",
        address::TUNNEL_HOST_V6
    ))
    .unwrap();
    assert_answered(&bench);
}

#[test]
fn a_service_of_this_host_and_a_neighbour_are_left_alone() {
    let bench = redirected();
    let _service = Resolver::new(bench.netns(Place::Host), "service").unwrap();
    for own in ["192.168.78.1", "fd78::1", "192.168.77.10", "fd77::10"] {
        for found in ask(bench.netns(Place::Client), own.parse().unwrap(), LIMIT) {
            assert!(found.is("service"), "{own}: {found:?}");
        }
    }
    // A second network on this host.
    let neighbour = Netns::new("neighbour").unwrap();
    bench
        .netns(Place::Host)
        .ip_batch(&format!(
            "link add cont1 type veth peer name eth0 netns {}\n\
             link set cont1 up\n\
             addr add 192.168.79.1/24 dev cont1\n\
             addr add fd79::1/64 dev cont1 nodad\n",
            neighbour.name()
        ))
        .unwrap();
    neighbour
        .ip_batch(
            "link set eth0 up\n\
             addr add 192.168.79.10/24 dev eth0\n\
             addr add fd79::10/64 dev eth0 nodad\n\
             route add default via 192.168.79.1\n\
             route add default via fd79::1\n",
        )
        .unwrap();
    let _service = Resolver::new(&neighbour, "neighbour").unwrap();
    for near in ["192.168.79.10", "fd79::10"] {
        wait_until("the new network is near", LIMIT, || {
            let found = ask(bench.netns(Place::Client), near.parse().unwrap(), SILENCE);
            Ok(found.iter().all(|found| found.is("neighbour")))
        })
        .unwrap();
    }
}

#[test]
fn a_question_that_comes_in_by_the_uplink_is_left_alone() {
    let mut bench = Bench::with_tunnel();
    // Another machine on the host's LAN takes the host for its gateway.
    let lan = bench.bridge_a_guest();
    lan.ip_batch(
        "route del default via 192.168.77.1\n\
         route del default via fd77::1\n\
         route add default via 192.168.77.10\n\
         route add default via fd77::10\n",
    )
    .unwrap();
    let ask_all = || {
        for server in ASKED {
            for found in ask(&lan, server.parse().unwrap(), SILENCE) {
                assert!(!found.is("vpn"), "{server}: {found:?}");
            }
        }
    };
    ask_all();
    assert!(seen(&mut bench) >= 4, "control: it leaves by the uplink");
    redirect(&mut bench, &[]);
    ask_all();
    assert_eq!(seen(&mut bench), 0);
    assert_answered(&bench);
}

#[test]
fn a_flow_from_before_is_dropped_and_a_new_one_is_redirected() {
    let mut bench = Bench::with_tunnel();
    // A host that translates addresses, as one with containers does, knows each flow.
    let others = "add table inet other; \
                  add chain inet other out { type nat hook postrouting priority srcnat; }; \
                  add rule inet other out ct state new oifname nowhere masquerade";
    assert!(nft(bench.netns(Place::Host), &[others]));
    let question = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x03who\x03lab\x04test\0\0\x10\0\x01";
    let flows: Vec<(UdpSocket, SocketAddr)> = ASKED
        .iter()
        .map(|server| {
            let peer = SocketAddr::new(server.parse().unwrap(), 53);
            (bench.origin(Place::Client).udp(peer.ip()), peer)
        })
        .collect();
    let send = || {
        for (socket, peer) in &flows {
            socket.send_to(question, peer).unwrap();
        }
    };
    send();
    assert_eq!(seen(&mut bench), 2, "control: it leaves by the uplink");
    redirect(&mut bench, &[]);
    send();
    for (socket, _) in &flows {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(socket.recv_from(&mut [0; 512]).is_err());
    }
    assert_answered(&bench);
    assert_eq!(seen(&mut bench), 0);
}

#[test]
fn release_removes_the_tables_and_observing_makes_none() {
    let mut bench = redirected();
    assert_eq!(has_tables(&bench), [true; 2]);
    bench.unprotect();
    assert_eq!(has_tables(&bench), [false; 2]);

    redirect(&mut bench, &["--mode", "observe"]);
    assert_eq!(has_tables(&bench), [false; 2]);
    bench.unprotect();

    let [v4, _] = targets();
    bench.protect(&["--redirect", &v4]);
    assert_eq!(has_tables(&bench), [true, false]);
    bench.agent().kill9().unwrap();
    bench.unprotect();
    assert_eq!(has_tables(&bench), [false; 2]);
}

#[test]
fn what_somebody_removes_is_put_back_and_missed_meanwhile() {
    let mut bench = redirected();
    for damage in [
        &["flush", "ruleset"][..],
        &["flush", "chain", "ip", "leakguard", "prerouting"],
        &["flush", "set", "ip6", "leakguard", "local"],
        &["delete", "table", "ip6", "leakguard"],
    ] {
        assert!(nft(bench.netns(Place::Host), damage), "{damage:?}");
        wait_until("it is mended", LIMIT, || {
            let client = bench.netns(Place::Client);
            let found = ASKED.map(|server| {
                let query = Query::new(server.parse::<IpAddr>().unwrap(), WHO_NAME, "TXT");
                query.timeout(SILENCE).run(client, None).unwrap()
            });
            Ok(found.iter().all(|found| found.is("vpn")))
        })
        .unwrap();
    }
    bench.agent().kill9().unwrap();
    nft(
        bench.netns(Place::Host),
        &["delete", "table", "ip6", "leakguard"],
    );
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["level"], "reduced", "{status:#}");
    let causes = status["causes"].to_string();
    assert!(
        causes.contains("not complete: the nftables table ip6 leakguard"),
        "{causes}"
    );
}

#[test]
fn what_is_right_is_not_replaced() {
    let bench = redirected();
    let host = bench.netns(Place::Host);
    // A handle is given once: another one is another table.
    let handles = || {
        FAMILIES.map(|family| {
            let mut list = host.command("nft");
            list.args(["-a", "list", "table", family, "leakguard"]);
            output_within(list, LIMIT).unwrap().stdout
        })
    };
    let before = handles();
    // Longer than the interval at which everything is read back.
    let read_back = Instant::now();
    wait_until("it was read back", LIMIT, || {
        Ok(read_back.elapsed() > Duration::from_secs(7))
    })
    .unwrap();
    assert_eq!(handles(), before);
    assert_answered(&bench);
}
