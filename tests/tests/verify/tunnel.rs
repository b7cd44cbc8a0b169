//! What is wrong with the tunnel, with its resolver or with whom programs ask, and with the test itself.

use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use leakguard::lab::{Netns, Topology, address, output_within};
use leakguard_tests::{Bench, SignedZones};
use serde_json::Value;

use super::runs::{LIMIT, Run, UNSIGNED, verify, verify_where};

/// A configuration for a resolver with the lab's own zones.
fn signed() -> String {
    format!(
        "[interfaces]\ntunnel = ['wg0']\n[verify]\nsigned_name = '{}'\nbogus_name = '{}'\nlatency_max = '900ms'\n",
        SignedZones::SIGNED,
        SignedZones::BOGUS
    )
}

impl Run {
    /// Asserts that exactly these checks fail.
    #[track_caller]
    fn assert_fails(&self, names: &[&str]) {
        let failed: Vec<String> = self.failures().into_iter().map(|(name, ..)| name).collect();
        assert_eq!(failed, names, "{:#}", self.report["checks"]);
        assert_eq!(self.code, if names.is_empty() { 0 } else { 3 });
        self.assert_agreement();
    }
}

fn nft(netns: &Netns, rules: &str) {
    let mut nft = netns.command("nft");
    nft.arg(rules);
    let output = output_within(nft, LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_resolver_that_validates_passes_with_cached_and_uncached_names() {
    let mut bench = Bench::with_bare_tunnel();
    let _zones = SignedZones::serve(bench.topology.vpn(), true);
    bench.protect(&[]);
    let run = verify(&mut bench, &signed(), &[]);
    run.assert_fails(&[]);
    for name in [
        "dnssec-signed",
        "dnssec-bogus",
        "ipv6",
        "latency-uncached",
        "full-size",
    ] {
        let (result, reason) = run.check(name);
        println!("{name}: {reason}");
        assert_eq!(result, "pass", "{:#}", run.report);
    }
    let latency = run.report["latency"].as_array().unwrap();
    let asked: u64 = latency
        .iter()
        .map(|step| step["asked"].as_u64().unwrap())
        .sum();
    assert_eq!(asked, 10 + 50 + 100 + 5 + 20, "{latency:?}");
}

#[test]
fn a_resolver_that_does_not_validate_is_found_by_both_names() {
    let mut bench = Bench::with_bare_tunnel();
    let _zones = SignedZones::serve(bench.topology.vpn(), false);
    bench.protect(&[]);
    let run = verify(&mut bench, &signed(), &["--quick"]);
    run.assert_fails(&["dnssec-bogus", "dnssec-signed"]);
    assert!(
        run.check("dnssec-bogus").1.contains("does not validate"),
        "{:#}",
        run.report
    );
}

/// Passes every question on to the resolver, and waits a while before it hands on the answer.
fn delay(vpn: &Netns, delay: Duration) {
    const PORT: u16 = 5300;

    let socket = vpn
        .run_in(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap())
        .unwrap();
    let socket = Arc::new(socket);
    let upstream = |_| {
        vpn.run_in(|| UdpSocket::bind("127.0.0.1:0").unwrap())
            .unwrap()
    };
    // They wait at the same time.
    for upstream in (0..64).map(upstream) {
        let socket = Arc::clone(&socket);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                upstream.send_to(&buffer[..length], "127.0.0.1:53").unwrap();
                let length = upstream.recv(&mut buffer).unwrap();
                thread::sleep(delay);
                socket.send_to(&buffer[..length], client).unwrap();
            }
        });
    }
    nft(
        vpn,
        &format!(
            "add table ip slow; add chain ip slow in {{ type nat hook prerouting priority -100; }}; \
             add rule ip slow in iifname wgs0 udp dport 53 redirect to :{PORT}"
        ),
    );
}

#[test]
fn a_slow_resolver_is_found_by_the_limit() {
    let mut bench = Bench::with_tunnel();
    delay(bench.topology.vpn(), Duration::from_millis(150));
    bench.protect(&[]);
    let limit = |limit: &str| UNSIGNED.replace("900ms", limit);
    let run = verify(&mut bench, &limit("100ms"), &[]);
    run.assert_fails(&["latency-cached"]);
    let p50 = run.report["latency"][0]["p50"].as_f64().unwrap();
    assert!((0.15..0.9).contains(&p50), "{p50}");
    let run = verify(&mut bench, &limit("900ms"), &["--quick"]);
    run.assert_fails(&[]);
}

#[test]
fn a_tunnel_with_a_small_mtu_is_found() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    bench
        .topology
        .host()
        .ip(&["link", "set", "wg0", "mtu", "1200"])
        .unwrap();
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.assert_fails(&["mtu"]);
}

#[test]
fn a_path_that_carries_no_full_packet_is_found_and_what_it_carries_is_named() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    nft(
        bench.topology.isp(),
        "add table ip narrow; add chain ip narrow way { type filter hook forward priority 0; }; \
         add rule ip narrow way meta length > 1400 drop",
    );
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.assert_fails(&["full-size"]);
    let reason = run.check("full-size").1;
    assert!(reason.contains("one of 1280 bytes is"), "{reason}");
}

#[test]
fn a_lan_with_the_resolvers_addresses_is_found() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    let lan = ["addr", "add", "10.8.7.7/16", "dev", Topology::UPLINK];
    bench.topology.host().ip(&lan).unwrap();
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.assert_fails(&["overlap"]);
    assert!(
        run.check("overlap").1.contains("10.8.0.0/16 of eth0"),
        "{:#}",
        run.report
    );
}

#[test]
fn a_nameserver_off_the_tunnel_is_found() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    let isp = address::ISP_RESOLVER_V4.to_string();
    let tunnel = address::TUNNEL_RESOLVER_V6.to_string();
    let arguments = ["--quick", "--resolver", &tunnel];
    let run = verify_where(&mut bench, &isp, &[], UNSIGNED, &arguments);
    run.assert_fails(&["resolv.conf"]);
    // Nobody is asked who is not behind a tunnel.
    let run = verify_where(&mut bench, &isp, &[], UNSIGNED, &["--quick"]);
    run.assert_fails(&["resolv.conf", "resolver"]);
}

#[test]
fn without_an_answer_there_is_no_pass() {
    let mut bench = Bench::with_bare_tunnel();
    bench.protect(&[]);
    let run = verify(&mut bench, UNSIGNED, &["--quick"]);
    run.assert_fails(&["resolver"]);
}

/// The control is built with `ip`.
#[test]
fn a_control_that_cannot_be_built_is_a_failure() {
    let mut bench = Bench::with_tunnel();
    bench.protect(&[]);
    let programs = tempfile::tempdir().unwrap();
    let nft = leakguard::host::find_program("nft").unwrap();
    symlink(nft, programs.path().join("nft")).unwrap();
    let path = format!("PATH={}", programs.path().display());
    let resolver = address::TUNNEL_RESOLVER_V4.to_string();
    let by = ["/usr/bin/env", &path];
    let run = verify_where(&mut bench, &resolver, &by, UNSIGNED, &["--quick"]);
    assert_eq!(run.code, 3);
    let inconclusive = |check: &&Value| check["result"] == "inconclusive";
    let checks = run.report["checks"].as_array().unwrap();
    assert!(
        checks.iter().filter(inconclusive).count() > 5,
        "{checks:#?}"
    );
    assert!(
        run.failures()
            .iter()
            .all(|(_, _, result)| result == "inconclusive")
    );
    assert_eq!(run.check("control").0, "inconclusive");
}
