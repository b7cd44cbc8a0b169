//! Nothing is left uncounted: every dropped packet has an event, or is told of as suppressed, or counted as lost.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leakguard::lab::{Agent, wait_until};
use leakguard_tests::{
    Bench, Place, connect, isp, packets, resident, send_many, set_option, write_config,
};
use nix::libc;
use serde_json::Value;

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_mins(1);
/// What an agent may hold of the machine's memory.
const MEMORY: u64 = 64 << 20;

/// What a client of the agent has been told.
#[derive(Debug, Default)]
struct Heard {
    /// Packets with an event.
    told: u64,
    /// Packets without, as events and summaries say.
    suppressed: u64,
    /// Events that the client was too slow for.
    missed: u64,
}

/// `leakguard events --follow --json`.
struct Follower {
    child: Child,
    reading: JoinHandle<Heard>,
    destinations: Receiver<String>,
}

impl Follower {
    fn start(agent: &Agent) -> Self {
        let mut command = agent.command(&["events", "--follow", "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, destinations) = channel();
        let reading = thread::spawn(move || {
            let mut heard = Heard::default();
            let mut last = String::new();
            for line in lines.map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap();
                match event["kind"].as_str().unwrap() {
                    "packet" => {
                        heard.told += event["packets"].as_u64().unwrap();
                        heard.suppressed += event["suppressed"].as_u64().unwrap();
                        let destination = event["destination"].as_str().unwrap();
                        if destination != last {
                            destination.clone_into(&mut last);
                            sender.send(destination.to_owned()).ok();
                        }
                    }
                    "suppressed" => heard.suppressed += event["packets"].as_u64().unwrap(),
                    _ => {}
                }
            }
            heard
        });
        Self {
            child,
            reading,
            destinations,
        }
    }

    /// Waits until it has heard of a packet that is sent now, and so of all before.
    fn catch_up(&self, bench: &Bench, target: SocketAddr) {
        flood(bench, Place::Host, target, 1);
        let target = target.to_string();
        while self.destinations.recv_timeout(LIMIT).unwrap() != target {}
    }

    /// Lets it hear the rest; what it has heard.
    fn finish(mut self) -> Heard {
        assert!(self.child.try_wait().unwrap().is_none(), "it was cut off");
        self.child.kill().unwrap();
        let output = self.child.wait_with_output().unwrap();
        let mut heard = self.reading.join().unwrap();
        let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
        for words in warnings
            .lines()
            .filter_map(|line| line.split_once("missed "))
        {
            let number = words.1.split_whitespace().next().unwrap();
            heard.missed += number.parse::<u64>().unwrap();
        }
        heard
    }
}

/// Sends so many datagrams by one connected socket; every one is refused, which is what is wanted.
fn flood(bench: &Bench, place: Place, target: SocketAddr, count: usize) {
    let socket = bench.origin(place).udp(target.ip());
    connect(&socket, target).unwrap();
    let payload = [0x2a; 20];
    for _ in 0..count {
        drop(socket.send(&payload));
    }
}

/// Sends datagrams that the kernel cuts out of one buffer.
fn flood_in_segments(bench: &Bench, target: SocketAddr, buffers: usize) {
    const UDP_SEGMENT: i32 = 103;
    const SEGMENT: usize = 30;

    let socket = bench.origin(Place::Host).udp(target.ip());
    connect(&socket, target).unwrap();
    set_option(socket.as_fd(), libc::SOL_UDP, UDP_SEGMENT, &30_i32).unwrap();
    for _ in 0..buffers {
        drop(send_many(&socket, &[[0x2b; 10 * SEGMENT]]));
    }
}

fn count(status: &Value, outcome: &str) -> u64 {
    status["events"][outcome].as_u64().unwrap()
}

/// The most memory that a process has had, in bytes.
fn peak_memory(pid: u32) -> u64 {
    resident(pid).unwrap().most * 1024
}

/// Waits until the events stop, and what was suppressed has been told.
fn settle(bench: &mut Bench) -> Value {
    let mut last = Value::Null;
    let mut since = Instant::now();
    wait_until("nothing new is told", LIMIT, || {
        let status = bench.agent().status_json()?;
        let recent = bench.agent().events_json()?;
        let now = serde_json::json!([status["events"], recent.last()]);
        if now != last {
            last = now;
            since = Instant::now();
        }
        // What was suppressed is told of a second or two after it has become quiet.
        Ok(since.elapsed() > Duration::from_secs(4))
    })
    .unwrap();
    bench.agent().status_json().unwrap()
}

#[test]
fn a_flood_is_accounted_for_to_the_packet() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let followers: Vec<Follower> = (0..3).map(|_| Follower::start(bench.agent())).collect();
    let started = Instant::now();
    for (place, target, count) in [
        (Place::Host, isp(0, 53), 1_000_000),
        (Place::Host, isp(1, 853), 20_000),
        (Place::Client, isp(0, 53), 20_000),
    ] {
        flood(&bench, place, target, count);
    }
    flood_in_segments(&bench, isp(0, 853), 1_000);
    let elapsed = started.elapsed();
    let status = settle(&mut bench);
    let dropped = packets(&status, &[("verdict", "drop")]);
    assert!(dropped >= 1_050_000, "{dropped}");
    let [submitted, lost, suppressed] =
        ["submitted", "lost", "suppressed"].map(|outcome| count(&status, outcome));
    println!(
        "{dropped} packets dropped in {elapsed:?}: {submitted} told of, {suppressed} suppressed, {lost} lost"
    );
    assert_eq!(submitted + lost + suppressed, dropped, "{status}");
    assert!(suppressed > dropped * 9 / 10, "the limit holds");
    for follower in followers {
        let heard = follower.finish();
        assert_eq!(heard.missed, 0, "{heard:?}");
        assert_eq!(heard.told, submitted, "{heard:?}");
        assert_eq!(heard.suppressed, suppressed, "{heard:?}");
    }
    let memory = peak_memory(bench.agent().pid());
    println!("the agent's memory: {} KiB at most", memory / 1024);
    assert!(memory < MEMORY, "{memory}");
}

#[test]
fn without_a_limit_what_finds_no_room_is_counted() {
    let mut bench = Bench::new();
    let config = write_config("[events]\nrate_per_key = 0\n");
    bench.protect(&["--config", config.path().to_str().unwrap()]);
    let follower = Follower::start(bench.agent());
    // What comes before it listens, it is not told that it has missed.
    follower.catch_up(&bench, isp(0, 853));
    flood(&bench, Place::Host, isp(0, 53), 300_000);
    // It would count an event that it has missed as one packet, and the one that says that it has caught up not at all.
    settle(&mut bench);
    follower.catch_up(&bench, isp(1, 853));
    flood_in_segments(&bench, isp(0, 53), 100);
    let status = settle(&mut bench);
    let dropped = packets(&status, &[("verdict", "drop")]);
    let [submitted, lost, suppressed] =
        ["submitted", "lost", "suppressed"].map(|outcome| count(&status, outcome));
    println!(
        "{dropped} packets dropped: {submitted} told of, {suppressed} suppressed, {lost} lost"
    );
    assert_eq!(submitted + lost, dropped, "{status}");
    assert_eq!(suppressed, 0, "{status}");
    let heard = follower.finish();
    assert_eq!(heard.told + heard.missed, submitted, "{heard:?}");
    assert!(peak_memory(bench.agent().pid()) < MEMORY);
}

#[test]
fn a_sender_that_goes_on_does_not_hide_another() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    flood(&bench, Place::Host, isp(0, 53), 10_000);
    // Another destination, another class, another family, another host: each is told of.
    for (place, target) in [
        (Place::Host, isp(0, 853)),
        (Place::Host, isp(1, 53)),
        (Place::Client, isp(0, 53)),
    ] {
        flood(&bench, place, target, 1);
    }
    let told = |target: &str, hook: &str, events: &[Value]| {
        events.iter().any(|event| {
            event["kind"] == "packet" && event["destination"] == target && event["hook"] == hook
        })
    };
    wait_until("each is told of", LIMIT, || {
        let events = bench.agent().events_json()?;
        Ok(told(&isp(0, 853).to_string(), "cgroup_skb", &events)
            && told(&isp(1, 53).to_string(), "cgroup_skb", &events)
            && told(&isp(0, 53).to_string(), "tc", &events))
    })
    .unwrap();
}

#[test]
fn a_new_agent_does_not_tell_again_what_was_told() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    flood(&bench, Place::Host, isp(0, 53), 10_000);
    let before = settle(&mut bench);
    assert!(count(&before, "suppressed") > 9_000);
    bench.agent().kill9().unwrap();
    bench.agent().restart().unwrap();
    flood(&bench, Place::Client, isp(0, 53), 1);
    settle(&mut bench);
    let events = bench.agent().events_json().unwrap();
    let again: Vec<&Value> = events
        .iter()
        .filter(|event| event["kind"] == "suppressed")
        .collect();
    assert!(again.is_empty(), "{again:#?}");
    assert!(
        events.iter().any(|event| event["kind"] == "packet"),
        "control"
    );
}
