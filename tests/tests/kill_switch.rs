//! With the kill switch engaged, uplinks carry nothing but what is exempt; it engages when the tunnel is down, and nobody
//! can use the tunnel's exemption but the tunnel.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use leakguard::lab::{Cgroup, Query, WHO_NAME, WireGuard, address, output_within, wait_until};
use leakguard_tests::{
    Bench, ELSEWHERE, Place, Transport, Volley, agent_binary, kill_switch, packets,
};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use tempfile::TempDir;

const PROBES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);
const PLACES: [Place; 2] = [Place::Host, Place::Client];

/// A device with a tunnel, and the files of a test.
struct Lab {
    bench: Bench,
    directory: TempDir,
}

impl Lab {
    fn new() -> Self {
        Self {
            bench: Bench::with_tunnel(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.directory.path().join("leakguard.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn protect(&mut self, text: &str) {
        let file = self.file(text);
        self.bench.protect(&["--config", file.to_str().unwrap()]);
    }

    fn status(&mut self) -> Value {
        self.bench.agent().status_json().unwrap()
    }

    fn is_engaged(&mut self) -> bool {
        self.status()["kill_switch"]["engaged"].as_bool().unwrap()
    }

    fn await_engaged(&mut self, wanted: bool) {
        wait_until("the kill switch changes", PATIENCE, || {
            Ok(self.is_engaged() == wanted)
        })
        .unwrap();
    }

    /// How many probes to somewhere else are seen, per place and family.
    fn seen_elsewhere(&mut self, transport: Transport) -> Vec<usize> {
        let mut seen = Vec::new();
        for place in PLACES {
            for target in ELSEWHERE {
                seen.push(
                    self.bench
                        .seen(place, transport, target.parse().unwrap(), PROBES),
                );
            }
        }
        seen
    }

    fn assert_open(&mut self) {
        for transport in [Transport::Udp, Transport::Tcp] {
            assert_eq!(self.seen_elsewhere(transport), [PROBES; 4], "{transport:?}");
        }
    }

    fn assert_closed(&mut self) {
        for transport in [Transport::Udp, Transport::Tcp] {
            assert_eq!(self.seen_elsewhere(transport), [0; 4], "{transport:?}");
        }
    }

    /// Asserts that names resolve through the tunnel.
    fn assert_tunnel_works(&self) {
        let query = Query::new(address::TUNNEL_RESOLVER_V4, WHO_NAME, "TXT");
        let lookup = query
            .run(self.bench.topology.host(), Some(&self.bench.cgroup))
            .unwrap();
        assert_eq!(lookup.answers, ["vpn"], "{lookup:?}");
    }

    fn ip(&self, arguments: &[&str]) {
        self.bench.topology.host().ip(arguments).unwrap();
    }

    /// A connected socket of the host, towards somewhere else.
    fn sender(&self) -> UdpSocket {
        let target: SocketAddr = ELSEWHERE[0].parse().unwrap();
        let socket = self.bench.origin(Place::Host).udp(target.ip());
        leakguard_tests::connect(&socket, target).unwrap();
        socket
    }
}

/// Sends until the kernel refuses; how long that took.
fn until_refused(socket: &UdpSocket) -> Duration {
    /// The pace of the load; more would fill the capture's buffer.
    const PACE: Duration = Duration::from_micros(200);

    let started = Instant::now();
    loop {
        match socket.send(b"still here?") {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return started.elapsed(),
            // The ISP says that nobody is there.
            Ok(_) | Err(_) => {}
        }
        assert!(started.elapsed() < PATIENCE, "never refused");
        thread::sleep(PACE);
    }
}

#[test]
fn always_means_the_tunnel_or_nothing() {
    let mut lab = Lab::new();
    lab.assert_open();
    lab.protect(&kill_switch("always", ""));
    lab.assert_closed();
    lab.assert_tunnel_works();
    let status = lab.status();
    assert_eq!(status["level"], "full", "{status}");
    assert_eq!(status["kill_switch"]["mode"], "always");
    assert_eq!(status["kill_switch"]["endpoints"], 1);
    for (hook, place) in [("cgroup_skb", "host"), ("tc", "client")] {
        for (protocol, family) in [
            ("udp", "ipv4"),
            ("udp", "ipv6"),
            ("tcp", "ipv4"),
            ("tcp", "ipv6"),
        ] {
            let labels = [
                ("class", "kill_switch"),
                ("verdict", "drop"),
                ("hook", hook),
                ("protocol", protocol),
                ("family", family),
            ];
            let count = packets(&status, &labels);
            assert!(
                count >= PROBES as u64,
                "{place} {protocol} {family}: {status}"
            );
        }
    }
    // A local sender is told at once.
    let target: SocketAddr = ELSEWHERE[0].parse().unwrap();
    let volley = Volley::send(lab.bench.origin(Place::Host), Transport::Udp, target, 1);
    assert_eq!(volley.errors()[0].kind(), ErrorKind::PermissionDenied);
    let events = lab.bench.agent().events_json().unwrap();
    assert!(
        events
            .iter()
            .any(|event| event["reason"] == "kill_switch" && event["destination"] == ELSEWHERE[0]),
        "{events:?}"
    );

    // With the agent dead, and after release.
    lab.bench.agent().kill9().unwrap();
    lab.assert_closed();
    lab.assert_tunnel_works();
    lab.bench.unprotect();
    lab.assert_open();
}

#[test]
fn the_lan_is_exempt_but_its_dns_is_not() {
    let mut lab = Lab::new();
    let resolvers: [IpAddr; 2] = [
        address::ISP_RESOLVER_V4.into(),
        address::ISP_RESOLVER_V6.into(),
    ];
    let seen = |lab: &mut Lab, port: u16| -> Vec<usize> {
        let mut seen = Vec::new();
        for place in PLACES {
            for address in resolvers {
                let target = SocketAddr::new(address, port);
                seen.push(lab.bench.seen(place, Transport::Udp, target, PROBES));
            }
        }
        seen
    };
    for port in [53, 853, 443] {
        assert_eq!(seen(&mut lab, port), [PROBES; 4], "control: {port}");
    }
    lab.protect(&kill_switch("always", ""));
    assert_eq!(seen(&mut lab, 443), [PROBES; 4]);
    for port in [53, 853, 5353] {
        assert_eq!(seen(&mut lab, port), [0; 4], "{port}");
    }
}

/// What an audit found of another product: the endpoint's address and port were open to everybody.
#[test]
fn nobody_but_the_tunnel_can_send_to_its_endpoint() {
    let mut lab = Lab::new();
    let carrier = SocketAddr::new(address::VPN_SERVER_V4.into(), address::CARRIER_PORT);
    let other_port = SocketAddr::new(address::VPN_SERVER_V4.into(), 443);
    let seen = |lab: &mut Lab, target: SocketAddr, mark: u32| {
        let socket = lab.bench.origin(Place::Host).udp(target.ip());
        if mark != 0 {
            setsockopt(&socket.as_fd(), sockopt::Mark, &mark).unwrap();
        }
        let payload = format!("plaintext to {target} with {mark}");
        for _ in 0..PROBES {
            // Refused or not: what counts is what is seen.
            drop(socket.send_to(payload.as_bytes(), target));
        }
        let frames = lab.bench.frames(Place::Host);
        frames
            .iter()
            .filter(|frame| frame.ends_with(payload.as_bytes()))
            .count()
    };
    assert_eq!(seen(&mut lab, carrier, 0), PROBES, "control");
    lab.protect(&kill_switch("always", ""));
    assert_eq!(seen(&mut lab, carrier, 0), 0);
    assert_eq!(seen(&mut lab, carrier, WireGuard::MARK + 1), 0);
    assert_eq!(seen(&mut lab, other_port, WireGuard::MARK), 0);
    assert_eq!(
        seen(&mut lab, carrier, WireGuard::MARK),
        PROBES,
        "who may set the mark is as good as the tunnel"
    );
    let container = lab
        .bench
        .seen(Place::Client, Transport::Udp, carrier, PROBES);
    assert_eq!(container, 0, "forwarded packets have no mark");

    // Who is nobody cannot set the mark, and is refused.
    let script = format!(
        "printf secret > /dev/udp/{}/{}",
        carrier.ip(),
        carrier.port()
    );
    let mut nobody = lab.bench.topology.host().command("setpriv");
    nobody.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "bash",
        "-c",
        &script,
    ]);
    lab.bench.cgroup.attach(&mut nobody);
    let output = output_within(nobody, PATIENCE).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("Operation not permitted"), "{stderr}");
    let frames = lab.bench.frames(Place::Host);
    assert!(!frames.iter().any(|frame| frame.ends_with(b"secret")));
    lab.assert_tunnel_works();
}

#[test]
fn an_endpoint_can_belong_to_a_cgroup() {
    let mut lab = Lab::new();
    let vpn = Cgroup::new("vpn").unwrap();
    let target: SocketAddr = "203.0.113.77:1194".parse().unwrap();
    let seen = |lab: &mut Lab, cgroup: Option<&Cgroup>| {
        let origin = leakguard_tests::Origin {
            netns: lab.bench.topology.host(),
            cgroup,
        };
        let volley = Volley::send(origin, Transport::Udp, target, PROBES);
        let frames = lab.bench.frames(Place::Host);
        volley.seen(&frames)
    };
    assert_eq!(seen(&mut lab, None), PROBES, "control");
    let name = vpn.path().file_name().unwrap().to_str().unwrap();
    let endpoint = format!(
        "[[kill_switch.endpoints]]\naddress = \"203.0.113.77\"\nport = 1194\ncgroup = \"/{name}\"\n"
    );
    lab.protect(&format!("{}{endpoint}", kill_switch("always", "")));
    assert_eq!(seen(&mut lab, Some(&vpn)), PROBES);
    assert_eq!(seen(&mut lab, None), 0);
    assert_eq!(
        lab.bench
            .seen(Place::Client, Transport::Udp, target, PROBES),
        0
    );

    // The service is started anew: another cgroup of the same name.
    let path = vpn.path().to_owned();
    fs::remove_dir(&path).unwrap();
    wait_until("the agent forgets the old one", PATIENCE, || {
        Ok(lab.status()["kill_switch"]["endpoints"] == 1)
    })
    .unwrap();
    fs::create_dir(&path).unwrap();
    wait_until("the agent finds the new one", PATIENCE, || {
        Ok(lab.status()["kill_switch"]["endpoints"] == 2)
    })
    .unwrap();
}

#[test]
fn a_tunnel_that_goes_down_engages_it_within_milliseconds() {
    const ROUNDS: usize = 15;
    let mut lab = Lab::new();
    lab.assert_open();
    lab.protect(&kill_switch("tunnel-down", ""));
    lab.await_engaged(false);
    lab.assert_open();
    assert_eq!(lab.status()["kill_switch"]["tunnel"], Bench::TUNNEL);
    let socket = lab.sender();
    // The kernel's own report of a lost carrier may take seconds: it is looked at four times a second.
    for (off, on, limit) in [
        (["down"].as_slice(), ["up"].as_slice(), 100),
        (&["carrier", "off"], &["carrier", "on"], 400),
    ] {
        let link = |state: &[&str]| lab.ip(&[&["link", "set", Bench::TUNNEL], state].concat());
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            link(off);
            times.push(until_refused(&socket));
            link(on);
            wait_until("it is open again", PATIENCE, || {
                let refused = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
                Ok(!socket.send(b"?").is_err_and(|error| refused(&error)))
            })
            .unwrap();
        }
        times.sort_unstable();
        println!(
            "measured: after `ip link set {}`, refused within {:?} / {:?} / {:?} (min / median / max of {ROUNDS})",
            off.join(" "),
            times[0],
            times[ROUNDS / 2],
            times[ROUNDS - 1]
        );
        assert!(
            times[ROUNDS / 2] < Duration::from_millis(limit),
            "{times:?}"
        );
    }
    lab.ip(&["link", "set", Bench::TUNNEL, "down"]);
    lab.await_engaged(true);
    lab.assert_closed();
    let stderr = lab.bench.agent().stderr();
    assert!(
        stderr.contains("the kill switch is engaged: wg0 is down or has no carrier"),
        "{stderr}"
    );
    let events = lab.bench.agent().events_json().unwrap();
    let last = events.iter().rfind(|event| event["kind"] == "kill_switch");
    assert_eq!(last.unwrap()["subject"], "engaged", "{last:?}");
}

/// The kernel takes the tunnel out of the table of tunnels, and whoever is not in there is not up.
#[test]
fn a_tunnel_that_is_gone_engages_it_at_once_with_the_agent_dead() {
    let mut lab = Lab::new();
    lab.protect(&kill_switch("tunnel-down", ""));
    lab.await_engaged(false);
    lab.assert_open();
    lab.bench.agent().kill9().unwrap();
    let socket = lab.sender();
    assert!(
        socket
            .send(b"the word of the dead agent still holds")
            .is_ok()
    );
    lab.ip(&["link", "del", Bench::TUNNEL]);
    let error = socket.send(b"not any more").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    lab.assert_closed();
    assert!(lab.is_engaged());
}

#[test]
fn nobody_who_watches_means_engaged() {
    let mut lab = Lab::new();
    lab.protect(&kill_switch("tunnel-down", ""));
    lab.await_engaged(false);
    lab.bench.agent().kill9().unwrap();
    let lease = until_refused(&lab.sender());
    println!("measured: refused {lease:?} after the agent was killed, with the tunnel up");
    assert!(lease < Duration::from_secs(11), "{lease:?}");
    lab.assert_tunnel_works();

    // Forwarded packets as well, when the leases of the second net have ended.
    for target in ELSEWHERE {
        let target = target.parse().unwrap();
        assert_eq!(
            lab.bench
                .seen(Place::Client, Transport::Udp, target, PROBES),
            0
        );
    }
    // And without an agent from the beginning.
    let file = lab.file(&kill_switch("tunnel-down", ""));
    let cgroup = lab.bench.cgroup.path().to_owned();
    let mut apply = lab.bench.topology.host().command(agent_binary());
    apply
        .args(["apply", "--tunnel", Bench::TUNNEL, "--config"])
        .arg(&file)
        .arg("--cgroup")
        .arg(&cgroup)
        .arg("--bpffs")
        .arg(lab.bench.bpffs.path());
    let output = output_within(apply, PATIENCE).unwrap();
    assert!(output.status.success(), "{output:?}");
    lab.assert_closed();
    lab.assert_tunnel_works();
}

#[test]
fn applying_it_twice_changes_nothing() {
    let lab = Lab::new();
    for (mode, ipv6) in [
        ("always", "dns-only"),
        ("tunnel-down", "block-off-tunnel"),
        ("off", "block-off-tunnel"),
        ("off", "dns-only"),
    ] {
        let file = lab.file(&format!(
            "{}[ipv6]\npolicy = \"{ipv6}\"\n",
            kill_switch(mode, "")
        ));
        for expected in ["applied", "unchanged"] {
            let mut apply = lab.bench.topology.host().command(agent_binary());
            apply
                .args(["apply", "--tunnel", Bench::TUNNEL, "--config"])
                .arg(&file)
                .arg("--cgroup")
                .arg(lab.bench.cgroup.path())
                .arg("--bpffs")
                .arg(lab.bench.bpffs.path());
            let output = output_within(apply, PATIENCE).unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert_eq!(stdout.trim(), expected, "{mode} {ipv6}: {output:?}");
        }
    }
}

#[test]
fn a_handshake_that_ages_out_engages_it() {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut lab = Lab::new();
    let tunnel = lab.bench.tunnel().0.pid().unwrap();
    // The tunnel's control socket is in a mount namespace of its own.
    let script = format!(
        "#!/bin/sh\nexec nsenter --mount=/proc/{tunnel}/ns/mnt -- {} \"$@\"\n",
        agent_binary().display()
    );
    let wrapper = executable(lab.directory.path(), &script);
    let text = kill_switch("tunnel-down", "handshake_max = \"10s\"");
    let file = lab.file(&text);
    lab.bench
        .protect_with(wrapper, &["--config", file.to_str().unwrap()]);
    // A new handshake, however long the start has taken.
    lab.bench.tunnel().0.renew().unwrap();
    wait_until("a new handshake counts", PATIENCE, || {
        lab.assert_tunnel_works();
        Ok(!lab.is_engaged())
    })
    .unwrap();
    lab.assert_open();
    let began = Instant::now();
    lab.bench.tunnel().0.kill_server().unwrap();
    let refused = until_refused(&lab.sender());
    println!("measured: refused {refused:?} after the server's death, with a limit of {LIMIT:?}");
    assert!(
        began.elapsed() < LIMIT + Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    lab.assert_closed();
    let stderr = lab.bench.agent().stderr();
    assert!(stderr.contains("the last handshake of wg0 is"), "{stderr}");
}

fn executable(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("leakguard-in-mounts");
    // By a child: a descriptor of this process would be inherited by the children of other tests, and what is open for
    // writing cannot be executed.
    let mut install = Command::new("install");
    let source = directory.join("text");
    fs::write(&source, text).unwrap();
    install.args(["-m", "755"]).arg(&source).arg(&path);
    assert!(output_within(install, PATIENCE).unwrap().status.success());
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn ipv6_is_kept_off_uplinks_and_ipv4_is_not() {
    let mut lab = Lab::new();
    lab.assert_open();
    lab.protect("[ipv6]\npolicy = \"block-off-tunnel\"\n");
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(
            lab.seen_elsewhere(transport),
            [PROBES, 0, PROBES, 0],
            "{transport:?}"
        );
    }
    let query = Query::new(address::TUNNEL_RESOLVER_V6, WHO_NAME, "TXT");
    let lookup = query
        .run(lab.bench.topology.host(), Some(&lab.bench.cgroup))
        .unwrap();
    assert_eq!(lookup.answers, ["vpn"], "{lookup:?}");
    let status = lab.status();
    assert_eq!(status["ipv6"], "block-off-tunnel");
    assert!(
        packets(&status, &[("class", "ipv6"), ("verdict", "drop")]) > 0,
        "{status}"
    );
    lab.bench.unprotect();
    lab.assert_open();
}

#[test]
fn observing_reports_what_it_would_drop() {
    let mut lab = Lab::new();
    lab.protect(&format!(
        "mode = \"observe\"\n{}",
        kill_switch("always", "")
    ));
    lab.assert_open();
    let status = lab.status();
    let labels = [("class", "kill_switch"), ("verdict", "would_drop")];
    assert!(packets(&status, &labels) > 0, "{status}");
}
