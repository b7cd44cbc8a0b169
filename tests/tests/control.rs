//! What a running agent can be asked, by whom, and what nobody can do to it by asking.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::thread;

use device::{Device, PATIENCE, RunningAgent, TUNNEL};
use leakguard::lab::{Bpffs, Topology, wait_until};
use leakguard_tests::write_config;
use nix::sys::signal::Signal;
use serde_json::Value;

const PROBES: usize = 50;

/// Changes the tunnels and looks at real packets after each change.
fn allow_changes_what_passes(device: &mut Device) {
    assert_eq!(device.leakguard(&["allow", "list"]).ok(), TUNNEL);
    assert_eq!(device.seen(PROBES), (0, 0), "control: it is blocked");

    let uplink = Topology::UPLINK;
    let add = ["allow", "add", uplink];
    assert_eq!(device.leakguard(&add).ok(), "eth0 may carry DNS");
    assert_eq!(device.seen(PROBES), (PROBES, PROBES));
    let list = device.leakguard(&["allow", "list"]).ok().to_owned();
    let mut listed: Vec<&str> = list.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, [uplink, TUNNEL]);
    assert_eq!(device.leakguard(&add).ok(), "unchanged");

    let remove = ["allow", "remove", uplink];
    assert_eq!(device.leakguard(&remove).ok(), "eth0 may not carry DNS");
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.leakguard(&remove).ok(), "unchanged");
    assert_eq!(device.leakguard(&["allow", "list"]).ok(), TUNNEL);
    assert_eq!(device.status()["level"], "full");

    for verb in ["add", "remove"] {
        device
            .leakguard(&["allow", verb, "absent0"])
            .refused(2, &["there is no interface `absent0`"]);
    }
    device
        .leakguard(&["allow", "add", "a/b"])
        .bad_usage("not the name of an interface");
    device
        .leakguard(&["allow", "remove", "lo"])
        .refused(2, &["lo is this host itself"]);
    assert_eq!(device.seen(PROBES), (0, 0));
}

#[test]
fn allow_works_through_an_agent() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let _agent = device.agent(&[]);
    allow_changes_what_passes(&mut device);
}

#[test]
fn allow_works_without_an_agent() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    for arguments in [["allow", "add", TUNNEL].as_slice(), &["allow", "list"]] {
        device
            .leakguard(arguments)
            .refused(3, &["nothing is enforced", "leakguard run"]);
    }
    device.assert_untouched();
    device.leakguard(&["apply", "--tunnel", TUNNEL]).ok();
    allow_changes_what_passes(&mut device);
}

#[test]
fn what_is_allowed_passes_from_the_answer_on() {
    const ROUNDS: usize = 10;
    let mut device = Device::new();
    let agent = device.agent(&[]);
    for _ in 0..ROUNDS {
        device.leakguard(&["allow", "add", Topology::UPLINK]).ok();
        assert_eq!(device.seen(PROBES), (PROBES, PROBES));
        device
            .leakguard(&["allow", "remove", Topology::UPLINK])
            .ok();
        assert_eq!(device.seen(PROBES), (0, 0));
    }
    assert_eq!(device.status()["agent"], agent.pid());
}

/// A `leakguard events --follow --json`, killed when dropped.
struct Follower {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn start(device: &Device) -> Self {
        let mut command = device.command(&["events", "--follow", "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn events_are_shown_to_everybody_who_asks() {
    let mut device = Device::new();
    device
        .leakguard(&["events"])
        .refused(1, &["no agent listens on", "leakguard run"]);
    let mut agent = device.agent(&[]);
    assert_eq!(device.leakguard(&["events", "--json"]).ok(), "");
    assert_eq!(device.seen(3), (0, 0));
    let recent = || -> Vec<Value> {
        let events = device.leakguard(&["events", "--json"]);
        let lines = events.ok().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    // One of a local socket and one of a forwarded packet each.
    wait_until("the events are there", PATIENCE, || Ok(recent().len() >= 6)).unwrap();
    let events = recent();
    for (event, seq) in events.iter().zip(1_u64..) {
        assert_eq!(event["v"], 1, "{event}");
        assert_eq!(event["seq"], seq);
        assert_eq!(
            (&event["verdict"], &event["reason"]),
            (&"drop".into(), &"dns".into())
        );
        assert_eq!(event["interface"]["name"], Topology::UPLINK);
        assert_eq!(event["destination"], "198.51.100.53:53");
    }
    let text = device.leakguard(&["events"]).ok().to_owned();
    assert_eq!(text.lines().count(), events.len(), "{text}");
    assert!(
        text.lines().all(|line| line.contains("198.51.100.53")),
        "{text}"
    );

    let mut followers = [Follower::start(&device), Follower::start(&device)];
    for follower in &mut followers {
        for event in &events {
            assert_eq!(follower.next(), *event, "the recent ones come first");
        }
    }
    assert_eq!(device.seen(2), (0, 0));
    let [first, second] = &mut followers;
    for seq in events.len() + 1..=events.len() + 4 {
        let event = first.next();
        assert_eq!(event["seq"], seq);
        assert_eq!(second.next(), event);
    }
    assert!(agent.signal(Signal::SIGTERM).success());
    for follower in &mut followers {
        assert!(follower.lines.next().is_none(), "it ends with the agent");
        assert!(follower.child.wait().unwrap().success());
    }
}

/// Counts what an event client was sent: events, and those it was told it missed.
fn count(line: &str, events: &mut u64, missed: &mut u64) {
    let line: Value = serde_json::from_str(line).unwrap();
    match line["missed"]["events"].as_u64() {
        Some(more) => *missed += more,
        None => *events += u64::from(line["seq"].is_u64()),
    }
}

fn follow(device: &Device) -> UnixStream {
    let mut client = UnixStream::connect(device.control()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
        .write_all(b"{\"command\":\"events\",\"follow\":true}\n")
        .unwrap();
    client
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
    /// More than the agent keeps for a client, and than a socket holds.
    const FLOOD: u64 = 12_000;
    let device = Device::new();
    // Every packet is to have its event.
    let config = write_config("[events]\nrate_per_key = 0\n");
    let agent = device.agent(&["--config", config.path().to_str().unwrap()]);
    let stuck = follow(&device);
    let attentive = follow(&device);
    let [local, forwarded] = device.flood();
    forwarded.stop();
    let reader = thread::spawn(move || {
        let (mut events, mut missed) = (0, 0);
        for line in BufReader::new(attentive).lines() {
            count(&line.unwrap(), &mut events, &mut missed);
            if events + missed >= FLOOD {
                break;
            }
        }
        (events, missed)
    });
    local.go_on(FLOOD);
    assert_eq!(device.status()["agent"], agent.pid(), "it still answers");
    let flooded = local.stop();
    let attentive = reader.join().unwrap();
    assert_eq!(flooded.sent, flooded.refused);

    let submitted = device.status()["events"]["submitted"].as_u64().unwrap();
    let (mut events, mut missed) = (0, 0);
    let mut lines = BufReader::new(stuck).lines();
    while events + missed < submitted {
        count(&lines.next().unwrap().unwrap(), &mut events, &mut missed);
    }
    assert_eq!(events + missed, submitted);
    assert!(missed > 0, "{events} events fit, so the test shows nothing");
    eprintln!(
        "{flooded:?}; who read all the time got {attentive:?} (events, missed); who did not: {:?} of {submitted}",
        (events, missed)
    );
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn only_root_may_ask() {
    let mut device = Device::new();
    let agent = device.agent(&[]);
    let control = device.control();
    assert_eq!(mode(&control), 0o600);
    assert_eq!(mode(control.parent().unwrap()), 0o700);

    let binary = device.public_binary();
    let as_nobody = |arguments: &[&str]| {
        let unprivileged = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut command = device.host().command("setpriv");
        command.args(unprivileged).arg(&binary).args(arguments);
        command.arg("--control").arg(&control);
        if arguments[0] != "events" {
            command.arg("--bpffs").arg(device.bpffs.path());
        }
        device::Run::of(command)
    };
    let questions = [
        ["events"].as_slice(),
        &["release"],
        &["allow", "add", Topology::UPLINK],
    ];
    for question in questions {
        as_nobody(question).refused(4, &["the right to ask", "as root"]);
    }
    as_nobody(&["status"]).refused(4, &["is missing", "as root"]);

    // As if somebody had opened the way to the socket.
    let directory = control.parent().unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&control, Permissions::from_mode(0o666)).unwrap();
    for question in questions {
        as_nobody(question).refused(4, &["the right to ask", "as root"]);
    }
    assert_eq!(
        device.leakguard(&["events"]).code,
        Some(0),
        "control: root may"
    );
    assert_eq!(device.status()["agent"], agent.pid());
    assert_eq!(device.leakguard(&["allow", "list"]).ok(), TUNNEL);
    assert_eq!(device.seen(PROBES), (0, 0));
}

#[test]
fn nonsense_is_answered_or_cut_off_and_harms_nobody() {
    let mut device = Device::new();
    let agent = device.agent(&[]);
    let ask = |question: &[u8], finish: bool| -> String {
        let mut client = UnixStream::connect(device.control()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        match client.write_all(question) {
            Ok(()) => {}
            // It was cut off before the end.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => panic!("{error}"),
        }
        if finish {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let mut answer = Vec::new();
        match client.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("no answer and no end: {error}"),
        }
        String::from_utf8(answer).unwrap()
    };
    let oversized = vec![b'x'; 1 << 20];
    let long_name = format!(
        "{{\"command\":\"allow\",\"interface\":\"{}\",\"allow\":true}}\n",
        "x".repeat(3000)
    );
    let questions: [&[u8]; 9] = [
        b"\n",
        b"garbage\n",
        b"{}\n",
        b"{\"command\":\"release\",\"extra\":1}\n",
        b"{\"command\":\"allow\",\"interface\":\"../../etc\",\"allow\":true}\n",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
        b"\xff\xfe\x00\n",
        &oversized,
        long_name.as_bytes(),
    ];
    for question in questions {
        let answer = ask(question, false);
        assert!(
            answer.is_empty() || answer.contains("\"refused\""),
            "{answer}"
        );
        assert!(answer.len() < 8192, "{} bytes", answer.len());
    }
    assert!(ask(b"", true).contains("refused"), "who hangs up is let go");
    // Who says nothing is cut off after a while.
    assert_eq!(ask(b"", false), "");
    let hello = ask(b"{\"command\":\"hello\"}\n", false);
    assert!(hello.contains(&agent.pid().to_string()), "control: {hello}");
    assert_eq!(device.status()["agent"], agent.pid());
    assert_eq!(device.leakguard(&["allow", "list"]).ok(), TUNNEL);
    assert_eq!(device.seen(PROBES), (0, 0));
}

#[test]
fn a_stale_socket_is_replaced() {
    let mut device = Device::new();
    let mut agent = device.agent(&[]);
    agent.kill9();
    let is_socket = || {
        let found = fs::symlink_metadata(device.control()).unwrap();
        found.file_type().is_socket()
    };
    assert!(is_socket(), "control: it was left behind");
    let agent = device.agent(&[]);
    assert!(is_socket());
    assert_eq!(device.status()["agent"], agent.pid());
    assert_eq!(device.seen(PROBES), (0, 0));
}

#[test]
fn an_agent_that_cannot_listen_enforces_nothing() {
    let mut device = Device::new();
    let run = ["run", "--tunnel", TUNNEL];
    fs::create_dir(device.control().parent().unwrap()).unwrap();

    fs::write(device.control(), "precious").unwrap();
    device
        .leakguard(&run)
        .refused(1, &["is not a socket", "--control"]);
    assert_eq!(fs::read(device.control()).unwrap(), b"precious");
    device.assert_untouched();
    fs::remove_file(device.control()).unwrap();

    // Whoever listens there, it is not for us to end it.
    let _listener = UnixListener::bind(device.control()).unwrap();
    device
        .leakguard(&run)
        .refused(1, &["an agent already listens on", "--control"]);
    assert!(device.control().exists());
    device.assert_untouched();
    fs::remove_file(device.control()).unwrap();

    device
        .leakguard(&[&run[..], &["--control", "/proc/none/control.sock"]].concat())
        .refused(1, &["cannot listen on /proc/none/control.sock"]);
    device.assert_untouched();
}

#[test]
fn two_agents_do_not_share_a_control_path() {
    let mut device = Device::new();
    let agent: RunningAgent = device.agent(&[]);
    let other = Bpffs::new().unwrap();
    let path = other.path().to_str().unwrap();
    device
        .leakguard(&["run", "--tunnel", TUNNEL, "--bpffs", path])
        .refused(1, &["an agent already listens on"]);
    assert!(!other.path().join("leakguard").exists());
    assert_eq!(device.status()["agent"], agent.pid());
    assert_eq!(device.seen(PROBES), (0, 0));
}
