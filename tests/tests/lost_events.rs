//! When interfaces change faster than the agent hears of it, it reads them all again, and nothing gets out meanwhile.

#![expect(
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use leakguard::kernel::pins::Pins;
use leakguard::lab::{Netns, output_within, wait_until};
use leakguard_tests::{Bench, Place, Scene, Tun, second_net, soaks};
use serde_json::Value;

/// How long the machine may take to create or remove all of them, and the agent to be done with it.
const LIMIT: Duration = Duration::from_mins(5);
/// Pairs that are removed by one command: one by one, each takes the kernel 20 ms.
const GROUP: usize = 25;
/// Pairs that stay, so that there is something to be covered.
const STAY: usize = 10;

/// Runs many command lines of `ip` in a namespace.
fn ip_batch(netns: &Netns, directory: &Path, lines: &str) -> Duration {
    let file = directory.join("batch");
    fs::write(&file, lines).unwrap();
    let mut ip = netns.command("ip");
    ip.arg("-batch").arg(&file);
    let started = Instant::now();
    let output = output_within(ip, LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
    started.elapsed()
}

/// Why status and kernel do not agree that every interface is covered and nothing is left of those that are gone.
fn disagreement(scene: &mut Scene, expected: &BTreeSet<String>) -> Option<String> {
    let status = scene.bench.agent().status_json().unwrap();
    let interfaces = status["interfaces"].as_array().unwrap();
    let named = |wanted: &dyn Fn(&Value) -> bool| -> BTreeSet<String> {
        let chosen = interfaces.iter().filter(|interface| wanted(interface));
        chosen
            .map(|interface| interface["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let there = named(&|_| true);
    if there != *expected {
        return Some(format!("interfaces: {there:?}"));
    }
    if status["level"] != "full" {
        return Some(format!("level: {}", status["causes"]));
    }
    let uplinks: BTreeSet<u64> = interfaces
        .iter()
        .filter(|interface| interface["role"] == "uplink" && interface["tc"] == "head")
        .map(|interface| interface["index"].as_u64().unwrap())
        .collect();
    let pinned = Pins::at(scene.bench.bpffs.path()).tcx_links().unwrap();
    let pinned: BTreeSet<u64> = pinned.into_iter().map(|(index, _)| index.into()).collect();
    if pinned != uplinks {
        return Some(format!("pinned: {pinned:?}, uplinks: {uplinks:?}"));
    }
    for (set, wanted) in [
        ("covered", named(&|interface| interface["role"] == "uplink")),
        (
            "permitted",
            named(&|interface| interface["role"] != "uplink"),
        ),
    ] {
        let held = second_net(scene.bench.topology.host(), set);
        if held != wanted {
            return Some(format!("{set}: {held:?}, should be: {wanted:?}"));
        }
    }
    None
}

/// Brings up a tunnel and waits until DNS goes into it; says how long that took.
fn await_tunnel(bench: &Bench) -> (Tun, Duration) {
    let host = bench.topology.host();
    let mut tunnel = Tun::new(host, Bench::TUNNEL);
    let started = Instant::now();
    host.ip_batch("link set wg0 up\naddr add 10.8.0.2/24 dev wg0\n")
        .unwrap();
    let socket = bench.origin(Place::Host).udp([10, 8, 0, 1].into());
    wait_until("DNS goes into the tunnel", LIMIT, || {
        // Refused or sent: what counts is what arrives.
        drop(socket.send_to(b"question", "10.8.0.1:53"));
        Ok(tunnel.carries_dns(Duration::from_millis(2)))
    })
    .unwrap();
    (tunnel, started.elapsed())
}

#[test]
fn thousands_of_interfaces_with_a_small_buffer_leave_nothing_uncovered_and_nothing_behind() {
    let pairs = if soaks() { 5000 } else { 500 };
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("leakguard.toml");
    fs::write(&config, "[interfaces]\nnetlink_buffer = 65536\n").unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    let mut scene = Scene::new(Bench::new());
    scene.bench.protect(&["--config", config.to_str().unwrap()]);
    scene.begin();

    let (mut create, mut delete) = (String::new(), String::new());
    for pair in 0..pairs + STAY {
        let group = 1 + pair / GROUP;
        let group = if pair < pairs { group } else { 0 };
        writeln!(
            create,
            "link add near{pair} group {group} type veth peer name far{pair}"
        )
        .unwrap();
        if group != 0 && pair % GROUP == 0 {
            writeln!(delete, "link del group {group}").unwrap();
        }
    }
    let host = scene.bench.topology.host();
    let created = ip_batch(host, directory.path(), &create);
    // The agent is busy covering them all; a tunnel does not wait for that.
    let (tunnel, amid) = await_tunnel(&scene.bench);
    drop(tunnel);
    let deleted = ip_batch(host, directory.path(), &delete);
    let started = Instant::now();
    let (_tunnel, after) = await_tunnel(&scene.bench);

    let mut expected: BTreeSet<String> = ["lo", "eth0", "cont0", Bench::TUNNEL]
        .map(str::to_owned)
        .into();
    for pair in pairs..pairs + STAY {
        expected.extend([format!("near{pair}"), format!("far{pair}")]);
    }
    let mut why = None;
    let converged = wait_until("status and kernel agree", LIMIT, || {
        why = disagreement(&mut scene, &expected);
        Ok(why.is_none())
    });
    assert!(converged.is_ok(), "{converged:?}: {why:?}");
    let converged = started.elapsed();

    let stderr = scene.bench.agent().stderr();
    let lost = stderr.matches("netlink events were lost").count();
    println!(
        "{pairs} pairs created in {created:.1?} and removed in {deleted:.1?}, events lost and everything read again \
         {lost} times; a tunnel that came amid them worked after {amid:.1?}, one that came after them after {after:.1?}; \
         agreed after {converged:.1?}"
    );
    assert!(lost > 0, "control: the buffer was too small");
    scene.end("thousands of interfaces").assert_refused();
}
