//! Who is behind a packet that somebody else sends: clients of local resolvers, processes in containers.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::process::{Command, Stdio};
use std::time::Duration;

use leakguard::lab::{Daemon, Netns, Resolver, wait_until};
use leakguard_tests::{Bench, Podman, isp, musl_program};

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs a program in a namespace, with a resolver of its own in `/etc/resolv.conf`.
fn with_resolver(bench: &Bench, netns: &Netns, resolver: &str, program: &[&str]) -> Command {
    let second = Duration::from_secs(1);
    let mut command = leakguard_tests::with_resolver(bench, netns, resolver, second, program);
    command
        .env("GODEBUG", "netdns=go")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Asks a resolver at 127.0.0.1 in two ways, which asks the ISP's in vain; it has this name.
fn who_asked_is_named(bench: &mut Bench, resolver: &str) {
    for program in ["getent", "dig"] {
        let name = format!("{program}.{resolver}.test.");
        let words: Vec<&str> = match program {
            "getent" => vec!["getent", "ahostsv4", &name],
            _ => vec!["dig", "+tries=1", "+timeout=1", &name],
        };
        let mut client = with_resolver(bench, bench.topology.host(), "127.0.0.1", &words)
            .spawn()
            .unwrap();
        let found = bench.await_packets(program, |event| event["query"]["name"] == name);
        for event in &found {
            assert_eq!(event["process"]["name"], resolver, "{event:#}");
            assert_eq!(event["process"]["attribution"], "sender", "{event:#}");
            let by = &event["client"]["process"];
            assert_eq!(by["name"], program, "{event:#}");
            assert_eq!(by["pid"], client.id(), "{event:#}");
            assert_eq!(by["attribution"], "inferred", "{event:#}");
        }
        client.wait().unwrap();
    }
}

#[test]
fn who_asked_unbound_is_named_as_inferred() {
    let mut bench = Bench::new();
    let _upstream = Resolver::new(bench.topology.isp(), "isp").unwrap();
    let server = isp(0, 53).ip();
    let _unbound =
        Resolver::forwarding(bench.topology.host(), &bench.cgroup, &[], &[server]).unwrap();
    bench.protect(&[]);
    who_asked_is_named(&mut bench, "unbound");
}

#[test]
fn who_asked_dnsmasq_is_named_as_inferred() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let directory = tempfile::tempdir().unwrap();
    let mut dnsmasq = bench.topology.host().command("dnsmasq");
    bench.cgroup.attach(&mut dnsmasq);
    dnsmasq
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
        ])
        .args([
            "--no-hosts",
            "--user=root",
            "--pid-file",
            "--log-facility=-",
        ])
        .args(["--bind-interfaces", "--listen-address=127.0.0.1"])
        .arg(format!("--server={}", isp(0, 53).ip()));
    let mut dnsmasq = Daemon::start(dnsmasq, directory.path()).unwrap();
    wait_until("dnsmasq serves", LIMIT, || {
        dnsmasq.check_running()?;
        Ok(dnsmasq.stderr().contains("using nameserver"))
    })
    .unwrap();
    who_asked_is_named(&mut bench, "dnsmasq");
}

#[test]
fn the_resolvers_of_glibc_musl_and_go_are_named() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let directory = tempfile::tempdir().unwrap();
    let musl = musl_program(directory.path());
    for (program, process, words) in [
        ("glibc", "getent", vec!["getent", "ahosts", "NAME"]),
        ("musl", "musl.program", vec![musl.to_str().unwrap(), "NAME"]),
        // A program in Go, told to use Go's own resolver.
        (
            "go",
            "promtool",
            vec!["promtool", "query", "instant", "http://NAME:9", "up"],
        ),
    ] {
        let name = format!("{program}.resolver.test");
        let words: Vec<String> = words
            .iter()
            .map(|word| word.replace("NAME", &name))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let server = isp(0, 53).ip().to_string();
        let mut client = with_resolver(&bench, bench.topology.host(), &server, &words)
            .spawn()
            .unwrap();
        let found = bench.await_packets(program, |event| {
            event["query"]["name"] == format!("{name}.")
        });
        for event in &found {
            assert_eq!(event["process"]["name"], process, "{event:#}");
            assert_eq!(event["process"]["pid"], client.id(), "{event:#}");
            assert_eq!(event["process"]["attribution"], "sender", "{event:#}");
        }
        println!(
            "{program}: {process} asked for {name}: {} events",
            found.len()
        );
        client.wait().unwrap();
    }
}

#[test]
fn a_container_is_named_although_its_packets_are_forwarded() {
    let mut bench = Bench::new();
    let podman = Podman::new(bench.topology.host(), &bench.cgroup, &["192.0.2.53".into()]);
    let container = podman.container("attributed", "podman");
    let id = podman.run(&["inspect", "--format={{.Id}}", "attributed"]);
    bench.protect(&[]);
    let server = isp(0, 53).ip().to_string();
    for (number, transport) in ["+notcp", "+tcp"].into_iter().enumerate() {
        let name = format!("container{number}.attribution.test");
        container.exec(&[
            "sh",
            "-c",
            &format!("dig +tries=1 +timeout=2 {transport} @{server} {name} || true"),
        ]);
    }
    for transport in ["udp", "tcp"] {
        let found = bench.await_packets(transport, |event| {
            event["protocol"] == transport && event["hook"] == "tc"
        });
        for event in &found {
            assert_eq!(event["process"]["name"], "dig", "{event:#}");
            assert_eq!(event["process"]["attribution"], "inferred", "{event:#}");
            assert_eq!(event["container"]["id"], id, "{event:#}");
            assert_eq!(event["container"]["runtime"], "podman", "{event:#}");
            if transport == "udp" {
                assert_eq!(event["query"]["name"], "container0.attribution.test.");
            }
        }
    }
}
