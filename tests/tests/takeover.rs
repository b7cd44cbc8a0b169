//! What an earlier process has left is taken over, completed, superseded or refused; never opened.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use device::{Device, Flood, Flooded, PATIENCE, Run, RunningAgent, TUNNEL};
use leakguard::kernel::pins::Pins;
use leakguard::kernel::{self, Enforcement};
use leakguard::lab::{Netns, Topology, wait_until};
use leakguard_common::abi::{ABI_VERSION, Role, Settings};
use leakguard_common::packet::LinkLayer;
use leakguard_tests::{agent_binary, next_agent_binary, soaks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROBES: usize = 50;
const APPLY: [&str; 3] = ["apply", "--tunnel", TUNNEL];

fn pins(device: &Device) -> Pins {
    Pins::at(device.bpffs.path())
}

fn go_on(floods: &[Flood; 2], packets: u64) {
    for flood in floods {
        flood.go_on(packets);
    }
}

/// Stops both and asserts that they were fast enough to notice a gap, and that none of their packets got out.
#[track_caller]
fn stop(device: &mut Device, floods: [Flood; 2]) -> [Flooded; 2] {
    let flooded = floods.map(Flood::stop);
    for flood in flooded {
        assert!(flood.rate >= 1000, "{flood:?}");
    }
    assert_eq!(device.seen_since(), (0, 0), "{flooded:?}");
    flooded
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The directories of the versions that have state.
fn versions(device: &Device) -> Vec<String> {
    names(&device.bpffs.path().join("leakguard"))
}

/// A program with the same instructions on other maps would not hear of any change: the kernel's tag does not tell them
/// apart.
#[test]
fn a_program_that_uses_other_maps_is_replaced() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    assert_eq!(device.leakguard(&APPLY).ok(), "applied");
    assert_eq!(device.seen(PROBES), (0, 0));

    // The same maps from a state of its own, in the place of those that the attached programs use.
    let other = device.bpffs.path().join("other");
    fs::create_dir(&other).unwrap();
    let child = device.cgroup.path().join("child");
    fs::create_dir(&child).unwrap();
    let elsewhere = ["--bpffs", other.to_str().unwrap()];
    let in_child = ["--cgroup", child.to_str().unwrap()];
    device
        .leakguard(&[&APPLY[..], &elsewhere, &in_child].concat())
        .ok();
    let maps = |bpffs: &Path| Pins::at(bpffs).root().join("maps");
    let fresh = maps(&other);
    for name in names(&fresh) {
        fs::rename(fresh.join(&name), pins(&device).map(&name)).unwrap();
    }
    let release = [&["release"], &elsewhere[..]].concat();
    assert_eq!(device.leakguard(&release).ok(), "released");
    fs::remove_dir(&child).unwrap();
    fs::remove_dir(&other).unwrap();

    let observe = [&APPLY[..], &["--mode", "observe"]].concat();
    assert_eq!(device.leakguard(&observe).ok(), "applied");
    assert_eq!(
        device.seen(PROBES),
        (PROBES, PROBES),
        "what is written now has to count"
    );
    assert_eq!(device.leakguard(&APPLY).ok(), "applied");
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.status()["level"], "full");
}

#[test]
fn missing_map_pins_are_pinned_again_and_open_nothing() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    assert_eq!(device.leakguard(&APPLY).ok(), "applied");
    let maps = pins(&device).root().join("maps");
    let all = names(&maps);
    let each = all.iter().map(|name| vec![name.clone()]);
    let floods = device.flood();
    for missing in each.chain([all.clone()]) {
        for name in &missing {
            fs::remove_file(maps.join(name)).unwrap();
        }
        let status = device.status();
        assert_eq!(status["level"], "reduced", "{status}");
        let causes = status["causes"].to_string();
        assert!(causes.contains(&missing[0]), "{causes}");

        let run = device.leakguard(&APPLY);
        run.ok();
        let said = format!("missing: {}", missing.join(", "));
        assert_eq!(run.stderr.matches("incomplete").count(), 1, "{run:?}");
        if missing.len() == 1 {
            assert!(run.stderr.contains(&said), "{run:?}");
        }
        assert_eq!(names(&maps), all);
        assert_eq!(device.status()["level"], "full");
        go_on(&floods, 20);
    }
    let flooded = stop(&mut device, floods);
    eprintln!("over half pin directories: {flooded:?}, 0 seen");
    // The maps are the old ones: what was counted is not lost.
    let status = device.status();
    let counted = leakguard_tests::packets(&status, &[("hook", "cgroup_skb"), ("verdict", "drop")]);
    assert!(counted >= flooded[0].sent, "{counted} {flooded:?}");
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn a_missing_link_is_reported_and_attached_again() {
    let mut device = Device::new();
    assert_eq!(device.leakguard(&APPLY).ok(), "applied");
    assert_eq!(device.seen(PROBES), (0, 0));
    for name in names(&pins(&device).root().join("links")) {
        fs::remove_file(pins(&device).root().join("links").join(name)).unwrap();
    }
    wait_until("without an agent that detaches", PATIENCE, || {
        Ok(device.seen(1).0 == 1)
    })
    .unwrap();
    let status = device.status();
    assert_eq!(status["level"], "none", "{status}");

    let run = device.leakguard(&APPLY);
    assert_eq!(run.ok(), "applied");
    assert!(run.stderr.contains("the cgroup link"), "{run:?}");
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.status()["level"], "full");
}

#[test]
fn a_namespace_is_known_although_its_settings_are_not_pinned() {
    let mut device = Device::new();
    assert_eq!(device.leakguard(&APPLY).ok(), "applied");
    fs::remove_file(pins(&device).map("SETTINGS")).unwrap();
    let elsewhere = Netns::new("elsewhere").unwrap();
    let mut apply = elsewhere.command(agent_binary());
    apply.args(APPLY);
    apply.arg("--bpffs").arg(device.bpffs.path());
    apply.arg("--cgroup").arg(device.cgroup.path());
    Run::of(apply).refused(1, &["belongs to another network namespace"]);
    assert_eq!(device.seen(PROBES), (0, 0));
    device.leakguard(&APPLY).ok();
    assert_eq!(device.status()["level"], "full");
}

/// `run` of the next version, on its own control socket.
fn next_agent(device: &Device, control: &Path) -> RunningAgent {
    let mut command = device.command_of(
        next_agent_binary(),
        &[
            "run",
            "--tunnel",
            TUNNEL,
            "--control",
            control.to_str().unwrap(),
        ],
    );
    command.arg("-v");
    RunningAgent::spawn(command, device.directory())
}

#[test]
fn an_upgrade_to_another_abi_opens_nothing_and_the_way_back_is_refused() {
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let (ours, next) = (format!("v{ABI_VERSION}"), format!("v{}", ABI_VERSION + 1));
    let control = device.directory().join("next.sock");
    let next_command = |device: &Device, arguments: &[&str]| {
        let control = ["--control", control.to_str().unwrap()];
        let arguments = [arguments, &control[..]].concat();
        Run::of(device.command_of(next_agent_binary(), &arguments))
    };
    let mut agent = device.agent(&[]);
    let floods = device.flood();
    go_on(&floods, 500);

    // Also one that does not answer has its state.
    let pid = Pid::from_raw(agent.pid().cast_signed());
    for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
        kill(pid, signal).unwrap();
        next_command(&device, &["run", "--tunnel", TUNNEL])
            .refused(1, &["another leakguard works on", &ours]);
        assert_eq!(versions(&device), [ours.as_str()], "nothing is left of it");
        go_on(&floods, 100);
    }
    agent.kill9();
    go_on(&floods, 100);
    let mut upgraded = next_agent(&device, &control);
    wait_until("the next version enforces alone", PATIENCE, || {
        assert!(upgraded.ended().is_none(), "{}", upgraded.stderr());
        let status = next_command(&device, &["status"]);
        Ok(status.code == Some(0) && versions(&device) == [next.as_str()])
    })
    .unwrap();
    go_on(&floods, 1000);
    let stderr = upgraded.stderr();
    let said = format!("{ours} is lifted, {next} enforces");
    assert_eq!(stderr.matches(&said).count(), 1, "{stderr}");
    upgraded.kill9();
    go_on(&floods, 100);

    // The way back.
    for verb in ["run", "apply"] {
        device.leakguard(&[verb, "--tunnel", TUNNEL]).refused(
            1,
            &["another version of leakguard", &next, "leakguard release"],
        );
    }
    let status = device.leakguard(&["status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    assert!(status.stdout.contains("another version"), "{status:?}");
    assert_eq!(
        versions(&device),
        [next.as_str()],
        "nothing was put beside it"
    );
    go_on(&floods, 500);
    let flooded = stop(&mut device, floods);
    eprintln!("over an upgrade and the way back: {flooded:?}, 0 seen");
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn apply_takes_over_from_an_older_version_too() {
    let mut device = Device::new();
    assert_eq!(device.leakguard(&APPLY).ok(), "applied");
    let floods = device.flood();
    go_on(&floods, 200);
    let upgrade = Run::of(device.command_of(next_agent_binary(), &APPLY));
    assert_eq!(upgrade.ok(), "applied");
    go_on(&floods, 200);
    assert_eq!(versions(&device), [format!("v{}", ABI_VERSION + 1)]);
    let again = Run::of(device.command_of(next_agent_binary(), &APPLY));
    assert_eq!(again.ok(), "unchanged");
    stop(&mut device, floods);
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn what_is_no_version_is_refused_and_released() {
    let mut device = Device::new();
    let parent = device.bpffs.path().join("leakguard");
    for name in ["vx", "v01", "v4294967296", "maps"] {
        let foreign = parent.join(name);
        fs::create_dir_all(&foreign).unwrap();
        for verb in ["run", "apply"] {
            device
                .leakguard(&[verb, "--tunnel", TUNNEL])
                .refused(1, &[foreign.to_str().unwrap(), "leakguard release"]);
        }
        assert_eq!(versions(&device), [name], "nothing was put beside it");
        assert_eq!(device.leakguard(&["release"]).ok(), "released");
        device.assert_untouched();
    }
}

/// The device's interfaces, as an agent would see them.
fn devices(netns: &Netns) -> Vec<kernel::Device> {
    let names: Vec<String> = netns
        .run_in(|| {
            let names = nix::net::if_::if_nameindex().unwrap();
            names
                .iter()
                .map(|interface| interface.name().to_str().unwrap().to_owned())
                .collect()
        })
        .unwrap();
    let index = |name: &str| {
        netns
            .run_in(|| nix::net::if_::if_nametoindex(name).unwrap())
            .unwrap()
    };
    names
        .iter()
        .map(|name| {
            let (role, link) = match name.as_str() {
                Topology::UPLINK => (Role::Uplink, LinkLayer::Ethernet),
                TUNNEL => (Role::Tunnel, LinkLayer::Ip),
                _ => (Role::Local, LinkLayer::Ethernet),
            };
            kernel::Device {
                ifindex: index(name),
                name: name.clone(),
                role,
                link,
            }
        })
        .collect()
}

#[test]
fn programs_are_replaced_without_a_gap() {
    let replacements = if soaks() { 1000 } else { 100 };
    let mut device = Device::new();
    assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
    let devices = devices(device.host());
    let floods = device.host().run_in(|| {
        let mut enforcement = Enforcement::prepare(&pins(&device)).unwrap();
        enforcement.permit(&devices).unwrap();
        let enforced = enforcement.enforce_sockets(device.cgroup.path(), Settings::default());
        assert!(enforced.unwrap().failures.is_empty());
        let attached = enforcement.attach(&devices, Duration::MAX);
        assert!(attached.failures.is_empty(), "{attached:?}");
        let floods = device.flood();
        go_on(&floods, 200);
        let program = || {
            let state = kernel::read_back::ReadBack::open(&pins(&device)).unwrap();
            state.unwrap().cgroup.unwrap().program_id
        };
        let started = Instant::now();
        let mut last = program();
        for _ in 0..replacements {
            let replaced = enforcement.reload().unwrap();
            assert!(replaced.failures.is_empty(), "{replaced:?}");
            let now = program();
            assert_ne!(now, last, "it is another copy");
            last = now;
        }
        eprintln!(
            "measured: {replacements} replacements, {:.1} ms each",
            started.elapsed().as_secs_f64() * 1000.0 / f64::from(replacements)
        );
        go_on(&floods, 200);
        // Nothing has to be done after them.
        let attached = enforcement.attach(&devices, Duration::MAX);
        assert!(attached.changes.is_empty(), "{attached:?}");
        floods
    });
    let flooded = stop(&mut device, floods.unwrap());
    eprintln!("over {replacements} replacements: {flooded:?}, 0 seen");
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}
