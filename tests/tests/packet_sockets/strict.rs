//! Netfilter's egress hook, which sees what bypasses TC.

use std::process::Command;

use leakguard::lab::wait_until;
use leakguard_tests::{Bench, Carrier, PacketSocket, Place, Transport, interface, isp, packets};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::device::{self, Device, Run, TUNNEL};
use super::forms::{BLOCKED, ETHERTYPE_IPV4, FORMS, Form, OTHERS, UDP, UNREADABLE};
use super::inventory::{inode, open_sockets};
use super::{LIMIT, STRICT, UPLINK, causes, count, nft, question};

/// Sends one of every form to every port, and asserts that all of them are seen outside, or none; says how many there
/// were.
#[track_caller]
fn send_forms(
    bench: &mut Bench,
    socket: &PacketSocket,
    forms: &[Form],
    ports: &[(u8, u16)],
    when: &str,
    expected: bool,
) -> usize {
    let mut payloads = Vec::new();
    for Form { name, said, frame } in forms {
        for &(protocol, port) in ports {
            let payload = format!("{when}: {name}, {protocol}/{port}");
            let sent = socket.send(*said, &frame(protocol, port, payload.as_bytes()));
            // netfilter's drop is a queue that is full.
            let refusal = if expected {
                Ok(())
            } else {
                Err(Errno::ENOBUFS)
            };
            assert_eq!(sent, refusal, "{payload}");
            payloads.push(payload);
        }
    }
    let frames = bench.frames(Place::Host);
    let sent = payloads.len();
    payloads.retain(|payload| count(&frames, payload.as_bytes()) != usize::from(expected));
    assert!(
        payloads.is_empty(),
        "seen should be {expected}: {payloads:?}"
    );
    println!("{when}: {} of {sent} seen", sent * usize::from(expected));
    sent
}

/// The row "packet sockets from before" of the known issues, and what strict does about it.
#[test]
fn a_bypass_from_before_sends_dns_in_deny_new_and_not_in_strict() {
    let mut bench = Bench::new();
    let origin = bench.origin(Place::Host);
    let socket = PacketSocket::raw(origin, UPLINK);
    let ring = PacketSocket::ring(origin, UPLINK);
    socket.bypass(true).unwrap();
    ring.bypass(true).unwrap();
    let all = |bench: &mut Bench, when: &str, expected| {
        let (raw, shared) = (format!("{when}, raw"), format!("{when}, ring"));
        send_forms(bench, &socket, &FORMS, &BLOCKED, &raw, expected)
            + send_forms(bench, &ring, &FORMS, &BLOCKED, &shared, expected)
    };
    all(&mut bench, "control", true);

    bench.protect(&[]);
    all(&mut bench, "deny-new, which is known to be open", true);
    bench.unprotect();

    bench.protect(&STRICT);
    let sent = all(&mut bench, "strict", false);
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["level"], "full", "{status}");
    assert_eq!(status["hardening"]["netdev"], "attached", "{status}");
    assert_eq!(status["netfilter"]["egress"], sent, "{status}");

    // What cannot be read is dropped whatever its port; everything else passes.
    let mut send = |forms: &[Form], ports: &[(u8, u16)], when, expected| {
        send_forms(&mut bench, &socket, forms, ports, when, expected)
    };
    send(&UNREADABLE, &BLOCKED, "unreadable", false);
    send(&UNREADABLE, &OTHERS, "unreadable", false);
    send(&FORMS, &OTHERS, "ordinary, strict", true);
    bench.unprotect();
    send_forms(&mut bench, &socket, &UNREADABLE, &BLOCKED, "control", true);
}

#[test]
fn strict_leaves_forwarded_dns_to_tc_which_reports_it() {
    let mut bench = Bench::new();
    let target = isp(0, 53);
    assert_eq!(bench.seen(Place::Client, Transport::Udp, target, 10), 10);
    bench.protect(&STRICT);
    for place in [Place::Client, Place::Host] {
        assert_eq!(bench.seen(place, Transport::Udp, target, 10), 0);
        assert_eq!(bench.seen(place, Transport::Udp, isp(0, 443), 10), 10);
        assert_eq!(bench.seen(place, Transport::Tcp, isp(1, 443), 10), 10);
    }
    let status = bench.agent().status_json().unwrap();
    for hook in ["tc", "cgroup_skb"] {
        assert_eq!(
            packets(&status, &[("hook", hook), ("verdict", "drop")]),
            10,
            "{hook}"
        );
    }
    assert_eq!(status["netfilter"]["egress"], 0, "{status}");
}

/// The row "the 32-bit system call" of the known issues.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_32_bit_system_call_is_open_in_deny_new_and_its_dns_is_dropped_in_strict() {
    let mut bench = Bench::new();
    for (arguments, expected) in [(&[][..], 1), (&STRICT[..], 0)] {
        bench.protect(arguments);
        let socket = PacketSocket::raw(bench.origin(Place::Host), UPLINK);
        assert_eq!(socket.bypass(true), Err(Errno::EPERM));
        assert_eq!(
            socket.bypass_in_32_bits(),
            Ok(()),
            "what is known to be open"
        );
        let payload = format!("in 32 bits, {arguments:?}");
        let sent = socket.send(ETHERTYPE_IPV4, &question(payload.as_bytes()));
        assert_eq!(sent.is_ok(), expected == 1, "{sent:?}");
        assert_eq!(
            count(&bench.frames(Place::Host), payload.as_bytes()),
            expected
        );
        let status = bench.agent().status_json().unwrap();
        assert_eq!(packets(&status, &[("class", "raw_bypass")]), 1, "{status}");
        // It is found, if not when it is set.
        let listed = open_sockets(&status);
        assert_eq!(listed.len(), 1, "{status}");
        assert_eq!(listed[0]["inode"], inode(&socket), "{status}");
        bench.unprotect();
    }
}

#[test]
fn what_strict_puts_in_place_is_read_back_and_mended() {
    let device = Device::new();
    let agent = device.agent(&STRICT);
    assert_eq!(device.status()["level"], "full");
    let pid = Pid::from_raw(agent.pid().cast_signed());
    let damages: [&[&str]; 3] = [
        &["flush", "chain", "netdev", "leakguard", "judge"],
        &["delete", "table", "netdev", "leakguard"],
        &["add", "rule", "netdev", "leakguard", "judge", "accept"],
    ];
    for damage in damages {
        kill(pid, Signal::SIGSTOP).unwrap();
        nft(&device, damage);
        let status = device.status();
        kill(pid, Signal::SIGCONT).unwrap();
        assert_eq!(status["level"], "reduced", "{damage:?}: {status}");
        assert_eq!(causes(&status, "strict").len(), 1, "{damage:?}: {status}");
        assert_eq!(status["hardening"]["netdev"], "absent", "{status}");
        wait_until("it is mended", LIMIT, || {
            Ok(device.status()["level"] == "full")
        })
        .unwrap();
    }
}

#[test]
fn strict_covers_an_uplink_that_comes_later_or_is_renamed() {
    let mut bench = Bench::new();
    let origin = bench.origin(Place::Host);
    let sockets = [4711, 4712].map(|number| PacketSocket::raw(origin, UPLINK).over(number));
    for socket in &sockets {
        socket.bypass(true).unwrap();
    }
    bench.protect(&STRICT);
    for (carrier, socket) in [Carrier::Veth, Carrier::Renamed].into_iter().zip(sockets) {
        let number = socket.interface();
        let mut observer = carrier.open(&bench.topology, "late0", Some(number), "");
        wait_until("the uplink is covered", LIMIT, || {
            let status = bench.agent().status_json()?;
            let tc = interface(&status, "late0").is_some_and(|found| found["tc"] != "absent");
            Ok(tc && status["level"] == "full")
        })
        .unwrap();
        for (port, expected) in [(53, 0), (443, 1)] {
            let payload = format!("over a late uplink to {port}, {carrier:?}");
            let sent = socket.send(0, &(FORMS[0].frame)(UDP, port, payload.as_bytes()));
            assert_eq!(sent.is_ok(), expected == 1, "{payload}: {sent:?}");
            let frames = observer.drain_past_fence(bench.topology.host()).unwrap();
            assert_eq!(count(&frames, payload.as_bytes()), expected, "{payload}");
        }
        carrier.close(bench.topology.host(), "late0");
        wait_until("it is full again", LIMIT, || {
            let status = bench.agent().status_json()?;
            Ok(interface(&status, "late0").is_none() && status["level"] == "full")
        })
        .unwrap();
    }
}

#[test]
fn a_kernel_without_the_hook_is_reported_once_and_the_rest_stands() {
    let mut device = Device::new();
    let real = device.directory().join("nft-real");
    let mut copy = Command::new("cp");
    copy.arg(leakguard::host::find_program("nft").unwrap())
        .arg(&real);
    Run::of(copy).ok();
    // Says of the family what a kernel before 5.16 does.
    let script = format!(
        "input=$(cat); case \"$input\" in *\"table netdev\"*) echo 'Error: Could not process rule: Operation not supported' \
         >&2; exit 1;; esac; printf '%s\\n' \"$input\" | exec {} \"$@\"",
        real.display()
    );
    let program = device.with_nft(&device.script("old-nft", &script));
    let arguments = [&["run", "--tunnel", TUNNEL][..], &STRICT].concat();
    let agent =
        device::RunningAgent::spawn(device.command_of(program, &arguments), device.directory());
    let agent = device.await_agent(agent);
    let mut status = Value::Null;
    wait_until("everything else is in place", LIMIT, || {
        status = device.status();
        Ok(status["causes"].as_array().unwrap().len() == 1)
    })
    .unwrap();
    assert_eq!(status["level"], "reduced", "{status}");
    assert_eq!(causes(&status, "Linux 5.16").len(), 1, "{status}");
    assert_eq!(device.seen(10), (0, 0));
    // The agent tries again, and does not say so again.
    wait_until("the agent says so", LIMIT, || {
        Ok(agent
            .stderr()
            .contains("packet_sockets = \"strict\" is not in place"))
    })
    .unwrap();
    assert_eq!(
        agent.stderr().matches("is not in place").count(),
        1,
        "{}",
        agent.stderr()
    );
}
