//! What somebody takes away from outside is put back by the agent.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails"
)]

mod device;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use device::{Device, Flood, RunningAgent, TUNNEL};
use leakguard::kernel::pins::Pins;
use leakguard::lab::{
    Agent, AgentConfig, Bpffs, Cgroup, Netns, Topology, output_within, wait_until,
};
use leakguard_tests::{Foreign, agent_binary, interface};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Twice the agent's interval, and some.
const LIMIT: Duration = Duration::from_secs(20);

const PROBES: usize = 50;

/// An agent in a namespace with one uplink.
struct Fixture {
    agent: Agent,
    netns: Netns,
    bpffs: Bpffs,
    _cgroup: Cgroup,
}

impl Fixture {
    fn new() -> Self {
        Self::with("up0", &[])
    }

    /// An agent whose uplink has a name, started with more arguments.
    fn with(uplink: &str, arguments: &[&str]) -> Self {
        let netns = Netns::new("repair").unwrap();
        netns
            .ip(&["link", "add", uplink, "type", "veth", "peer", "name", "up1"])
            .unwrap();
        for end in [uplink, "up1"] {
            netns.ip(&["link", "set", end, "up"]).unwrap();
        }
        let bpffs = Bpffs::new().unwrap();
        let cgroup = Cgroup::new("repair").unwrap();
        let agent = Agent::start(&AgentConfig {
            binary: agent_binary(),
            netns: &netns,
            cgroup: &cgroup,
            bpffs: &bpffs,
            tunnels: vec!["tun0".into()],
            arguments: arguments.iter().map(Into::into).collect(),
        })
        .unwrap();
        Self {
            agent,
            netns,
            bpffs,
            _cgroup: cgroup,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.agent.pid().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    fn nft(&self, arguments: &[&str]) -> bool {
        let mut nft: Command = self.netns.command("nft");
        nft.args(arguments);
        output_within(nft, LIMIT).unwrap().status.success()
    }

    /// Takes something away, sees that it is gone, and waits for it to come back.
    fn expect_mended(mut self, take: impl FnOnce(&Self)) {
        // Stopped meanwhile, so that it cannot be faster than the look at what is missing.
        self.signal(Signal::SIGSTOP);
        take(&self);
        let enforcing = self.agent.is_enforcing().unwrap();
        self.signal(Signal::SIGCONT);
        assert!(!enforcing, "positive control: it is missed");
        wait_until("the agent mends it", LIMIT, || self.agent.is_enforcing()).unwrap();
        wait_until("the agent says so", LIMIT, || {
            Ok(self.agent.stderr().contains("mended"))
        })
        .unwrap();
    }
}

#[test]
fn a_flushed_ruleset_is_put_back() {
    Fixture::new().expect_mended(|fixture| {
        assert!(fixture.nft(&["flush", "ruleset"]));
        assert!(!fixture.nft(&["list", "table", "inet", "leakguard"]));
    });
}

#[test]
fn a_changed_rule_is_put_back() {
    Fixture::new().expect_mended(|fixture| {
        assert!(fixture.nft(&["flush", "chain", "inet", "leakguard", "forward"]));
    });
}

#[test]
fn an_unpinned_cgroup_link_is_attached_again() {
    Fixture::new().expect_mended(|fixture| {
        fs::remove_file(Pins::at(fixture.bpffs.path()).cgroup_link()).unwrap();
    });
}

#[test]
fn an_unpinned_tc_link_is_attached_again() {
    Fixture::new().expect_mended(|fixture| {
        let links = Pins::at(fixture.bpffs.path()).tcx_links().unwrap();
        assert_eq!(links.len(), 2, "{links:?}");
        for (_, pin) in links {
            fs::remove_file(pin).unwrap();
        }
    });
}

#[test]
fn a_name_that_nft_cannot_express_is_warned_of_once() {
    let fixture = Fixture::with("odd\"name", &["-v", "--local", "odd*"]);
    let said = |what: &str| fixture.agent.stderr().matches(what).count();
    wait_until("the agent reads back a few times", LIMIT, || {
        Ok(said("brought in line") >= 4)
    })
    .unwrap();
    assert_eq!(said("cannot express"), 1, "{}", fixture.agent.stderr());
}

/// An agent on a device that DNS is sent from all the time.
struct Watched {
    floods: Option<[Flood; 2]>,
    agent: RunningAgent,
    device: Device,
}

impl Watched {
    fn new(arguments: &[&str]) -> Self {
        let mut device = Device::new();
        assert_eq!(device.seen(PROBES), (PROBES, PROBES), "control");
        let agent = device.agent(arguments);
        let mut watched = Self {
            floods: Some(device.flood()),
            agent,
            device,
        };
        watched.go_on();
        watched
    }

    /// Without DNS being sent all the time.
    fn quiet(device: Device, agent: RunningAgent) -> Self {
        Self {
            floods: None,
            agent,
            device,
        }
    }

    fn go_on(&mut self) {
        for flood in self.floods.iter().flatten() {
            flood.go_on(200);
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.agent.pid().cast_signed()), signal).unwrap();
    }

    fn pins(&self) -> Pins {
        Pins::at(self.device.bpffs.path())
    }

    /// How often a part was repaired, and the level; neither while the agent is busy or a pin cannot be read.
    fn looked(&self, part: &str) -> Option<(u64, Value)> {
        let run = self.device.leakguard(&["status", "--json"]);
        let status: Value = serde_json::from_str(&run.stdout).ok()?;
        let count = status["health"]["repairs"][part].as_u64()?;
        Some((count, status["level"].clone()))
    }

    fn repairs(&self, part: &str) -> u64 {
        let mut repairs = None;
        wait_until("the agent answers", LIMIT, || {
            repairs = self.looked(part);
            Ok(repairs.is_some())
        })
        .unwrap();
        repairs.unwrap().0
    }

    /// Waits until a part was repaired so many times and everything is in place.
    #[track_caller]
    fn await_repairs(&self, part: &str, least: u64) {
        let repaired = wait_until("it is repaired", LIMIT, || {
            let looked = self.looked(part);
            Ok(looked.is_some_and(|(repairs, level)| repairs >= least && level == "full"))
        });
        if let Err(error) = repaired {
            let status = self.device.leakguard(&["status"]);
            panic!("{error}: {status:?} {}", self.agent.stderr());
        }
    }

    /// What the agent has reported of this kind and part.
    fn notices(&self, kind: &str, part: &str) -> Vec<Value> {
        let run = self.device.leakguard(&["events", "--json"]);
        let lines = run.ok().lines();
        let mut numbers = Vec::new();
        let mut notices = Vec::new();
        for line in lines {
            let line: Value = serde_json::from_str(line).unwrap();
            numbers.push(line["seq"].as_u64().unwrap());
            match line["kind"].as_str().unwrap() {
                "packet" => assert!(line["verdict"].is_string(), "{line}"),
                found if found == kind && line["part"] == part => notices.push(line),
                _ => {}
            }
        }
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        notices
    }

    /// Asserts that nothing got out meanwhile.
    #[track_caller]
    fn stop(&mut self) {
        self.go_on();
        let flooded = self.floods.take().unwrap().map(Flood::stop);
        for flood in flooded {
            assert!(flood.rate >= 1000, "{flood:?}");
        }
        assert_eq!(self.device.seen_since(), (0, 0), "{flooded:?}");
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

/// Without an agent nobody holds what is not pinned: these are the controls of what follows.
#[test]
fn without_an_agent_what_is_unpinned_is_gone_and_status_says_so() {
    let mut device = Device::new();
    for unmount in [false, true] {
        device.leakguard(&["apply", "--tunnel", TUNNEL]).ok();
        assert_eq!(device.seen(PROBES), (0, 0));
        let pins = Pins::at(device.bpffs.path());
        if unmount {
            umount2(device.bpffs.path(), MntFlags::MNT_DETACH).unwrap();
        } else {
            for pin in entries(&pins.root().join("links")) {
                fs::remove_file(pin).unwrap();
            }
        }
        wait_until("local DNS gets out", LIMIT, || Ok(device.seen(1).0 == 1)).unwrap();
        let status = device.status();
        assert_eq!(status["level"], "none", "{status}");
    }
    device.leakguard(&["apply", "--tunnel", TUNNEL]).ok();
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.status()["level"], "full");
}

#[test]
fn unpinning_detaches_nothing_while_an_agent_runs() {
    let mut watched = Watched::new(&[]);
    for directory in ["links", "maps"] {
        let pinned = entries(&watched.pins().root().join(directory));
        assert!(pinned.len() >= 2, "{pinned:?}");
        let part = if directory == "links" { "pins" } else { "maps" };
        watched.signal(Signal::SIGSTOP);
        for pin in &pinned {
            fs::remove_file(pin).unwrap();
        }
        watched.go_on();
        assert_eq!(entries(&watched.pins().root().join(directory)).len(), 0);
        watched.signal(Signal::SIGCONT);
        watched.await_repairs(part, pinned.len() as u64);
        assert_eq!(
            entries(&watched.pins().root().join(directory)),
            pinned,
            "each is back"
        );
        let notices = watched.notices("repair", part);
        assert_eq!(notices.len(), pinned.len(), "{notices:?}");
    }
    fs::remove_dir_all(watched.pins().root()).unwrap();
    watched.await_repairs("maps", 12);
    watched.stop();
    // What is pinned again is what enforces: it stays without the agent.
    watched.agent.kill9();
    assert_eq!(watched.device.seen(PROBES), (0, 0));
    assert_eq!(watched.device.leakguard(&["release"]).ok(), "released");
    watched.device.assert_untouched();
}

#[test]
fn what_is_pinned_in_the_place_of_ours_is_set_aside() {
    let mut watched = Watched::new(&[]);
    let pins = watched.pins();
    let (link, map) = (pins.cgroup_link(), pins.map("SETTINGS"));
    let kept = |pin: &Path| {
        let kept = watched.device.bpffs.path().join(pin.file_name().unwrap());
        fs::hard_link(pin, &kept).unwrap();
        kept
    };
    let (real_link, real_map) = (kept(&link), kept(&map));
    for (pin, foreign) in [(&link, &real_map), (&map, &real_link)] {
        fs::remove_file(pin).unwrap();
        fs::hard_link(foreign, pin).unwrap();
    }
    watched.await_repairs("pins", 1);
    watched.await_repairs("maps", 1);
    let names: Vec<String> = ["links", "maps"]
        .into_iter()
        .flat_map(|directory| entries(&pins.root().join(directory)))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .filter(|name| name.starts_with("foreign-"))
        .collect();
    assert_eq!(names, ["foreign-egress-0", "foreign-SETTINGS-0"]);
    let notices = watched.notices("repair", "maps");
    assert!(notices[0].to_string().contains("set aside"), "{notices:?}");
    watched.stop();
    for kept in [real_link, real_map] {
        fs::remove_file(kept).unwrap();
    }
    watched.device.leakguard(&["release"]).ok();
    watched.device.assert_untouched();
}

#[test]
fn an_unmounted_bpffs_is_mounted_again() {
    let mut watched = Watched::new(&[]);
    let path = watched.device.bpffs.path().to_owned();
    umount2(&path, MntFlags::MNT_DETACH).unwrap();
    watched.await_repairs("pins", 1);
    watched.go_on();
    watched.agent.kill9();
    watched.stop();
    assert_eq!(watched.device.status()["level"], "full");
    assert_eq!(watched.device.leakguard(&["release"]).ok(), "released");
    watched.device.assert_untouched();
}

/// Makes a mount read-only, or writable again.
fn remount(path: &Path, flag: MsFlags) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flag;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).unwrap();
}

#[test]
fn a_read_only_bpffs_is_reported_and_ends_nothing() {
    let mut watched = Watched::new(&[]);
    let path = watched.device.bpffs.path().to_owned();
    fs::remove_file(watched.pins().cgroup_link()).unwrap();
    remount(&path, MsFlags::MS_RDONLY);
    wait_until("the agent says so", LIMIT, || {
        let stderr = watched.agent.stderr();
        Ok(stderr.contains("cannot keep the pin") && stderr.contains("Read-only"))
    })
    .unwrap();
    let status = watched.device.status();
    assert_ne!(status["level"], "full", "{status}");
    watched.go_on();
    remount(&path, MsFlags::empty());
    watched.await_repairs("pins", 1);
    watched.stop();
    watched.device.leakguard(&["release"]).ok();
    watched.agent.end();

    remount(&path, MsFlags::MS_RDONLY);
    let apply = ["apply", "--tunnel", TUNNEL];
    watched
        .device
        .leakguard(&apply)
        .refused(4, &["read-only", "mount -o remount,rw"]);
    remount(&path, MsFlags::empty());
    watched.device.assert_untouched();
}

#[test]
fn a_cgroup_that_comes_back_is_attached_to_again() {
    let device = Device::new();
    let child = device.cgroup.path().join("child");
    fs::create_dir(&child).unwrap();
    let agent = device.agent(&["--cgroup", child.to_str().unwrap()]);
    let mut watched = Watched::quiet(device, agent);
    assert_eq!(watched.device.status()["level"], "full");
    fs::remove_dir(&child).unwrap();
    wait_until("the agent says so", LIMIT, || {
        Ok(watched
            .agent
            .stderr()
            .contains("local sockets are not judged"))
    })
    .unwrap();
    let status = watched.device.status();
    assert_eq!(status["level"], "none", "{status}");
    // The rest goes on being mended.
    let before = watched.repairs("netfilter");
    let mut nft = watched.device.host().command("nft");
    nft.args(["flush", "ruleset"]);
    assert!(output_within(nft, LIMIT).unwrap().status.success());
    wait_until("the second net is back", LIMIT, || {
        Ok(watched.repairs("netfilter") > before)
    })
    .unwrap();
    assert_eq!(watched.device.seen(PROBES).1, 0);

    fs::create_dir(&child).unwrap();
    watched.await_repairs("cgroup", 1);
    let levels = || -> Vec<Value> {
        let notices = watched.notices("level", "level").into_iter();
        notices.map(|notice| notice["subject"].clone()).collect()
    };
    wait_until("each change of the level is an event", LIMIT, || {
        let levels = levels();
        Ok(levels.first().is_some_and(|level| level == "none")
            && levels.last().is_some_and(|level| level == "full"))
    })
    .unwrap();
    watched.device.leakguard(&["release"]).ok();
    watched.agent.end();
    fs::remove_dir(&child).unwrap();
}

/// Goes before leakguard's program on the uplink.
fn go_before(device: &Device) -> Foreign {
    let host = device.host();
    host.run_in(|| {
        let uplink = nix::net::if_::if_nametoindex(Topology::UPLINK).unwrap();
        Foreign::at_head(uplink).unwrap()
    })
    .unwrap()
}

fn place(device: &Device) -> String {
    let status = device.status();
    let uplink = interface(&status, Topology::UPLINK).unwrap();
    uplink["tc"].as_str().unwrap().to_owned()
}

#[test]
fn a_foreign_program_in_front_is_overtaken() {
    let device = Device::new();
    let agent = device.agent(&[]);
    let mut watched = Watched::quiet(device, agent);
    watched.signal(Signal::SIGSTOP);
    let foreign = go_before(&watched.device);
    let (local, forwarded) = watched.device.seen(PROBES);
    assert_eq!(
        (local, forwarded),
        (0, PROBES),
        "positive control: it ends the chain"
    );
    assert_eq!(place(&watched.device), "behind");
    watched.signal(Signal::SIGCONT);
    watched.await_repairs("tc", 1);
    assert_eq!(place(&watched.device), "head");
    assert_eq!(watched.device.seen(PROBES), (0, 0));
    let notices = watched.notices("repair", "tc");
    assert_eq!(notices[0]["subject"], Topology::UPLINK);
    assert!(notices[0].to_string().contains("overtaken"), "{notices:?}");

    // From the front nothing gets out while the program is taken over by the next agent, and by the one after.
    let floods = watched.device.flood();
    for _ in 0..2 {
        watched.agent.kill9();
        watched.agent = watched.device.agent(&[]);
        for flood in &floods {
            flood.go_on(200);
        }
        assert_eq!(place(&watched.device), "head");
    }
    for flood in floods {
        flood.stop();
    }
    assert_eq!(watched.device.seen_since(), (0, 0));
    drop(foreign);
    watched.device.leakguard(&["release"]).ok();
    watched.device.assert_untouched();
}

#[test]
fn a_war_about_the_first_place_is_given_up_and_reported() {
    let device = Device::new();
    let agent = device.agent(&[]);
    let mut watched = Watched::quiet(device, agent);
    let mut foreign = Vec::new();
    for overtaken in 1..=5 {
        foreign.push(go_before(&watched.device));
        watched.await_repairs("tc", overtaken);
        assert_eq!(place(&watched.device), "head");
    }
    foreign.push(go_before(&watched.device));
    wait_until("the agent gives up", LIMIT, || {
        Ok(watched.agent.stderr().contains("gave up overtaking"))
    })
    .unwrap();
    let status = watched.device.leakguard(&["status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    assert_eq!(place(&watched.device), "behind");
    assert_eq!(watched.repairs("tc"), 5);
    // It is not covered any more, so the second net takes what the foreign program lets out.
    wait_until("the second net covers it", LIMIT, || {
        Ok(watched.device.seen(PROBES) == (0, 0))
    })
    .unwrap();
    drop(foreign);
    watched.device.leakguard(&["release"]).ok();
    watched.device.assert_untouched();
}

#[test]
fn a_flushed_ruleset_is_noticed_at_once_and_leases_are_not() {
    const ROUNDS: u64 = 5;
    let device = Device::new();
    let agent = device.agent(&["-v"]);
    let watched = Watched::quiet(device, agent);
    let nft = |arguments: &[&str]| {
        let mut nft = watched.device.host().command("nft");
        nft.args(arguments);
        output_within(nft, LIMIT).unwrap().status.success()
    };
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        assert!(nft(&["flush", "ruleset"]));
        let flushed = Instant::now();
        wait_until("it is put back", LIMIT, || {
            Ok(nft(&["list", "chain", "inet", "leakguard", "forward"]))
        })
        .unwrap();
        slowest = slowest.max(flushed.elapsed());
    }
    eprintln!("measured: a flushed ruleset is back within {slowest:?}");
    // By the interval alone, each round but the first takes five seconds: it begins right after a look.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert!(watched.repairs("netfilter") >= ROUNDS);

    // The agent renews its leases all the time, which must not make it look again.
    let looks = || watched.agent.stderr().matches("brought in line").count();
    let (before, started) = (looks(), Instant::now());
    wait_until("it looks on the interval", 2 * LIMIT, || {
        Ok(looks() >= before + 4)
    })
    .unwrap();
    let elapsed = started.elapsed();
    assert!(elapsed > Duration::from_secs(10), "{elapsed:?}");
}
