//! Calls to port 53 reach the tunnel's resolver, whomever they name, and the caller sees whom it has asked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has to fail")]

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use leakguard::lab::{Query, address, wait_until};
use leakguard_tests::{Bench, Origin, Place, connect, isp, packets, write_config};
use nix::errno::Errno;

/// Nobody is there, in the lab.
const ASKED: [&str; 2] = ["8.8.8.8", "2001:4860:4860::8888"];
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What counts as at once, on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(100);

fn targets() -> [IpAddr; 2] {
    [
        address::TUNNEL_RESOLVER_V4.into(),
        address::TUNNEL_RESOLVER_V6.into(),
    ]
}

fn asked() -> impl Iterator<Item = SocketAddr> {
    ASKED
        .iter()
        .map(|address| SocketAddr::new(address.parse().unwrap(), 53))
}

/// `who.lab.test TXT`, to which each resolver of the lab answers with its name.
fn question() -> Vec<u8> {
    b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x03who\x03lab\x04test\0\0\x10\0\x01".to_vec()
}

fn is_of_the_tunnel(answer: &[u8]) -> bool {
    answer.windows(4).any(|bytes| bytes == b"\x03vpn")
}

fn redirected() -> Bench {
    let mut bench = Bench::with_tunnel();
    let [v4, v6] = targets().map(|target| target.to_string());
    bench.protect(&["--redirect", &v4, "--redirect", &v6]);
    bench
}

fn udp(origin: Origin<'_>, peer: SocketAddr) -> UdpSocket {
    let socket = origin.udp(peer.ip());
    socket.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
    socket
}

fn ask_over_tcp(origin: Origin<'_>, peer: SocketAddr) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut socket = origin.tcp(peer.ip(), 1).remove(0);
    connect(&socket, peer)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let question = question();
    let mut message = u16::try_from(question.len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    message.extend(question);
    socket.write_all(&message)?;
    let mut answer = vec![0; 512];
    let mut length = 0;
    while length < 3 || length < 2 + usize::from(u16::from_be_bytes([answer[0], answer[1]])) {
        match socket.read(&mut answer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    answer.truncate(length);
    Ok((answer, socket.peer_addr()?))
}

/// Asks in every way; each answer is the tunnel's resolver's and seems to come from whom was asked.
fn assert_answered(bench: &Bench) {
    let origin = bench.origin(Place::Host);
    for peer in asked() {
        let mut answer = [0; 512];
        let socket = udp(origin, peer);
        socket.send_to(&question(), peer).unwrap();
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!(from, peer);
        assert!(is_of_the_tunnel(&answer[..length]), "sendto {peer}");

        let socket = udp(origin, peer);
        socket.connect(peer).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), peer);
        socket.send(&question()).unwrap();
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!(from, peer);
        assert!(is_of_the_tunnel(&answer[..length]), "connect {peer}");

        let (answer, from) = ask_over_tcp(origin, peer).unwrap();
        assert_eq!(from, peer);
        assert!(is_of_the_tunnel(&answer), "tcp {peer}");
    }
}

/// How often the ISP has seen the question since the last call.
fn seen(bench: &mut Bench) -> usize {
    let question = question();
    let frames = bench.frames(Place::Host);
    let holds = |frame: &&Vec<u8>| {
        frame
            .windows(question.len() - 2)
            .any(|bytes| bytes == &question[2..])
    };
    frames.iter().filter(holds).count()
}

#[test]
fn a_question_to_anybody_is_answered_by_the_tunnels_resolver_also_without_an_agent() {
    let mut bench = Bench::with_tunnel();
    // Without leakguard it leaves by the uplink, and nobody answers.
    for peer in asked() {
        let socket = bench.origin(Place::Host).udp(peer.ip());
        socket.send_to(&question(), peer).unwrap();
    }
    assert_eq!(seen(&mut bench), 2);
    let [v4, v6] = targets().map(|target| target.to_string());
    bench.protect(&["--redirect", &v4, "--redirect", &v6]);
    assert_answered(&bench);
    bench.agent().kill9().unwrap();
    assert_answered(&bench);
    assert_eq!(seen(&mut bench), 0);
}

#[test]
fn a_mapped_address_is_redirected_and_told_back_as_it_was_given() {
    let bench = redirected();
    let origin = bench.origin(Place::Host);
    let mapped: SocketAddr = "[::ffff:8.8.8.8]:53".parse().unwrap();
    let mut answer = [0; 512];
    let socket = udp(origin, mapped);
    socket.send_to(&question(), mapped).unwrap();
    let (length, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(from, mapped);
    assert!(is_of_the_tunnel(&answer[..length]));
    let socket = udp(origin, mapped);
    socket.connect(mapped).unwrap();
    assert_eq!(socket.peer_addr().unwrap(), mapped);
    socket.send(&question()).unwrap();
    let length = socket.recv(&mut answer).unwrap();
    assert!(is_of_the_tunnel(&answer[..length]));
    assert_eq!(ask_over_tcp(origin, mapped).unwrap().1, mapped);
}

#[test]
fn a_socket_that_asks_the_tunnels_resolver_itself_is_answered_by_it() {
    let bench = redirected();
    let origin = bench.origin(Place::Host);
    let mut answer = [0; 512];
    for (peer, target) in asked().zip(targets()) {
        let target = SocketAddr::new(target, 53);
        let socket = udp(origin, peer);
        for expected in [target, peer, target] {
            socket.send_to(&question(), expected).unwrap();
            let (_, from) = socket.recv_from(&mut answer).unwrap();
            assert_eq!(from, expected);
        }
    }
}

#[test]
fn with_the_tunnel_down_or_gone_a_call_fails_at_once() {
    for end in ["link set wg0 down", "link del wg0"] {
        let mut bench = redirected();
        bench.topology.host().ip_batch(&format!("{end}\n")).unwrap();
        let origin = bench.origin(Place::Host);
        for peer in asked() {
            // The agent hears of it by netlink.
            let told = wait_until("the tunnel counts as down", ANSWER_LIMIT, || {
                Ok(origin.udp(peer.ip()).send_to(&question(), peer).is_err())
            });
            told.unwrap();
            let socket = origin.udp(peer.ip());
            let started = Instant::now();
            for error in [
                socket.send_to(&question(), peer).unwrap_err(),
                socket.connect(peer).unwrap_err(),
                ask_over_tcp(origin, peer).unwrap_err(),
            ] {
                assert_eq!(
                    error.raw_os_error(),
                    Some(Errno::ENETUNREACH as i32),
                    "{end}"
                );
            }
            assert!(started.elapsed() < AT_ONCE * 3, "{:?}", started.elapsed());
            // For the table of kernels: it is what the calls have just got.
            println!("fact: refused: ENETUNREACH");
        }
        assert_eq!(seen(&mut bench), 0);
    }
}

#[test]
fn a_tunnel_that_comes_back_is_used_again() {
    let bench = redirected();
    let host = bench.topology.host();
    host.ip_batch("link set wg0 down\n").unwrap();
    let peer = asked().next().unwrap();
    let origin = bench.origin(Place::Host);
    let fails = || Ok(origin.udp(peer.ip()).connect(peer).is_err());
    wait_until("a call fails", ANSWER_LIMIT, fails).unwrap();
    host.ip_batch("link set wg0 up\n").unwrap();
    let goes = || Ok(origin.udp(peer.ip()).connect(peer).is_ok());
    wait_until("a call goes again", ANSWER_LIMIT, goes).unwrap();
}

#[test]
fn a_family_without_a_resolver_fails_at_once() {
    for (own, other) in [(0, 1), (1, 0)] {
        let mut bench = Bench::with_tunnel();
        let target = targets()[own].to_string();
        bench.protect(&["--redirect", &target]);
        let origin = bench.origin(Place::Host);
        let peers: Vec<SocketAddr> = asked().collect();
        origin.udp(peers[own].ip()).connect(peers[own]).unwrap();
        let error = origin.udp(peers[other].ip()).connect(peers[other]);
        let error = error.unwrap_err().raw_os_error();
        assert_eq!(error, Some(Errno::ENETUNREACH as i32));
    }
}

#[test]
fn calls_that_reach_this_host_or_a_network_on_it_are_left_alone() {
    let bench = redirected();
    let origin = bench.origin(Place::Host);
    for near in [
        "127.0.0.53",
        "::1",
        "192.168.77.10",
        "fd77::10",
        "10.8.0.2",
        "192.168.78.10",
        "fd78::10",
    ] {
        let peer = SocketAddr::new(near.parse().unwrap(), 53);
        let socket = origin.udp(peer.ip());
        socket.connect(peer).unwrap();
        // What it reaches is what the kernel says of the route: the address that it would send from.
        let local = socket.local_addr().unwrap().ip();
        let through_tunnel = [
            address::TUNNEL_HOST_V4.into(),
            address::TUNNEL_HOST_V6.into(),
        ];
        let own = peer.ip() == through_tunnel[0];
        assert!(
            own || !through_tunnel.contains(&local),
            "{near}: from {local}"
        );
    }
}

#[test]
fn a_new_network_on_this_host_is_left_alone_too() {
    let bench = redirected();
    let host = bench.topology.host();
    host.ip_batch(
        "link add br9 type bridge\n\
         link set br9 up\n\
         addr add 10.99.0.1/16 dev br9\n",
    )
    .unwrap();
    let origin = bench.origin(Place::Host);
    let near: SocketAddr = "10.99.0.7:53".parse().unwrap();
    wait_until("the new network is near", ANSWER_LIMIT, || {
        let socket = origin.udp(near.ip());
        let reached = socket.connect(near).map(|()| socket.local_addr().unwrap());
        Ok(reached.is_ok_and(|local| local.ip() == "10.99.0.1".parse::<IpAddr>().unwrap()))
    })
    .unwrap();
}

#[test]
fn other_ports_observe_mode_and_bound_sockets_are_left_alone() {
    let mut bench = redirected();
    let origin = bench.origin(Place::Host);
    let peer = isp(0, 53);
    let bound = origin.udp(peer.ip());
    nix::sys::socket::setsockopt(
        &bound,
        nix::sys::socket::sockopt::BindToDevice,
        &"eth0".into(),
    )
    .unwrap();
    // It is dropped, as it is without redirection.
    let error = bound.send_to(&question(), peer).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32));
    let other = origin.udp(peer.ip());
    let port = SocketAddr::new(peer.ip(), 5300);
    other.connect(port).unwrap();
    let uplink: IpAddr = address::HOST_V4.into();
    assert_eq!(other.local_addr().unwrap().ip(), uplink);
    assert_eq!(seen(&mut bench), 0);

    let mut bench = Bench::with_tunnel();
    let [v4, _] = targets().map(|target| target.to_string());
    bench.protect(&["--redirect", &v4, "--mode", "observe"]);
    let socket = bench.origin(Place::Host).udp(peer.ip());
    socket.send_to(&question(), peer).unwrap();
    assert_eq!(seen(&mut bench), 1);
}

#[test]
fn apply_redirects_without_an_agent_and_status_says_so() {
    let mut bench = redirected();
    bench.agent().kill9().unwrap();
    let apply = |bench: &mut Bench, arguments: &[&str]| {
        let cgroup = bench.cgroup.path().display().to_string();
        let mut whole = vec!["apply", "--tunnel", Bench::TUNNEL, "--cgroup", &cgroup];
        whole.extend(arguments);
        let output = bench.agent().output(&whole).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let [v4, v6] = targets().map(|target| target.to_string());
    let redirect = ["--redirect", &v4, "--redirect", &v6];
    apply(&mut bench, &redirect);
    assert!(apply(&mut bench, &redirect).contains("unchanged"));
    assert_answered(&bench);
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["redirect"]["to"], serde_json::json!([v4, v6]));
    assert_eq!(status["redirect"]["up"], true);
    assert_eq!(status["level"], "full", "{status:#}");

    apply(&mut bench, &[]);
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["redirect"], serde_json::Value::Null);
    let peer = asked().next().unwrap();
    let socket = bench.origin(Place::Host).udp(peer.ip());
    let error = socket.send_to(&question(), peer).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32));
}

#[test]
fn a_listed_process_and_a_listed_cgroup_are_left_alone() {
    for listed in ["dig", "cgroup"] {
        let mut bench = Bench::with_tunnel();
        let [v4, _] = targets().map(|target| target.to_string());
        let mount = leakguard::host::cgroup2_root().unwrap();
        let path = bench.cgroup.path().strip_prefix(mount).unwrap();
        let named = if listed == "dig" {
            listed.to_owned()
        } else {
            format!("/{}", path.display())
        };
        let config = write_config(&format!(
            "[dns]\nredirect = [\"{v4}\"]\nredirect_except = [\"{named}\"]\n"
        ));
        bench.protect(&["--config", config.path().to_str().unwrap()]);
        let peer: IpAddr = ASKED[0].parse().unwrap();
        let query = Query::new(peer, "who.lab.test", "TXT").timeout(Duration::from_secs(1));
        let (host, cgroup) = (bench.netns(Place::Host), &bench.cgroup);
        let spared = query.run(host, Some(cgroup)).unwrap();
        assert!(!spared.is("vpn"), "{listed}: {spared:?}");
        // Somebody else is redirected: a name that is not listed, or no process below the cgroup.
        if listed == "dig" {
            assert_answered_once(&bench);
        }
        assert_eq!(seen(&mut bench), 0);
    }
}

/// A process of the test's name asks an IPv4 address.
fn assert_answered_once(bench: &Bench) {
    let peer = asked().next().unwrap();
    let socket = udp(bench.origin(Place::Host), peer);
    socket.send_to(&question(), peer).unwrap();
    let mut answer = [0; 512];
    let (length, _) = socket.recv_from(&mut answer).unwrap();
    assert!(is_of_the_tunnel(&answer[..length]));
}

#[test]
fn dig_gets_its_answer_from_whom_it_asked() {
    let bench = redirected();
    for peer in asked() {
        for query in [
            Query::new(peer.ip(), "who.lab.test", "TXT"),
            Query::new(peer.ip(), "who.lab.test", "TXT").over_tcp(),
        ] {
            let found = query
                .run(bench.netns(Place::Host), Some(&bench.cgroup))
                .unwrap();
            assert!(found.is("vpn"), "{found:?}");
        }
    }
}

#[test]
fn a_redirected_call_is_told_of_with_both_addresses_and_counted() {
    let mut bench = redirected();
    let peer = asked().next().unwrap();
    bench
        .origin(Place::Host)
        .udp(peer.ip())
        .connect(peer)
        .unwrap();
    let events = bench.await_packets("the call", |event| event["verdict"] == "redirect");
    let event = &events[0];
    assert_eq!(event["hook"], "sock_addr");
    assert_eq!(event["destination"], "8.8.8.8:53");
    assert_eq!(event["redirected_to"], "10.8.0.1:53");
    assert_eq!(event["interface"]["role"], "tunnel");
    let status = bench.agent().status_json().unwrap();
    let labels = [("verdict", "redirect"), ("hook", "sock_addr")];
    assert_eq!(packets(&status, &labels), 1, "{status:#}");
}
