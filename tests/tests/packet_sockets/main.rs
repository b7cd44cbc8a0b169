//! Sockets whose packets pass no TC program: made anew, from before, and what of them cannot be kept from sending.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

#[path = "../device/mod.rs"]
mod device;
mod forms;
mod inventory;
mod strict;

use std::os::fd::AsFd;
use std::time::Duration;

use device::{Device, Run, TUNNEL};
use etherparse::PacketBuilder;
use forms::{ETHERTYPE_IPV4, FORMS, UDP};
use leakguard::kernel::pins::Pins;
use leakguard::lab::{Topology, address, wait_until};
use leakguard_common::hardening::{SOL_PACKET, SOL_XDP};
use leakguard_tests::{Bench, Origin, PacketSocket, Place, XdpSocket, detach, packets, set_option};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(20);

const UPLINK: &str = Topology::UPLINK;
const STRICT: [&str; 2] = ["--packet-sockets", "strict"];

/// How many of the frames that have left end in this.
fn count(frames: &[Vec<u8>], payload: &[u8]) -> usize {
    frames
        .iter()
        .filter(|frame| frame.ends_with(payload))
        .count()
}

/// Makes a kind of packet socket.
type Make = fn(Origin<'_>, &str) -> PacketSocket;

/// A DNS frame with this payload.
fn question(payload: &[u8]) -> Vec<u8> {
    (FORMS[0].frame)(UDP, 53, payload)
}

#[test]
fn the_option_that_bypasses_tc_is_refused_counted_and_reported() {
    let mut bench = Bench::new();
    let makers: [(&str, Make); 3] = [
        ("raw", PacketSocket::raw),
        ("datagram", PacketSocket::datagram),
        ("ring", PacketSocket::ring),
    ];
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        for (name, make) in makers {
            let socket = make(bench.origin(Place::Host), UPLINK);
            let payload = format!("{name}, protected: {protected}");
            let whole = question(payload.as_bytes());
            let frame = match name {
                "datagram" => &whole[14..],
                _ => &whole,
            };
            let result = socket.bypass(true);
            let sent = socket.send(ETHERTYPE_IPV4, frame);
            let seen = count(&bench.frames(Place::Host), payload.as_bytes());
            if protected {
                assert_eq!(result, Err(Errno::EPERM), "{payload}");
                assert_eq!(
                    (sent, seen),
                    (Err(Errno::ENOBUFS), 0),
                    "TC has it: {payload}"
                );
                assert_eq!(socket.bypass(false), Ok(()), "{payload}");
                // PACKET_ORIGDEV, which is nobody's business.
                assert_eq!(socket.set(9, 1), Ok(()), "{payload}");
            } else {
                assert_eq!(
                    (result, sent, seen),
                    (Ok(()), Ok(()), 1),
                    "control: {payload}"
                );
            }
        }
    }
    let agent = bench.agent();
    let status = agent.status_json().unwrap();
    let refused = [
        ("hook", "setsockopt"),
        ("class", "raw_bypass"),
        ("verdict", "drop"),
        ("role", "uplink"),
    ];
    assert_eq!(packets(&status, &refused), 3, "{status}");
    assert_eq!(packets(&status, &[("hook", "setsockopt")]), 3, "{status}");
    assert_eq!(packets(&status, &[("hook", "tc"), ("verdict", "drop")]), 3);
    assert_eq!(status["hardening"]["setsockopt"], "attached");
    assert_eq!(status["level"], "full", "{status}");

    let own = std::process::id();
    let mut told = Vec::new();
    wait_until("the refusals are reported", LIMIT, || {
        let events = agent.events_json()?;
        told = events
            .into_iter()
            .filter(|event| event["hook"] == "setsockopt")
            .collect();
        Ok(told.len() >= 3)
    })
    .unwrap();
    assert_eq!(told.len(), 3, "{told:?}");
    for event in &told {
        assert_eq!(event["kind"], "packet", "{event}");
        assert_eq!(event["reason"], "raw_bypass", "{event}");
        assert_eq!(event["verdict"], "drop", "{event}");
        assert_eq!(event["option"], "PACKET_QDISC_BYPASS", "{event}");
        assert_eq!(event["process"]["pid"], own, "{event}");
        assert!(event["process"]["exe"].is_string(), "{event}");
        assert!(event["process"]["name"].is_string(), "{event}");
        assert_eq!(event["process"]["uid"], 0, "{event}");
        assert!(event["cgroup"].is_string(), "{event}");
    }
}

#[test]
fn an_af_xdp_socket_is_refused() {
    let mut bench = Bench::new();
    let mut socket = XdpSocket::new(bench.origin(Place::Host), UPLINK).unwrap();
    socket.send(&question(b"of AF_XDP")).unwrap();
    assert_eq!(
        count(&bench.frames(Place::Host), b"of AF_XDP"),
        1,
        "control"
    );
    drop(socket);

    bench.protect(&[]);
    let refused = XdpSocket::new(bench.origin(Place::Host), UPLINK);
    assert_eq!(refused.unwrap_err(), Errno::EPERM);
    let bare = bench
        .origin(Place::Host)
        .sockets(libc::AF_XDP, libc::SOCK_RAW, 0, 1);
    for option in 1..=9 {
        let result = set_option(bare[0].as_fd(), SOL_XDP, option, &4_u32);
        assert_eq!(result, Err(Errno::EPERM), "option {option}");
    }
    let agent = bench.agent();
    let status = agent.status_json().unwrap();
    assert_eq!(
        packets(&status, &[("class", "raw_bypass"), ("verdict", "drop")]),
        10
    );
    let events = agent.events_json().unwrap();
    let mut told = events.iter().filter(|event| event["hook"] == "setsockopt");
    assert_eq!(told.next().unwrap()["option"], "XDP_UMEM_REG", "{events:?}");
}

#[test]
fn sockets_of_other_namespaces_may_bypass_their_own_devices() {
    let mut bench = Bench::new();
    let client = bench.topology.client().unwrap();
    // In the guarded cgroup, as a container is.
    let origin = Origin {
        netns: client,
        cgroup: Some(&bench.cgroup),
    };
    let socket = PacketSocket::raw(origin, "eth0");
    let port = Topology::CONTAINER_PORT;
    let mut show = bench.topology.host().command("ip");
    show.args(["-j", "link", "show", "dev", port]);
    let shown: Value = serde_json::from_str(Run::of(show).ok()).unwrap();
    let gateway = shown[0]["address"].as_str().unwrap();
    let gateway: Vec<u8> = gateway
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let gateway: [u8; 6] = gateway.try_into().unwrap();
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        let origin = Origin {
            netns: bench.topology.client().unwrap(),
            cgroup: Some(&bench.cgroup),
        };
        // Also of one that is made now.
        let late = PacketSocket::raw(origin, "eth0");
        for socket in [&socket, &late] {
            assert_eq!(socket.bypass(true), Ok(()), "protected: {protected}");
            let payload = format!("of a container, protected: {protected}");
            let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], gateway)
                .ipv4(
                    address::CLIENT_V4.octets(),
                    address::ISP_RESOLVER_V4.octets(),
                    64,
                )
                .udp(40_053, 53);
            let mut frame = Vec::new();
            builder.write(&mut frame, payload.as_bytes()).unwrap();
            socket.send(ETHERTYPE_IPV4, &frame).unwrap();
            let seen = count(&bench.frames(Place::Client), payload.as_bytes());
            assert_eq!(seen, usize::from(!protected), "protected: {protected}");
        }
    }
    let status = bench.agent().status_json().unwrap();
    assert_eq!(packets(&status, &[("class", "raw_bypass")]), 0, "{status}");
    assert_eq!(packets(&status, &[("hook", "tc"), ("verdict", "drop")]), 2);
}

/// The row "sockets outside of `--cgroup`" of the known issues.
#[test]
fn a_socket_outside_of_the_cgroup_may_bypass_tc_and_is_found() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let origin = Origin {
        cgroup: None,
        ..bench.origin(Place::Host)
    };
    let socket = PacketSocket::raw(origin, UPLINK);
    assert_eq!(socket.bypass(true), Ok(()), "what is known to be open");
    socket.send(ETHERTYPE_IPV4, &question(b"outside")).unwrap();
    assert_eq!(count(&bench.frames(Place::Host), b"outside"), 1);
    let status = bench.agent().status_json().unwrap();
    let [listed] = inventory::open_sockets(&status).as_slice() else {
        unreachable!("{status}");
    };
    assert_eq!(listed["inode"], inventory::inode(&socket), "{status}");
}

#[test]
fn observe_mode_reports_the_bypass_and_lets_it_through() {
    let mut bench = Bench::new();
    bench.protect(&["--mode", "observe", "--packet-sockets", "strict"]);
    let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    assert_eq!(socket.bypass(true), Ok(()));
    socket.send(ETHERTYPE_IPV4, &question(b"observed")).unwrap();
    assert_eq!(count(&bench.frames(Place::Host), b"observed"), 1);
    let status = bench.agent().status_json().unwrap();
    let counted = [("class", "raw_bypass"), ("verdict", "would_drop")];
    assert_eq!(packets(&status, &counted), 1, "{status}");
    assert_eq!(packets(&status, &[("class", "raw_bypass")]), 1, "{status}");
    assert_eq!(status["netfilter"]["egress"], 1, "{status}");
}

#[test]
fn off_refuses_nothing_and_is_no_lack() {
    let mut bench = Bench::new();
    bench.protect(&["--packet-sockets", "off"]);
    let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
    assert_eq!(socket.bypass(true), Ok(()));
    let pins = Pins::at(bench.bpffs.path());
    assert!(!pins.setsockopt_link().exists());
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["hardening"]["packet_sockets"], "off", "{status}");
    assert_eq!(status["hardening"]["setsockopt"], "unneeded", "{status}");
    assert_eq!(status["level"], "full", "{status}");
}

/// The causes that say something of this.
fn causes<'status>(status: &'status Value, word: &str) -> Vec<&'status str> {
    let causes = status["causes"].as_array().unwrap().iter();
    causes
        .map(|cause| cause.as_str().unwrap())
        .filter(|cause| cause.contains(word))
        .collect()
}

#[test]
fn a_missing_setsockopt_program_is_one_cause_and_is_put_back() {
    let device = Device::new();
    let agent = device.agent(&[]);
    let pin = Pins::at(device.bpffs.path()).setsockopt_link();
    let socket = PacketSocket::raw(origin(&device), UPLINK);
    assert_eq!(socket.bypass(true), Err(Errno::EPERM));
    let pid = Pid::from_raw(agent.pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    detach(&pin);
    let status = device.status();
    assert_eq!(
        socket.bypass(true),
        Ok(()),
        "control: nothing refuses it now"
    );
    assert_eq!(status["level"], "reduced", "{status}");
    assert_eq!(causes(&status, "setsockopt").len(), 1, "{status}");
    assert_eq!(status["causes"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["hardening"]["setsockopt"], "absent", "{status}");
    kill(pid, Signal::SIGCONT).unwrap();
    wait_until("it is put back", LIMIT, || {
        let status = device.status();
        Ok(status["health"]["repairs"]["setsockopt"] == 1 && status["level"] == "full")
    })
    .unwrap();
    let late = PacketSocket::raw(origin(&device), UPLINK);
    assert_eq!(late.bypass(true), Err(Errno::EPERM));
}

fn origin(device: &Device) -> Origin<'_> {
    Origin {
        netns: device.host(),
        cgroup: Some(&device.cgroup),
    }
}

fn nft(device: &Device, arguments: &[&str]) -> String {
    let mut nft = device.host().command("nft");
    nft.args(arguments);
    Run::of(nft).ok().to_owned()
}

#[test]
fn it_is_taken_over_changed_and_lifted() {
    let mut device = Device::new();
    let apply = |device: &Device, choice: &str| {
        let arguments = ["apply", "--tunnel", TUNNEL, "--packet-sockets", choice];
        device.leakguard(&arguments).ok().to_owned()
    };
    let pin = Pins::at(device.bpffs.path()).setsockopt_link();
    let first = apply(&device, "strict");
    assert!(!first.contains("unchanged"), "{first}");
    assert!(apply(&device, "strict").contains("unchanged"));
    assert!(nft(&device, &["list", "tables"]).contains("netdev"));
    assert_eq!(device.status()["hardening"]["packet_sockets"], "strict");

    assert!(!apply(&device, "deny-new").contains("unchanged"));
    assert!(!nft(&device, &["list", "tables"]).contains("netdev"));
    assert!(pin.exists());

    assert!(!apply(&device, "off").contains("unchanged"));
    assert!(!pin.exists());
    let socket = PacketSocket::raw(origin(&device), UPLINK);
    assert_eq!(socket.bypass(true), Ok(()));

    for lift in ["release", "purge"] {
        apply(&device, "strict");
        let socket = PacketSocket::raw(origin(&device), UPLINK);
        assert_eq!(socket.bypass(true), Err(Errno::EPERM));
        device.leakguard(&[lift]).ok();
        assert_eq!(socket.bypass(true), Ok(()), "after {lift}");
        device.assert_nothing_attached();
        device.assert_untouched();
    }

    // The agent takes over what `apply` has left, and leaves it when it goes.
    apply(&device, "strict");
    let mut agent = device.agent(&STRICT);
    assert_eq!(device.status()["level"], "full");
    agent.kill9();
    let socket = PacketSocket::raw(origin(&device), UPLINK);
    assert_eq!(socket.bypass(true), Err(Errno::EPERM));
    assert_eq!(device.status()["level"], "full");
    device.leakguard(&["release"]).ok();
    device.assert_untouched();
}

/// A large option is nobody's business, and reaches the kernel whole.
#[test]
fn options_larger_than_a_page_are_left_alone() {
    let mut bench = Bench::new();
    let filter = |bench: &Bench| {
        let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
        // PACKET_AUXDATA, which takes the first four bytes.
        set_option(socket.as_fd(), SOL_PACKET, 8, &[0_u8; 10_000])
    };
    let before = filter(&bench);
    bench.protect(&[]);
    assert_eq!(filter(&bench), before);
    assert_eq!(before, Ok(()));
}
