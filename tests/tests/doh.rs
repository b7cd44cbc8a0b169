//! DNS over HTTPS stays in: by the resolver's address, and by the name that a real TLS client asks for.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use leakguard::kernel::pins::Pins;
use leakguard::lab::{address, output_within, wait_until};
use leakguard_common::sieve::Sieve;
use leakguard_tests::{Bench, Place, Transport, edit_value, isp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PROBES: usize = 20;
const HTTPS: u16 = 443;
const PLACES: [Place; 2] = [Place::Host, Place::Client];
const TRANSPORTS: [Transport; 2] = [Transport::Udp, Transport::Tcp];
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a handshake may take; one whose hello is dropped never ends.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// A list of resolvers in a file of its own, and the arguments that name it.
struct List {
    directory: TempDir,
}

impl List {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let list = Self { directory };
        list.write(text);
        let config = format!("[dns]\ndoh_resolvers = \"{}\"\n", list.path().display());
        fs::write(list.config(), config).unwrap();
        list
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("resolvers")
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("leakguard.toml")
    }

    /// Replaces the list as an editor does.
    fn write(&self, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path()).unwrap();
    }
}

fn seen(bench: &mut Bench, target: SocketAddr) -> Vec<usize> {
    let mut seen = Vec::new();
    for place in PLACES {
        for transport in TRANSPORTS {
            seen.push(bench.seen(place, transport, target, PROBES));
        }
    }
    seen
}

#[test]
fn resolvers_of_the_built_in_list_are_not_reached() {
    let mut bench = Bench::with_tunnel();
    let resolvers = [
        "8.8.8.8:443",
        "[2606:4700:4700::1111]:443",
        "45.90.28.77:443",
    ];
    let resolvers = resolvers.map(|text| text.parse::<SocketAddr>().unwrap());
    for resolver in resolvers {
        assert_eq!(
            seen(&mut bench, resolver),
            [PROBES; 4],
            "control: {resolver}"
        );
    }
    bench.protect(&[]);
    for resolver in resolvers {
        assert_eq!(seen(&mut bench, resolver), [0; 4], "{resolver}");
        let elsewhere = SocketAddr::new(resolver.ip(), 8443);
        assert_eq!(seen(&mut bench, elsewhere), [PROBES; 4], "{elsewhere}");
    }
    for family in 0..2 {
        assert_eq!(seen(&mut bench, isp(family, HTTPS)), [PROBES; 4]);
    }
}

#[test]
fn a_sieve_that_somebody_has_emptied_is_filled_again() {
    let mut bench = Bench::with_tunnel();
    let resolver = "8.8.8.8:443".parse().unwrap();
    bench.protect(&[]);
    assert_eq!(seen(&mut bench, resolver), [0; 4]);
    let pin = Pins::at(bench.bpffs.path()).map("DOH_SIEVE");
    let pid = Pid::from_raw(bench.agent().pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    edit_value(&pin, size_of::<Sieve>(), |value| value.fill(0));
    // Without its bit, the resolver is not looked for.
    assert_eq!(seen(&mut bench, resolver), [PROBES; 4], "control");
    kill(pid, Signal::SIGCONT).unwrap();
    wait_until("the sieve is filled again", PATIENCE, || {
        let events = bench.agent().events_json()?;
        Ok(events.iter().any(|event| event["kind"] == "repair"))
    })
    .unwrap();
    assert_eq!(seen(&mut bench, resolver), [0; 4]);
}

#[test]
fn a_list_that_has_changed_is_known_anew() {
    let mut bench = Bench::with_tunnel();
    let (known, later) = (isp(0, HTTPS), isp(1, HTTPS));
    let list = List::new(&format!("{}\n", known.ip()));
    bench.protect(&["--config", list.config().to_str().unwrap()]);
    assert_eq!(seen(&mut bench, known), [0; 4]);
    assert_eq!(seen(&mut bench, later), [PROBES; 4], "control");

    list.write(&format!("{}\n", later.ip()));
    wait_until("the new list is known", PATIENCE, || {
        Ok(seen(&mut bench, later) == [0; 4])
    })
    .unwrap();
    assert_eq!(seen(&mut bench, known), [PROBES; 4]);

    // What cannot be used changes nothing.
    list.write("no such thing\n");
    wait_until("the wrong list is reported", PATIENCE, || {
        Ok(bench
            .agent()
            .stderr()
            .contains("is no address, prefix or name"))
    })
    .unwrap();
    assert_eq!(seen(&mut bench, later), [0; 4]);
}

/// A TLS server at the ISP's resolver, on HTTPS's port.
struct Server(Child);

impl Server {
    fn start(bench: &Bench, directory: &Path) -> Self {
        let (key, certificate) = (directory.join("key"), directory.join("certificate"));
        let mut made = bench.topology.isp().command("openssl");
        made.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-subj", "/CN=test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
        assert!(output_within(made, PATIENCE).unwrap().status.success());
        let mut server = bench.topology.isp().command("openssl");
        server
            .args(["s_server", "-quiet", "-accept", "*:443", "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self(server.spawn().unwrap());
        wait_until("the server answers", PATIENCE, || {
            let target = address::ISP_RESOLVER_V4.into();
            Ok(completes(bench, Place::Host, target, "test"))
        })
        .unwrap();
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Whether a handshake with the ISP's server under this name is completed.
fn completes(bench: &Bench, place: Place, target: IpAddr, name: &str) -> bool {
    let origin = bench.origin(place);
    let mut client = origin.netns.command("openssl");
    if let Some(cgroup) = origin.cgroup {
        cgroup.attach(&mut client);
    }
    let target = SocketAddr::new(target, HTTPS).to_string();
    client.args([
        "s_client",
        "-brief",
        "-connect",
        &target,
        "-servername",
        name,
    ]);
    output_within(client, HANDSHAKE).is_ok_and(|output| {
        String::from_utf8_lossy(&output.stderr).contains("CONNECTION ESTABLISHED")
    })
}

/// How many frames at the ISP have the name in them, after a handshake under it.
fn named(bench: &mut Bench, place: Place, target: IpAddr, name: &str) -> (bool, usize) {
    let completed = completes(bench, place, target, name);
    let frames = bench.frames(place);
    let has_name = |frame: &&Vec<u8>| {
        let bytes = name.as_bytes();
        frame.windows(bytes.len()).any(|window| window == bytes)
    };
    (completed, frames.iter().filter(has_name).count())
}

#[test]
fn a_resolver_is_known_by_the_name_that_a_tls_client_asks_for() {
    let mut bench = Bench::with_tunnel();
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&bench, directory.path());
    let targets: [IpAddr; 2] = [
        address::ISP_RESOLVER_V4.into(),
        address::ISP_RESOLVER_V6.into(),
    ];
    let names = [
        "dns.google",
        "mozilla.cloudflare-dns.com",
        "a1b2c3.dns.nextdns.io",
    ];
    let each = |bench: &mut Bench, check: &dyn Fn(bool, usize, &str)| {
        for place in PLACES {
            for target in targets {
                for name in names {
                    let (completed, count) = named(bench, place, target, name);
                    check(completed, count, name);
                }
            }
        }
    };
    each(&mut bench, &|completed, count, name| {
        assert!(
            completed && count > 0,
            "control: {name} is seen {count} times"
        );
    });
    bench.protect(&[]);
    each(&mut bench, &|completed, count, name| {
        assert_eq!((completed, count), (false, 0), "{name}");
    });
    // It serves one client after the other, and the last one's hello never came.
    drop(server);
    let _server = Server::start(&bench, directory.path());
    // Other names of the same server, and its name further down, are nobody's business.
    for place in PLACES {
        for name in ["dns.example", "dns.google.example", "xdns.google"] {
            let (completed, count) = named(&mut bench, place, targets[0], name);
            assert!(completed && count > 0, "{name}");
        }
    }
    let status = bench.agent().status_json().unwrap();
    let by = |hook: &str| -> u64 {
        let series = status["packets"].as_array().unwrap().iter();
        series
            .filter(|one| one["hook"] == hook && one["class"] == "doh" && one["verdict"] == "drop")
            .filter_map(|one| one["count"].as_u64())
            .sum()
    };
    assert!(by("cgroup_skb") >= 6 && by("tc") >= 6, "{status}");
}

#[test]
fn doh_passes_where_its_class_is_let_out() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&["--block", "dns,dot"]);
    let resolver = "8.8.8.8:443".parse().unwrap();
    assert_eq!(seen(&mut bench, resolver), [PROBES; 4]);
    assert_eq!(seen(&mut bench, isp(0, 53)), [0; 4]);
}

#[test]
fn questions_to_other_ports_are_reported_and_pass() {
    let mut bench = Bench::with_tunnel();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("leakguard.toml");
    fs::write(&config, "[dns]\nreport_shaped = true\n").unwrap();
    bench.protect(&["--config", config.to_str().unwrap()]);
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(b"\x07example\x03com\0\0\x01\0\x01");
    let target = isp(0, 5300);
    for place in PLACES {
        let socket = bench.origin(place).udp(target.ip());
        socket.send_to(&question, target).unwrap();
        socket
            .send_to(b"nothing that looks like it", target)
            .unwrap();
        let frames = bench.frames(place);
        let passed = frames.iter().filter(|frame| frame.ends_with(&question));
        assert_eq!(passed.count(), 1, "{place:?}");
    }
    wait_until("both are reported", PATIENCE, || {
        let events = bench.agent().events_json()?;
        let shaped = events.iter().filter(|event| {
            event["reason"] == "dns_shaped"
                && event["verdict"] == "pass"
                && event["query"]["name"] == "example.com."
        });
        // One of the host's at each hook, one of the client's.
        Ok(shaped.count() == 3)
    })
    .unwrap();
}
