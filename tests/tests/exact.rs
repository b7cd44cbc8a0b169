//! Every attempt is counted exactly, and named where it can be.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use leakguard::lab::{Query, address, carries_name, output_within, wait_until};
use leakguard_tests::{Bench, Place, Transport, connect, packets, write_config};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(5);

fn isp(family: &str, port: u16) -> SocketAddr {
    let server: IpAddr = match family {
        "ipv4" => address::ISP_RESOLVER_V4.into(),
        _ => address::ISP_RESOLVER_V6.into(),
    };
    SocketAddr::new(server, port)
}

/// The counters that are not 0, by class, family, protocol and hook, with their verdict and role.
fn counters(status: &Value) -> BTreeMap<[String; 6], u64> {
    let entries = status["packets"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            let labels = ["class", "verdict", "family", "protocol", "role", "hook"];
            let labels = labels.map(|label| entry[label].as_str().unwrap().to_owned());
            (labels, entry["count"].as_u64().unwrap())
        })
        .collect()
}

/// Class, transport, port.
const KINDS: [(&str, Transport, u16); 9] = [
    ("dns", Transport::Udp, 53),
    ("dns", Transport::Tcp, 53),
    ("doq", Transport::Udp, 853),
    ("dot", Transport::Tcp, 853),
    ("mdns", Transport::Udp, 5353),
    ("llmnr", Transport::Udp, 5355),
    ("llmnr", Transport::Tcp, 5355),
    ("netbios", Transport::Udp, 137),
    ("netbios", Transport::Tcp, 137),
];

/// Sends another number of probes of each kind; gives what the counters must say then.
fn send_all(bench: &mut Bench, place: Place, hook: &str) -> BTreeMap<[String; 6], u64> {
    let mut expected = BTreeMap::new();
    let mut count = 1;
    for family in ["ipv4", "ipv6"] {
        for (class, transport, port) in KINDS {
            assert_eq!(bench.seen(place, transport, isp(family, port), count), 0);
            let protocol = match transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            };
            let labels = [class, "drop", family, protocol, "uplink", hook];
            expected.insert(labels.map(str::to_owned), count as u64);
            count += 1;
        }
    }
    expected
}

#[test]
fn counters_say_what_was_dropped_by_every_label() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let mut expected = send_all(&mut bench, Place::Host, "cgroup_skb");
    let status = bench.agent().status_json().unwrap();
    assert_eq!(counters(&status), expected);
    assert_eq!(status["netfilter"]["routed"], 0);
    let local: u64 = expected.values().sum();
    println!("{local} local packets in {} series: exact", expected.len());

    let forwarded: u64 = send_all(&mut bench, Place::Client, "tc").values().sum();
    let status = bench.agent().status_json().unwrap();
    let caught = status["netfilter"]["routed"].as_u64().unwrap();
    let at_tc = packets(&status, &[("hook", "tc"), ("verdict", "drop")]);
    assert_eq!(caught + at_tc, forwarded, "{status}");
    println!(
        "{forwarded} forwarded packets: {at_tc} dropped at TC, {caught} by the second net: exact"
    );

    // Without the second net TC alone drops and counts them, and without an agent nobody puts it back.
    bench.agent().kill9().unwrap();
    nft(&bench, "delete table inet leakguard");
    let at_tc = counters(&status);
    for (labels, count) in send_all(&mut bench, Place::Client, "tc") {
        *expected.entry(labels).or_default() += count;
    }
    for (labels, count) in at_tc.into_iter().filter(|(labels, _)| labels[5] == "tc") {
        *expected.entry(labels).or_default() += count;
    }
    let status = bench.agent().status_json().unwrap();
    assert_eq!(counters(&status), expected);
    assert_eq!(status["level"], "reduced", "the missing table is noticed");
    println!("{forwarded} forwarded packets without the second net: exact at TC");
}

fn nft(bench: &Bench, command: &str) {
    let mut nft: Command = bench.topology.host().command("nft");
    nft.args(command.split(' '));
    let output = output_within(nft, LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The events of a kind, once there is one.
fn await_events(bench: &mut Bench, what: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut found = Vec::new();
    wait_until(what, LIMIT, || {
        let events = bench.agent().events_json()?;
        for (number, event) in (1_u64..).zip(&events) {
            assert_eq!(event["seq"], number, "no gap");
        }
        found = events.into_iter().filter(|event| wanted(event)).collect();
        Ok(!found.is_empty())
    })
    .unwrap();
    found
}

#[test]
fn a_lookup_over_udp_is_named_with_its_sender() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let mut observed = Vec::new();
    for (family, record) in [("ipv4", "AAAA"), ("ipv6", "TXT")] {
        let name = format!("{family}.named.test");
        let server = isp(family, 53);
        let query = Query::new(server.ip(), &name, record).timeout(Duration::from_secs(1));
        let lookup = query
            .run(bench.topology.host(), Some(&bench.cgroup))
            .unwrap();
        assert!(!lookup.status.success(), "{lookup:?}");
        observed.extend(bench.frames(Place::Host));
        let asked = format!("{name}.");
        let events = await_events(&mut bench, &name, |event| event["query"]["name"] == *asked);
        for event in events {
            assert_eq!(event["query"]["type"], record, "{event}");
            assert_eq!(event["verdict"], "drop", "{event}");
            assert_eq!(event["reason"], "dns", "{event}");
            assert_eq!(event["hook"], "cgroup_skb", "{event}");
            assert_eq!(event["family"], family, "{event}");
            assert_eq!(event["protocol"], "udp", "{event}");
            assert_eq!(event["destination"], server.to_string(), "{event}");
            assert_eq!(event["interface"]["name"], "eth0", "{event}");
            assert_eq!(event["interface"]["role"], "uplink", "{event}");
            // dig may have ended before the event was read; what the kernel saw is there in any case.
            assert!(
                event["process"]["pid"].as_u64().is_some_and(|pid| pid > 0),
                "{event}"
            );
            assert_eq!(event["process"]["uid"], 0, "{event}");
        }
    }
    assert!(
        !observed
            .iter()
            .any(|frame| carries_name(frame, "named.test"))
    );

    // A sender that lives on is named in full.
    let socket = bench.origin(Place::Host).udp(isp("ipv4", 53).ip());
    let error = socket
        .send_to(&question("self.named.test"), isp("ipv4", 53))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let events = await_events(&mut bench, "this test's own lookup", |event| {
        event["query"]["name"] == "self.named.test."
    });
    let [event] = &events[..] else {
        unreachable!("one datagram, one event: {events:?}");
    };
    let executable = std::env::current_exe().unwrap();
    assert_eq!(event["process"]["pid"], std::process::id(), "{event}");
    assert_eq!(
        event["process"]["exe"],
        executable.to_str().unwrap(),
        "{event}"
    );
    assert_eq!(event["process"]["user"], "root", "{event}");
    assert_eq!(
        event["source"],
        format!("192.168.77.10:{}", socket.local_addr().unwrap().port())
    );
}

/// A DNS message that asks for the address of a name.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x4c, 0x47, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

#[test]
fn a_lookup_on_an_established_connection_is_named() {
    let mut bench = Bench::new();
    let target = isp("ipv6", 53);
    let listener = bench.listen(target);
    let mut stream = bench.origin(Place::Host).tcp(target.ip(), 1).pop().unwrap();
    connect(&stream, target).unwrap();
    let _accepted = listener.accept().unwrap();
    let over_tcp = |name: &str| {
        let message = question(name);
        let length = u16::try_from(message.len()).unwrap();
        [&length.to_be_bytes()[..], &message].concat()
    };
    stream.write_all(&over_tcp("control.stream.test")).unwrap();
    let frames = bench.frames(Place::Host);
    assert!(
        frames
            .iter()
            .any(|frame| carries_name(frame, "control.stream.test"))
    );

    bench.protect(&[]);
    stream.write_all(&over_tcp("secret.stream.test")).unwrap();
    let events = await_events(&mut bench, "the lookup in the stream", |event| {
        event["query"]["name"] == "secret.stream.test."
    });
    for event in &events {
        assert_eq!(event["query"]["type"], "A", "{event}");
        assert_eq!(event["protocol"], "tcp", "{event}");
        assert_eq!(event["destination"], target.to_string(), "{event}");
    }
    let frames = bench.frames(Place::Host);
    assert!(
        !frames
            .iter()
            .any(|frame| carries_name(frame, "secret.stream.test"))
    );
}

/// Sends a signal to the agent.
fn signal(bench: &mut Bench, signal: Signal) {
    let pid = bench.agent().pid().cast_signed();
    nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn a_flood_with_the_agent_stopped_changes_no_verdict_and_loses_nothing_silently() {
    const FLOOD: u64 = 50_000;
    let mut bench = Bench::new();
    // Every one is worth an event here.
    let config = write_config("[events]\nrate_per_key = 0\n");
    bench.protect(&["--config", config.path().to_str().unwrap()]);
    let target = isp("ipv4", 53);
    let socket = bench.origin(Place::Host).udp(target.ip());
    let mut refused = 0;
    let started = Instant::now();
    for number in 0..FLOOD {
        if number == FLOOD / 10 {
            signal(&mut bench, Signal::SIGSTOP);
        }
        if number == FLOOD / 10 * 9 {
            signal(&mut bench, Signal::SIGCONT);
        }
        match socket.send_to(b"a flood of these", target) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => refused += 1,
            other => panic!("datagram {number}: {other:?}"),
        }
    }
    let elapsed = started.elapsed();
    assert_eq!(refused, FLOOD);
    let frames = bench.frames(Place::Host);
    assert!(
        !frames
            .iter()
            .any(|frame| frame.ends_with(b"a flood of these"))
    );

    let status = bench.agent().status_json().unwrap();
    let labels = [
        ("class", "dns"),
        ("protocol", "udp"),
        ("hook", "cgroup_skb"),
    ];
    assert_eq!(packets(&status, &labels), FLOOD, "{status}");
    assert_eq!(packets(&status, &[("verdict", "drop")]), FLOOD, "{status}");
    let submitted = status["events"]["submitted"].as_u64().unwrap();
    let lost = status["events"]["lost"].as_u64().unwrap();
    assert_eq!(submitted + lost, FLOOD, "{status}");
    assert!(lost > 0, "the ring was full while the agent was stopped");

    // What was written is all read in the end, in order.
    wait_until("the agent has read the last event", LIMIT, || {
        let events = bench.agent().events_json()?;
        let numbers: Vec<u64> = events
            .iter()
            .filter_map(|event| event["seq"].as_u64())
            .collect();
        assert!(
            numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "no gap"
        );
        Ok(numbers.last() == Some(&submitted))
    })
    .unwrap();
    println!(
        "{FLOOD} datagrams refused in {elapsed:?}; events: {submitted} submitted, {lost} lost, none unaccounted for"
    );
}
