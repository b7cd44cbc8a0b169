//! Who sent: the process and the name it asked for, whatever way it sends. Also for kernels in emulated machines.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use leakguard_tests::{Bench, Place, isp};
use serde_json::Value;

/// The program that sends; in an emulated machine it is where `LEAKGUARD_SENDER` says.
fn sender_binary() -> PathBuf {
    let named = std::env::var_os("LEAKGUARD_SENDER");
    named.map_or_else(
        || env!("CARGO_BIN_EXE_leakguard-sender").into(),
        PathBuf::from,
    )
}

/// A process that sends in one way to an address of its own.
struct Sender {
    way: &'static str,
    name: String,
    target: SocketAddr,
    child: Child,
    lines: BufReader<ChildStdout>,
}

/// Who sent, by its own account.
#[derive(Debug)]
struct Sent {
    pid: u64,
    comm: String,
}

impl Sender {
    /// Makes ready to send.
    fn prepare(bench: &Bench, way: &'static str, target: SocketAddr) -> Self {
        let name = format!("{way}.attribution.test.");
        let mut command = bench.topology.host().command(sender_binary());
        bench.cgroup.attach(&mut command);
        command.args([way, &name, &target.to_string()]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(line(&mut lines), "ready", "{way}");
        Self {
            way,
            name,
            target,
            child,
            lines,
        }
    }

    fn send(&mut self) -> Sent {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"go\n")
            .unwrap();
        let sent = line(&mut self.lines);
        let (pid, comm) = sent.split_once(' ').unwrap();
        Sent {
            pid: pid.parse().unwrap(),
            comm: comm.to_owned(),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

fn line(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Where the sender of this number sends to: nobody else does.
fn target(number: usize) -> SocketAddr {
    let last = u8::try_from(100 + number).unwrap();
    SocketAddr::from((Ipv4Addr::new(198, 51, 100, last), 53))
}

/// Something that is at work all the time, so that softirqs interrupt it.
struct Busy(Vec<Child>);

impl Busy {
    fn new() -> Self {
        let busy = || {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
        };
        Self((0..2).map(|_| busy().unwrap()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn of(event: &Value, key: &str) -> String {
    match &event["process"][key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn every_way_to_send_is_attributed_to_who_sends() {
    const BEFORE: [&str; 2] = ["connected", "thread"];
    const AFTER: [&str; 13] = [
        "sendto",
        "connected",
        "tcp",
        "fork-connected",
        "fork-sendto",
        "fork-tcp",
        "passed",
        "thread",
        "uring-inline",
        "uring-async",
        "uring-sqpoll",
        "raw",
        "packet",
    ];
    let mut bench = Bench::new();
    let older = BEFORE.map(|way| (format!("{way}, socket from before"), way));
    let mut senders: Vec<(String, Sender)> = Vec::new();
    for (label, way) in older {
        let sender = Sender::prepare(&bench, way, target(senders.len()));
        senders.push((label, sender));
    }
    bench.protect(&[]);
    for way in AFTER {
        let sender = Sender::prepare(&bench, way, target(senders.len()));
        senders.push((way.to_owned(), sender));
    }
    let _busy = Busy::new();
    let cgroup = cgroup_of(&bench);
    println!("| way | expected | reported | how | question | packets |");
    println!("|---|---|---|---|---|---|");
    for (label, sender) in &mut senders {
        let sent = sender.send();
        let destination = sender.target.to_string();
        let found = bench.await_packets(label, |event| event["destination"] == destination);
        let is_tcp = sender.way.ends_with("tcp");
        let first = &found[0];
        println!(
            "| {label} | {} {} | {} {} | {} | {} | {} |",
            sent.pid,
            sent.comm,
            of(first, "pid"),
            of(first, "name"),
            of(first, "attribution"),
            first["query"]["name"],
            found.len()
        );
        for event in &found {
            let process = &event["process"];
            assert_eq!(process["pid"], sent.pid, "{label}: {event:#}");
            assert_eq!(process["name"], sent.comm, "{label}: {event:#}");
            assert_eq!(process["uid"], 0, "{label}: {event:#}");
            assert_eq!(process["user"], "root", "{label}: {event:#}");
            let exe = process["exe"].as_str().unwrap();
            assert!(exe.ends_with("leakguard-sender"), "{label}: {event:#}");
            assert_eq!(process["cmdline"][1], sender.way, "{label}: {event:#}");
            let how = if is_tcp { "owner" } else { "sender" };
            assert_eq!(process["attribution"], how, "{label}: {event:#}");
            assert_eq!(event["cgroup"], cgroup, "{label}: {event:#}");
            if is_tcp {
                // A SYN carries no question.
                assert_eq!(event["query"], Value::Null, "{label}: {event:#}");
            } else {
                assert_eq!(event["query"]["name"], sender.name, "{label}: {event:#}");
                assert_eq!(event["query"]["type"], "A", "{label}: {event:#}");
            }
        }
        if is_tcp {
            // The first, and those that a timer has sent again.
            assert!(found.len() >= 3, "{label}: {found:#?}");
        }
    }
}

/// The path of the cgroup that the senders are in.
fn cgroup_of(bench: &Bench) -> String {
    let root = leakguard::host::cgroup2_root().unwrap();
    let path = bench.cgroup.path().strip_prefix(root).unwrap();
    format!("/{}", path.display())
}

#[test]
fn a_question_over_tcp_is_read_where_it_passes() {
    let mut bench = Bench::new();
    let target = isp(0, 53);
    let listener = bench.listen(target);
    bench.protect(&["--mode", "observe"]);
    let mut sender = Sender::prepare(&bench, "tcp-data", target);
    let sent = sender.send();
    let found = bench.await_packets("the question", |event| {
        event["query"]["name"] == sender.name
    });
    assert_eq!(found[0]["verdict"], "would_drop");
    assert_eq!(found[0]["process"]["pid"], sent.pid);
    drop(listener);
}

#[test]
fn questions_to_neighbours_are_read() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    for (group, class) in [([224, 0, 0, 251], "mdns"), ([224, 0, 0, 252], "llmnr")] {
        let port = if class == "mdns" { 5353 } else { 5355 };
        let target = SocketAddr::from((group, port));
        let mut sender = Sender::prepare(&bench, "sendto", target);
        let sent = sender.send();
        let found = bench.await_packets(class, |event| event["reason"] == class);
        for event in &found {
            assert_eq!(event["process"]["pid"], sent.pid, "{event:#}");
            assert_eq!(event["query"]["name"], sender.name, "{event:#}");
        }
    }
}

#[test]
fn what_comes_from_elsewhere_is_unknown_rather_than_wrong() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    // A client of the router has a kernel of its own, for all that is known here: it is not below the guarded cgroup.
    let server = isp(0, 53);
    let socket = bench.origin(Place::Client).udp(server.ip());
    socket
        .send_to(
            b"\x4c\x47\x01\0\0\x01\0\0\0\0\0\0\x05alien\x04test\0\0\x01\0\x01",
            server,
        )
        .unwrap();
    let found = bench.await_packets("the client's question", |event| {
        event["query"]["name"] == "alien.test."
    });
    for event in &found {
        assert_eq!(event["process"], Value::Null, "{event:#}");
        assert_eq!(event["container"], Value::Null, "{event:#}");
        assert_eq!(event["hook"], "tc", "{event:#}");
    }
}
