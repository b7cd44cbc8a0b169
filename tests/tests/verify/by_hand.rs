//! What docs/verifying.md says about checking it without leakguard.

use std::process::Command;

use leakguard::lab::{Daemon, Netns, Topology, address, output_within, wait_until};
use leakguard_tests::{Bench, SignedZones};
use serde_json::Value;

use super::runs::LIMIT;

/// Runs a command line on the device under test, as a process that is judged; says what it printed.
fn shell(bench: &Bench, line: &str) -> String {
    let mut command = bench.topology.host().command("bash");
    bench.cgroup.attach(&mut command);
    command.args(["-c", line]);
    let output = output_within(command, LIMIT).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn nft(netns: &Netns, arguments: &[&str]) -> String {
    let mut nft: Command = netns.command("nft");
    nft.args(arguments);
    let output = output_within(nft, LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The counters of the router by their comments: DNS, and the control.
fn counted(router: &Netns) -> (u64, u64) {
    let listed = nft(router, &["-j", "list", "chain", "inet", "audit", "in"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let count = |comment: &str| {
        let rules = listed["nftables"].as_array().unwrap().iter();
        rules
            .map(|object| &object["rule"])
            .filter(|rule| rule["comment"] == comment)
            .flat_map(|rule| rule["expr"].as_array().unwrap())
            .find_map(|expression| expression["counter"]["packets"].as_u64())
            .unwrap()
    };
    (count("dns"), count("control"))
}

#[test]
fn tcpdump_and_the_routers_counters_show_dns_without_leakguard_and_none_with_it() {
    let mut bench = Bench::with_tunnel();
    let host = address::HOST_V4;
    for rule in [
        "add table inet audit; add chain inet audit in { type filter hook prerouting priority -300; }".to_owned(),
        format!(
            "add rule inet audit in ip saddr {host} meta l4proto {{ tcp, udp }} th dport {{ 53, 853 }} counter comment \"dns\""
        ),
        format!("add rule inet audit in ip saddr {host} udp dport 9 counter comment \"control\""),
    ] {
        nft(bench.topology.isp(), &[&rule]);
    }
    let directory = tempfile::tempdir().unwrap();
    for protected in [false, true] {
        if protected {
            bench.protect(&[]);
        }
        let mut tcpdump = bench.topology.host().command("tcpdump");
        tcpdump.args([
            "-lnni",
            Topology::UPLINK,
            "-Q",
            "out",
            "port 53 or port 853 or port 9",
        ]);
        let tcpdump = Daemon::start(tcpdump, directory.path()).unwrap();
        wait_until("tcpdump listens", LIMIT, || {
            Ok(tcpdump.stderr().contains("listening on"))
        })
        .unwrap();
        let before = counted(bench.topology.isp());
        for line in [
            "dig @192.0.2.53 leak-test.invalid +tries=1 +time=1".to_owned(),
            "dig @192.0.2.53 leak-test.invalid +tries=1 +time=1 +tcp".to_owned(),
            format!("dig -b {host} @192.0.2.53 leak-test.invalid +tries=1 +time=1"),
            "echo control > /dev/udp/192.0.2.53/9".to_owned(),
        ] {
            shell(&bench, &line);
        }
        let (dns, control) = counted(bench.topology.isp());
        let (dns, control) = (dns - before.0, control - before.1);
        wait_until("tcpdump has seen the control", LIMIT, || {
            Ok(tcpdump.stdout().contains("192.0.2.53.9"))
        })
        .unwrap();
        let seen = tcpdump.stdout().matches("192.0.2.53.53").count();
        println!(
            "protected: {protected}; tcpdump: {seen} lines of DNS; the router: {dns} packets of DNS, {control} of the control"
        );
        assert_eq!(control, 1);
        assert_eq!(dns > 2, !protected, "{dns}");
        assert_eq!(seen > 2, !protected, "{}", tcpdump.stdout());
    }
}

#[test]
fn dig_and_ping_show_what_the_tunnels_resolver_does() {
    let mut bench = Bench::with_bare_tunnel();
    let _zones = SignedZones::serve(bench.topology.vpn(), true);
    bench.protect(&[]);
    let resolver = address::TUNNEL_RESOLVER_V4;
    let (signed, bogus) = (SignedZones::SIGNED, SignedZones::BOGUS);
    for (line, expected) in [
        (format!("ip route get {resolver}"), " dev wg0 "),
        (
            format!("dig @{resolver} {signed} +dnssec | grep flags"),
            " ad;",
        ),
        (format!("dig @{resolver} {bogus} | grep status"), "SERVFAIL"),
        (
            format!("dig @{resolver} {bogus} +cd | grep status"),
            "NOERROR",
        ),
        (
            format!("dig @{resolver} {signed} AAAA +short"),
            "2001:db8:80::80",
        ),
        (
            format!("ping -c 1 -M do -s $((1420 - 28)) {resolver}"),
            "1 received",
        ),
        (
            format!("ping -c 1 -W 1 -M do -s 1420 {resolver}"),
            " 0 received",
        ),
    ] {
        let printed = shell(&bench, &line);
        assert!(printed.contains(expected), "{line}: {printed}");
    }
}

/// Prints a run as people see it.
#[test]
fn people_get_a_line_for_each_check() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    let line = format!(
        "{} verify --quick --tunnel wg0 --block dns,dot --resolver {} --bpffs {}",
        leakguard_tests::agent_binary().display(),
        address::TUNNEL_RESOLVER_V4,
        bench.bpffs.path().display()
    );
    let printed = shell(&bench, &line);
    println!("{printed}");
    for expected in ["run        lgv-", "packet-bypass", "result     "] {
        assert!(printed.contains(expected), "{printed}");
    }
}
