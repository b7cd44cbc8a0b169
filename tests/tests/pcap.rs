//! What a capture of events looks like to Wireshark, whose dissector nobody has told anything about leakguard.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leakguard::lab::{Query, address, output_within, wait_until};
use leakguard_tests::{Bench, Place, connect, isp};

const PATIENCE: Duration = Duration::from_secs(30);

/// One packet as tshark reads it.
#[derive(Debug)]
struct Packet {
    comment: String,
    name: String,
    destination: String,
    interface: String,
    description: String,
    protocols: String,
    epoch: f64,
}

fn tshark(file: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file).args(arguments);
    let output = output_within(command, PATIENCE).unwrap();
    // A capture that is cut in the middle of a block is reported here, and is no success.
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn packets(file: &Path) -> Vec<Packet> {
    const FIELDS: [&str; 8] = [
        "frame.comment",
        "dns.qry.name",
        "ip.dst",
        "ipv6.dst",
        "frame.interface_name",
        "frame.interface_description",
        "frame.protocols",
        "frame.time_epoch",
    ];
    let mut arguments = vec!["-T", "fields"];
    for field in FIELDS {
        arguments.extend(["-e", field]);
    }
    let text = tshark(file, &arguments);
    let lines = text.lines().map(|line| line.split('\t').collect());
    lines
        .map(|fields: Vec<&str>| {
            let [
                comment,
                name,
                v4,
                v6,
                interface,
                description,
                protocols,
                epoch,
            ] = fields[..]
            else {
                unreachable!("{fields:?}");
            };
            Packet {
                comment: comment.to_owned(),
                name: name.to_owned(),
                destination: format!("{v4}{v6}"),
                interface: interface.to_owned(),
                description: description.to_owned(),
                protocols: protocols.to_owned(),
                epoch: epoch.parse().unwrap(),
            }
        })
        .collect()
}

/// Nothing in the capture is malformed, or a mystery to the dissector.
#[track_caller]
fn assert_well_formed(file: &Path) {
    for filter in ["_ws.malformed", "_ws.expert.severity >= 8388608"] {
        assert_eq!(tshark(file, &["-Y", filter]), "", "{filter}");
    }
    assert_eq!(tshark(file, &["-Y", "ip.checksum.status == \"Bad\""]), "");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A question for `name A` as it goes over TCP.
fn framed(name: &str) -> Vec<u8> {
    let mut message = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend(b"\0\0\x01\0\x01");
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&length[..], &message].concat()
}

/// Ends when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_capture_names_process_and_question_of_each_packet() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leaks.pcapng");
    let mut bench = Bench::new();

    // Connections from before, so that there are segments with questions in them.
    let mut connections = Vec::new();
    for family in 0..2 {
        let listener = bench.listen(isp(family, 53));
        let socket = bench
            .origin(Place::Host)
            .tcp(isp(family, 53).ip(), 1)
            .pop()
            .unwrap();
        connect(&socket, isp(family, 53)).unwrap();
        connections.push((listener.accept().unwrap(), socket));
    }
    bench.protect(&[]);
    let servers: [std::net::IpAddr; 2] = [
        address::ISP_RESOLVER_V4.into(),
        address::ISP_RESOLVER_V6.into(),
    ];
    for (family, server) in servers.into_iter().enumerate() {
        let look_up = |name: &str, host: bool| {
            let query = Query::new(server, name, "AAAA").timeout(Duration::from_secs(1));
            let netns = bench.netns(if host { Place::Host } else { Place::Client });
            query.run(netns, host.then_some(&bench.cgroup)).unwrap()
        };
        look_up(&format!("local{family}.example.com"), true);
        look_up(&format!("forwarded{family}.example.com"), false);
        let (_, socket) = &mut connections[family];
        socket
            .write_all(&framed(&format!("tcp{family}.example.com")))
            .unwrap();
    }
    let expected: Vec<String> = ["local", "forwarded", "tcp"]
        .iter()
        .flat_map(|kind| (0..2).map(move |family| format!("{kind}{family}.example.com")))
        .collect();
    let named = |bench: &mut Bench| {
        let events = bench.agent().events_json().unwrap();
        expected
            .iter()
            .filter(|name| {
                events
                    .iter()
                    .any(|event| event["query"]["name"] == format!("{name}."))
            })
            .count()
    };
    wait_until("every question is reported", PATIENCE, || {
        Ok(named(&mut bench) == expected.len())
    })
    .unwrap();

    let path = file.to_str().unwrap();
    let run = |bench: &mut Bench, path: &str| bench.agent().output(&["events", "--pcap", path]);
    let output = run(&mut bench, path).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(mode(&file), 0o600);
    let found = packets(&file);
    for packet in &found {
        println!("{packet:?}");
    }
    assert_well_formed(&file);
    for name in &expected {
        let of_name: Vec<_> = found.iter().filter(|packet| packet.name == *name).collect();
        assert!(!of_name.is_empty(), "{name}: {found:#?}");
        for packet in of_name {
            let family = usize::from(name.contains('1'));
            assert_eq!(packet.destination, servers[family].to_string());
            let transport = if name.starts_with("tcp") {
                "tcp"
            } else {
                "udp"
            };
            assert!(packet.protocols.contains(transport), "{packet:?}");
            assert_eq!(packet.interface, "eth0");
            assert!(packet.description.contains("role uplink"), "{packet:?}");
            for word in ["drop dns", &format!("{name}.")] {
                assert!(packet.comment.contains(word), "{word}: {packet:?}");
            }
            if name.starts_with("local") {
                for word in ["process ", " pid ", "uid 0", "at cgroup_skb", "query AAAA"] {
                    assert!(packet.comment.contains(word), "{word}: {packet:?}");
                }
            }
        }
    }
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    assert!(
        found
            .iter()
            .all(|packet| packet.epoch <= now && packet.epoch > now - 120.0)
    );
    let comment = Command::new("capinfos").arg("-k").arg(&file).output();
    if let Ok(comment) = comment {
        let comment = String::from_utf8_lossy(&comment.stdout).into_owned();
        assert!(comment.contains("IP header"), "{comment}");
    }

    // A file that is there is replaced, whoever could read it before; what is no file is left alone.
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    assert!(run(&mut bench, path).unwrap().status.success());
    // Segments that nobody acknowledges are sent, and dropped, again and again.
    assert!(packets(&file).len() >= found.len());
    assert_eq!(mode(&file), 0o600);
    let link = directory.path().join("link");
    symlink(&file, &link).unwrap();
    for refused in [link.to_str().unwrap(), directory.path().to_str().unwrap()] {
        let output = run(&mut bench, refused).unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    let piped = run(&mut bench, "-").unwrap();
    assert!(piped.stdout.starts_with(&fs::read(&file).unwrap()));

    // One that grows can be read.
    let growing = directory.path().join("growing.pcapng");
    let mut follow =
        bench
            .agent()
            .command(&["events", "--follow", "--pcap", growing.to_str().unwrap()]);
    let _follower = Running(follow.stdout(Stdio::null()).spawn().unwrap());
    wait_until("it has the recent packets", PATIENCE, || {
        Ok(growing.exists() && packets(&growing).len() >= found.len())
    })
    .unwrap();
    Query::new(address::ISP_RESOLVER_V4, "later.example.com", "A")
        .timeout(Duration::from_secs(1))
        .run(bench.topology.host(), Some(&bench.cgroup))
        .unwrap();
    wait_until("the next packet is there", PATIENCE, || {
        Ok(packets(&growing)
            .iter()
            .any(|packet| packet.name == "later.example.com"))
    })
    .unwrap();
    assert_well_formed(&growing);

    // Without an agent nothing is touched.
    let before = fs::read(&file).unwrap();
    bench.agent().terminate().unwrap();
    let output = run(&mut bench, path).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(fs::read(&file).unwrap(), before);
}
