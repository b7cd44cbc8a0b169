//! Enforcement outlives its agent, is taken over without a gap, and goes only when it is told to.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::fs;
use std::process::Command;

use device::{Device, Flood, Flooded, PATIENCE, Run, RunningAgent, TUNNEL};
use leakguard::kernel::pins::Pins;
use leakguard::kernel::read_back::ReadBack;
use leakguard::lab::{Netns, Topology, wait_until};
use leakguard_tests::agent_binary;
use nix::sys::signal::Signal;
use serde_json::Value;

const PROBES: usize = 100;

fn go_on(floods: &[Flood; 2], packets: u64) {
    for flood in floods {
        flood.go_on(packets);
    }
}

/// Stops both and asserts that they were fast enough to notice a gap, and that every local packet failed at once.
fn stop(floods: [Flood; 2]) -> [Flooded; 2] {
    let [local, forwarded] = floods.map(Flood::stop);
    assert_eq!(local.sent, local.refused, "every sender gets EPERM");
    assert_eq!(forwarded.refused, 0, "nobody tells the container");
    for flood in [local, forwarded] {
        assert!(flood.rate >= 1000, "{flood:?}");
    }
    [local, forwarded]
}

fn cgroup_program(device: &Device) -> u32 {
    let state = ReadBack::open(&Pins::at(device.bpffs.path())).unwrap();
    state.unwrap().cgroup.unwrap().program_id
}

#[test]
fn enforcement_survives_kill_9_and_goes_with_release() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");

    let mut agent = device.agent(&[]);
    let floods = device.flood();
    go_on(&floods, 500);
    agent.kill9();
    go_on(&floods, 2000);
    let flooded = stop(floods);
    assert_eq!(device.seen_since(), (0, 0));
    eprintln!("over kill -9: {flooded:?}, 0 seen");

    let status = device.leakguard(&["status"]);
    let text = status.ok();
    assert!(text.contains("level      full"), "{text}");
    assert!(text.contains("agent      not running"), "{text}");
    let status = device.status();
    assert_eq!(status["level"], "full", "{status}");
    assert_eq!(status["agent"], Value::Null);
    assert_eq!(status["mode"], "enforce");
    let role = |name: &str| {
        let interfaces = status["interfaces"].as_array().unwrap().iter();
        let mut named = interfaces.filter(|interface| interface["name"] == name);
        let found = named.next().unwrap();
        (found["role"].clone(), found["tc"].clone())
    };
    assert_eq!(role(TUNNEL), ("tunnel".into(), "unneeded".into()));
    assert_eq!(role(Topology::UPLINK), ("uplink".into(), "head".into()));
    let dropped = |hook: &str| -> u64 {
        let series = status["packets"].as_array().unwrap().iter();
        series
            .filter(|series| series["verdict"] == "drop" && series["hook"] == hook)
            .map(|series| series["count"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(
        ["cgroup_skb", "tc"].map(dropped),
        flooded.map(|flood| flood.sent),
        "counted exactly, with the agent dead"
    );
    assert_eq!(
        status["netfilter"]["routed"], 0,
        "the second net leaves a covered uplink to its program"
    );

    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
    assert_eq!(device.leakguard(&["release"]).ok(), "nothing was enforced");
    let status = device.leakguard(&["status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    assert!(
        status.stdout.contains("agent      not running\n"),
        "nothing is blocked, so nothing of the kind may be said: {status:?}"
    );
}

#[test]
fn restarts_leave_no_gap() {
    const RESTARTS: u64 = 10;
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let mut agent = device.agent(&[]);
    let program = cgroup_program(&device);
    let floods = device.flood();
    for restart in 0..RESTARTS {
        if restart % 2 == 0 {
            agent.kill9();
        } else {
            assert!(agent.signal(Signal::SIGTERM).success());
        }
        go_on(&floods, 50);
        agent = device.agent(&[]);
        go_on(&floods, 50);
        assert_eq!(
            cgroup_program(&device),
            program,
            "the same program need not be replaced"
        );
    }
    let flooded = stop(floods);
    assert_eq!(device.seen_since(), (0, 0));
    assert_eq!(device.status()["level"], "full");
    eprintln!("over {RESTARTS} restarts: {flooded:?}, 0 seen");
    drop(agent);
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn sigterm_keeps_enforcement_and_says_how_to_lift_it() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut agent = device.agent(&[]);
        assert!(agent.signal(signal).success(), "{}", agent.stderr());
        let stderr = agent.stderr();
        let hint = format!(
            "leakguard release --bpffs {}",
            device.bpffs.path().display()
        );
        assert!(stderr.lines().last().unwrap().contains(&hint), "{stderr}");
        assert!(!device.control().exists(), "no socket that nobody serves");
        assert_eq!(device.seen(PROBES), (0, 0));
    }
    // As a user would, who copies what was printed; the socket of the default path is not there.
    let mut release = device.host().command(agent_binary());
    release.args(["release", "--control", "/nonexistent", "--bpffs"]);
    release.arg(device.bpffs.path());
    assert_eq!(Run::of(release).ok(), "released");
    device.assert_untouched();
}

#[test]
fn on_exit_release_lifts_it() {
    let mut device = Device::new();
    let file = device.directory().join("leakguard.toml");
    fs::write(&file, "on_exit = \"release\"\n").unwrap();
    let config = file.to_str().unwrap();
    let mut agent = device.agent(&["--config", config]);
    assert_eq!(device.seen(PROBES), (0, 0), "control");
    assert!(agent.signal(Signal::SIGTERM).success());
    assert!(
        agent.stderr().contains("enforcement is lifted"),
        "{}",
        agent.stderr()
    );
    device.assert_untouched();

    // It cannot react to SIGKILL: what is left open then is nothing.
    let mut agent = device.agent(&["--config", config]);
    agent.kill9();
    assert_eq!(device.seen(PROBES), (0, 0));
}

#[test]
fn apply_is_idempotent() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let apply = |device: &Device, more: &[&str]| {
        let arguments = [&["apply", "--tunnel", TUNNEL], more].concat();
        let run = device.leakguard(&arguments);
        assert_eq!(device.status()["level"], "full");
        run.ok().to_owned()
    };
    assert_eq!(apply(&device, &[]), "applied");
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(apply(&device, &[]), "unchanged");
    let program = cgroup_program(&device);

    assert_eq!(apply(&device, &["--block", "dot"]), "applied");
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "dns is not blocked");
    assert_eq!(apply(&device, &["--block", "dot"]), "unchanged");
    assert_eq!(apply(&device, &["--mode", "observe"]), "applied");
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "it only counts");
    assert_eq!(apply(&device, &["--mode", "observe"]), "unchanged");
    assert_eq!(apply(&device, &[]), "applied");
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(cgroup_program(&device), program);

    let mut agent = device.agent(&[]);
    agent.kill9();
    assert_eq!(apply(&device, &[]), "unchanged", "the agent did the same");
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn a_release_from_elsewhere_leaves_the_tables_of_both_places() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    assert_eq!(
        device.leakguard(&["apply", "--tunnel", TUNNEL]).ok(),
        "applied"
    );
    let elsewhere = Netns::new("elsewhere").unwrap();
    let nft = |arguments: &[&str]| {
        let mut nft = elsewhere.command("nft");
        nft.args(arguments);
        Run::of(nft)
    };
    nft(&["add", "table", "inet", "leakguard"]).ok();

    let mut release = elsewhere.command(agent_binary());
    release
        .arg("release")
        .arg("--bpffs")
        .arg(device.bpffs.path());
    release
        .arg("--control")
        .arg(device.directory().join("nobody.sock"));
    let release = Run::of(release);
    assert!(
        release.stderr.contains("another network namespace"),
        "{release:?}"
    );
    assert_eq!(release.stdout.trim(), "released");
    assert!(
        nft(&["list", "ruleset"]).ok().contains("leakguard"),
        "somebody else's"
    );
    assert_eq!(
        device.seen(PROBES),
        (PROBES, 0),
        "the second net is still there"
    );

    assert_eq!(
        device.leakguard(&["release"]).ok(),
        "released",
        "the tables alone"
    );
    assert_eq!(device.seen(PROBES), (PROBES, PROBES));
    device.assert_untouched();
}

#[test]
fn a_second_agent_is_refused() {
    let mut device = Device::new();
    let mut agent = device.agent(&[]);
    let other_control = device.directory().join("other.sock");
    let control = other_control.to_str().unwrap();
    let run = ["run", "--tunnel", TUNNEL, "--control", control];
    device
        .leakguard(&run)
        .refused(1, &["another leakguard works on", "stop it first"]);
    device
        .leakguard(&["apply", "--tunnel", TUNNEL])
        .refused(1, &["another leakguard works on"]);
    assert!(!other_control.exists(), "no socket that nobody serves");
    assert_eq!(device.status()["agent"], agent.pid());
    assert_eq!(device.seen(PROBES), (0, 0));

    agent.kill9();
    let elsewhere = Netns::new("elsewhere").unwrap();
    let mut second = elsewhere.command(agent_binary());
    second
        .args(run)
        .arg("--cgroup")
        .arg(device.cgroup.path())
        .arg("--bpffs")
        .arg(device.bpffs.path());
    Run::of(second).refused(1, &["belongs to another network namespace"]);
    assert_eq!(device.status()["level"], "full");
    assert_eq!(device.seen(PROBES), (0, 0));
    let mut ruleset = elsewhere.command("nft");
    ruleset.args(["list", "ruleset"]);
    assert_eq!(Run::of(ruleset).ok(), "");
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

/// The programs were gone, and the tables stayed.
#[test]
fn a_release_in_a_user_namespace_changes_nothing() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    device.leakguard(&["apply", "--tunnel", TUNNEL]).ok();
    let mut release = Command::new("unshare");
    release
        .args(["--user", "--map-root-user"])
        .arg(agent_binary());
    release
        .arg("release")
        .arg("--bpffs")
        .arg(device.bpffs.path());
    release.arg("--control").arg(device.control());
    Run::of(release).refused(4, &["user namespace", "as root"]);
    assert_eq!(device.status()["level"], "full");
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn agents_that_start_at_once_do_not_undo_each_other() {
    const AGENTS: usize = 4;
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let start = |number: usize| -> Command {
        let control = device.directory().join(format!("{number}.sock"));
        let control = control.to_str().unwrap().to_owned();
        device.command(&["run", "--tunnel", TUNNEL, "--control", &control])
    };
    let mut agents: Vec<RunningAgent> = (0..AGENTS)
        .map(|number| RunningAgent::spawn(start(number), device.directory()))
        .collect();
    // Whoever comes second ends; one goes on.
    wait_until("one is left and enforces", PATIENCE, || {
        let running = agents.iter_mut().filter_map(RunningAgent::ended).count();
        Ok(running == AGENTS - 1 && device.status()["level"] == "full")
    })
    .unwrap();
    for agent in &mut agents {
        if let Some(status) = agent.ended() {
            let stderr = agent.stderr();
            assert_eq!(status.code(), Some(1), "{stderr}");
            assert!(
                stderr.contains("error: another leakguard works on"),
                "{stderr}"
            );
        }
    }
    assert_eq!(device.seen(PROBES), (0, 0));
}

#[test]
fn release_ends_the_agent() {
    let mut device = Device::new();
    let mut agent = device.agent(&[]);
    assert_eq!(device.seen(PROBES), (0, 0), "control");
    assert_eq!(
        device.leakguard(&["release"]).ok(),
        "released; the agent has ended"
    );
    assert_eq!(
        agent.end().code(),
        Some(5),
        "a unit that restarts it would undo the release: {}",
        agent.stderr()
    );
    assert!(
        agent.stderr().contains("enforcement is lifted"),
        "{}",
        agent.stderr()
    );
    assert!(!device.control().exists());
    device.assert_untouched();
}
